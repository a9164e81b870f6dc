"""Statistics of instances against slow ones of the whole scene, exactly, in any chunks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from geoseg.stages.confidence import count_confidence

from .masks import KINDS


def slow_statistics(mask: np.ndarray, confidence: np.ndarray) -> dict[int, tuple[int, int, float, float, bool]]:
    """By id: code, area, mean, 10th percentile, edge; from one full-scene mask per instance."""
    found = {}
    border = np.ones(mask.shape, bool)
    border[1:-1, 1:-1] = False
    for code in sorted(set(mask.flat) - {0, 255}):
        labels, count = ndimage.label(mask == code)
        for label in range(1, count + 1):
            here = labels == label
            values = confidence[here][confidence[here] < 255]
            mean, p10 = np.nan, np.nan
            if values.size:
                mean = values.sum(dtype=np.int64) / (254 * values.size)
                p10 = np.quantile(values, 0.1, method="inverted_cdf") / 254
            edge = bool((here & border).any())
            found[int(np.flatnonzero(here)[0]) + 1] = (int(code), int(here.sum()), mean, p10, edge)
    return found


@pytest.mark.parametrize("kind", ["noise of classes", "realistic", "checkerboard", "maze", "nested rings", "one class"])
def test_statistics_equal_slow_ones_in_any_chunks(vectorize, kind: str) -> None:
    mask = KINDS[kind](37, 41)
    random = np.random.default_rng(5)
    confidence = random.integers(0, 256, mask.shape).astype(np.uint8)  # with some unknown
    confidence[mask == 2] = np.where(random.random((mask == 2).sum()) < 0.9, 255, 17)
    expected = slow_statistics(mask, confidence)
    assert expected
    columns = [np.array(values) for values in zip(*(expected[key] for key in sorted(expected)), strict=True)]
    for chunk in (7, (5, 41), (37, 3), 1000):
        for tolerance in (0.0, 1.0):
            polygons = vectorize(mask, confidence, chunk, tolerance=tolerance)
            assert polygons.id.tolist() == sorted(expected)
            found = polygons.code, polygons.area_px, polygons.confidence, polygons.confidence_p10, polygons.edge
            for column, values in zip(found, columns, strict=True):
                assert np.array_equal(column, values, equal_nan=column.dtype.kind == "f")


@pytest.mark.parametrize(("pixels", "rank"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (21, 3)])
def test_the_percentile_is_the_least_value_that_a_tenth_does_not_exceed(vectorize, pixels: int, rank: int) -> None:
    confidence = np.arange(pixels, dtype=np.uint8)[None, ::-1] * 10 + 3
    polygons = vectorize(np.ones((1, pixels), np.uint8), confidence, 4)
    assert polygons.confidence_p10[0] == (10 * (rank - 1) + 3) / 254


def test_without_confidence_there_are_no_statistics(vectorize, landscape: np.ndarray) -> None:
    polygons = vectorize(landscape, None, 64)
    assert np.isnan(polygons.confidence).all()
    assert np.isnan(polygons.confidence_p10).all()
    assert polygons.area_px.sum() == (~np.isin(landscape, (0, 255))).sum()


def test_unknown_confidence_is_left_out(vectorize) -> None:
    confidence = np.array([[255, 127, 255, 255]], np.uint8)
    polygons = vectorize(np.array([[1, 1, 0, 2]], np.uint8), confidence, 2)
    assert polygons.confidence[0] == 0.5
    assert np.isnan(polygons.confidence[1])


def test_the_edge_is_the_scenes_not_the_chunks(vectorize) -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[4:6, 8:12], mask[0, 9], mask[12:15, 19], mask[19, 0], mask[9:11, 0:3] = 1, 2, 3, 4, 5
    mask[1:19, 17] = 6  # one pixel from the edge
    polygons = vectorize(mask, None, 10)
    assert dict(zip(polygons.code.tolist(), polygons.edge.tolist(), strict=True)) == {
        1: False,
        2: True,
        3: True,
        4: True,
        5: True,
        6: False,
    }


def padded(labels: list[list[int]]) -> np.ndarray:
    """In a ring of another instance, which is not counted."""
    return np.pad(np.array(labels, np.int32), 1, constant_values=1)


def test_counts_by_hand() -> None:
    labels = padded([[1, 1, 0, 2], [1, -1, 2, 2]])
    confidence = np.array([[9, 4, 200, 255], [9, 100, 254, 0]], np.uint8)
    histograms = count_confidence(labels, confidence, np.array([0, 3, 3], np.int64))
    assert histograms.offsets.tolist() == [0, 0, 2, 4]
    assert histograms.value.tolist() == [4, 9, 0, 254]
    assert histograms.count.tolist() == [1, 2, 1, 1]


def test_only_the_wanted_labels_are_counted() -> None:
    labels = padded([[1, 1, 0, 2], [1, -1, 2, 2]])
    confidence = np.full((2, 4), 7, np.uint8)
    histograms = count_confidence(labels, confidence, np.array([0, 0, 3], np.int64))
    assert histograms.offsets.tolist() == [0, 0, 0, 1]
    assert histograms.count.tolist() == [3]


def test_no_confidence_no_counts() -> None:
    histograms = count_confidence(padded([[1]]), None, np.array([0, 1], np.int64))
    assert histograms.offsets.tolist() == [0, 0, 0]
    assert histograms.value.size == histograms.count.size == 0


def test_a_view_counts_like_a_copy() -> None:
    random = np.random.default_rng(3)
    confidence = random.integers(0, 256, (30, 40)).astype(np.uint8)
    labels = random.integers(-1, 4, (32, 42)).astype(np.int32)
    area_px = np.bincount(labels[1:-1, 1:-1].clip(0).ravel(), minlength=4) * (np.arange(4) > 0)
    views = confidence, np.asfortranarray(confidence), np.repeat(confidence, 2, axis=1)[:, ::2]
    first, *others = (count_confidence(labels, view, area_px).to_arrays() for view in views)
    for other in others:
        assert all(np.array_equal(first[name], other[name]) for name in first)
    values = confidence[(labels[1:-1, 1:-1] == 2) & (confidence < 255)]
    entries = slice(*first["offsets"][2:4])
    assert np.array_equal(first["value"][entries], np.unique(values))
    assert np.array_equal(first["count"][entries], np.unique(values, return_counts=True)[1])

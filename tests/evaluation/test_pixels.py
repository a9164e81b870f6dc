from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geoseg.errors import SettingsError
from geoseg.evaluation.pixels import PixelCounts, count_masks, count_planes

CODES = {"water": 1, "road": 2}


def test_counts_and_figures_of_a_hand_made_mask() -> None:
    truth = np.array([[1, 1, 2, 0], [1, 0, 2, 255]], np.uint8)
    predicted = np.array([[1, 2, 2, 1], [1, 0, 0, 1]], np.uint8)
    counts = count_masks(predicted, truth, codes=CODES)
    assert counts["water"] == PixelCounts(2, 1, 1, 3)
    assert counts["road"] == PixelCounts(1, 1, 1, 4)
    assert counts["water"].iou == pytest.approx(0.5)
    assert counts["water"].precision == pytest.approx(2 / 3)
    assert counts["water"].recall == pytest.approx(2 / 3)
    assert counts["water"].known == 7
    assert counts["road"].present == 2


def test_nothing_to_judge_gives_none_instead_of_a_number() -> None:
    empty = PixelCounts(true_negative=9)
    assert (empty.iou, empty.precision, empty.recall) == (None, None, None)


def test_nodata_of_the_prediction_is_not_judged() -> None:
    truth = np.ones((3, 3), np.uint8)
    predicted = truth.copy()
    predicted[0] = 255
    assert count_masks(predicted, truth, codes=CODES)["water"] == PixelCounts(6, 0, 0, 0)


def test_unknown_planes_hide_errors_of_their_class_only() -> None:
    truth = np.zeros((2, 2), np.uint8)
    predicted = np.full((2, 2), 2, np.uint8)
    known = np.ones((2, 2, 2), bool)
    known[1] = False
    counts = count_masks(predicted, truth, codes=CODES, known=known)
    assert counts["road"].known == 0
    assert counts["water"].true_negative == 4


masks = arrays(np.uint8, (5, 7), elements=st.sampled_from([0, 1, 2, 255]))


@given(first=masks, second=masks)
@settings(max_examples=40, deadline=None)
def test_counts_of_two_images_add_up_to_those_of_one(first: np.ndarray, second: np.ndarray) -> None:
    rolled = np.roll(first, 1), np.roll(second, 1)
    parts = [count_masks(a, b, codes=CODES) for a, b in zip(rolled, (first, second), strict=True)]
    whole = count_masks(np.hstack(rolled), np.hstack((first, second)), codes=CODES)
    for name in CODES:
        assert parts[0][name] + parts[1][name] == whole[name]


@given(first=masks, second=masks)
@settings(max_examples=40, deadline=None)
def test_swapping_prediction_and_truth_swaps_precision_and_recall(first: np.ndarray, second: np.ndarray) -> None:
    there, back = count_masks(first, second, codes=CODES), count_masks(second, first, codes=CODES)
    for name in CODES:
        assert there[name].iou == back[name].iou
        assert there[name].precision == back[name].recall


def test_shapes_that_differ_are_refused() -> None:
    small, large = np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8)
    with pytest.raises(SettingsError, match="equal grids"):
        count_masks(small, large, codes=CODES)
    with pytest.raises(SettingsError, match="a plane per class"):
        count_masks(small, small, codes=CODES, known=np.ones((1, 2, 2), bool))
    with pytest.raises(SettingsError, match="three equal"):
        count_planes(np.ones((1, 2, 2), bool), np.ones((1, 2, 2), bool), np.ones((2, 2), bool))

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from geoseg.evaluation.boundary import count_bands, count_near, find_edges, grow


def picture(*rows: str) -> np.ndarray:
    return np.array([[int(mark) for mark in row] for row in rows], np.int32)


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 5, 7])
def test_growing_is_a_distance_transform(radius):
    rng = np.random.default_rng(radius)
    for share in (0.002, 0.05, 0.6):
        pixels = ndimage.binary_opening(rng.random((60, 83)) < share) | (rng.random((60, 83)) < share / 4)
        pixels[0, 0] = True
        assert np.array_equal(grow(pixels, radius), ndimage.distance_transform_edt(~pixels) <= radius)
    assert not grow(np.zeros((5, 5), bool), radius).any()


def test_edges_lie_between_objects_and_known_ground_only():
    labels = picture("0000000", "0112200", "0112200", "0112200", "0000000")
    known = np.ones(labels.shape, bool)
    edges = find_edges(labels, known)
    assert np.array_equal(edges, labels > 0)  # touching objects have a border between them
    known[:, 5] = False
    one = find_edges(np.minimum(labels, 1), known)
    above, below = [[1, col] for col in range(1, 5)], [[3, col] for col in range(1, 5)]
    assert np.argwhere(one).tolist() == [*above, [2, 1], *below]  # none towards what is unknown
    assert not find_edges(np.ones((4, 4), np.int32), np.ones((4, 4), bool)).any()


def test_a_square_one_pixel_off_fits_within_one_pixel():
    guess, truth = np.zeros((2, 30, 30), bool)
    guess[10:20, 10:20], truth[10:20, 11:21] = True, True
    rims = [find_edges(side.astype(np.int32), np.ones((30, 30), bool)) for side in (guess, truth)]
    everywhere = np.ones((30, 30), bool)
    assert count_near(rims[0], rims[1], everywhere, 1).tolist() == [36, 36, 36, 36]
    # at no tolerance: the shared parts of the upper and lower sides (9 each)
    assert count_near(rims[0], rims[1], everywhere, 0).tolist() == [36, 18, 36, 18]
    assert count_bands((guess, rims[0]), (truth, rims[1]), everywhere, 1).tolist() == [18, 54]
    # bands of two pixels are what two erosions take away
    bands = [side & ~ndimage.binary_erosion(side, iterations=2) for side in (guess, truth)]
    both, either = count_bands((guess, rims[0]), (truth, rims[1]), everywhere, 2)
    assert (both, either) == (np.sum(bands[0] & bands[1]), np.sum(bands[0] | bands[1]))
    judged = everywhere.copy()
    judged[:, 15:] = False
    assert count_near(rims[0], rims[1], judged, 0).tolist() == [18, 8, 16, 8]


def test_boundary_figures_against_all_pairs_of_pixels():
    rng = np.random.default_rng(3)
    sides = [ndimage.uniform_filter(rng.random((40, 40)), 5) > 0.5 for _ in range(2)]
    known = np.ones((40, 40), bool)
    rims = [find_edges(side.astype(np.int32), known) for side in sides]
    points = [np.argwhere(rim) for rim in rims]
    near = np.hypot(*(points[0][:, None] - points[1]).transpose(2, 0, 1)) <= 2
    expected = [len(points[0]), near.any(axis=1).sum(), len(points[1]), near.any(axis=0).sum()]
    assert count_near(rims[0], rims[1], known, 2).tolist() == expected

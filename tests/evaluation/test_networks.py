from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from geoseg.evaluation.networks import CELL, compare_networks, compare_paths, thin

EIGHT = np.ones((3, 3))


def cross(size: int = 4 * CELL, width: int = 7) -> np.ndarray:
    """Two roads that cross."""
    mask = np.zeros((size, size), bool)
    middle = size // 2 - CELL // 2
    mask[middle : middle + width] = True
    mask[:, middle : middle + width] = True
    return mask


def test_thinning_keeps_connectedness_and_leaves_lines():
    rng = np.random.default_rng(1)
    for smooth in (3, 6, 9):
        mask = ndimage.gaussian_filter(rng.random((120, 140)), smooth) > 0.5
        line = thin(mask)
        assert not (line & ~mask).any()
        assert ndimage.label(line, EIGHT)[1] == ndimage.label(mask, EIGHT)[1]
        blocks = ndimage.uniform_filter(line.astype(float), 3)
        assert blocks.max() < 0.9  # no pixel inside of anything
    bar = np.zeros((9, 60), bool)
    bar[2:7, 3:57] = True
    assert (thin(bar).sum(axis=0) <= 1).all()
    assert set(np.flatnonzero(thin(bar).any(axis=1))) <= {3, 4, 5}


def test_a_network_has_all_of_its_own_ways():
    scores = compare_networks(cross(), cross(), 3)
    points = 4 + 4 - 1  # cells along both roads
    assert scores.tolist() == [points * (points - 1) / 2] * 6


def test_wider_roads_have_the_same_ways():
    scores = compare_networks(cross(width=11), cross(width=7), 4)
    assert scores[1] == scores[2] == scores[4] == scores[5]
    assert scores[0] / scores[2] > 0.97


def test_a_gap_costs_the_ways_across_it():
    line = np.zeros((CELL, 4 * CELL), bool)
    line[30] = True
    broken = line.copy()
    broken[30, 2 * CELL - 3 : 2 * CELL + 3] = False
    # four control points: two of six ways stay on one side of the gap
    assert compare_paths(line, broken, 3).tolist() == [2.0, 2.0, 6.0]
    # from the broken line's two sides each has one way, and the whole line has both
    assert compare_paths(broken, line, 3).tolist() == [2.0, 2.0, 2.0]


def test_a_detour_costs_its_share():
    square = np.zeros((3 * CELL, 2 * CELL), bool)
    line = square.copy()
    line[30] = True
    first, last = 31, 31 + CELL  # columns of the control points, nearest to the middle of their cells
    square[30, : first + 5] = square[30, last - 5 :] = True
    square[30:50, first + 5] = square[30:50, last - 5] = True
    square[50, first + 5 : last - 4] = True
    score, joined, ways = compare_paths(line, square, 3)
    assert (joined, ways) == (1, 1)
    # 20 px down and 20 px up, and a diagonal step across each of the four corners
    assert score == pytest.approx(1 - (40 - 4 * (2 - 2**0.5)) / CELL, abs=1e-9)


def test_what_is_not_there_and_what_is_invented():
    nothing = np.zeros((2 * CELL, 2 * CELL), bool)
    line = nothing.copy()
    line[10] = True
    assert compare_networks(nothing, line, 3).tolist() == [0, 0, 1, 0, 0, 0]
    assert compare_networks(line, nothing, 3).tolist() == [0, 0, 0, 0, 0, 1]
    far = np.roll(line, 20, axis=0)
    assert compare_networks(line, far, 3).tolist() == [0, 0, 1, 0, 0, 1]
    assert compare_networks(line, far, 20).tolist() == [1, 1, 1, 1, 1, 1]

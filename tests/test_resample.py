"""Resampling, against sums written out pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from geoseg.resample import area_taps, linear_taps, resample


def dense(taps, size):
    """The taps of one axis as a matrix (outputs, sources)."""
    matrix = np.zeros((len(taps.first), size))
    for row, (first, count, weight) in enumerate(zip(taps.first, taps.count, taps.weight, strict=True)):
        matrix[row, first : first + count] = weight[:count]
        assert (weight[count:] == 0).all()
    return matrix


class TestTaps:
    def test_area_by_hand(self):
        assert dense(area_taps(0, 2, scale=2.5, size=5), 5).tolist() == [[1, 1, 0.5, 0, 0], [0, 0, 0.5, 1, 1]]

    def test_area_leaves_out_what_lies_beyond(self):
        assert dense(area_taps(0, 2, scale=3, size=5), 5).tolist() == [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]]

    def test_area_wholly_beyond_keeps_the_last_pixel(self):
        assert dense(area_taps(3, 4, scale=3, size=5), 5).tolist() == [[0, 0, 0, 0, 1]]

    def test_area_takes_no_sliver_that_only_rounding_made(self):
        for scale in (1.1, 0.1 * 11, 3 * 1.1, 7 / 3):
            taps = area_taps(0, 900, scale=scale * 10, size=10**5)
            assert taps.weight[np.arange(900), taps.count - 1].min() > 1e-6

    def test_linear_by_hand(self):
        matrix = dense(linear_taps(0, 6, scale=0.5, size=3), 3)
        expected = [[1, 0, 0], [0.75, 0.25, 0], [0.25, 0.75, 0], [0, 0.75, 0.25], [0, 0.25, 0.75], [0, 0, 1]]
        assert matrix.tolist() == expected

    def test_linear_of_one_pixel(self):
        assert dense(linear_taps(0, 3, scale=1 / 3, size=1), 1).tolist() == [[1], [1], [1]]


class TestResample:
    def test_half_of_what_is_covered_must_be_valid(self):
        pixels = np.array([[[10, 99], [20, 99]], [[1, 2], [3, 4]]], np.uint8)
        taps = area_taps(0, 1, scale=2, size=2)
        for flags, expected, ok in (
            ([[1, 0], [1, 0]], [15, 2], True),
            ([[1, 0], [0, 0]], [10, 1], False),
            ([[0, 0], [0, 0]], [57, 3], False),  # 57 = 228 / 4, 2.5 up
            ([[1, 1], [1, 1]], [57, 3], True),
        ):
            out, valid = resample(pixels, np.array(flags, bool), rows=taps, cols=taps)
            assert out.ravel().tolist() == expected
            assert valid.tolist() == [[ok]]

    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_extremes_stay_in_range(self, dtype):
        top = 255 if dtype == "uint8" else np.finfo(np.float32).max
        pixels = np.full((1, 40, 40), top, dtype)
        taps = area_taps(0, 12, scale=40 / 12, size=40)
        assert (resample(pixels, np.ones((40, 40), bool), rows=taps, cols=taps)[0] == top).all()

    def test_no_bands_is_validity_alone(self):
        flags = np.zeros((4, 4), bool)
        flags[:2] = True
        taps = area_taps(0, 2, scale=2, size=4)
        out, valid = resample(np.empty((0, 4, 4), np.uint8), flags, rows=taps, cols=taps)
        assert out.shape == (0, 2, 2)
        assert valid.tolist() == [[True, True], [False, False]]

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from geoseg.export.overviews import halve, make_levels, shapes_of


def most_frequent(values):
    """`Counter` keeps the order in which values come, and `most_common` keeps it where counts are equal."""
    return Counter(values).most_common(1)[0][0]


def mean(values):
    return (2 * sum(values) + len(values)) // (2 * len(values))  # a half goes up


def halve_plainly(pixels, *, nodata, average):
    rows, cols = pixels.shape
    halved = np.full(((rows + 1) // 2, (cols + 1) // 2), nodata, np.uint8)
    for row, col in np.ndindex(halved.shape):
        quad = pixels[2 * row : 2 * row + 2, 2 * col : 2 * col + 2].ravel().tolist()
        values = [value for value in quad if value != nodata]
        if values:
            halved[row, col] = (mean if average else most_frequent)(values)
            if halved[row, col] == nodata:  # of data there is data
                halved[row, col] -= 1
    return halved


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 7), (7, 1), (2, 2), (6, 5), (33, 64), (200, 201)])
@pytest.mark.parametrize("nodata", [0, 2, 255])
@pytest.mark.parametrize("average", [False, True])
def test_four_pixels_make_one(shape, nodata, average):
    random = np.random.default_rng(sum(shape) + nodata)
    few = random.choice(np.array([0, 1, 2, 3, 254, 255], np.uint8), shape)
    many = random.integers(0, 256, shape, dtype=np.uint8)
    for pixels in (few, many, np.full_like(few, nodata)):
        halved = halve(pixels, nodata=nodata, average=average)
        assert halved.dtype == np.uint8
        np.testing.assert_array_equal(halved, halve_plainly(pixels, nodata=nodata, average=average))


def test_all_ways_to_fill_four_pixels_from_three_values_and_nodata():
    ways = np.stack(np.meshgrid(*[np.array([1, 2, 3, 255], np.uint8)] * 4, indexing="ij"), axis=-1).reshape(-1, 2, 2)
    pixels = np.concatenate(list(ways), axis=1)
    for average in (False, True):
        expected = halve_plainly(pixels, nodata=255, average=average)
        np.testing.assert_array_equal(halve(pixels, nodata=255, average=average), expected)


@pytest.mark.parametrize(
    ("quad", "code"),
    [
        ([[4, 1], [1, 4]], 4),  # as often: the one that comes first
        ([[9, 1], [3, 3]], 3),
        ([[5, 6], [7, 8]], 5),
        ([[255, 7], [6, 255]], 7),
        ([[255, 255], [255, 2]], 2),
        ([[255, 255], [255, 255]], 255),
    ],
)
def test_ties_and_nodata_of_codes(quad, code):
    assert halve(np.array(quad, np.uint8), nodata=255, average=False) == code


@pytest.mark.parametrize(
    ("quad", "confidence"),
    [
        ([[0, 0], [0, 1]], 0),
        ([[0, 0], [1, 1]], 1),  # a half goes up
        ([[1, 1], [2, 255]], 1),
        ([[254, 253], [255, 255]], 254),
        ([[255, 255], [255, 255]], 255),
    ],
)
def test_rounding_and_nodata_of_confidences(quad, confidence):
    assert halve(np.array(quad, np.uint8), nodata=255, average=True) == confidence


def test_a_mean_of_data_is_not_nodata():
    assert halve(np.array([[99, 101], [99, 101]], np.uint8), nodata=100, average=True) == 99


def test_reads_any_array():
    pixels = np.random.default_rng(0).integers(0, 9, (40, 60), dtype=np.uint8)
    expected = halve(pixels[::2, 1::3].copy(), nodata=255, average=False)
    pixels.setflags(write=False)
    np.testing.assert_array_equal(halve(pixels[::2, 1::3], nodata=255, average=False), expected)


def test_levels_end_with_one_that_fits_into_a_block():
    assert shapes_of((512, 512), 512) == [(512, 512)]
    assert shapes_of((513, 1), 512) == [(513, 1), (257, 1)]
    assert shapes_of((1, 2049), 512) == [(1, 2049), (1, 1025), (1, 513), (1, 257)]


@pytest.mark.parametrize("shape", [(1, 1), (90, 1), (1, 90), (64, 64), (101, 77), (257, 130)])
@pytest.mark.parametrize("window", [(8, 8), (8, 40), (24, 300), (40, 16), (64, 64), (512, 512)])
def test_levels_are_whole_blocks_however_the_raster_goes_by(shape, window):
    block, options = 8, {"nodata": 255, "average": True}
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    shapes = shapes_of(shape, block)
    windows = [
        (row, col, pixels[row : row + window[0], col : col + window[1]])
        for row in range(0, shape[0], window[0])
        for col in range(0, shape[1], window[1])
    ]
    levels, covered = [np.zeros(each, np.uint8) for each in shapes], [np.zeros(each, np.uint8) for each in shapes]
    for level, row, col, part in make_levels(windows, shapes, block=block, **options):
        place = (slice(row, row + part.shape[0]), slice(col, col + part.shape[1]))
        assert row % block == col % block == 0
        assert all(stop.stop % block == 0 or stop.stop == end for stop, end in zip(place, shapes[level], strict=True))
        levels[level][place] = part
        covered[level][place] += 1
    assert all((count == 1).all() for count in covered)
    np.testing.assert_array_equal(levels[0], pixels)
    for below, above in itertools.pairwise(levels):
        np.testing.assert_array_equal(above, halve_plainly(below, **options))

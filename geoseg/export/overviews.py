"""Overviews of class codes and confidences, made while the raster goes by.

Each level is made of the one before, four pixels to one. A side of n pixels has n / 2 in the next level, rounded up (as
gdaladdo has it; GDAL's COG driver rounds down, and squeezes odd sides); what lies beyond the edge counts as nodata.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["halve", "make_levels", "shapes_of"]

Pixels = NDArray[np.uint8]


def shapes_of(shape: tuple[int, int], block: int) -> list[tuple[int, int]]:
    """Return the (rows, cols) of a raster and of its overviews, down to one that fits into a block."""
    shapes = [shape]
    while max(shapes[-1]) > block:
        rows, cols = shapes[-1]
        shapes.append(((rows + 1) // 2, (cols + 1) // 2))
    return shapes


def halve(pixels: Pixels, *, nodata: int, average: bool) -> Pixels:
    """Make one pixel of every four (two by two).

    Args:
        pixels: (rows, cols) codes or confidences.
        nodata: takes no part; a pixel is nodata when all four are.
        average: the mean, a half rounded up (where it would be `nodata`, one less), instead of the most frequent
            value (of several, the one that comes first in row-major order).

    Returns:
        (rows / 2, cols / 2), both rounded up.
    """
    return np.asarray(_halve(np.require(pixels, np.uint8, ("C", "W")), np.uint8(nodata), average))


def make_levels(
    windows: Iterable[tuple[int, int, Pixels]],
    shapes: Sequence[tuple[int, int]],
    *,
    block: int,
    nodata: int,
    average: bool,
) -> Iterator[tuple[int, int, int, Pixels]]:
    """Give the windows of a raster and, as soon as they can be made, those of its overviews.

    All consist of whole blocks, but for the edges of the raster. Of each overview, no more is kept than rows of blocks
    that are not full yet.

    Args:
        windows: (row, col, pixels), which pave the raster, one row of windows after the other.
        shapes: (rows, cols) of the raster and of its overviews, as `shapes_of` gives them.
        block: side of a block, an even number of pixels.
        nodata: see `halve`.
        average: see `halve`.

    Yields:
        (level, row, col, pixels): level 0 is the raster itself. The pixels hold until the next ones are asked for.
    """
    above: list[_Rows] = []
    for window in windows:
        yield 0, *window
        if not above:
            depth = math.ceil(len(window[2]) / block) * block
            for rows, cols in shapes[1:]:
                # half a row of windows is rows of whole blocks, or two of them are
                depth = depth if (depth // 2) % block else depth // 2
                above.append(_Rows(rows, cols, depth))
        below = window
        for level, strip in enumerate(above, start=1):
            row, col, pixels = below
            strip.put(row, col, halve(pixels, nodata=nodata, average=average))
            if not strip.full():
                break
            below = strip.take()
            yield level, *below


class _Rows:
    """Rows of an overview that fill up, from left to right and from top to bottom."""

    def __init__(self, rows: int, cols: int, depth: int) -> None:
        self._shape, self._first = (rows, cols), 0
        self._pixels = np.empty((min(depth, rows), cols), np.uint8)
        self._filled, self._complete = 0, False

    def put(self, row: int, col: int, pixels: Pixels) -> None:
        """Take pixels that were made of those at a place of the level below."""
        top, left = row // 2 - self._first, col // 2
        self._pixels[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        self._complete = left + pixels.shape[1] == self._shape[1]
        self._filled = top + pixels.shape[0]

    def full(self) -> bool:
        """Tell whether the rows can be taken: no more fit, or no more come."""
        return self._complete and self._filled == min(len(self._pixels), self._shape[0] - self._first)

    def take(self) -> tuple[int, int, Pixels]:
        """Return (row, col, pixels) of what is there, and begin anew below it."""
        row, pixels = self._first, self._pixels[: self._filled]
        self._first, self._filled, self._complete = row + self._filled, 0, False
        return row, 0, pixels


@numba.njit(cache=True, nogil=True)
def _halve(pixels: Pixels, nodata: np.uint8, average: bool) -> Pixels:  # noqa: FBT001
    height, width = pixels.shape
    halved = np.empty(((height + 1) // 2, (width + 1) // 2), np.uint8)
    beyond = np.full(width, nodata)
    for row in range(halved.shape[0]):
        up, down = pixels[2 * row], pixels[2 * row + 1] if 2 * row + 1 < height else beyond
        line = halved[row]
        if average:
            for col in range(width // 2):
                line[col] = _mean(up[2 * col], up[2 * col + 1], down[2 * col], down[2 * col + 1], nodata)
            if width % 2:
                line[-1] = _mean(up[-1], nodata, down[-1], nodata, nodata)
        else:
            for col in range(width // 2):
                line[col] = _mode(up[2 * col], up[2 * col + 1], down[2 * col], down[2 * col + 1], nodata)
            if width % 2:
                line[-1] = _mode(up[-1], nodata, down[-1], nodata, nodata)
    return halved


@numba.njit(cache=True, nogil=True)
def _mode(a: np.uint8, b: np.uint8, c: np.uint8, d: np.uint8, nodata: np.uint8) -> np.uint8:
    """The most frequent of four values; written so that it compiles to vector instructions."""
    most = a if a != nodata else (b if b != nodata else (c if c != nodata else d))
    most = c if (c == d) & (c != nodata) else most
    most = b if ((b == c) | (b == d)) & (b != nodata) else most
    return a if ((a == b) | (a == c) | (a == d)) & (a != nodata) else most


@numba.njit(cache=True, nogil=True)
def _mean(a: np.uint8, b: np.uint8, c: np.uint8, d: np.uint8, nodata: np.uint8) -> np.uint8:
    total, count = np.int32(0), np.int32(0)
    for value in (a, b, c, d):
        if value != nodata:
            total += np.int32(value)
            count += np.int32(1)
    if count == 0:
        return nodata
    mean = np.uint8((total + 2) >> 2 if count == 4 else (total + count // 2) // count)
    return mean if mean != nodata else np.uint8(mean - 1)

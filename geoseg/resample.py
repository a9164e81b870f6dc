"""Pixels of one grid from those of another, each output pixel on its own.

An output pixel is a weighted mean of the source pixels under it, taken in one fixed order from weights that
depend on its place in the whole grid alone. Reading a scene in pieces therefore gives the very numbers of
reading it at once, which block-wise warpers do not promise. Pixels without data take no part: the weights of
the others are scaled up, so nodata never bleeds into its neighbours.

Both methods are separable: `area_taps` averages what a coarser pixel covers, with fractional weights at its
edges (GDAL's "average"); `linear_taps` interpolates between pixel centres for a finer grid ("bilinear").
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Taps", "area_taps", "linear_taps", "resample"]

LEAST_COVER = 0.5  # an output pixel is valid when at least this share of what it covers is


@dataclass(frozen=True, slots=True)
class Taps:
    """Which source pixels make up each output pixel, along one axis.

    Attributes:
        first: (n,) int64, first source pixel.
        count: (n,) int64, number of source pixels, at least 1.
        weight: (n, largest count) float64, their weights; 0 beyond count.
    """

    first: NDArray[np.int64]
    count: NDArray[np.int64]
    weight: NDArray[np.float64]

    @property
    def start(self) -> int:
        """First source pixel of all."""
        return int(self.first[0])

    @property
    def stop(self) -> int:
        """The source pixel after the last one of all."""
        return int((self.first + self.count).max())


def area_taps(start: int, stop: int, *, scale: float, size: int) -> Taps:
    """Return the taps that average the source pixels under each output pixel.

    Args:
        start: First output pixel.
        stop: The output pixel after the last one.
        scale: Source pixels per output pixel, 1 or more.
        size: Source pixels in all; what an output pixel covers beyond them has no weight.

    Returns:
        Taps in source pixels, from 0 to size.
    """
    low = np.clip(np.arange(start, stop) * scale, 0, size)
    high = np.clip(np.arange(start + 1, stop + 1) * scale, 0, size)
    slack = 1e-9 * scale  # edges that only rounding keeps off a whole pixel
    first = np.clip(np.floor(low + slack), 0, size - 1).astype(np.int64)
    last = np.clip(np.ceil(high - slack) - 1, first, size - 1).astype(np.int64)
    source = first[:, None] + np.arange(int((last - first).max()) + 1)
    weight = np.minimum(source + 1, high[:, None]) - np.maximum(source, low[:, None])
    weight = np.where(source <= last[:, None], np.maximum(weight, 0.0), 0.0)
    weight[weight.sum(axis=1) == 0, 0] = 1.0
    return Taps(first, last - first + 1, weight)


def linear_taps(start: int, stop: int, *, scale: float, size: int) -> Taps:
    """Return the taps that interpolate linearly between the centres of the source pixels.

    Args:
        start: First output pixel.
        stop: The output pixel after the last one.
        scale: Source pixels per output pixel, at most 1 for a faithful result.
        size: Source pixels in all; beyond the centres at the edge these repeat.

    Returns:
        Taps in source pixels, from 0 to size.
    """
    centre = np.clip((np.arange(start, stop) + 0.5) * scale - 0.5, 0, size - 1)
    first = np.minimum(np.floor(centre), max(size - 2, 0)).astype(np.int64)
    share = centre - first
    weight = np.ascontiguousarray(np.stack([1.0 - share, share], axis=1)[:, : min(size, 2)])
    return Taps(first, np.full(len(first), min(size, 2), np.int64), weight)


def resample(
    pixels: NDArray[Any], valid: NDArray[np.bool_], *, rows: Taps, cols: Taps
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the output pixels that the taps describe.

    Args:
        pixels: (bands, h, w), source pixels rows.start to rows.stop by cols.start to cols.stop.
        valid: (h, w), which of them carry data.
        rows: Taps of the output rows.
        cols: Taps of the output columns.

    Returns:
        (bands, rows, cols) in the dtype of `pixels` (whole numbers rounded half up), and (rows, cols) bool: at
        least half of the weight is valid. A pixel without any valid one holds the mean of what lies there.
    """
    shape = len(rows.first), len(cols.first)
    # the kernel is compiled for two types only; a float32 holds 16 bits exactly
    exact = np.float32 if pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32 else np.float64
    out = np.empty((pixels.shape[0], *shape), np.float64)
    out_valid = np.empty(shape, np.bool_)
    _kernel()(
        np.ascontiguousarray(pixels, exact),
        np.ascontiguousarray(valid),
        rows.first - rows.start,
        rows.count,
        rows.weight,
        cols.first - cols.start,
        cols.count,
        cols.weight,
        out,
        out_valid,
    )
    if np.issubdtype(pixels.dtype, np.integer):
        out = np.floor(out + 0.5, out=out)
    return out.astype(pixels.dtype), out_valid


@functools.cache
def _kernel() -> Callable[..., None]:
    """Return the compiled kernel; numba is imported when a scene is first resampled."""
    import numba

    compiled: Callable[..., None] = numba.njit(cache=True, nogil=True)(_weighted_means)
    return compiled


def _weighted_means(  # noqa: C901, PLR0913, PLR0917 - a kernel: plain arrays, plain loops
    pixels: NDArray[Any],
    valid: NDArray[np.bool_],
    row_first: NDArray[np.int64],
    row_count: NDArray[np.int64],
    row_weight: NDArray[np.float64],
    col_first: NDArray[np.int64],
    col_count: NDArray[np.int64],
    col_weight: NDArray[np.float64],
    out: NDArray[np.float64],
    out_valid: NDArray[np.bool_],
) -> None:
    """Fill out and out_valid: down the columns into one line per output row, then along it.

    Compiled without fast-math, so that every sum runs in one order, whatever the window.
    """
    width = pixels.shape[2]
    valid_line = np.empty(width)
    line = np.empty(width)
    raw_line = np.empty(width)
    total = np.empty(out.shape[2])
    good = np.empty(out.shape[2])
    for i in range(out.shape[1]):
        row_total = 0.0
        valid_line[:] = 0.0
        for a in range(row_count[i]):
            weight = row_weight[i, a]
            row_total += weight
            flags = valid[row_first[i] + a]
            for c in range(width):
                valid_line[c] += weight if flags[c] else 0.0
        whole_row = True
        for j in range(out.shape[2]):
            total[j] = 0.0
            good[j] = 0.0
            for b in range(col_count[j]):
                total[j] += col_weight[j, b] * row_total
                good[j] += col_weight[j, b] * valid_line[col_first[j] + b]
            out_valid[i, j] = good[j] > 0.0 and good[j] >= LEAST_COVER * total[j] * (1.0 - 1e-9)
            whole_row = whole_row and good[j] == total[j]
        for band in range(out.shape[0]):
            line[:] = 0.0
            raw_line[:] = 0.0
            for a in range(row_count[i]):
                weight = row_weight[i, a]
                values = pixels[band, row_first[i] + a]
                flags = valid[row_first[i] + a]
                if whole_row:
                    for c in range(width):
                        line[c] += weight * values[c]
                else:
                    for c in range(width):
                        term = weight * values[c]
                        raw_line[c] += term
                        line[c] += term if flags[c] else 0.0
            for j in range(out.shape[2]):
                sums = line if good[j] > 0.0 else raw_line
                mean = 0.0
                for b in range(col_count[j]):
                    mean += col_weight[j, b] * sums[col_first[j] + b]
                out[band, i, j] = mean / (good[j] if good[j] > 0.0 else total[j])

"""Parts of a class that are too narrow vanish, and what lies around takes their place.

This is morphological opening, class by class: a pixel of a class stays if it lies in some disc of the least width that
holds nothing but its class (J. Serra, *Image Analysis and Mathematical Morphology*, 1982). A split class and its
boundary are one class here. Where the scene ends or has no data the class may go on, so a disc may hold such pixels,
too. The other pixels are *dropped*; those that stay, and background, grow into their place, step by step over
4-neighbours, equally near ones in the order of their codes. What is dropped and farther than the least width from all
that stays becomes background.
"""

from __future__ import annotations

from collections.abc import Mapping

import numba
import numpy as np
from numpy.typing import NDArray

from geoseg.codes import BACKGROUND, NODATA
from geoseg.errors import InputError

__all__ = ["halo_px", "open_classes"]

# Steps from what stays: of dropped pixels that are not reached yet, and of nodata.
UNREACHED, BLOCKED = -1, -2


def halo_px(width_px: int) -> int:
    """Pixels around a window that :func:`open_classes` must see to be right inside of it."""
    return 2 * width_px


def open_classes(
    mask: NDArray[np.uint8], width_px: int, boundaries: Mapping[int, int] | None = None
) -> NDArray[np.uint8]:
    """Give the parts of classes that are narrower than a width to what lies around them.

    A pixel's result depends on the mask within ``halo_px(width_px)`` rows and columns of it. So for a chunk, call this
    on its window grown by that halo on every side, clipped to the scene, and crop.

    Args:
        mask: uint8 ``(rows, cols)`` class codes. Background is never too narrow; nodata stays, and takes nothing.
        width_px: the least width, pixels; 1 changes nothing.
        boundaries: the code of each split class, to the code of its boundary.

    Returns:
        uint8 ``(rows, cols)``.

    Raises:
        InputError: a mask that is not uint8, or a width below 1.
    """
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise InputError(f"mask is {mask.dtype} {mask.shape}; expected uint8 (rows, cols)")
    if width_px < 1:
        raise InputError(f"least width is {width_px} px; expected 1 or more")
    classes = mask
    if boundaries:
        class_of = np.arange(256, dtype=np.uint8)
        class_of[list(boundaries.values())] = list(boundaries)
        classes = class_of[mask]
    # the scene goes on with nodata, which stands for anything, as far as a disc reaches
    covered = _in_discs(np.pad(classes, width_px, constant_values=NODATA), *_chords(width_px))
    return _fill(np.ascontiguousarray(mask), covered, width_px)


def _chords(width_px: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last column of each row of a disc of pixels whose centres lie in a circle of ``width_px`` across."""
    offset = 2 * np.arange(width_px) - (width_px - 1)  # twice the distance from the centre
    inside = offset[:, None] ** 2 + offset**2 <= width_px**2
    first = inside.argmax(axis=1)
    return first, width_px - 1 - first


@numba.njit(cache=True, nogil=True)
def _in_discs(classes: NDArray[np.uint8], first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The pixels in discs that hold only one class, and nodata."""
    rows, cols = classes.shape
    width = first.size
    data, code, end = _scan(classes)
    covered = np.zeros(classes.shape, np.bool_)
    places = cols - width + 1
    fits, held = np.empty(places, np.uint8), np.empty(places, np.uint8)
    for row in range(rows - width + 1):
        fits[:] = 1
        held[:] = NODATA
        for down in range(width):
            left, right = first[down], first[down] + places
            _fit_row(
                data[row + down, left:right],
                code[row + down, left:right],
                end[row + down, left:right],
                np.int32(last[down]),
                fits,
                held,
            )
        col = 0
        while col < places:
            since = col
            while col < places and fits[col] and held[col] != BACKGROUND and held[col] != NODATA:
                col += 1
            if col > since:
                for down in range(width):
                    covered[row + down, since + first[down] : col + last[down]] = True
            col += 1
    return covered


@numba.njit(cache=True, nogil=True)
def _fit_row(
    data: NDArray[np.int32],
    code: NDArray[np.uint8],
    end: NDArray[np.int32],
    last: np.int32,
    fits: NDArray[np.uint8],
    held: NDArray[np.uint8],
) -> None:
    """Whether discs, one beginning at each column, hold only what they held before; what they hold then."""
    right = last
    for col in range(fits.size):  # without branches: this compiles to vector instructions
        is_full = np.uint8(data[col] <= right)
        is_one = np.uint8(end[col] > right) & (np.uint8(held[col] == code[col]) | np.uint8(held[col] == NODATA))
        fits[col] &= is_one | (is_full ^ 1)
        held[col] = code[col] if is_full else held[col]
        right += np.int32(1)


@numba.njit(cache=True, nogil=True)
def _scan(classes: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int32]]:
    """For each pixel, looking right: where the first data is, its class, and where a pixel of another class is."""
    rows, cols = classes.shape
    data, code = np.empty(classes.shape, np.int32), np.empty(classes.shape, np.uint8)
    end = np.empty(classes.shape, np.int32)
    for row in range(rows):
        next_data, next_code, next_end = cols, np.uint8(NODATA), cols
        for col in range(cols - 1, -1, -1):
            here = classes[row, col]
            if here != NODATA:
                if next_data < cols and next_code != here:
                    next_end = next_data
                next_data, next_code = col, here
            data[row, col], code[row, col], end[row, col] = next_data, next_code, next_end
    return data, code, end


@numba.njit(cache=True, nogil=True)
def _fill(mask: NDArray[np.uint8], covered: NDArray[np.bool_], width: int) -> NDArray[np.uint8]:
    """Grow what is covered, and background, into the other pixels, ``width`` steps; the rest becomes background.

    Args:
        mask: uint8 ``(rows, cols)``.
        covered: bool ``(rows + 2 * width, cols + 2 * width)``, the pixels in discs.
        width: of a disc.
    """
    rows, cols = mask.shape
    stride = cols + 2
    codes = np.full((rows + 2, stride), NODATA, np.uint8)
    steps = np.full((rows + 2, stride), BLOCKED, np.int32)
    dropped_pixels = 0
    for row in range(rows):
        line, line_covered = mask[row], covered[row + width, width : width + cols]
        line_codes, line_steps = codes[row + 1, 1:-1], steps[row + 1, 1:-1]
        for col in range(cols):  # without branches: this compiles to vector instructions
            is_dropped = (line[col] != BACKGROUND) & (line[col] != NODATA) & (not line_covered[col])
            line_codes[col] = BACKGROUND if is_dropped else line[col]
            line_steps[col] = UNREACHED if is_dropped else (BLOCKED if line[col] == NODATA else 0)
            dropped_pixels += is_dropped
    if not dropped_pixels:
        return mask.copy()
    flat, step_of = codes.ravel(), steps.ravel()
    waiting: NDArray[np.int64] = np.flatnonzero(step_of == UNREACHED)
    queue = np.empty(waiting.size, np.int64)
    reached = 0
    for pixel in waiting:
        if _take_nearest(flat, step_of, pixel, stride, 1):
            queue[reached] = pixel
            reached += 1
    begin = 0
    for step in range(2, width + 1):
        end = reached
        for at in range(begin, end):
            for pixel in (queue[at] - stride, queue[at] - 1, queue[at] + 1, queue[at] + stride):
                if step_of[pixel] == UNREACHED and _take_nearest(flat, step_of, pixel, stride, step):
                    queue[reached] = pixel
                    reached += 1
        begin = end
    return codes[1:-1, 1:-1].copy()


@numba.njit(cache=True, nogil=True)
def _take_nearest(codes: NDArray[np.uint8], steps: NDArray[np.int32], pixel: int, stride: int, step: int) -> bool:
    """Give a pixel the smallest code of its neighbours that are one step nearer, if there is one."""
    best = NODATA
    for neighbour in (pixel - stride, pixel - 1, pixel + 1, pixel + stride):
        if steps[neighbour] == step - 1:
            best = min(best, codes[neighbour])
    if best == NODATA:
        return False
    codes[pixel], steps[pixel] = best, step
    return True

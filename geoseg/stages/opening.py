"""Parts of a class that are too narrow vanish, and what lies around takes their place.

This is morphological opening, class by class: a pixel of a class stays if it lies in some disc of the least width that
holds nothing but its class (J. Serra, *Image Analysis and Mathematical Morphology*, 1982). A split class and its
boundary are one class here, and beyond its edge the scene goes on as at its edge. The other pixels are *dropped*; those
that stay, and background, grow into their place, step by step over 4-neighbours, equally near ones in the order of
their codes. What is dropped and farther than the least width from all that stays becomes background.
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
    covered = _in_discs(np.pad(classes, width_px, mode="edge"), *_chords(width_px))
    return _fill(np.ascontiguousarray(mask), covered, width_px)


def _chords(width_px: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last column of each row of a disc of pixels whose centres lie in a circle of ``width_px`` across."""
    offset = 2 * np.arange(width_px) - (width_px - 1)  # twice the distance from the centre
    inside = offset[:, None] ** 2 + offset**2 <= width_px**2
    first = inside.argmax(axis=1)
    return first, width_px - 1 - first


@numba.njit(cache=True, nogil=True)
def _in_discs(classes: NDArray[np.uint8], first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The pixels in discs that hold a single class."""
    rows, cols = classes.shape
    width = first.size
    end = _run_ends(classes)
    covered = np.zeros(classes.shape, np.bool_)
    places = cols - width + 1
    fits = np.empty(places, np.uint8)
    for row in range(rows - width + 1):
        held = classes[row, first[0] : first[0] + places]
        for place in range(places):
            fits[place] = (held[place] != BACKGROUND) & (held[place] != NODATA)
        for down in range(width):
            begin, stop = first[down], first[down] + places
            _fit_row(classes[row + down, begin:stop], end[row + down, begin:stop], last[down], held, fits)
        place = 0
        while place < places:
            since = place
            while place < places and fits[place]:
                place += 1
            if place > since:
                for down in range(width):
                    covered[row + down, since + first[down] : place + last[down]] = True
            place += 1
    return covered


@numba.njit(cache=True, nogil=True)
def _fit_row(
    classes: NDArray[np.uint8], end: NDArray[np.int32], last: int, held: NDArray[np.uint8], fits: NDArray[np.uint8]
) -> None:
    """Which discs, one at each place, hold in this row what they shall hold."""
    right = np.int32(last)
    for place in range(fits.size):  # without branches: this compiles to vector instructions
        fits[place] &= np.uint8(end[place] > right) & np.uint8(classes[place] == held[place])
        right += np.int32(1)


@numba.njit(cache=True, nogil=True)
def _run_ends(classes: NDArray[np.uint8]) -> NDArray[np.int32]:
    """For each pixel, the column after its run of equal pixels."""
    rows, cols = classes.shape
    end = np.empty(classes.shape, np.int32)
    for row in range(rows):
        stop = cols
        end[row, cols - 1] = cols
        for col in range(cols - 2, -1, -1):
            stop = stop if classes[row, col] == classes[row, col + 1] else col + 1
            end[row, col] = stop
    return end


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

"""From extent and boundary to one instance per field: cores, and growth back over the boundary.

A *split class* has two codes in a mask: one for its inside, one for its boundary. What remains of touching instances
without their boundaries are *cores*, which the boundary keeps apart. Bounded growth then gives the boundary back: pixel
by pixel, from the cores outwards, each boundary pixel goes to the core with the shortest way to it, at most
``growth_px`` steps of a 4-neighbour.

No pixel needs to know which core it belongs to, only which neighbour it was given from: its *parent*. That makes growth
a local function of the mask, and exact however the scene is cut; what belongs together is found afterwards, with the
instances (:mod:`geoseg.stages.instances`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numba
import numpy as np
from numpy.typing import NDArray

from geoseg.codes import BACKGROUND
from geoseg.components import DOWN, LEFT, RIGHT, UP
from geoseg.errors import InputError

__all__ = ["MAX_GROWTH_PX", "grow_cores"]

MAX_GROWTH_PX = 254

# Steps of the shortest way from a core, where there is none.
UNREACHED = 255


def grow_cores(
    mask: NDArray[np.uint8], boundaries: Mapping[int, int], growth_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Give boundary pixels back to the instances they bound.

    A pixel's result depends on the mask within ``growth_px`` rows and columns of it. So for a chunk, call this on its
    window grown by a halo of ``growth_px`` on every side, clipped to the scene, and crop both arrays.

    Args:
        mask: uint8 ``(rows, cols)`` class codes, with boundary codes.
        boundaries: the code of each split class, to the code of its boundary.
        growth_px: how many steps a core grows at most, 0 to 254.

    Returns:
        codes: uint8 ``(rows, cols)``, the mask with every boundary code replaced: by its class's code where a core of
            that class is within ``growth_px`` steps over its boundary, else by background.
        parent: uint8 ``(rows, cols)``, for grown pixels where the neighbour lies that is one step nearer to a core (UP,
            LEFT, RIGHT, DOWN, the first of these that is); else 0.

    Raises:
        InputError: a mask that is not uint8, a growth out of range, or a code that means two things.
    """
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise InputError(f"mask is {mask.dtype} {mask.shape}; expected uint8 (rows, cols)")
    if not 0 <= growth_px <= MAX_GROWTH_PX:
        raise InputError(f"growth of {growth_px} px; expected 0 to {MAX_GROWTH_PX}")
    codes = [*boundaries, *boundaries.values()]
    if len(set(codes)) != len(codes) or not all(0 < code < 255 for code in codes):
        raise InputError(f"boundaries {dict(boundaries)}; expected distinct codes from 1 to 254")
    class_of_boundary = np.zeros(256, np.uint8)
    for code, boundary in boundaries.items():
        class_of_boundary[boundary] = code
    return _grow(np.ascontiguousarray(mask), class_of_boundary, growth_px)


@numba.njit(cache=True, nogil=True)
def _grow(
    mask: NDArray[np.uint8], class_of_boundary: NDArray[np.uint8], growth_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Breadth-first search from all cores at once, one step at a time."""
    codes, parent, steps, pending = _prepare(mask, class_of_boundary)
    stride = mask.shape[1] + 2
    queue = np.empty(pending.size, np.int64)
    reached = 0
    if growth_px:
        for pixel in pending:
            parent[pixel] = _nearer(codes, steps, pixel, stride, 0)
            if parent[pixel]:
                steps[pixel] = 1
                queue[reached] = pixel
                reached += 1
    begin = 0
    for step in range(2, growth_px + 1):
        end = reached
        for at in range(begin, end):
            for pixel in (queue[at] - stride, queue[at] - 1, queue[at] + 1, queue[at] + stride):
                if steps[pixel] == UNREACHED and codes[pixel] == codes[queue[at]]:
                    # all pixels one step nearer are known by now, so the choice does not depend on the queue's order
                    parent[pixel] = _nearer(codes, steps, pixel, stride, step - 1)
                    steps[pixel] = step
                    queue[reached] = pixel
                    reached += 1
        begin = end
    for pixel in pending:
        if steps[pixel] == UNREACHED:
            codes[pixel] = BACKGROUND
    shape = mask.shape[0] + 2, stride
    return codes.reshape(shape)[1:-1, 1:-1].copy(), parent.reshape(shape)[1:-1, 1:-1].copy()


@numba.njit(cache=True, nogil=True)
def _prepare(
    mask: NDArray[np.uint8], class_of_boundary: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    """Flat arrays with a ring of zeros: codes with boundaries as their classes, parents, steps; and boundary pixels."""
    rows, cols = mask.shape
    codes = np.zeros((rows + 2, cols + 2), np.uint8)
    steps = np.zeros(codes.shape, np.uint8)
    boundary_pixels = 0
    for row in range(rows):
        for col in range(cols):
            code = class_of_boundary[mask[row, col]]
            codes[row + 1, col + 1] = code if code else mask[row, col]
            steps[row + 1, col + 1] = UNREACHED if code else 0
            boundary_pixels += code != 0
    pending = np.empty(boundary_pixels + 1, np.int64)
    found = 0
    flat = steps.ravel()
    for pixel in range(flat.size if boundary_pixels else 0):
        pending[found] = pixel
        found += flat[pixel] == UNREACHED
    return codes.ravel(), np.zeros(codes.size, np.uint8), flat, pending[:found]


@numba.njit(cache=True, nogil=True)
def _nearer(codes: NDArray[np.uint8], steps: NDArray[np.uint8], pixel: int, stride: int, step: int) -> int:
    """Where the first neighbour of the pixel's class and this step lies; 0 for none."""
    if steps[pixel - stride] == step and codes[pixel - stride] == codes[pixel]:
        return UP
    if steps[pixel - 1] == step and codes[pixel - 1] == codes[pixel]:
        return LEFT
    if steps[pixel + 1] == step and codes[pixel + 1] == codes[pixel]:
        return RIGHT
    if steps[pixel + stride] == step and codes[pixel + stride] == codes[pixel]:
        return DOWN
    return 0

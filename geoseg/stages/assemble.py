"""From arcs to polygons: follow the darts of each instance around, close the rings, shells before holes."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from geoseg.rings import Arcs, run_offsets

__all__ = ["Rings", "assemble"]

Rings = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def assemble(
    arcs: Arcs,
    darts: NDArray[np.int64],
    following: NDArray[np.int64],
    owner: NDArray[np.int64],
    *,
    keep_straight: bool,
) -> Rings:
    """Close the rings of instances whose boundaries are all here.

    Args:
        arcs: pieces of boundary.
        darts: int64 ``(n,)``, ``2 * arc`` for an arc walked forwards, plus 1 for backwards.
        following: int64 ``(n,)``, for each dart the place in ``darts`` of the one that follows it: a permutation.
        owner: int64 ``(n,)``, the instance on the right hand of each dart.
        keep_straight: keep vertices in the middle of a straight stretch, where the neighbour changes. With them the
            polygons are a valid coverage, without them, while all edges are cracks, they are GDAL's.

    Returns:
        coords, ring_offsets and polygon_offsets as in :class:`geoseg.rings.Polygons`, and the owner of each polygon,
        ascending.
    """
    coords, offsets, first_dart = _close_rings(arcs.coords, arcs.offsets, darts, following)
    if not keep_straight:
        coords, offsets = _drop_straight(coords, offsets)
    coords, is_hole = _start_at_least(coords, offsets)
    owners = owner[first_dart]
    order = np.lexsort((*coords[offsets[:-1]].T, is_hole, owners))
    coords, offsets = _reorder(coords, offsets, order)
    polygon_offsets = run_offsets(owners[order])
    return coords, offsets, polygon_offsets, owners[order][polygon_offsets[:-1]]


@numba.njit(cache=True, nogil=True)
def _close_rings(
    coords: NDArray[np.int32], offsets: NDArray[np.int64], darts: NDArray[np.int64], following: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Closed rings, and the first dart of each."""
    room = darts.size
    for dart in darts:
        room += offsets[(dart >> 1) + 1] - offsets[dart >> 1]
    closed = np.empty((room, 2), np.int32)
    closed_offsets = np.zeros(darts.size + 1, np.int64)
    first_dart = np.empty(darts.size, np.int64)
    seen = np.zeros(darts.size, np.bool_)
    rings = 0
    to = 0
    for first in range(darts.size):
        if seen[first]:
            continue
        at = first
        while not seen[at]:
            seen[at] = True
            dart = darts[at]
            at = following[at]
            begin, end = offsets[dart >> 1], offsets[(dart >> 1) + 1]
            for step in range(end - begin - 1):  # the last vertex is the first of what follows
                vertex = begin + step if dart & 1 == 0 else end - 1 - step
                closed[to, 0], closed[to, 1] = coords[vertex, 0], coords[vertex, 1]
                to += 1
        begin = closed_offsets[rings]
        closed[to, 0], closed[to, 1] = closed[begin, 0], closed[begin, 1]
        to += 1
        first_dart[rings] = first
        rings += 1
        closed_offsets[rings] = to
    return closed[:to], closed_offsets[: rings + 1].copy(), first_dart[:rings].copy()


@numba.njit(cache=True, nogil=True)
def _drop_straight(
    coords: NDArray[np.int32], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Axis-parallel rings without the vertices at which they do not turn."""
    kept = np.empty_like(coords)
    kept_offsets = np.zeros_like(offsets)
    to = 0
    for ring in range(offsets.size - 1):
        begin, end = offsets[ring], offsets[ring + 1] - 1
        before = end - 1
        for here in range(begin, end):
            if (coords[before, 1] == coords[here, 1]) != (coords[here, 1] == coords[here + 1, 1]):
                kept[to, 0], kept[to, 1] = coords[here, 0], coords[here, 1]
                to += 1
            before = here
        first = kept_offsets[ring]
        kept[to, 0], kept[to, 1] = kept[first, 0], kept[first, 1]
        to += 1
        kept_offsets[ring + 1] = to
    return kept[:to], kept_offsets


@numba.njit(cache=True, nogil=True)
def _start_at_least(
    coords: NDArray[np.int32], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Rings from their least vertex on, by row, then col; and which of them are holes: they run the other way."""
    turned = np.empty_like(coords)
    is_hole = np.empty(offsets.size - 1, np.bool_)
    for ring in range(offsets.size - 1):
        begin, end = offsets[ring], offsets[ring + 1] - 1
        least = begin
        doubled_area = 0
        for here in range(begin, end):
            row, col = coords[here, 1], coords[here, 0]
            if row < coords[least, 1] or (row == coords[least, 1] and col < coords[least, 0]):
                least = here
            # relative to the first vertex, so that the products stay small
            x, y = np.int64(col) - coords[begin, 0], np.int64(row) - coords[begin, 1]
            x_step, y_step = coords[here + 1, 0] - col, coords[here + 1, 1] - row
            doubled_area += x * y_step - x_step * y
        is_hole[ring] = doubled_area < 0
        to = begin
        for here in range(least, end):
            turned[to, 0], turned[to, 1] = coords[here, 0], coords[here, 1]
            to += 1
        for here in range(begin, least + 1):
            turned[to, 0], turned[to, 1] = coords[here, 0], coords[here, 1]
            to += 1
    return turned, is_hole


@numba.njit(cache=True, nogil=True)
def _reorder(
    coords: NDArray[np.int32], offsets: NDArray[np.int64], order: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The same rings in another order."""
    new_coords = np.empty_like(coords)
    new_offsets = np.zeros_like(offsets)
    for to in range(order.size):
        begin, end = offsets[order[to]], offsets[order[to] + 1]
        place = new_offsets[to]
        for vertex in range(begin, end):
            new_coords[place, 0], new_coords[place, 1] = coords[vertex, 0], coords[vertex, 1]
            place += 1
        new_offsets[to + 1] = place
    return new_coords, new_offsets

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
        darts: int64 ``(n,)``, ``2 * arc`` for an arc walked forwards, plus 1 for backwards; -1 adds nothing to its ring.
        following: int64 ``(n,)``, for each dart the place in ``darts`` of the one that follows it: a permutation.
        owner: int64 ``(n,)``, the instance on the right hand of each dart.
        keep_straight: keep vertices in the middle of a straight stretch, where the neighbour changes. With them the
            polygons are a valid coverage, without them, while all edges are cracks, they are GDAL's.

    Returns:
        coords, ring_offsets and polygon_offsets as in :class:`geoseg.rings.Polygons`, and the owner of each polygon,
        ascending.
    """
    coords, offsets, first_dart, is_hole = _close_rings(arcs.coords, arcs.offsets, darts, following, keep_straight)
    owners = owner[first_dart]
    order = np.lexsort((*coords[offsets[:-1]].T, is_hole, owners))
    coords, offsets = _reorder(coords, offsets, order)
    polygon_offsets = run_offsets(owners[order])
    return coords, offsets, polygon_offsets, owners[order][polygon_offsets[:-1]]


@numba.njit(cache=True, nogil=True)
def _close_rings(
    coords: NDArray[np.int32],
    offsets: NDArray[np.int64],
    darts: NDArray[np.int64],
    following: NDArray[np.int64],
    keep_straight: bool,
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Rings that start at their least vertex (by row, then col) and repeat it; their first darts; which are holes."""
    room = darts.size
    for dart in darts:
        if dart >= 0:
            room += offsets[(dart >> 1) + 1] - offsets[dart >> 1]
    ring = np.empty((room, 2), np.int32)  # one ring at a time
    closed = np.empty((room, 2), np.int32)
    closed_offsets = np.zeros(darts.size + 1, np.int64)
    first_dart = np.empty(darts.size, np.int64)
    is_hole = np.empty(darts.size, np.bool_)
    seen = np.zeros(darts.size, np.bool_)
    rings = 0
    for first in range(darts.size):
        if seen[first]:
            continue
        size = 0
        at = first
        while not seen[at]:
            seen[at] = True
            dart = darts[at]
            at = following[at]
            if dart < 0:
                continue
            begin, end = offsets[dart >> 1], offsets[(dart >> 1) + 1]
            for step in range(end - begin - 1):  # the last vertex is the first of what follows
                vertex = begin + step if dart & 1 == 0 else end - 1 - step
                ring[size, 0], ring[size, 1] = coords[vertex, 0], coords[vertex, 1]
                size += 1
        if not keep_straight:
            size = _drop_straight(ring, size)
        least = 0
        doubled_area = 0
        before = size - 1
        for here in range(size):
            if ring[here, 1] < ring[least, 1] or (ring[here, 1] == ring[least, 1] and ring[here, 0] < ring[least, 0]):
                least = here
            # relative to the first vertex, so that the products stay small
            x, y = np.int64(ring[here, 0]) - ring[0, 0], np.int64(ring[here, 1]) - ring[0, 1]
            x_before, y_before = np.int64(ring[before, 0]) - ring[0, 0], np.int64(ring[before, 1]) - ring[0, 1]
            doubled_area += x_before * y - x * y_before
            before = here
        to = closed_offsets[rings]
        for step in range(size + 1):
            here = least + step
            here = here if here < size else here - size
            closed[to + step, 0], closed[to + step, 1] = ring[here, 0], ring[here, 1]
        first_dart[rings] = first
        is_hole[rings] = doubled_area < 0
        rings += 1
        closed_offsets[rings] = to + size + 1
    return (
        closed[: closed_offsets[rings]],
        closed_offsets[: rings + 1].copy(),
        first_dart[:rings].copy(),
        is_hole[:rings].copy(),
    )


@numba.njit(cache=True, nogil=True)
def _drop_straight(ring: NDArray[np.int32], size: int) -> int:
    """Drop the vertices of an axis-parallel ring at which it does not turn, in place; returns the new size."""
    kept = 0
    last_row = ring[size - 1, 1]
    first_row = ring[0, 1]
    for here in range(size):
        col, row = ring[here, 0], ring[here, 1]
        next_row = ring[here + 1, 1] if here + 1 < size else first_row
        if (last_row == row) != (row == next_row):
            ring[kept, 0], ring[kept, 1] = col, row
            kept += 1
        last_row = row
    return kept


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

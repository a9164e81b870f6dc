"""Simplify all polygons of a scene together: every shared boundary once, in whole pixels, without gaps or crossings.

The boundaries are cut at junctions, the corners where three or more of them meet, into *arcs*. Two neighbours share an
arc; it is simplified once and put back into both, so they still fit. An arc loses vertices by Visvalingam and Whyatt's
rule: again and again the one whose triangle with its two neighbours is smallest (M. Visvalingam, J. D. Whyatt, *Line
generalisation by repeated elimination of points*, The Cartographic Journal 30, 1993). A vertex may only go if no vertex
of any boundary lies in its triangle: then the new edge crosses and touches nothing, and the coverage stays valid. That
is the rule of GEOS' coverage simplifier too (M. Davis, ``CoverageSimplifier``).

Vertices stay on pixel corners, so all tests are exact integers; and since an affine map scales all triangles alike, the
outcome on the ground is the same as if it had been computed there.
"""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
from numpy.typing import NDArray

from geoseg.errors import InputError
from geoseg.rings import Polygons, offsets_of

__all__ = ["simplify_polygons"]

Ints = NDArray[np.int64]

_SLACK = 1.001  # a tolerance that is one pixel but for rounding is one pixel


def simplify_polygons(polygons: Polygons, tolerance_px: float) -> Polygons:
    """Simplify the polygons of a whole scene; neighbours still fit.

    Junctions stay where they are, no polygon or hole vanishes, and a closed boundary keeps at least four vertices (so
    that a single pixel stays a square). The first vertex of a ring may be another one than before.

    Args:
        polygons: all instances of all classes together, as traced.
        tolerance_px: pixels, >= 0. A vertex goes while its triangle is no larger than ``tolerance_px ** 2``. For a
            tolerance on the ground divide by the square root of a pixel's area there.

    Returns:
        The same polygons and rings in the same order, with fewer vertices.

    Raises:
        InputError: a negative or infinite tolerance.
    """
    if not 0 <= tolerance_px < np.inf:
        raise InputError(f"a simplification tolerance of {tolerance_px} px; give a length >= 0")
    coords, offsets = polygons.coords, polygons.ring_offsets
    if len(coords) == 0:
        return polygons
    arcs = _cut_at_junctions(polygons.junction, offsets)
    twins = _pair(coords, arcs)
    leads = np.flatnonzero((twins < 0) | (twins > np.arange(twins.size)))
    kept = np.ones(len(coords), np.bool_)
    cell, cells_across, cell_offsets, in_cell = _index(coords, arcs[leads])
    _thin_arcs(
        coords,
        arcs[leads],
        _least_inner_vertices(coords, arcs[leads]),
        int(min(2 * tolerance_px**2 * _SLACK, 2**30)),
        kept,
        (cell, cells_across, cell_offsets, in_cell),
    )
    followers = leads[twins[leads] >= 0]
    _copy_reversed(kept, arcs[followers], arcs[twins[followers]])
    kept[offsets[1:] - 1] = True  # every ring is closed by a vertex, be it another one
    new_offsets = offsets_of(np.add.reduceat(kept, offsets[:-1], dtype=np.int64))
    new_coords, new_junction = _take_kept(coords, polygons.junction, offsets, kept, new_offsets)
    return replace(polygons, coords=new_coords, junction=new_junction, ring_offsets=new_offsets)


# An arc is a row of four numbers: the first vertex of its ring, the number of the ring's distinct vertices, the arc's
# first vertex counted from there, and its number of edges. Its vertex i is the ring's (first + i) % distinct.


@numba.njit(cache=True, nogil=True)
def _vertex(arc: Ints, i: int) -> int:
    """Index of an arc's vertex i."""
    place = arc[2] + i
    return int(arc[0] + (place if place < arc[1] else place - arc[1]))


def _cut_at_junctions(junction: NDArray[np.uint8], offsets: Ints) -> Ints:
    """Arcs of all rings, int64 (n, 4). A ring without junctions is one arc, from its first vertex round to itself."""
    begins, distinct = offsets[:-1], np.diff(offsets) - 1
    cuts = junction > 0
    cuts[offsets[1:] - 1] = False  # the first vertex again
    cuts[begins[np.add.reduceat(cuts, begins, dtype=np.int64) == 0]] = True
    starts = np.flatnonzero(cuts)
    ring = np.searchsorted(begins, starts, side="right") - 1
    following = np.append(starts[1:], 0)
    # the last arc of a ring ends where its first one begins
    last = np.append(ring[1:] != ring[:-1], True)
    following[last] = starts[np.searchsorted(ring, ring[last])] + distinct[ring[last]]
    return np.stack([begins[ring], distinct[ring], starts - begins[ring], following - starts], axis=1)


@numba.njit(cache=True, nogil=True)
def _crack(coords: NDArray[np.int32], here: int, there: int, across: int) -> int:
    """Key of the crack that leads from one vertex towards the next: corner * 4 + direction."""
    if coords[here, 1] == coords[there, 1]:
        direction = 0 if coords[there, 0] > coords[here, 0] else 2
    else:
        direction = 1 if coords[there, 1] > coords[here, 1] else 3
    return int(np.int64(coords[here, 1]) * across + coords[here, 0]) * 4 + direction


@numba.njit(cache=True, nogil=True)
def _end_cracks(coords: NDArray[np.int32], arcs: Ints, across: int) -> Ints:
    """Of every arc (n, 2) the crack it begins with, and the one that leads back from its end."""
    keys = np.empty((arcs.shape[0], 2), np.int64)
    for i in range(arcs.shape[0]):
        arc = arcs[i]
        keys[i, 0] = _crack(coords, _vertex(arc, 0), _vertex(arc, 1), across)
        keys[i, 1] = _crack(coords, _vertex(arc, arc[3]), _vertex(arc, arc[3] - 1), across)
    return keys


def _pair(coords: NDArray[np.int32], arcs: Ints) -> Ints:
    """Of every arc the one that runs the other way on its left-hand side, or -1 where nothing is traced there."""
    keys = _end_cracks(coords, arcs, int(coords[:, 0].max()) + 1)
    order = np.argsort(keys[:, 0])
    starts = keys[order, 0]
    place = np.minimum(np.searchsorted(starts, keys[:, 1]), starts.size - 1)
    return np.where(starts[place] == keys[:, 1], order[place], -1)


def _least_inner_vertices(coords: NDArray[np.int32], arcs: Ints) -> Ints:
    """How many vertices between its ends each arc must keep, so that no ring collapses.

    A loop keeps three. Where several arcs join the same two junctions, each keeps one, unless it is straight anyway.
    """
    across = int(coords[:, 0].max()) + 1
    ends = np.stack([_end_vertices(arcs, 0), _end_vertices(arcs, 1)])
    corners = coords[ends, 1].astype(np.int64) * across + coords[ends, 0]
    names = np.unique(corners, return_inverse=True)[1].reshape(corners.shape)
    pairs = names.min(axis=0) * np.int64(names.max() + 1) + names.max(axis=0)
    group, sizes = np.unique(pairs, return_inverse=True, return_counts=True)[1:]
    least: Ints = np.where(corners[0] == corners[1], 3, (sizes[group] > 1).astype(np.int64))
    return least


def _end_vertices(arcs: Ints, end: int) -> Ints:
    """Index of the first (0) or last (1) vertex of every arc."""
    places: Ints = arcs[:, 0] + (arcs[:, 2] + end * arcs[:, 3]) % arcs[:, 1]
    return places


def _index(coords: NDArray[np.int32], arcs: Ints) -> tuple[int, int, Ints, Ints]:
    """Sort the arcs' vertices into square cells, about one vertex a cell.

    Returns:
        the side of a cell, cells across, offsets of the cells, and the vertices in them.
    """
    extent = coords.max(axis=0).astype(np.int64) + 1
    vertices = int((arcs[:, 3] + 1).sum())
    cell = max(2, int(np.ceil(np.sqrt(float(extent[0]) * float(extent[1]) / vertices))))
    across, down = -(-extent // cell)
    return (cell, int(across), *_fill_cells(coords, arcs, cell, int(across), int(across * down)))


@numba.njit(cache=True, nogil=True)
def _fill_cells(coords: NDArray[np.int32], arcs: Ints, cell: int, across: int, cells: int) -> tuple[Ints, Ints]:
    """Counting sort of the arcs' vertices by cell, row-major."""
    offsets = np.zeros(cells + 2, np.int64)
    for i in range(arcs.shape[0]):
        for j in range(arcs[i, 3] + 1):
            vertex = _vertex(arcs[i], j)
            offsets[coords[vertex, 1] // cell * across + coords[vertex, 0] // cell + 2] += 1
    for at in range(2, offsets.size):
        offsets[at] += offsets[at - 1]
    members = np.empty(offsets[-1], np.int64)
    for i in range(arcs.shape[0]):
        for j in range(arcs[i, 3] + 1):
            vertex = _vertex(arcs[i], j)
            place = coords[vertex, 1] // cell * across + coords[vertex, 0] // cell + 1
            members[offsets[place]] = vertex
            offsets[place] += 1
    return offsets[:-1].copy(), members


@numba.njit(cache=True, nogil=True)
def _thin_arcs(
    coords: NDArray[np.int32],
    arcs: Ints,
    least: Ints,
    largest: int,
    kept: NDArray[np.bool_],
    cells: tuple[int, int, Ints, Ints],
) -> None:
    """Thin arc after arc; ``largest`` is twice the largest triangle that goes. Clears ``kept`` of what goes."""
    longest = arcs[:, 3].max() + 1
    vertices, links = np.empty(longest, np.int64), np.empty((longest, 2), np.int64)
    for i in range(arcs.shape[0]):
        edges = arcs[i, 3]
        if edges - 1 <= least[i]:
            continue
        for j in range(edges + 1):
            vertices[j] = _vertex(arcs[i], j)
            links[j, 0], links[j, 1] = j - 1, j + 1
        _thin_arc(coords, vertices[: edges + 1], links, edges - 1 - least[i], largest, kept, cells)


@numba.njit(cache=True, nogil=True)
def _thin_arc(
    coords: NDArray[np.int32],
    vertices: Ints,
    links: Ints,
    spare: int,
    largest: int,
    kept: NDArray[np.bool_],
    cells: tuple[int, int, Ints, Ints],
) -> None:
    """Take at most ``spare`` vertices out of one arc, smallest triangle first, ties by place along the arc.

    ``links`` holds the places before and after each place of the arc among those that are left.
    """
    last = vertices.size - 1
    queue = np.empty(3 * vertices.size, np.int64)  # doubled area << 32 | place: one each, and two per removal
    size = 0
    for i in range(1, last):
        doubled = abs(_turn(coords, vertices[i - 1], vertices[i], vertices[i + 1]))
        if doubled <= largest:
            size = _push(queue, size, doubled << 32 | i)
    while size and spare:
        entry = queue[0]
        size = _pop(queue, size)
        i = entry & 0xFFFFFFFF
        before, after = links[i, 0], links[i, 1]
        a, b, c = vertices[before], vertices[i], vertices[after]
        if not kept[b] or abs(_turn(coords, a, b, c)) != entry >> 32:
            continue  # gone, or queued again since with another triangle
        if _is_blocked(coords, a, b, c, kept, cells):
            continue
        kept[b] = False
        spare -= 1
        links[before, 1], links[after, 0] = after, before
        for j in (before, after):
            if 0 < j < last:
                doubled = abs(_turn(coords, vertices[links[j, 0]], vertices[j], vertices[links[j, 1]]))
                if doubled <= largest:
                    size = _push(queue, size, doubled << 32 | j)


@numba.njit(cache=True, nogil=True)
def _push(queue: Ints, size: int, entry: int) -> int:
    """Put an entry into a binary heap of ``size`` entries; returns the new size."""
    at = size
    while at and queue[(at - 1) // 2] > entry:
        queue[at] = queue[(at - 1) // 2]
        at = (at - 1) // 2
    queue[at] = entry
    return size + 1


@numba.njit(cache=True, nogil=True)
def _pop(queue: Ints, size: int) -> int:
    """Take the least entry off a binary heap of ``size`` entries; returns the new size."""
    size -= 1
    entry = queue[size]
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and queue[child + 1] < queue[child]:
            child += 1
        if queue[child] >= entry:
            break
        queue[at] = queue[child]
        at = child
    queue[at] = entry
    return size


@numba.njit(cache=True, nogil=True)
def _turn(coords: NDArray[np.int32], a: int, b: int, c: int) -> int:
    """Twice the signed area of a triangle of vertices."""
    ab_x, ab_y = np.int64(coords[b, 0]) - coords[a, 0], np.int64(coords[b, 1]) - coords[a, 1]
    ac_x, ac_y = np.int64(coords[c, 0]) - coords[a, 0], np.int64(coords[c, 1]) - coords[a, 1]
    return int(ab_x * ac_y - ab_y * ac_x)


@numba.njit(cache=True, nogil=True)
def _is_blocked(
    coords: NDArray[np.int32], a: int, b: int, c: int, kept: NDArray[np.bool_], cells: tuple[int, int, Ints, Ints]
) -> bool:
    """Whether any other kept vertex lies in, or on the rim of, the triangle of three vertices."""
    cell, across, offsets, members = cells
    top = min(coords[a, 1], coords[b, 1], coords[c, 1])
    bottom = max(coords[a, 1], coords[b, 1], coords[c, 1])
    for row in range(top // cell, bottom // cell + 1):
        left, right = _reach(coords, a, b, c, max(row * cell, top), min((row + 1) * cell, bottom))
        first = row * across + left // cell
        for at in range(offsets[first], offsets[row * across + right // cell + 1]):
            vertex = members[at]
            if kept[vertex] and _is_within(coords, a, b, c, vertex):
                return True
    return False


@numba.njit(cache=True, nogil=True)
def _reach(coords: NDArray[np.int32], a: int, b: int, c: int, top: int, bottom: int) -> tuple[int, int]:
    """Least and greatest col of a triangle between two rows that it reaches; rounded outwards, within its own cols."""
    least, greatest = np.inf, -np.inf
    for p, q in ((a, b), (b, c), (c, a)):
        if coords[p, 1] > coords[q, 1]:
            p, q = q, p  # noqa: PLW2901 - from the upper to the lower end
        high, low = max(top, coords[p, 1]), min(bottom, coords[q, 1])
        if high > low:
            continue
        height = coords[q, 1] - coords[p, 1]
        slope = (coords[q, 0] - coords[p, 0]) / height if height else 0.0
        ends = (coords[p, 0] + (high - coords[p, 1]) * slope, coords[q, 0] - (coords[q, 1] - low) * slope)
        least, greatest = min(least, ends[0], ends[1]), max(greatest, ends[0], ends[1])
    first = min(coords[a, 0], coords[b, 0], coords[c, 0])
    last = max(coords[a, 0], coords[b, 0], coords[c, 0])
    return max(int(np.floor(least - 1e-6)), first), min(int(np.ceil(greatest + 1e-6)), last)


@numba.njit(cache=True, nogil=True)
def _is_within(coords: NDArray[np.int32], a: int, b: int, c: int, vertex: int) -> bool:
    """Whether a vertex lies in a triangle or on its rim, and on none of its corners."""
    for corner in (a, b, c):
        if coords[vertex, 0] == coords[corner, 0] and coords[vertex, 1] == coords[corner, 1]:
            return False
    first, second, third = _turn(coords, a, b, vertex), _turn(coords, b, c, vertex), _turn(coords, c, a, vertex)
    return (first >= 0 and second >= 0 and third >= 0) or (first <= 0 and second <= 0 and third <= 0)


@numba.njit(cache=True, nogil=True)
def _copy_reversed(kept: NDArray[np.bool_], arcs: Ints, twins: Ints) -> None:
    """Keep of each twin what its arc, which runs the other way, keeps."""
    for i in range(arcs.shape[0]):
        for j in range(1, arcs[i, 3]):
            kept[_vertex(twins[i], arcs[i, 3] - j)] = kept[_vertex(arcs[i], j)]


@numba.njit(cache=True, nogil=True)
def _take_kept(
    coords: NDArray[np.int32], junction: NDArray[np.uint8], offsets: Ints, kept: NDArray[np.bool_], new_offsets: Ints
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """The rings of the kept vertices, closed again."""
    new_coords = np.empty((new_offsets[-1], 2), np.int32)
    new_junction = np.empty(new_offsets[-1], np.uint8)
    for ring in range(offsets.size - 1):
        to = new_offsets[ring]
        for vertex in range(offsets[ring], offsets[ring + 1] - 1):
            if kept[vertex]:
                new_coords[to, 0], new_coords[to, 1] = coords[vertex, 0], coords[vertex, 1]
                new_junction[to] = junction[vertex]
                to += 1
        first = new_offsets[ring]
        new_coords[to, 0], new_coords[to, 1] = new_coords[first, 0], new_coords[first, 1]
        new_junction[to] = new_junction[first]
    return new_coords, new_junction

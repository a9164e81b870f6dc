"""Whether polygons of whole numbers are valid, told exactly and without GEOS (floor 3)."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["keep_valid"]

Integers = NDArray[np.int64]

_MOST_VERTICES = 1 << 15  # with more, looking at pairs of edges may take longer than GEOS
_WIDEST = 20_000_000  # sums of so many products of such differences, and of their doubles, stay within 64 bits


@numba.njit(cache=True, nogil=True)
def keep_valid(units: Integers, ring_offsets: Integers, polygon_offsets: Integers, valid: NDArray[np.bool_]) -> None:
    """Take back `valid` from polygons that may not be.

    Valid are those whose rings turn as they should and do not touch themselves; of which no two meet but in one vertex
    of both, nor several so that they part the inside (OGC 06-103r4, section 6.1.11); and whose holes lie in the shell
    and in no other hole. Of very many vertices or wide ones nothing is known.

    Args:
        units: vertices (v, 2), none like the one before; exterior rings counter-clockwise, holes clockwise.
        ring_offsets: of rings in vertices (r + 1,).
        polygon_offsets: of polygons in rings (n + 1,).
        valid: (n,) where to look; changed.
    """
    for polygon in range(valid.size):
        if not valid[polygon]:
            continue
        shell, end = polygon_offsets[polygon], polygon_offsets[polygon + 1]
        first, last = ring_offsets[shell], ring_offsets[end]
        holds = last - first <= _MOST_VERTICES
        for ring in range(shell, end):
            holds = holds and _ring_holds(
                units[ring_offsets[ring] : ring_offsets[ring + 1]], units[first], ring == shell
            )
        valid[polygon] = holds and _rings_hold(units, ring_offsets[shell : end + 1])


@numba.njit(cache=True, nogil=True)
def _ring_holds(ring: Integers, origin: Integers, is_shell: bool) -> bool:  # noqa: FBT001 - numba's kernels take no keywords
    """Whether a ring is not small, not wide enough to overflow, turns the right way, and never back on its own edge."""
    count = len(ring) - 1
    if count < 3:
        return False
    doubled = 0
    for vertex in range(count):
        ax, ay = ring[vertex, 0] - origin[0], ring[vertex, 1] - origin[1]
        bx, by = ring[vertex + 1, 0] - ring[vertex, 0], ring[vertex + 1, 1] - ring[vertex, 1]
        after = vertex + 2 if vertex + 2 <= count else 1
        cx, cy = ring[after, 0] - ring[vertex + 1, 0], ring[after, 1] - ring[vertex + 1, 1]
        if abs(ax) > _WIDEST or abs(ay) > _WIDEST or (bx * cy == by * cx and bx * cx + by * cy <= 0):
            return False
        doubled += ax * by - ay * bx
    return doubled > 0 if is_shell else doubled < 0


@numba.njit(cache=True, nogil=True)
def _rings_hold(units: Integers, offsets: Integers) -> bool:
    """Whether the rings of one polygon lie as they should.

    Rings that meet, and the places where they do, must make a forest: then two rings meet in one vertex at most, where
    they cannot cross, since closed curves cross an even number of times.
    """
    first, rings = offsets[0], offsets.size - 1
    vertices = offsets[rings] - first
    # of vertices that lie in one place, and then of rings that hang together; R. E. Tarjan, 1975
    parents = np.arange(vertices + rings)
    meets = np.zeros(vertices, np.bool_)
    if not _edges_hold(units, offsets, parents, meets):
        return False
    for ring in range(rings):
        for vertex in range(offsets[ring] - first, offsets[ring + 1] - 1 - first):
            if meets[vertex]:
                place, own = _root(parents, vertex), _root(parents, vertices + ring)
                if place == own:
                    return False
                parents[place] = own
        if ring > 0 and not _lies_in_odd(units, offsets, ring):
            return False
    return True


@numba.njit(cache=True, nogil=True)
def _root(parents: Integers, node: int) -> int:
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@numba.njit(cache=True, nogil=True)
def _edges_hold(units: Integers, offsets: Integers, parents: Integers, meets: NDArray[np.bool_]) -> bool:
    """Whether no edges meet but those that follow one another, and those of two rings in one vertex of both.

    Sets which vertices meet others, and unites them. Edges are compared with those that begin before they end, along
    the longer side of the polygon (M. I. Shamos and D. Hoey, *Geometric Intersection Problems*, 1976, without their
    order across).
    """
    first, most = offsets[0], offsets[-1] - offsets[0]
    ends, rings = np.empty((most, 2), np.int64), np.empty(most, np.int64)  # of each edge its vertices and its ring
    lows, highs = np.empty((most, 2), np.int64), np.empty((most, 2), np.int64)
    count = 0
    for ring in range(offsets.size - 1):
        for edge in range(offsets[ring], offsets[ring + 1] - 1):
            ends[count, 0], ends[count, 1], rings[count] = edge, edge + 1, ring
            for axis in range(2):
                here, there = units[edge, axis], units[edge + 1, axis]
                lows[count, axis], highs[count, axis] = min(here, there), max(here, there)
            count += 1
        ends[count - 1, 1] = offsets[ring]
    lows, highs = lows[:count], highs[:count]
    width, height = highs[:, 0].max() - lows[:, 0].min(), highs[:, 1].max() - lows[:, 1].min()
    along, across = (0, 1) if width > height else (1, 0)
    order = np.argsort(lows[:, along])
    for place in range(count):
        one = order[place]
        for later in range(place + 1, count):
            other = order[later]
            if lows[other, along] > highs[one, along]:
                break
            if lows[other, across] > highs[one, across] or highs[other, across] < lows[one, across]:
                continue
            a, b, c, d = ends[one, 0], ends[one, 1], ends[other, 0], ends[other, 1]
            if b == c or d == a or not _touch(units, a, b, c, d):
                continue
            ours, theirs = _shared(units, a, b, c, d)
            if rings[one] == rings[other] or ours < 0:
                return False
            meets[ours - first] = meets[theirs - first] = True
            parents[_root(parents, ours - first)] = _root(parents, theirs - first)
    return True


@numba.njit(cache=True, nogil=True, inline="always")
def _touch(units: Integers, a: int, b: int, c: int, d: int) -> bool:
    """Whether two edges touch whose boxes do: unless one lies on one side of the other's line."""
    ax, ay, bx, by = units[a, 0], units[a, 1], units[b, 0], units[b, 1]
    cx, cy, dx, dy = units[c, 0], units[c, 1], units[d, 0], units[d, 1]
    c_side, d_side = _side(ax, ay, bx, by, cx, cy), _side(ax, ay, bx, by, dx, dy)
    a_side, b_side = _side(cx, cy, dx, dy, ax, ay), _side(cx, cy, dx, dy, bx, by)
    return not (
        (c_side > 0 and d_side > 0)
        or (c_side < 0 and d_side < 0)
        or (a_side > 0 and b_side > 0)
        or (a_side < 0 and b_side < 0)
    )


@numba.njit(cache=True, nogil=True)
def _shared(units: Integers, a: int, b: int, c: int, d: int) -> tuple[int, int]:
    """The vertices in which two edges meet, if they do nowhere else; else -1."""
    for ours, ours_far in ((a, b), (b, a)):
        for theirs, theirs_far in ((c, d), (d, c)):
            if units[ours, 0] == units[theirs, 0] and units[ours, 1] == units[theirs, 1]:
                ax, ay = units[ours_far, 0] - units[ours, 0], units[ours_far, 1] - units[ours, 1]
                bx, by = units[theirs_far, 0] - units[ours, 0], units[theirs_far, 1] - units[ours, 1]
                return (ours, theirs) if ax * by != ay * bx or ax * bx + ay * by < 0 else (-1, -1)
    return -1, -1


@numba.njit(cache=True, nogil=True, inline="always")
def _side(ax: int, ay: int, bx: int, by: int, px: int, py: int) -> int:
    """Positive where p lies on the left of the line from a to b."""
    return (bx - ax) * (py - ay) - (by - ay) * (px - ax)


@numba.njit(cache=True, nogil=True)
def _lies_in_odd(units: Integers, offsets: Integers, hole: int) -> bool:
    """Whether a hole lies in an odd number of other rings: the shell, and no hole.

    The middle of its first edge does, where it meets no others; all is twice as large so that it is whole.
    """
    start = offsets[hole]
    px, py = units[start, 0] + units[start + 1, 0], units[start, 1] + units[start + 1, 1]
    inside = False
    for ring in range(offsets.size - 1):
        if ring == hole:
            continue
        for edge in range(offsets[ring], offsets[ring + 1] - 1):
            ay, by = 2 * units[edge, 1], 2 * units[edge + 1, 1]
            if (ay > py) != (by > py):
                side = _side(2 * units[edge, 0], ay, 2 * units[edge + 1, 0], by, px, py)
                inside ^= side > 0 if by > ay else side < 0
    return inside

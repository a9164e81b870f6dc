"""Simplify boundaries, each once and each on its own: neighbours still fit, and nothing ever crosses.

An *arc* is simplified from itself and from the *foreign corners* near it alone, that is, the original corners of all
other boundaries, never from what became of them. So the order of arcs does not matter, nor in which chunk an arc is
simplified, as long as all corners within :func:`reach_px` of it are there.

Two rules are on offer. *Visvalingam*: again and again the vertex goes whose triangle with its two neighbours is
smallest (M. Visvalingam, J. D. Whyatt, *Line generalisation by repeated elimination of points*, The Cartographic
Journal 30, 1993), while the line stays near what it stands for. *Douglas-Peucker*: a chord stands for a piece of an arc
that is near it; else the piece is cut at its farthest vertex (D. H. Douglas, T. K. Peucker, *Algorithms for the
reduction of the number of points required to represent a digitized line or its caricature*, The Canadian Cartographer
10, 1973).

Why nothing crosses. A chord replaces a piece of an arc by way of triangles, and is refused if a foreign corner lies in
one of them, rim included. So no foreign corner lies in a face between chord and piece about which the two wind. An
original foreign edge crosses neither the piece nor, being straight, the chord twice; if it crossed the chord it would
end in such a face, at a foreign corner. So it does not cross. A chord of another arc that crossed this one would enter
such a face too; it cannot leave through the piece (an original edge, see above), so it would end there, at a foreign
corner. Within an arc, vertices of its own stand in the way in the same manner. Smoothing stays within half a pixel of
the cracks, where no corner is.

Why no two arcs between the same ends become the same chord: then the faces between each and the chord are apart (one
would else hold corners of the other), so all along the chord one arc lies on its left and the other on its right, and
their signed areas against it differ in sign. Hence an arc on the left may become its chord; one on the right may not,
unless no foreign corner is so near that another arc could. A chord along a row or column may be an edge of the other
arc, without corners; it is for straight arcs only.

Coordinates are integers, so all decisions are exact, and an affine map scales all triangles alike.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from geoseg.errors import InputError
from geoseg.rings import Arcs
from geoseg.settings import SimplifyMethod

__all__ = ["reach_px", "simplify_arcs"]

Ints = NDArray[np.int64]
Corners = tuple[NDArray[np.int32], Ints]  # tiles, bits: see below

_SLACK = 1.0005  # a tolerance that is one pixel but for rounding is one pixel


def reach_px(tolerance_px: float, method: SimplifyMethod) -> int:
    """How near to an arc a corner must be to matter to it, in pixels; corners at this distance or farther never do.

    A chord is never farther from its piece than 2 (Visvalingam) or 1 (Douglas-Peucker) tolerances, and the triangles
    between them no farther from the piece than twice that. Smoothing adds at most half a pixel.

    Args:
        tolerance_px: pixels, >= 0.
        method: the rule.
    """
    return math.floor(2 * _bound_px(tolerance_px, method) + 0.5) + 1


def _bound_px(tolerance_px: float, method: SimplifyMethod) -> float:
    """How far a chord may be from the vertices it stands for."""
    return tolerance_px * _SLACK * (2 if method == "visvalingam" else 1)


def simplify_arcs(
    arcs: Arcs,
    chosen: NDArray[np.bool_],
    obstacles: NDArray[np.int32],
    *,
    tolerance_px: float,
    method: SimplifyMethod,
    smooth: bool,
) -> Arcs:
    """Thin the chosen arcs; what is left of one depends on it and on the corners within :func:`reach_px` of it only.

    Ends stay where they are. A loop keeps its first vertex and at least four distinct ones (so that a single pixel
    stays a square), and no two arcs become one.

    Visvalingam: a vertex goes while its triangle is no larger than ``tolerance_px ** 2``, ties by place along the arc,
    and every vertex of the arc stays within ``2 * tolerance_px`` of the edge that stands for it. Douglas-Peucker: every
    vertex stays within ``tolerance_px``. For a tolerance on the ground divide by the square root of a pixel's area.

    Smoothing takes the stairs out of slopes before that: wherever an edge lies between two edges of one pixel that turn
    off it to different sides, the line runs from the midpoint of the one to the midpoint of the other instead. It
    passes the edge at its midpoint, so that the area on both sides stays exactly the same; for that, the last one stays
    where an even number of such edges follow one another.

    Args:
        arcs: every arc once, in one orientation whatever the chunk. Vertices are the corners where it turns, and its
            ends; even half pixels. Two arcs, or two places of one, meet in ends only.
        chosen: bool ``(arcs,)``: complete arcs to simplify. The others come back as they are.
        obstacles: int32 ``(n, 2)``, more corners, (col, row) in half pixels; repeats do no harm.
        tolerance_px: pixels, >= 0.
        method: the rule.
        smooth: whether to take out stairs; vertices may then lie on odd half pixels.

    Returns:
        The same arcs in the same order, with fewer vertices.

    Raises:
        InputError: a negative or infinite tolerance.
    """
    if not 0 <= tolerance_px < np.inf:
        raise InputError(f"a simplification tolerance of {tolerance_px} px; give a length >= 0")
    if not chosen.any() or (tolerance_px == 0 and not smooth):
        return arcs
    # Without midpoints pixel corners are the lattice, with them half pixels: a lattice step is 1 << shift half pixels.
    shift = 0 if smooth else 1
    # numba would compile anew for arrays that are read-only or have gaps
    coords, obstacles = (np.require(points, requirements=("C", "W")) for points in (arcs.coords, obstacles))
    offsets, chosen = np.require(arcs.offsets, requirements=("C", "W")), np.require(chosen, requirements=("C", "W"))
    low, high = coords[0].astype(np.int64), coords[0].astype(np.int64)
    for points in (coords, obstacles):
        _widen(points, low, high)
    tiles = np.zeros(((high - low >> shift + 6) + 1)[::-1], np.int32)
    for points in (coords, obstacles):
        _mark_tiles(points, low, shift, tiles)
    bits = np.zeros((_number_tiles(tiles) + 1) * 64, np.int64)
    for points in (coords, obstacles):
        _put_all(points, low, shift, (tiles, bits))
    steps_per_px = 2 >> shift
    largest = min(2 * (steps_per_px * tolerance_px * _SLACK) ** 2, 2**30)  # twice the largest triangle that goes
    bound = steps_per_px * _bound_px(tolerance_px, method)
    rules = (int(largest), bound, method == "visvalingam")
    return Arcs(*_simplify(coords, offsets, chosen, (low, shift), rules, (tiles, bits)))


# The set of all corners, as bits: a triangle of a few pixels is tested in a few words. The lattice is cut into tiles of
# 64 x 64; ``tiles`` (rows, cols) numbers those that hold corners, 0 is one without any; each has 64 words, one a row.


@numba.njit(cache=True, nogil=True)
def _widen(points: NDArray[np.int32], low: Ints, high: Ints) -> None:
    """Widen an extent by points; numpy's reductions take ten times as long on two columns."""
    for i in range(points.shape[0]):
        for axis in range(2):
            low[axis] = min(low[axis], points[i, axis])
            high[axis] = max(high[axis], points[i, axis])


@numba.njit(cache=True, nogil=True)
def _mark_tiles(points: NDArray[np.int32], low: Ints, shift: int, tiles: NDArray[np.int32]) -> None:
    """Set to 1 the tiles that hold points."""
    for i in range(points.shape[0]):
        tiles[(points[i, 1] - low[1]) >> (shift + 6), (points[i, 0] - low[0]) >> (shift + 6)] = 1


@numba.njit(cache=True, nogil=True)
def _number_tiles(tiles: NDArray[np.int32]) -> int:
    """Number the marked tiles from 1; returns how many there are."""
    count = 0
    for row in range(tiles.shape[0]):
        for col in range(tiles.shape[1]):
            if tiles[row, col]:
                count += 1
                tiles[row, col] = count
    return count


@numba.njit(cache=True, nogil=True)
def _put_all(points: NDArray[np.int32], low: Ints, shift: int, corners: Corners) -> None:
    """Put points into the set."""
    for i in range(points.shape[0]):
        _put(corners, (points[i, 0] - low[0]) >> shift, (points[i, 1] - low[1]) >> shift)


@numba.njit(cache=True, nogil=True)
def _put(corners: Corners, x: int, y: int) -> None:
    """Put one point into the set."""
    tiles, bits = corners
    bits[(np.int64(tiles[y >> 6, x >> 6]) << 6) + (y & 63)] |= np.int64(1) << (x & 63)


@numba.njit(cache=True, nogil=True)
def _take(corners: Corners, x: int, y: int) -> None:
    """Take one point out of the set."""
    tiles, bits = corners
    bits[(np.int64(tiles[y >> 6, x >> 6]) << 6) + (y & 63)] &= ~(np.int64(1) << (x & 63))


@numba.njit(cache=True, nogil=True)
def _holds(corners: Corners, x: int, y: int) -> bool:
    """Whether a point is of the set."""
    tiles, bits = corners
    return bool((bits[(np.int64(tiles[y >> 6, x >> 6]) << 6) + (y & 63)] >> (x & 63)) & 1)


@numba.njit(cache=True, nogil=True)
def _next_in_row(corners: Corners, x: int, last: int, y: int) -> int:
    """The first of the set from ``x`` to ``last`` in a row, else ``last + 1``."""
    tiles, bits = corners
    while x <= last:
        word = bits[(np.int64(tiles[y >> 6, x >> 6]) << 6) + (y & 63)] & (np.int64(-1) << (x & 63))
        if word:
            x &= ~63
            while not (word >> (x & 63)) & 1:
                x += 1
            return min(x, last + 1)
        x = (x | 63) + 1
    return last + 1


@numba.njit(cache=True, nogil=True)
def _cross(ax: int, ay: int, bx: int, by: int, cx: int, cy: int) -> int:
    """Twice the signed area of a triangle."""
    return (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)


@numba.njit(cache=True, nogil=True)
def _distance2(ax: int, ay: int, cx: int, cy: int, px: int, py: int) -> float:
    """Squared distance of a point from the segment a-c, times the segment's squared length."""
    dx, dy = cx - ax, cy - ay
    length2 = dx * dx + dy * dy
    along = (px - ax) * dx + (py - ay) * dy
    if along <= 0:
        return float((px - ax) ** 2 + (py - ay) ** 2) * length2
    if along >= length2:
        return float((px - cx) ** 2 + (py - cy) ** 2) * length2
    return float((px - ax) * dy - (py - ay) * dx) ** 2


@numba.njit(cache=True, nogil=True)
def _is_taken(corners: Corners, ax: int, ay: int, bx: int, by: int, cx: int, cy: int) -> bool:
    """Whether one of the set, other than a, b and c, lies in the triangle or on its rim a-c.

    The rims a-b and b-c are known to be free: they are edges, or rims of triangles that were.
    """
    doubled = abs(_cross(ax, ay, bx, by, cx, cy))
    if doubled <= 1:
        return False  # by Pick's theorem such a triangle holds no other lattice point, or is on its own rims
    if doubled == 2:  # one more, and if it is not on a-b or b-c, it is the midpoint of a-c
        if (ax ^ cx) & 1 or (ay ^ cy) & 1:
            return False
        return _holds(corners, (ax + cx) >> 1, (ay + cy) >> 1)
    x0, y0, x1, y1, x2, y2 = ax, ay, bx, by, cx, cy
    if y1 < y0:
        x0, y0, x1, y1 = x1, y1, x0, y0
    if y2 < y1:
        x1, y1, x2, y2 = x2, y2, x1, y1
        if y1 < y0:
            x0, y0, x1, y1 = x1, y1, x0, y0
    # col = x0 + slope * rows down, on the long side and on the two short ones
    long = (x2 - x0) / (y2 - y0)
    upper = (x1 - x0) / (y1 - y0) if y1 > y0 else 0.0
    lower = (x2 - x1) / (y2 - y1) if y2 > y1 else 0.0
    first = y0 + 1 if y1 > y0 else y0  # rows of a single vertex hold nothing else
    last = y2 - 1 if y2 > y1 else y2
    for y in range(first, last + 1):
        one = x0 + (y - y0) * long
        two = x0 + (y - y0) * upper if y < y1 else x1 + (y - y1) * lower
        # rounded outwards; what is found is tested exactly
        x = int(np.ceil(min(one, two) - 1e-6))
        end = int(np.floor(max(one, two) + 1e-6))
        if x <= end and _is_row_taken(corners, (ax, ay, bx, by, cx, cy), x, end, y):
            return True
    return False


@numba.njit(cache=True, nogil=True)
def _is_row_taken(
    corners: Corners, triangle: tuple[int, int, int, int, int, int], first: int, last: int, y: int
) -> bool:
    """Whether one of the set, other than its corners, lies in a triangle, in one row of it."""
    ax, ay, bx, by, cx, cy = triangle
    x = _next_in_row(corners, first, last, y)
    while x <= last:
        if not ((x == ax and y == ay) or (x == bx and y == by) or (x == cx and y == cy)):
            at_c, at_a, at_b = _cross(ax, ay, bx, by, x, y), _cross(bx, by, cx, cy, x, y), _cross(cx, cy, ax, ay, x, y)
            if min(at_a, at_b, at_c) >= 0 or max(at_a, at_b, at_c) <= 0:
                return True
        x = _next_in_row(corners, x + 1, last, y)
    return False


@numba.njit(cache=True, nogil=True)
def _is_lonely(corners: Corners, ax: int, ay: int, cx: int, cy: int, bound: float) -> bool:
    """Whether none of the set but a and c is within ``bound`` of the segment a-c, which is not along a row."""
    margin, bound2 = int(bound), bound * bound
    length2 = (cx - ax) ** 2 + (cy - ay) ** 2
    top, bottom = max(min(ay, cy) - margin, 0), min(max(ay, cy) + margin, (corners[0].shape[0] << 6) - 1)
    left, right = max(min(ax, cx) - margin, 0), min(max(ax, cx) + margin, (corners[0].shape[1] << 6) - 1)
    slope, width = (cx - ax) / (cy - ay), bound * np.sqrt(length2) / abs(cy - ay) + 1
    for y in range(top, bottom + 1):
        middle = ax + (y - ay) * slope
        last = min(int(middle + width), right)
        x = _next_in_row(corners, max(int(middle - width), left), last, y)
        while x <= last:
            is_end = (x == ax and y == ay) or (x == cx and y == cy)
            if not is_end and _distance2(ax, ay, cx, cy, x, y) <= bound2 * length2:
                return False
            x = _next_in_row(corners, x + 1, last, y)
    return True


@numba.njit(cache=True, nogil=True)
def _simplify(
    coords: NDArray[np.int32],
    offsets: Ints,
    chosen: NDArray[np.bool_],
    lattice: tuple[Ints, int],
    rules: tuple[int, float, bool],
    corners: Corners,
) -> tuple[NDArray[np.int32], Ints]:
    """Simplify arc after arc; the set of corners is the same before and after each."""
    low, shift = lattice
    longest = np.max(offsets[1:] - offsets[:-1])
    arc, smooth = np.empty((2, longest), np.int64), np.empty((2, longest), np.int64)
    kept, queue = np.empty(longest, np.bool_), np.empty(3 * longest, np.int64)
    links, spread, marks = np.empty((longest, 2), np.int64), np.empty(longest), np.empty((3, longest), np.int8)
    out, out_offsets = np.empty_like(coords), np.zeros_like(offsets)
    size = 0
    for i in range(offsets.size - 1):
        begin, end = offsets[i], offsets[i + 1]
        if chosen[i] and end - begin > 2:
            for j in range(end - begin):
                arc[0, j] = (coords[begin + j, 0] - low[0]) >> shift
                arc[1, j] = (coords[begin + j, 1] - low[1]) >> shift
            least = _least_inner_vertices(arc[0, : end - begin], arc[1, : end - begin])
            if shift:
                line, count = arc, end - begin
            else:
                line, count = smooth, _smooth(arc[:, : end - begin], smooth, marks)
                _exchange(corners, arc[:, 1 : end - begin - 1], smooth[:, 1 : count - 1])
            x, y = line[0, :count], line[1, :count]
            if rules[2]:
                _thin(x, y, least, rules, kept, (queue, links, spread), corners)
            else:
                _split(x, y, least, rules[1], kept, queue, corners)
            for j in range(count):
                if kept[j]:
                    out[size, 0], out[size, 1] = (x[j] << shift) + low[0], (y[j] << shift) + low[1]
                    size += 1
            _exchange(corners, line[:, 1 : count - 1], arc[:, 1 : end - begin - 1])
        else:
            out[size : size + end - begin] = coords[begin:end]
            size += end - begin
        out_offsets[i + 1] = size
    return out[:size].copy(), out_offsets


@numba.njit(cache=True, nogil=True)
def _exchange(corners: Corners, old: Ints, new: Ints) -> None:
    """Take old points out of the set, then put new ones into it."""
    for i in range(old.shape[1]):
        _take(corners, old[0, i], old[1, i])
    for i in range(new.shape[1]):
        _put(corners, new[0, i], new[1, i])


@numba.njit(cache=True, nogil=True)
def _least_inner_vertices(x: Ints, y: Ints) -> int:
    """How many vertices an arc must keep between its ends: 3 a loop, others 0 or 1, or -1: 0 if no corner is near.

    See the module's words on arcs between the same ends.
    """
    last = x.size - 1
    if x[0] == x[last] and y[0] == y[last]:
        return 3
    if x[0] == x[last] or y[0] == y[last]:
        return 1
    area = 0
    for i in range(1, last):
        area += _cross(x[0], y[0], x[i], y[i], x[i + 1], y[i + 1])
    return 0 if (area >= 0) == (y[0] < y[last]) or area == 0 else -1


@numba.njit(cache=True, nogil=True)
def _smooth(arc: Ints, smooth: Ints, marks: NDArray[np.int8]) -> int:
    """Take the stairs out of an arc; returns how many vertices it has then, never more than before.

    A *step* is an edge of one pixel at whose two ends the arc turns to different sides, a *tread* an edge between two
    steps that turns like that too. The corners of treads go, the midpoints of the steps about them come. Each corner
    that goes gives a triangle to one side, its neighbour an equal one to the other; where treads share corners, the
    last tread of an even number stays, so that the sides come out even.
    """
    x, y = arc[0], arc[1]
    last = x.size - 1
    turn, is_step, goes = marks[0], marks[1], marks[2]  # at i; the edge from i to i + 1; the corner i
    marks[:, : last + 1] = 0
    for i in range(1, last):
        turn[i] = 1 if _cross(x[i - 1], y[i - 1], x[i], y[i], x[i + 1], y[i + 1]) > 0 else -1
    for i in range(1, last - 1):
        is_step[i] = turn[i] != turn[i + 1] and abs(x[i + 1] - x[i]) + abs(y[i + 1] - y[i]) == 2
    run = 0  # treads that share corners, up to here
    for i in range(2, last - 1):
        if i < last - 2 and turn[i] != turn[i + 1] and is_step[i - 1] and is_step[i + 1]:
            run += 1
        elif run:
            goes[i - run : i + run % 2] = 1
            run = 0
    smooth[0, 0], smooth[1, 0] = x[0], y[0]
    size = 1
    for i in range(1, last + 1):
        if is_step[i - 1] and (goes[i - 1] or goes[i]):
            size = _append(smooth, size, (x[i - 1] + x[i]) >> 1, (y[i - 1] + y[i]) >> 1)
        if not goes[i]:
            size = _append(smooth, size, x[i], y[i])
    return size


@numba.njit(cache=True, nogil=True)
def _append(line: Ints, size: int, x: int, y: int) -> int:
    """Append a vertex, in place of the last one if that lies on the way to it; returns the new size."""
    if size > 1 and _cross(line[0, size - 2], line[1, size - 2], line[0, size - 1], line[1, size - 1], x, y) == 0:
        size -= 1
    line[0, size], line[1, size] = x, y
    return size + 1


@numba.njit(cache=True, nogil=True)
def _thin(
    x: Ints,
    y: Ints,
    least: int,
    rules: tuple[int, float, bool],
    kept: NDArray[np.bool_],
    scratch: tuple[Ints, Ints, NDArray[np.float64]],
    corners: Corners,
) -> None:
    """Visvalingam: take vertices out of one arc, smallest triangle first, ties by place along the arc.

    ``links`` holds the places before and after each place among those that are left. What goes leaves the set of
    corners too, so that an arc is stopped by what is left of itself: that keeps it from crossing itself.
    """
    largest, bound, _ = rules
    queue, links, spread = scratch
    last = x.size - 1
    kept[: last + 1] = True
    spare = last - 1 - max(least, 0)
    if spare <= 0:
        return
    size = 0  # of the queue; entries are doubled area << 32 | place: one each, and two per removal
    for i in range(last + 1):
        links[i, 0], links[i, 1], spread[i] = i - 1, i + 1, 0.0
    for i in range(1, last):
        size = _push_vertex(x, y, links, i, largest, queue, size)
    while size and spare:
        entry = queue[0]
        size = _pop(queue, size)
        i = entry & 0xFFFFFFFF
        before, after = links[i, 0], links[i, 1]
        if not kept[i] or abs(_cross(x[before], y[before], x[i], y[i], x[after], y[after])) != entry >> 32:
            continue  # gone, or queued again since with another triangle
        farthest = _spread_without(x, y, before, i, after, max(spread[before], spread[i]), bound)
        if farthest > bound or _is_taken(corners, x[before], y[before], x[i], y[i], x[after], y[after]):
            continue
        _take(corners, x[i], y[i])
        if spare == 1 and least < 0 and not _is_lonely(corners, x[0], y[0], x[last], y[last], bound):
            return
        kept[i] = False
        spare -= 1
        spread[before] = farthest
        links[before, 1], links[after, 0] = after, before
        for j in (before, after):
            if 0 < j < last:
                size = _push_vertex(x, y, links, j, largest, queue, size)


@numba.njit(cache=True, nogil=True)
def _push_vertex(x: Ints, y: Ints, links: Ints, i: int, largest: int, queue: Ints, size: int) -> int:
    """Put a vertex into the queue if its triangle is small enough; returns the new size."""
    before, after = links[i, 0], links[i, 1]
    doubled = abs(_cross(x[before], y[before], x[i], y[i], x[after], y[after]))
    return _push(queue, size, doubled << 32 | i) if doubled <= largest else size


@numba.njit(cache=True, nogil=True)
def _spread_without(x: Ints, y: Ints, before: int, i: int, after: int, spread: float, bound: float) -> float:
    """How far the piece from ``before`` to ``after`` is from its chord, at most, if within ``bound``; else exactly.

    ``spread`` says how far it is from its edges to and from ``i``; the chord is no farther than ``i`` from these.
    """
    length2 = (x[after] - x[before]) ** 2 + (y[after] - y[before]) ** 2
    farthest = spread + np.sqrt(_distance2(x[before], y[before], x[after], y[after], x[i], y[i]) / length2)
    if farthest > bound - 1e-6:
        farthest = np.sqrt(_farthest(x, y, before, after)[1] / length2)
    return float(farthest)


@numba.njit(cache=True, nogil=True)
def _farthest(x: Ints, y: Ints, first: int, last: int) -> tuple[int, float]:
    """The first of the vertices farthest from the chord of a piece, and its :func:`_distance2`."""
    place, farthest = first, -1.0
    for i in range(first + 1, last):
        distance2 = _distance2(x[first], y[first], x[last], y[last], x[i], y[i])
        if distance2 > farthest:
            place, farthest = i, distance2
    return place, farthest


@numba.njit(cache=True, nogil=True)
def _split(
    x: Ints,
    y: Ints,
    least: int,
    bound: float,
    kept: NDArray[np.bool_],
    stack: Ints,
    corners: Corners,
) -> None:
    """Douglas-Peucker: cut one arc at its farthest vertices until every chord may stand for its piece."""
    last = x.size - 1
    kept[: last + 1] = False
    kept[0] = kept[last] = True
    stack[0], stack[1], size = 0, last, 2
    far = last
    if least == 3:  # a loop is cut where it is farthest from its beginning, and its halves once more
        distance2 = (x[: last + 1] - x[0]) ** 2 + (y[: last + 1] - y[0]) ** 2
        far = int(np.argmax(distance2))
        kept[far] = True
        stack[1], stack[2], stack[3], size = far, far, last, 4
    while size:
        size -= 2
        first, end = stack[size], stack[size + 1]
        if end - first < 2:
            continue
        place, farthest = _farthest(x, y, first, end)
        length2 = (x[end] - x[first]) ** 2 + (y[end] - y[first]) ** 2
        # a whole arc, or half a loop: pieces that begin and end at what was kept from the start
        if (
            farthest > bound * bound * length2
            or (least > 0 and first in (0, far) and end in (far, last))
            or not _may_stand(x, y, first, end, bound if least < 0 and end - first == last else -1.0, corners)
        ):
            kept[place] = True
            stack[size], stack[size + 1], stack[size + 2], stack[size + 3] = first, place, place, end
            size += 4


@numba.njit(cache=True, nogil=True)
def _may_stand(x: Ints, y: Ints, first: int, last: int, lonely: float, corners: Corners) -> bool:
    """Whether no other corner is between a piece and its chord, nor within ``lonely`` of the chord."""
    for i in range(first + 1, last):
        _take(corners, x[i], y[i])
    free = lonely < 0 or _is_lonely(corners, x[first], y[first], x[last], y[last], lonely)
    stride = 1  # ever two neighbouring chords become one
    while free and stride < last - first:
        i = first
        while free and i + stride < last:
            middle, end = i + stride, min(i + 2 * stride, last)
            free = not _is_taken(corners, x[i], y[i], x[middle], y[middle], x[end], y[end])
            i = end
        stride *= 2
    for i in range(first + 1, last):
        _put(corners, x[i], y[i])
    return free


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

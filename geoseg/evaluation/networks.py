"""How well a road network holds together: path lengths between points on it (pure array functions).

After APLS (A. Van Etten, D. Lindenbaum, T. Bacastow, *SpaceNet: a remote sensing dataset and challenge series*, 2018,
https://arxiv.org/abs/1807.01232, section 6.2), on masks instead of graphs with attributes. Exactly:

1. Both masks are thinned to lines one pixel wide (T. Zhang, C. Suen, *A fast parallel algorithm for thinning digital
   patterns*, Comm. ACM 27, 1984). Their pixels are a graph's nodes, eight-connected, with edges of length 1 and sqrt 2.
2. Control points: in each cell of `CELL` x `CELL` px of a lattice that holds a pixel of the first network, the one
   nearest to the cell's centre (the first in row-major order of several).
3. Each of them is moved to the nearest pixel of the second network, if there is one within the snapping distance.
4. Each pair of control points with a way between them in the first network, of length L > 0, costs ``min(1, |L - L'| /
   L)``, where L' is the way between the moved points in the second; it costs 1 where there is no such way.
5. The score is one minus the mean cost. It is taken from truth to prediction (what is missing) and from prediction to
   truth (what is invented); APLS is the harmonic mean of the two.

Differences to SpaceNet's own: control points come from a lattice instead of the graph's nodes and points every 50 m,
only one way of inserting them is scored, and ways are looked for within windows, not across a whole scene, so that
memory is bounded. Pairs of all windows and scenes are pooled.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import KDTree

__all__ = ["CELL", "compare_networks", "compare_paths", "thin"]

CELL = 64
"""Side of the cells that hold one control point each, pixels."""


def compare_networks(predicted: NDArray[np.bool_], present: NDArray[np.bool_], snap_px: float) -> NDArray[np.float64]:
    """Compare the ways of two road masks, both ways round.

    Args:
        predicted: bool (rows, cols), roads of the prediction.
        present: bool (rows, cols), roads of the truth.
        snap_px: how far a control point may be from the other network, pixels.

    Returns:
        float64 (6,): for ways of the truth the sum of their scores, how many of them the prediction has at whatever
        length, and how many there are; then the same for ways of the prediction.
    """
    lines = thin(predicted), thin(present)
    return np.concatenate([compare_paths(lines[1], lines[0], snap_px), compare_paths(lines[0], lines[1], snap_px)])


def compare_paths(first: NDArray[np.bool_], second: NDArray[np.bool_], snap_px: float) -> NDArray[np.float64]:
    """Look for the ways of one thinned network in another one.

    Args:
        first: bool (rows, cols), lines one pixel wide.
        second: bool (rows, cols), likewise.
        snap_px: how far a control point may be from the second network, pixels.

    Returns:
        float64 (3,): sum of scores, ways found at whatever length, ways of the first network.
    """
    nodes, others = np.argwhere(first), np.argwhere(second)
    points = _control_points(nodes)
    if points.size < 2:
        return np.zeros(3)
    lengths = dijkstra(_graph(first, nodes), directed=False, indices=points)[:, points]
    above = np.triu(np.ones(lengths.shape, np.bool_), 1)
    wanted = lengths[above & np.isfinite(lengths)]
    found = np.full(lengths.shape, np.inf)
    if len(others):
        distance, place = KDTree(others).query(nodes[points], distance_upper_bound=snap_px + 1e-9)
        seen = np.flatnonzero(np.isfinite(distance))
        if seen.size:
            ways = dijkstra(_graph(second, others), directed=False, indices=place[seen])
            found[np.ix_(seen, seen)] = ways[:, place[seen]]
    there = found[above & np.isfinite(lengths)]
    joined = np.isfinite(there)
    cost = np.minimum(np.abs(wanted[joined] - there[joined]) / wanted[joined], 1.0)
    return np.array([joined.sum() - cost.sum(), joined.sum(), wanted.size], np.float64)


def _control_points(nodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """One node of each cell, the nearest to its centre; nodes are (row, col) in row-major order."""
    cell = nodes // CELL
    off = ((nodes % CELL - (CELL - 1) / 2) ** 2).sum(axis=1)
    order = np.lexsort((off, cell[:, 1], cell[:, 0]))
    new = np.ones(len(order), np.bool_)
    new[1:] = (np.diff(cell[order], axis=0) != 0).any(axis=1)
    chosen: NDArray[np.int64] = order[new]
    return chosen


def _graph(lines: NDArray[np.bool_], nodes: NDArray[np.int64]) -> csr_array:
    """Pixels and the ways between neighbours, each once."""
    rows, cols = lines.shape
    number = np.full((rows + 1, cols + 2), -1, np.int64)  # a frame left, right and below
    number[nodes[:, 0], nodes[:, 1] + 1] = np.arange(len(nodes))
    starts, ends, lengths = [], [], []
    for d_row, d_col in ((0, 1), (1, -1), (1, 0), (1, 1)):
        other = number[nodes[:, 0] + d_row, nodes[:, 1] + 1 + d_col]
        start = np.flatnonzero(other >= 0)
        starts.append(start)
        ends.append(other[start])
        lengths.append(np.full(start.size, np.hypot(d_row, d_col)))
    edges = np.concatenate(lengths), (np.concatenate(starts), np.concatenate(ends))
    return coo_array(edges, shape=(len(nodes), len(nodes))).tocsr()


@numba.njit(cache=True, nogil=True)
def thin(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Thin a mask to lines about one pixel wide that keep its connectedness (Zhang and Suen, 1984).

    Args:
        mask: bool (rows, cols); beyond its end there is nothing.
    """
    rows, cols = mask.shape
    image = np.zeros((rows + 2, cols + 2), np.uint8)
    image[1:-1, 1:-1] = mask
    ring = np.zeros(9, np.uint8)
    places = np.flatnonzero(image.ravel())
    flat = image.ravel()
    around = np.array([-cols - 2, -cols - 1, 1, cols + 3, cols + 2, cols + 1, -1, -cols - 3])  # clockwise from above
    doomed = np.empty(places.size, np.int64)
    changed = True
    while changed:
        changed = False
        for half in range(2):
            count = 0
            for place in places:
                filled, turns = 0, 0
                for side in range(8):
                    ring[side] = flat[place + around[side]]
                    filled += ring[side]
                ring[8] = ring[0]
                for side in range(8):
                    turns += ring[side] == 0 and ring[side + 1] == 1
                up, right, down, left = ring[0], ring[2], ring[4], ring[6]
                if half == 0:
                    corner = up * right * down == 0 and right * down * left == 0
                else:
                    corner = up * right * left == 0 and up * down * left == 0
                if 2 <= filled <= 6 and turns == 1 and corner:
                    doomed[count] = place
                    count += 1
            for place in doomed[:count]:
                flat[place] = 0
            changed = changed or count > 0
            places = places[flat[places] == 1]
    thinned: NDArray[np.bool_] = image[1:-1, 1:-1] == 1
    return thinned

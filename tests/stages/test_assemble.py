"""Rings from darts, by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from geoseg.rings import Arcs, offsets_of
from geoseg.stages.assemble import assemble


def arcs_of(*lines: list[tuple[int, int]]) -> Arcs:
    """Arcs along corners (col, row), in pixels."""
    coords = np.array([corner for line in lines for corner in line], np.int32).reshape(-1, 2) * 2
    return Arcs(coords, offsets_of(np.array([len(line) for line in lines], np.int64)))


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def rings_of(rings: tuple[np.ndarray, ...]) -> list[list[list[tuple[int, int]]]]:
    """By polygon, by ring: corners (col, row), in pixels."""
    coords, ring_offsets, polygon_offsets, _ = rings
    assert coords.dtype == np.int32
    corners = [(col // 2, row // 2) for col, row in coords.tolist()]
    lines = [corners[first:last] for first, last in itertools.pairwise(ring_offsets)]
    return [lines[first:last] for first, last in itertools.pairwise(polygon_offsets)]


# two pixels side by side: the line between them, and what is left of the outlines of the left and of the right one
PAIR = arcs_of([(1, 0), (1, 1)], [(1, 0), (0, 0), (0, 1), (1, 1)], [(1, 0), (2, 0), (2, 1), (1, 1)])


def test_rings_run_clockwise_from_their_least_corner_and_come_by_owner() -> None:
    # the right pixel, owner 1: forwards along arc 2, back along arc 0; the left one, owner 7: arc 0, then back on arc 1
    rings = assemble(PAIR, integers(4, 1, 0, 3), integers(1, 0, 3, 2), integers(1, 1, 7, 7), keep_straight=True)
    assert rings_of(rings) == [
        [[(1, 0), (2, 0), (2, 1), (1, 1), (1, 0)]],
        [[(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]],
    ]
    assert rings[3].tolist() == [1, 7]
    swapped = assemble(PAIR, integers(4, 1, 0, 3), integers(1, 0, 3, 2), integers(7, 7, 1, 1), keep_straight=True)
    assert rings_of(swapped) == rings_of(rings)[::-1]


def test_the_order_of_darts_does_not_matter() -> None:
    darts, following, owner = integers(4, 1, 0, 3), integers(1, 0, 3, 2), integers(1, 1, 7, 7)
    whole = assemble(PAIR, darts, following, owner, keep_straight=True)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(4)
        place = np.argsort(order)
        again = assemble(PAIR, darts[order], place[following[order]], owner[order], keep_straight=True)
        assert all(np.array_equal(one, other) for one, other in zip(whole, again, strict=True))


@pytest.mark.parametrize("keep_straight", [False, True])
def test_vertices_where_only_the_neighbour_changes(keep_straight: bool) -> None:
    # one pixel row of three above two pixels; the upper one's lower side passes from one neighbour to the other
    arcs = arcs_of([(2, 1), (0, 1), (0, 0), (3, 0), (3, 1), (2, 1)])
    [[ring]] = rings_of(assemble(arcs, integers(0), integers(0), integers(5), keep_straight=keep_straight))
    assert ring == [(0, 0), (3, 0), (3, 1), *([(2, 1)] if keep_straight else []), (0, 1), (0, 0)]


def test_a_straight_first_vertex_goes_too() -> None:
    arcs = arcs_of([(1, 0), (3, 0), (3, 1), (0, 1), (0, 0), (1, 0)], [(5, 0), (6, 0), (6, 2), (5, 2), (5, 1), (5, 0)])
    rings = assemble(arcs, integers(0, 2), integers(0, 1), integers(1, 2), keep_straight=False)
    assert rings_of(rings) == [
        [[(0, 0), (3, 0), (3, 1), (0, 1), (0, 0)]],
        [[(5, 0), (6, 0), (6, 2), (5, 2), (5, 0)]],
    ]


def test_shells_stand_before_holes_and_holes_in_order() -> None:
    shell = [(0, 0), (9, 0), (9, 9), (0, 9), (0, 0)]
    holes = [
        [(col, row), (col + 1, row), (col + 1, row + 1), (col, row + 1), (col, row)]
        for col, row in ((5, 2), (1, 2), (3, 1))
    ]
    island = [(2, 4), (4, 4), (4, 6), (2, 6), (2, 4)]
    arcs = arcs_of(*holes, island, shell)
    # holes lie around other instances, so that theirs are walked backwards
    rings = assemble(arcs, integers(1, 3, 5, 6, 8), np.arange(5), integers(1, 1, 1, 2, 1), keep_straight=False)
    assert rings_of(rings) == [[shell, holes[2][::-1], holes[1][::-1], holes[0][::-1]], [island]]
    assert rings[3].tolist() == [1, 2]


def test_a_single_pixel_far_from_the_origin() -> None:
    far = 1_000_000
    square = [(far, far), (far + 1, far), (far + 1, far + 1), (far, far + 1), (far, far)]
    rings = assemble(arcs_of(square), integers(0), integers(0), integers(1), keep_straight=False)
    assert rings_of(rings) == [[square]]


def test_slanting_edges_stay_as_they_are() -> None:
    line = [(3, 0), (6, 3), (5, 4), (2, 1), (3, 0)]
    [[ring]] = rings_of(assemble(arcs_of(line), integers(0), integers(0), integers(1), keep_straight=True))
    assert ring == line


def test_nothing_to_close() -> None:
    none = np.zeros(0, np.int64)
    for keep_straight in (False, True):
        coords, ring_offsets, polygon_offsets, owners = assemble(
            arcs_of(), none, none, none, keep_straight=keep_straight
        )
        assert coords.shape == (0, 2)
        assert ring_offsets.tolist() == polygon_offsets.tolist() == [0]
        assert owners.size == 0

"""Arcs against all cracks of the scene: each once, from stop to stop, the same in any chunk."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import ndimage

from geoseg.errors import InputError
from geoseg.lattice import Window
from geoseg.rings import WHOLE, Boundaries
from geoseg.stages.trace import trace_chunk

from .masks import KINDS, maze

SHAPE = (23, 26)
CUTS = [1, 7, (23, 5), (4, 26), 1000]
EAST, SOUTH, WEST, NORTH = range(4)


def labels_of(mask: np.ndarray) -> np.ndarray:
    """Labels of a whole scene and the ring around it; unlike geoseg's, counted code by code."""
    labels, count = np.where(mask == 255, -1, 0).astype(np.int32), 0
    for code in sorted(set(mask.flat) - {0, 255}):
        found, number = ndimage.label(mask == code)
        labels[found > 0] = found[found > 0] + count
        count += number
    return np.pad(labels, 1, constant_values=-1)


def trace_in_chunks(mask: np.ndarray, chunk: int | tuple[int, int]) -> Iterator[tuple[Window, Boundaries]]:
    labels = labels_of(mask)
    rows, cols = mask.shape
    height, width = (chunk, chunk) if isinstance(chunk, int) else chunk
    for row in range(0, rows, height):
        for col in range(0, cols, width):
            window = Window(col, row, min(width, cols - col), min(height, rows - row))
            padded = labels[row : row + window.height + 2, col : col + window.width + 2]
            yield window, trace_chunk(padded, window, mask.shape)


def trace(mask: list[list[int]] | np.ndarray) -> Boundaries:
    mask = np.array(mask, np.uint8)
    [(_, boundaries)] = trace_in_chunks(mask, 10_000)
    return boundaries


def lines_of(boundaries: Boundaries) -> list[list[tuple[int, int]]]:
    """The arcs' corners as (row, col)."""
    corners = [(row // 2, col // 2) for col, row in boundaries.coords.tolist()]
    offsets = boundaries.offsets.tolist()
    return [corners[first:last] for first, last in itertools.pairwise(offsets)]


def cracks_along(line: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(row, col, direction) of each unit step of a line."""
    steps = []
    for (row, col), (next_row, next_col) in itertools.pairwise(line):
        assert (row == next_row) != (col == next_col)
        direction = (EAST if next_col > col else WEST) if row == next_row else (SOUTH if next_row > row else NORTH)
        down, right = (next_row > row) - (next_row < row), (next_col > col) - (next_col < col)
        length = abs(next_row - row) + abs(next_col - col)
        steps += [(row + step * down, col + step * right, direction) for step in range(length)]
    return steps


def without_direction(row: int, col: int, direction: int) -> tuple[int, int, int]:
    """The same crack, walked eastwards or southwards."""
    if direction in {WEST, NORTH}:
        return row - (direction == NORTH), col - (direction == WEST), direction - 2
    return row, col, direction


def cracks_of(labels: np.ndarray, *, of_instances: bool) -> set[tuple[int, int, int]]:
    """All cracks between different labels; of instances: those with at least one on their sides."""
    found = set()
    for direction, one, other in ((EAST, labels[:-1, 1:], labels[1:, 1:]), (SOUTH, labels[1:, :-1], labels[1:, 1:])):
        apart = one != other
        if of_instances:
            apart &= (one > 0) | (other > 0)
        found |= {(row, col, direction) for row, col in np.argwhere(apart).tolist()}
    return found


def stops_of(labels: np.ndarray) -> np.ndarray:
    """Which corners are stops: where three or four cracks meet, and the scene's first one, which the hash picks."""
    numbers = np.zeros(np.array(labels.shape) - 1, int)
    for row, col, direction in cracks_of(labels, of_instances=False):
        numbers[row, col] += 1
        numbers[row + (direction == SOUTH), col + (direction == EAST)] += 1
    is_stop = numbers > 2
    is_stop[0, 0] = numbers[0, 0] > 0
    return is_stop


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_each_crack_lies_in_one_arc_of_one_chunk(kind: str, cut: int | tuple[int, int]) -> None:
    mask = KINDS[kind](*SHAPE)
    expected = cracks_of(labels_of(mask), of_instances=True)
    walked = [
        without_direction(*crack)
        for _, boundaries in trace_in_chunks(mask, cut)
        for line in lines_of(boundaries)
        for crack in cracks_along(line)
    ]
    assert len(walked) == len(set(walked))
    assert set(walked) == expected


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_arcs_know_their_hands_and_stops(kind: str, cut: int | tuple[int, int]) -> None:
    mask = KINDS[kind](*SHAPE)
    labels = labels_of(mask)
    is_stop = stops_of(labels)
    right_of = {EAST: (1, 1), SOUTH: (1, 0), WEST: (0, 0), NORTH: (0, 1)}  # place in the padded labels
    for _, boundaries in trace_in_chunks(mask, cut):
        assert boundaries.coords.dtype == boundaries.hands.dtype == np.int32
        for line, hands, stops in zip(lines_of(boundaries), boundaries.hands, boundaries.stops, strict=True):
            for row, col, direction in cracks_along(line):
                for hand, heading in zip(hands, (direction, (direction + 3) % 4), strict=True):
                    down, right = right_of[heading]
                    assert labels[row + down, col + right] == hand
            assert not any(is_stop[corner] for corner in line[1:-1])
            assert all(
                (before[0] == here[0]) != (here[0] == after[0])
                for before, here, after in zip(line[:-2], line[1:-1], line[2:], strict=True)
            ), "an inner vertex where the line does not turn"
            if line[0] == line[-1] and not is_stop[line[0]]:
                assert stops == WHOLE, "a loop"
            else:
                assert stops == is_stop[line[0]] + 2 * is_stop[line[-1]]


@pytest.mark.parametrize("cut", [1, 7, (23, 5), (4, 26)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_whole_arcs_are_the_same_in_any_chunk(kind: str, cut: int | tuple[int, int]) -> None:
    mask = KINDS[kind](*SHAPE)
    whole = trace(mask)
    assert whole.whole.all()
    expected = {tuple(line) for line in lines_of(whole)}
    for _, boundaries in trace_in_chunks(mask, cut):
        lines = lines_of(boundaries)
        assert {tuple(lines[arc]) for arc in np.flatnonzero(boundaries.whole)} <= expected


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_darts_follow_one_another_across_chunks(kind: str, cut: int | tuple[int, int]) -> None:
    mask = KINDS[kind](*SHAPE)
    follows, cracks = {}, 0
    for _, boundaries in trace_in_chunks(mask, cut):
        hands, lines = boundaries.hands.ravel(), lines_of(boundaries)
        for dart in np.flatnonzero(hands > 0):
            line = lines[dart // 2][:: -1 if dart % 2 else 1]
            row, col, direction = cracks_along(line)[0]
            start = int(boundaries.start[dart])
            assert start == 4 * (row * (mask.shape[1] + 1) + col) + direction
            assert start not in follows
            follows[start] = (int(boundaries.following[dart]), cracks_along(line)[-1], int(hands[dart]))
            cracks += len(cracks_along(line))
    assert {after for after, _, _ in follows.values()} == set(follows)
    by_key = {
        start: (after, last, hand, divmod(start // 4, mask.shape[1] + 1))
        for start, (after, last, hand) in follows.items()
    }
    for after, (row, col, direction), hand, _ in by_key.values():
        end = (row + (direction == SOUTH) - (direction == NORTH), col + (direction == EAST) - (direction == WEST))
        assert by_key[after][3] == end, "what follows starts where the dart ends"
        if cut == 1000:  # labels are the scene's
            assert by_key[after][2] == hand


def test_arcs_by_hand() -> None:
    boundaries = trace([[0, 1], [2, 2]])
    lines = lines_of(boundaries)
    # from each stop, in the order east, south, west, north; the background's own sides are no arcs
    assert lines == [
        [(0, 1), (0, 2), (1, 2)],
        [(0, 1), (1, 1)],
        [(1, 0), (1, 1)],
        [(1, 0), (2, 0), (2, 2), (1, 2)],
        [(1, 1), (1, 2)],
    ]
    assert boundaries.hands.tolist() == [[1, -1], [0, 1], [2, 0], [-1, 2], [2, 1]]
    assert (boundaries.stops == WHOLE).all()


@pytest.mark.parametrize(
    ("mask", "stops"),
    [
        ([[0, 1], [0, 1]], {(0, 1), (2, 1)}),  # background ends at the scene's edge
        ([[1, 1], [1, 1]], {(0, 0)}),  # an instance at the edge alone: a loop around the scene, from a picked corner
        ([[0, 1, 0], [0, 1, 255]], {(0, 1), (0, 2), (1, 2), (2, 1)}),  # background, nodata and an instance
        ([[255, 1, 1], [255, 1, 1]], set()),  # nodata is like what lies outside
        ([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], {(2, 2)}),  # two instances touch by a corner
        ([[0, 0, 0], [0, 1, 0], [0, 0, 0]], set()),
    ],
    ids=["scene's edge", "loop around the scene", "nodata's edge", "along nodata", "saddle", "loop"],
)
def test_arcs_stop_where_three_or_four_cracks_meet(mask: list[list[int]], stops: set[tuple[int, int]]) -> None:
    lines = lines_of(trace(mask))
    is_loop = [line[0] == line[-1] and line[0] not in stops for line in lines]
    assert {end for line, loop in zip(lines, is_loop, strict=True) for end in (line[0], line[-1]) if not loop} == stops
    assert any(is_loop) == (not stops)


def test_loops_run_from_their_least_corner_eastwards() -> None:
    mask = np.zeros((9, 12), np.uint8)
    mask[4:7, 2:6], mask[2:5, 5:9] = 1, 1  # the least corner is not the leftmost
    [line] = lines_of(trace(mask))
    assert line[:2] == [(2, 5), (2, 9)]
    assert line[-1] == (2, 5)
    inside_out = lines_of(trace(1 - mask))
    assert inside_out[1] == line  # the same line, though the instance lies around it


def test_boundaries_between_background_and_nodata_are_no_arcs() -> None:
    assert trace([[0, 255], [255, 0]]).offsets.tolist() == [0]


def test_a_chunk_inside_one_instance_has_no_arcs() -> None:
    traced = dict(trace_in_chunks(np.ones((30, 30), np.uint8), 10))
    assert traced[Window(10, 10, 10, 10)].offsets.tolist() == [0]
    assert len(traced[Window(20, 20, 10, 10)].arcs) == 1


def test_a_boundary_without_junctions_stops_now_and_then() -> None:
    mask = maze(1201, 1001)
    whole = trace(mask)
    turns = int((np.diff(whole.offsets) - 1).sum())
    assert turns > 400_000, "one line turns as often"
    assert 0.5 < turns / len(whole.arcs) / 4096 < 2
    assert np.diff(whole.offsets).max() < 12 * 4096
    assert (whole.stops == WHOLE).all()
    ends = {end for line in lines_of(whole) for end in (line[0], line[-1])}
    seen = {
        line[end]
        for _, part in trace_in_chunks(mask, 600)
        for line, stops in zip(lines_of(part), part.stops, strict=True)
        for end in (0, -1)
        if stops & (2 if end else 1)
    }
    assert seen == ends, "chunks find the same stops"


def test_wrong_labels_are_refused() -> None:
    window = Window(0, 0, 2, 2)
    with pytest.raises(InputError, match=r"labels are int64 \(4, 4\); expected int32 \(4, 4\)"):
        trace_chunk(np.zeros((4, 4), np.int64), window, (2, 2))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"labels are int32 \(2, 2\)"):
        trace_chunk(np.zeros((2, 2), np.int32), window, (2, 2))

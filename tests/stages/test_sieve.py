"""Small components by hand: who takes them over, who waits, who is left alone."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from geoseg.errors import InputError
from geoseg.lattice import Window
from geoseg.stages.sieve import SieveRules, find_small, merge_small, sieve_chunk


def unit_area(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    return np.ones(rows.shape)


def sieve(
    rows: list[list[int]],
    least_m2: dict[int, float],
    boundaries: dict[int, int] | None = None,
    *,
    chunk: int = 100,
    turns: int = 4,
) -> list[list[int]]:
    """The loop of the module's docstring."""
    mask = np.array(rows, np.uint8)
    height, width = mask.shape
    rules = SieveRules(mask.shape, least_m2, unit_area, boundaries or {}, turns)
    windows = [
        Window(col, row, min(chunk, width - col), min(chunk, height - row))
        for row in range(0, height, chunk)
        for col in range(0, width, chunk)
    ]
    masks = {window: mask[window.slices()] for window in windows}
    faces = {window: find_small(masks[window], window, rules) for window in windows}
    turn, waiting = 1, None
    while todo := (decided := merge_small(faces.values(), rules, turn, waiting)).todo:
        results = {window: sieve_chunk(masks[window], decided.decision(window), rules) for window in todo}
        masks |= {window: result.mask for window, result in results.items()}
        if not decided.waiting.size and not any(result.waiting.size for result in results.values()):
            break
        moved = any(result.changed_px for result in results.values())
        turn, waiting = turn + 1 if moved else rules.turns, decided.waiting
        faces |= {window: find_small(masks[window], window, rules, results[window].waiting) for window in todo}
    for window, part in masks.items():
        mask[window.slices()] = part
    return mask.tolist()


CHUNKS = pytest.mark.parametrize("chunk", [1, 2, 3, 100])


@CHUNKS
def test_the_longest_boundary_takes_over(chunk: int) -> None:
    mask = [[1, 1, 1, 1, 2], [1, 3, 3, 2, 2], [1, 1, 1, 1, 2]]
    assert sieve(mask, {3: 3}, chunk=chunk) == [[1, 1, 1, 1, 2], [1, 1, 1, 2, 2], [1, 1, 1, 1, 2]]


@CHUNKS
def test_of_equal_boundaries_the_smaller_code_takes_over(chunk: int) -> None:
    assert sieve([[5, 5, 3, 4, 4]], {3: 2}, chunk=chunk) == [[5, 5, 4, 4, 4]]
    assert sieve([[0, 3, 4, 4]], {3: 2}, chunk=chunk) == [[0, 0, 4, 4]]


@CHUNKS
def test_large_enough_stays(chunk: int) -> None:
    mask = [[1, 1, 1, 0], [2, 2, 1, 0], [1, 1, 1, 0]]
    assert sieve(mask, {1: 7, 2: 2}, chunk=chunk) == mask


@CHUNKS
def test_holes_are_filled_but_not_at_nodata_or_the_scenes_edge(chunk: int) -> None:
    mask = [
        [1, 1, 1, 1, 1, 1, 0],
        [1, 0, 1, 1, 0, 1, 1],
        [1, 1, 1, 1, 255, 1, 1],
        [1, 1, 1, 1, 1, 1, 1],
    ]
    filled = [row[:] for row in mask]
    filled[1][1] = 1
    assert sieve(mask, {0: 2}, chunk=chunk) == filled


@CHUNKS
def test_small_ones_within_small_ones_wait_their_turn(chunk: int) -> None:
    mask = np.full((9, 9), 1)
    for inset, code in enumerate((2, 3, 4, 5), 1):
        mask[inset:-inset, inset:-inset] = code
    rows = mask.tolist()
    assert sieve(rows, dict.fromkeys((2, 3, 4, 5), 30.0), chunk=chunk) == np.full((9, 9), 1).tolist()
    # one turn too few: the innermost is noise
    expected = np.full((9, 9), 1)
    expected[4, 4] = 0
    assert sieve(rows, dict.fromkeys((2, 3, 4, 5), 30.0), chunk=chunk, turns=3) == expected.tolist()


@CHUNKS
def test_what_has_no_survivor_around_becomes_background(chunk: int) -> None:
    assert sieve([[1, 2, 255, 3, 3, 3]], {1: 2, 2: 2, 3: 2}, chunk=chunk) == [[0, 0, 255, 3, 3, 3]]


@CHUNKS
def test_a_small_core_becomes_boundary(chunk: int) -> None:
    mask = [[1, 1, 1, 2, 1, 2, 0], [1, 1, 1, 2, 2, 2, 0]]
    assert sieve(mask, {1: 2}, {1: 2}, chunk=chunk) == [[1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 2, 2, 2, 0]]


def test_areas_are_measured_at_the_first_pixel() -> None:
    mask = np.array([[1, 0], [0, 0], [1, 0]], np.uint8)
    window = Window(0, 0, 2, 3)
    rules = SieveRules(mask.shape, {1: 2.0}, lambda rows, cols: 1.0 + rows)
    faces = find_small(mask, window, rules)
    result = sieve_chunk(mask, merge_small([faces], rules, 1).decision(window), rules)
    assert result.mask.tolist() == [[0, 0], [0, 0], [1, 0]]
    assert (result.changed_px, result.waiting.size) == (1, 0)


def test_a_scene_with_corners_off_the_earth() -> None:
    def on_earth(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        if ((rows == 0) & (cols == 0)).any():
            raise InputError("no such place")
        return np.ones(rows.shape)

    mask = np.array([[255, 0], [1, 0]], np.uint8)
    window = Window(0, 0, 2, 2)
    rules = SieveRules(mask.shape, {1: 2.0}, on_earth)
    decision = merge_small([find_small(mask, window, rules)], rules, 1).decision(window)
    assert sieve_chunk(mask, decision, rules).mask.tolist() == [[255, 0], [0, 0]]


def test_what_moves_is_bounded_by_the_perimeter() -> None:
    size = 256
    mask = np.random.default_rng(0).integers(0, 4, (size, size)).astype(np.uint8)
    window = Window(0, 0, size, size)
    rules = pickle.loads(pickle.dumps(SieveRules(mask.shape, {1: 9.0, 2: 9.0}, unit_area)))
    faces = pickle.loads(pickle.dumps(find_small(mask, window, rules)))
    assert len(pickle.dumps(faces)) < 4 * size * 100
    decision = merge_small([faces], rules, 1).decision(window)
    assert len(pickle.dumps(decision)) < 4 * size * 5 + 1000


def test_refusals() -> None:
    mask = np.array([[1, 0, 1]], np.uint8)
    window = Window(0, 0, 3, 1)
    for wrong in ({255: 1.0}, {2: 1.0}):
        with pytest.raises(InputError, match="nodata and boundaries have none"):
            SieveRules(mask.shape, wrong, unit_area, {1: 2})
    rules = SieveRules(mask.shape, {1: 2.0}, unit_area)
    with pytest.raises(InputError, match="expected uint8"):
        find_small(mask.astype(int), window, rules)
    with pytest.raises(InputError, match="do not tile"):
        merge_small([], rules, 1)
    merged = merge_small([find_small(mask, window, rules)], rules, 1)
    with pytest.raises(InputError, match="no chunk lies at"):
        merged.decision(Window(0, 0, 1, 1))
    with pytest.raises(InputError, match="for another mask"):
        sieve_chunk(np.zeros_like(mask), merged.decision(window), rules)


def nest(depth: int) -> np.ndarray:
    """Squares within squares of two codes, (2 * depth + 1) pixels a side."""
    side = np.arange(2 * depth + 1)
    deep = np.minimum(side, side[::-1])
    return (1 + np.minimum(deep[:, None], deep) % 2).astype(np.uint8)


@pytest.mark.parametrize("chunk", [80, 40, 20, 10, 7])
def test_noise_that_became_background_is_no_hole_in_a_later_turn(chunk):
    mask = np.full((40, 80), 3, np.uint8)
    mask[8:21, 8:21] = nest(6)  # too deep for four turns
    mask[10:15, 38:43] = nest(2)  # over the seam of two chunks, which so need more than one turn
    least = dict.fromkeys(range(1, 255), 60.0) | {0: 50.0}
    sieved = np.array(sieve(mask.tolist(), least, chunk=chunk))
    assert np.count_nonzero(sieved == 0) == 25
    assert np.count_nonzero(sieved == 3) == sieved.size - 25

"""Whatever the mask and however it is cut: the same components taken over, grown and widened as in the whole scene."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from geoseg.lattice import Window
from geoseg.stages.opening import halo_px, open_classes
from geoseg.stages.sieve import SieveRules, find_small, merge_small, sieve_chunk


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Small random masks of a few codes, coarse or fine."""
    rows, cols = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    palette = draw(st.lists(st.sampled_from([0, 0, 1, 1, 2, 7, 8, 254, 255]), min_size=1, max_size=5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = random.choice(np.array(palette, np.uint8), (rows, cols))
    if draw(st.booleans()):
        mask = np.repeat(np.repeat(mask, 2, axis=0), 3, axis=1)[:rows, :cols]
    return mask


def cut(shape: tuple[int, int], chunk_rows: int, chunk_cols: int) -> list[Window]:
    rows, cols = shape
    return [
        Window(col, row, min(chunk_cols, cols - col), min(chunk_rows, rows - row))
        for row in range(0, rows, chunk_rows)
        for col in range(0, cols, chunk_cols)
    ]


def pixel_area_m2(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Pixels that grow to the south-east."""
    return 1.0 + rows / 16 + cols / 64


def sieve_in_chunks(mask: np.ndarray, rules: SieveRules, chunk_rows: int, chunk_cols: int) -> np.ndarray:
    """The loop of the module's docstring."""
    windows = cut(mask.shape, chunk_rows, chunk_cols)
    chunks = {window: mask[window.slices()] for window in windows}
    faces = {window: find_small(chunks[window], window, rules) for window in windows}
    turn, waiting = 1, None
    while todo := (sieve := merge_small(list(faces.values())[::-1], rules, turn, waiting)).todo:
        results = {window: sieve_chunk(chunks[window], sieve.decision(window), rules) for window in todo}
        chunks |= {window: result.mask for window, result in results.items()}
        if not sieve.waiting.size and not any(result.waiting.size for result in results.values()):
            break
        moved = any(result.changed_px for result in results.values())
        turn, waiting = turn + 1 if moved else rules.turns, sieve.waiting
        faces |= {window: find_small(chunks[window], window, rules, results[window].waiting) for window in todo}
    result = np.zeros_like(mask)
    for window, chunk in chunks.items():
        result[window.slices()] = chunk
    return result


def small_and_surviving(mask: np.ndarray, rules: SieveRules) -> tuple[list[tuple[int, np.ndarray]], np.ndarray]:
    """Codes and pixels of the small components, and the pixels of all others, without nodata."""
    small, survives = [], np.zeros(mask.shape, bool)
    for code in sorted(set(mask.ravel().tolist()) - {255}):
        labels, count = ndimage.label(mask == code)
        for label in range(1, count + 1):
            component = labels == label
            at_edge = component[[0, -1]].any() or component[:, [0, -1]].any()
            pinned = code == 0 and (at_edge or (mask[ndimage.binary_dilation(component)] == 255).any())
            if component.sum() * pixel_area_m2(*np.argwhere(component)[0]) < rules.least_m2.get(code, 0) and not pinned:
                small.append((code, component))
            else:
                survives |= component
    return small, survives


def sieve_slowly(mask: np.ndarray, rules: SieveRules) -> np.ndarray:
    """Component by component, straight from the definition."""
    for _ in range(rules.turns):
        small, survives = small_and_surviving(mask, rules)
        after = mask.copy()
        waiting = np.zeros(mask.shape, bool)
        for code, component in small:
            votes = np.zeros(256, int)
            for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
                beside = np.roll(np.pad(component, 1), shift, axis)[1:-1, 1:-1] & survives
                votes += np.bincount(mask[beside], minlength=256)
            if code in rules.boundaries:
                after[component] = rules.boundaries[code]
            elif votes.any():
                after[component] = np.argmax(votes)
            else:
                waiting |= component
        mask = after
    return np.where(waiting, 0, mask).astype(np.uint8)


@given(
    mask=masks(),
    chunk_rows=st.integers(1, 26),
    chunk_cols=st.integers(1, 26),
    least=st.sampled_from([2.0, 4.0, 9.5, 1e9]),
    hole=st.sampled_from([0.0, 3.0, 30.0, 1e9]),
    is_split=st.booleans(),
    turns=st.sampled_from([1, 2, 3, 20]),
)
def test_any_mask_is_sieved_as_a_whole(
    mask: np.ndarray, chunk_rows: int, chunk_cols: int, least: float, hole: float, is_split: bool, turns: int
) -> None:
    boundaries = {7: 8} if is_split else {}
    least_m2 = {0: hole, 1: least, 7: least} | ({} if is_split else {8: least})
    rules = SieveRules(mask.shape, least_m2, pixel_area_m2, boundaries, turns)
    result = sieve_in_chunks(mask, rules, chunk_rows, chunk_cols)
    assert np.array_equal(result, sieve_slowly(mask, rules))
    assert np.array_equal(result == 255, mask == 255)


def open_slowly(mask: np.ndarray, width: int, boundaries: dict[int, int]) -> np.ndarray:
    """Disc by disc and pixel by pixel, straight from the definition."""
    classes = mask.copy()
    for code, boundary in boundaries.items():
        classes[mask == boundary] = code
    offset = np.arange(width) - (width - 1) / 2
    disc = offset[:, None] ** 2 + offset**2 <= (width / 2) ** 2
    padded = np.pad(classes, width, mode="edge")
    stays = np.zeros(padded.shape, bool)
    for row in range(padded.shape[0] - width + 1):
        for col in range(padded.shape[1] - width + 1):
            inside = (slice(row, row + width), slice(col, col + width))
            if len(held := set(padded[inside][disc].tolist())) == 1 and not held & {0, 255}:
                stays[inside] |= disc
    dropped = ~stays[width:-width, width:-width] & (mask % 255 > 0)
    codes = np.where(dropped, 255, mask).astype(np.uint8)
    for _ in range(width):
        around = np.pad(codes, 1, constant_values=255)
        least = np.min([around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]], axis=0)
        codes = np.where(dropped & (codes == 255), least, codes)
    return np.where(dropped & (codes == 255), 0, codes)


@given(
    mask=masks(),
    chunk_rows=st.integers(1, 26),
    chunk_cols=st.integers(1, 26),
    width=st.integers(1, 6),
    is_split=st.booleans(),
)
def test_any_mask_is_opened_as_a_whole(
    mask: np.ndarray, chunk_rows: int, chunk_cols: int, width: int, is_split: bool
) -> None:
    boundaries = {7: 8} if is_split else {}
    result = np.zeros_like(mask)
    for window in cut(mask.shape, chunk_rows, chunk_cols):
        around = window.pad(halo_px(width)).intersection(Window(0, 0, mask.shape[1], mask.shape[0]))
        assert around is not None
        result[window.slices()] = open_classes(mask[around.slices()], width, boundaries)[window.slices(around)]
    assert np.array_equal(result, open_slowly(mask, width, boundaries))

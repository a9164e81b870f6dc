"""Masks to trace, and the whole vector half in one call."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from geoseg.lattice import Window
from geoseg.stages.instances import find_faces, merge_faces
from geoseg.stages.trace import Fragment, Polygons, join_fragments, trace_chunk

Cut = Callable[[tuple[int, int], int], list[Window]]


def cut_into_windows(shape: tuple[int, int], chunk: int) -> list[Window]:
    """Row-major windows of chunks over a scene."""
    rows, cols = shape
    return [
        Window(col, row, min(chunk, cols - col), min(chunk, rows - row))
        for row in range(0, rows, chunk)
        for col in range(0, cols, chunk)
    ]


def trace_in_chunks(mask: np.ndarray, confidence: np.ndarray | None, chunk: int) -> list[Fragment]:
    """Fragments of all chunks."""
    windows = cut_into_windows(mask.shape, chunk)
    merge = merge_faces([find_faces(mask[w.slices()], w, mask.shape) for w in windows], mask.shape)
    return [
        trace_chunk(
            mask[w.slices()], None if confidence is None else confidence[w.slices()], merge.border(w), w, mask.shape
        )
        for w in windows
    ]


@pytest.fixture(scope="session")
def cut() -> Cut:
    return cut_into_windows


@pytest.fixture(scope="session")
def fragments() -> Callable[..., list[Fragment]]:
    return trace_in_chunks


@pytest.fixture(scope="session")
def vectorize() -> Callable[..., Polygons]:
    def run(mask: np.ndarray, confidence: np.ndarray | None = None, chunk: int = 64) -> Polygons:
        return join_fragments(trace_in_chunks(mask, confidence, chunk))

    return run


@pytest.fixture(scope="session")
def landscape() -> np.ndarray:
    """A realistic mask: the strongest of five smooth random fields, with rough edges and some nodata."""
    random = np.random.default_rng(7)
    size = 240

    def field(cell: int) -> np.ndarray:
        coarse = random.standard_normal((size // cell + 4, size // cell + 4))
        return ndimage.zoom(coarse, cell, order=3)[:size, :size]

    mask = np.argmax([field(48) + 0.4 * field(12) + 0.1 * field(3) for _ in range(5)], axis=0).astype(np.uint8)
    mask[100:140, 180:] = 255
    return mask

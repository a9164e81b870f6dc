"""Masks to trace, and the whole vector half in one call."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from geoseg.lattice import Window
from geoseg.rings import Arcs, Polygons, offsets_of, take_ragged
from geoseg.stages.assemble import assemble
from geoseg.stages.confidence import count_confidence
from geoseg.stages.instances import find_faces, label_chunk, merge_faces
from geoseg.stages.join import Fragment, Instances, Joiner, finished_arcs, share_out
from geoseg.stages.simplify import reach_px, simplify_arcs
from geoseg.stages.trace import trace_chunk

Cut = Callable[[tuple[int, int], int], list[Window]]


def cut_into_windows(shape: tuple[int, int], chunk_rows: int, chunk_cols: int | None = None) -> list[Window]:
    """Row-major windows of chunks over a scene."""
    rows, cols = shape
    return [
        Window(col, row, min(chunk_cols or chunk_rows, cols - col), min(chunk_rows, rows - row))
        for row in range(0, rows, chunk_rows)
        for col in range(0, cols, chunk_cols or chunk_rows)
    ]


def merge_by_id(parts: list[Polygons]) -> Polygons:
    """All polygons of some parts, sorted by id."""
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("coords", "id", "code", "area_px", "confidence", "confidence_p10", "edge")
    }
    ring_offsets = offsets_of(np.concatenate([np.diff(part.ring_offsets) for part in parts]))
    polygon_offsets = offsets_of(np.concatenate([np.diff(part.polygon_offsets) for part in parts]))
    order = np.argsort(columns["id"])
    rings, polygon_offsets = take_ragged(polygon_offsets, order)
    vertices, ring_offsets = take_ragged(ring_offsets, rings)
    coords = columns.pop("coords")[vertices]
    return Polygons(
        coords, ring_offsets, polygon_offsets, **{name: values[order] for name, values in columns.items()}
    )


def vectorize_in_chunks(
    mask: np.ndarray,
    confidence: np.ndarray | None = None,
    chunk: int | tuple[int, int] = 64,
    *,
    parent: np.ndarray | None = None,
    tolerance: float = 0.0,
    method: str = "visvalingam",
    smooth: bool = False,
    keep_straight: bool | None = None,
) -> Polygons:
    """All polygons of a mask, made in chunks of (rows, cols) or of one side, sorted by id."""
    shape = mask.shape
    windows = cut_into_windows(shape, *((chunk, chunk) if isinstance(chunk, int) else chunk))
    reach = reach_px(tolerance, method) if tolerance else 0
    straight = bool(tolerance or smooth) if keep_straight is None else keep_straight

    def simplify(arcs: Arcs, chosen: np.ndarray, obstacles: np.ndarray) -> Arcs:
        if not (tolerance or smooth):
            return arcs
        return simplify_arcs(arcs, chosen, obstacles, tolerance_px=tolerance, method=method, smooth=smooth)

    def close(arcs, darts, following, owner):
        return assemble(arcs, darts, following, owner, keep_straight=straight)

    def parents(window: Window) -> np.ndarray | None:
        return None if parent is None else parent[window.slices()]

    merge = merge_faces([find_faces(mask[w.slices()], parents(w), w, shape) for w in windows], shape)
    joiner = Joiner(simplify, close, reach, shape[1])
    parts = []
    row: list[Fragment] = []
    for number, window in enumerate(windows):
        labels = label_chunk(mask[window.slices()], parents(window), merge.border(window), window, shape)
        histograms = count_confidence(
            labels.labels, None if confidence is None else confidence[window.slices()], labels.area_px
        )
        traced = trace_chunk(labels.labels, window, shape)
        finished = finished_arcs(traced.arcs, traced.whole, window, shape, reach)
        share = share_out(
            traced.arcs,
            simplify(traced.arcs, finished, np.zeros((0, 2), np.int32)),
            finished,
            traced.stops,
            np.stack([traced.right, traced.left], axis=1),
            (traced.start, traced.following),
            labels.labels,
            Instances(labels.id, labels.code, labels.area_px, labels.edge),
            histograms,
            window,
            shape,
            reach,
        )
        simplified = simplify(traced.arcs, finished, np.zeros((0, 2), np.int32))
        coords, rings, polygons, ids = close(simplified, share.darts, share.following, share.owner)
        order = share.closed[np.argsort(labels.id[share.closed])]
        assert np.array_equal(labels.id[order], ids)
        mean, p10 = histograms.take(order).summary()
        parts.append(
            Polygons(
                coords, rings, polygons, ids, labels.code[order], labels.area_px[order], mean, p10, labels.edge[order]
            )
        )
        row.append(share.fragment)
        last = number + 1 == len(windows)
        if last or windows[number + 1].row_off != window.row_off:
            parts.append(joiner.add(row, window.row_stop, last=last))
            row = []
    return merge_by_id(parts)


@pytest.fixture(scope="session")
def vectorize() -> Callable[..., Polygons]:
    return vectorize_in_chunks


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

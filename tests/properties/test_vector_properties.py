"""Whatever the mask and however it is cut: GDAL's polygons, a valid coverage, and the same columns."""

from __future__ import annotations

import numpy as np
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geoseg.lattice import Window
from geoseg.stages.instances import find_faces, merge_faces
from geoseg.stages.polygons import to_geometries
from geoseg.stages.simplify import simplify_polygons
from geoseg.stages.trace import Polygons, join_fragments, trace_chunk

shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14)
codes = st.sampled_from([0, 1, 1, 1, 2, 7, 254, 255])


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Small masks: arbitrary ones, which shrink well, and random ones of a few codes, which are busier."""
    shape = draw(shapes)
    if draw(st.booleans()):
        return draw(hnp.arrays(np.uint8, shape, elements=codes, fill=codes))
    palette = draw(st.lists(codes, min_size=1, max_size=4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random.choice(np.array(palette, np.uint8), shape)


def vectorize(mask: np.ndarray, confidence: np.ndarray, chunk_rows: int, chunk_cols: int) -> Polygons:
    rows, cols = mask.shape
    windows = [
        Window(col, row, min(chunk_cols, cols - col), min(chunk_rows, rows - row))
        for row in range(0, rows, chunk_rows)
        for col in range(0, cols, chunk_cols)
    ]
    merge = merge_faces([find_faces(mask[w.slices()], w, mask.shape) for w in windows], mask.shape)
    return join_fragments(
        trace_chunk(mask[w.slices()], confidence[w.slices()], merge.border(w), w, mask.shape) for w in windows
    )


def normalised(codes_of: np.ndarray, geometries: np.ndarray) -> list[tuple[int, bytes]]:
    if len(geometries) == 0:
        return []
    return sorted(zip(codes_of.tolist(), shapely.to_wkb(shapely.normalize(geometries)), strict=True))


@given(mask=masks(), chunk_rows=st.integers(1, 16), chunk_cols=st.integers(1, 16), seed=st.integers(0, 2**32 - 1))
def test_any_mask_in_any_chunks_is_gdals(mask: np.ndarray, chunk_rows: int, chunk_cols: int, seed: int) -> None:
    transform = Affine(0.3, 0.01, 500_000.1, 0.02, -0.31, 4_000_000.7)
    confidence = np.random.default_rng(seed).integers(0, 256, mask.shape).astype(np.uint8)
    whole = vectorize(mask, confidence, *mask.shape)
    cut = vectorize(mask, confidence, chunk_rows, chunk_cols)
    for name, column in whole.to_arrays().items():
        assert np.array_equal(column, getattr(cut, name), equal_nan=column.dtype.kind == "f"), name

    wanted = ~np.isin(mask, (0, 255))
    found = list(rasterio.features.shapes(mask, mask=wanted, connectivity=4, transform=transform))
    expected = np.array([shapely.geometry.shape(shape) for shape, _ in found], object)
    geometries = to_geometries(cut, transform, keep_junctions=False)
    assert normalised(cut.code, geometries) == normalised(np.array([int(code) for _, code in found]), expected)
    assert shapely.is_valid(geometries).all()
    assert cut.area_px.sum() == wanted.sum()

    assert shapely.coverage_is_valid(to_geometries(cut, transform, keep_junctions=True))


@given(mask=masks(), chunk=st.integers(1, 16), tolerance=st.floats(0, 12))
def test_any_mask_simplified_is_still_a_coverage(mask: np.ndarray, chunk: int, tolerance: float) -> None:
    transform = Affine(0.3, 0.01, 500_000.1, 0.02, -0.31, 4_000_000.7)
    confidence = np.zeros_like(mask)
    exact = vectorize(mask, confidence, chunk, chunk)
    simple = simplify_polygons(exact, tolerance)
    geometries = to_geometries(simple, transform, keep_junctions=True)
    assert shapely.is_valid(geometries).all()
    assert shapely.coverage_is_valid(geometries)
    assert (shapely.area(geometries) > 0).all()
    assert np.array_equal(np.diff(simple.polygon_offsets), np.diff(exact.polygon_offsets))
    whole = simplify_polygons(vectorize(mask, confidence, *mask.shape), tolerance)
    assert np.array_equal(simple.coords, whole.coords)

"""Whatever the mask and however it is cut: GDAL's polygons, a valid coverage, and the same columns."""

from __future__ import annotations

import numpy as np
import rasterio.features
import shapely
from affine import Affine
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geoseg.rings import Polygons
from geoseg.stages.cores import grow_cores

TRANSFORM = Affine(0.3, 0.01, 500_000.1, 0.02, -0.31, 4_000_000.7)
shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14)
codes = st.sampled_from([0, 1, 1, 1, 2, 7, 254, 255])
chunks = st.tuples(st.integers(1, 16), st.integers(1, 16))
methods = st.sampled_from(["visvalingam", "douglas-peucker"])
tolerances = st.one_of(st.sampled_from([0.5, 0.71, 1.0, 1.5, 2.0]), st.floats(0.01, 12))


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Small masks: arbitrary ones, which shrink well, and random ones of a few codes, which are busier."""
    shape = draw(shapes)
    if draw(st.booleans()):
        return draw(hnp.arrays(np.uint8, shape, elements=codes, fill=codes))
    palette = draw(st.lists(codes, min_size=1, max_size=4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = random.choice(np.array(palette, np.uint8), shape)
    if draw(st.booleans()):  # coarser, with longer stairs
        mask = np.repeat(np.repeat(mask, 2, axis=0), draw(st.integers(1, 3)), axis=1)
    return mask


def confidence_for(mask: np.ndarray) -> np.ndarray:
    """Any value 0-255, where 255 is unknown."""
    return np.random.default_rng(mask.size).integers(0, 256, mask.shape).astype(np.uint8)


def assert_same(one: Polygons, other: Polygons) -> None:
    for name, column in one.to_arrays().items():
        again = getattr(other, name)
        assert column.dtype == again.dtype, name
        assert np.array_equal(column, again, equal_nan=column.dtype.kind == "f"), name


def assert_coverage(geometries: np.ndarray) -> None:
    assert shapely.is_valid(geometries).all()
    assert shapely.coverage_is_valid(geometries)
    assert (shapely.area(geometries) > 0).all()


def normalised(codes_of: np.ndarray, geometries: np.ndarray) -> list[tuple[int, bytes]]:
    if len(geometries) == 0:
        return []
    return sorted(zip(codes_of.tolist(), shapely.to_wkb(shapely.normalize(geometries)), strict=True))


@given(mask=masks(), chunk=chunks)
@example(mask=np.ones((3, 3), np.uint8), chunk=(1, 1))
def test_any_mask_in_any_chunks_is_gdals(vectorize, to_geometries, mask: np.ndarray, chunk: tuple[int, int]) -> None:
    whole = vectorize(mask, confidence_for(mask), mask.shape)
    cut = vectorize(mask, confidence_for(mask), chunk)
    assert_same(whole, cut)

    wanted = ~np.isin(mask, (0, 255))
    found = list(rasterio.features.shapes(mask, mask=wanted, connectivity=4, transform=TRANSFORM))
    expected = np.array([shapely.geometry.shape(shape) for shape, _ in found], object)
    geometries = to_geometries(cut, TRANSFORM)
    assert normalised(cut.code, geometries) == normalised(np.array([int(code) for _, code in found]), expected)
    assert shapely.is_valid(geometries).all()
    assert cut.area_px.sum() == wanted.sum()
    assert_coverage(to_geometries(vectorize(mask, None, chunk, keep_straight=True), TRANSFORM))


@given(mask=masks(), chunk=chunks, tolerance=tolerances, method=methods, smooth=st.booleans())
def test_any_mask_simplified_is_still_a_coverage(
    vectorize, to_geometries, mask: np.ndarray, chunk: tuple[int, int], tolerance: float, method: str, smooth: bool
) -> None:
    options = {"tolerance": tolerance, "method": method, "smooth": smooth}
    whole = vectorize(mask, confidence_for(mask), mask.shape, **options)
    assert_same(whole, vectorize(mask, confidence_for(mask), chunk, **options))
    assert_coverage(to_geometries(whole, TRANSFORM))
    exact = vectorize(mask, confidence_for(mask), chunk)
    for name in ("id", "code", "area_px", "confidence", "confidence_p10", "edge", "polygon_offsets"):
        assert np.array_equal(getattr(whole, name), getattr(exact, name), equal_nan=name.startswith("conf")), name


@given(mask=masks(), chunk=chunks)
def test_any_mask_smoothed_keeps_its_areas(vectorize, to_geometries, mask: np.ndarray, chunk: tuple[int, int]) -> None:
    framed = np.pad(mask, 1)
    smooth = vectorize(framed, None, framed.shape, smooth=True)
    assert_same(smooth, vectorize(framed, None, chunk, smooth=True))
    assert_coverage(to_geometries(smooth, TRANSFORM))
    offsets = smooth.ring_offsets, smooth.polygon_offsets
    if len(smooth):
        geometries = shapely.from_ragged_array(shapely.GeometryType.POLYGON, smooth.coords.astype(float), offsets)
        assert np.array_equal(shapely.area(geometries), 4 * smooth.area_px)


@given(mask=masks(), chunk=chunks, growth=st.integers(1, 6), tolerance=st.sampled_from([0.0, 1.0]))
def test_any_grown_cores_in_any_chunks_are_the_same(
    vectorize, to_geometries, mask: np.ndarray, chunk: tuple[int, int], growth: int, tolerance: float
) -> None:
    options = {"boundaries": ((1, 2), (7, 254)), "growth": growth, "tolerance": tolerance}
    whole = vectorize(mask, None, mask.shape, **options)
    assert_same(whole, vectorize(mask, None, chunk, **options))
    grown, _ = grow_cores(mask, {1: 2, 7: 254}, growth)
    assert whole.area_px.sum() == (~np.isin(grown, (0, 255))).sum()
    if tolerance:
        assert_coverage(to_geometries(whole, TRANSFORM))

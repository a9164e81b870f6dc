"""Shared simplification: still a coverage, nothing lost, the rule kept, and no dependence on the chunks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import shapely
from affine import Affine

from geoseg.errors import InputError
from geoseg.stages.polygons import to_geometries
from geoseg.stages.simplify import simplify_polygons
from geoseg.stages.trace import Polygons

Vectorize = Callable[..., Polygons]
ROWS, COLS = np.indices((60, 60))


def geometries(polygons: Polygons) -> np.ndarray:
    return to_geometries(polygons, Affine.identity(), keep_junctions=True)


def columns(polygons: Polygons) -> list[list]:
    return [column.tolist() for column in (polygons.coords, polygons.junction, polygons.ring_offsets)]


MASKS = {
    "landscape": None,
    "noise": np.random.default_rng(0).integers(0, 3, (60, 60)).astype(np.uint8),
    "noise of one class": np.random.default_rng(1).integers(0, 2, (60, 60)).astype(np.uint8),
    "discs": sum(
        (((ROWS - row) ** 2 + (COLS - col) ** 2) < radius**2).astype(np.uint8)
        for row, col, radius in ((30, 30, 28), (30, 30, 21), (28, 33, 14), (25, 36, 5))
    ),
    "narrow diagonals": ((ROWS - 2 * COLS) // 3 % 3).astype(np.uint8),
    "sectors that meet in one point": (np.arctan2(ROWS - 30, COLS - 30) * 2 + 7).astype(np.uint8),
    "holes that touch": ((ROWS % 7 == COLS % 7) & (ROWS // 7 == COLS // 7)).astype(np.uint8) + 1,
    "comb": ((COLS % 2 == 0) | (ROWS < 3)).astype(np.uint8),
    "single pixels": ((ROWS % 2 == 0) & (COLS % 2 == 0)).astype(np.uint8),
}


@pytest.fixture(params=MASKS)
def traced(request: pytest.FixtureRequest, vectorize: Vectorize, landscape: np.ndarray) -> Polygons:
    mask = MASKS[request.param]
    return vectorize(landscape if mask is None else mask, None, 64)


@pytest.mark.parametrize("tolerance", [0.0, 0.75, 1.0, 2.0, 6.0, 50.0])
def test_neighbours_still_fit_and_nothing_is_lost(traced: Polygons, tolerance: float) -> None:
    exact, simple = geometries(traced), geometries(simplify_polygons(traced, tolerance))
    assert shapely.is_valid(simple).all()
    assert shapely.coverage_is_valid(simple)
    assert (shapely.area(simple) > 0).all()
    assert np.array_equal(shapely.get_num_interior_rings(simple), shapely.get_num_interior_rings(exact))
    assert (shapely.get_num_coordinates(shapely.get_rings(simple)) >= 4).all()
    assert shapely.get_num_coordinates(simple).sum() <= shapely.get_num_coordinates(exact).sum()


def test_junctions_stay_and_attributes_too(traced: Polygons) -> None:
    simple = simplify_polygons(traced, 5.0)
    before, after = (
        {tuple(corner) for corner in polygons.coords[polygons.junction > 0].tolist()} for polygons in (traced, simple)
    )
    assert before == after
    for name in ("id", "code", "area_px", "confidence", "edge", "polygon_offsets"):
        assert getattr(simple, name) is getattr(traced, name)


def test_a_zero_tolerance_changes_nothing(traced: Polygons) -> None:
    assert columns(simplify_polygons(traced, 0.0)) == columns(traced)


def test_chunks_do_not_matter(vectorize: Vectorize, landscape: np.ndarray) -> None:
    cut, whole = (simplify_polygons(vectorize(landscape, None, chunk), 1.5) for chunk in (23, 1000))
    assert columns(cut) == columns(whole)


def test_no_polygons(vectorize: Vectorize) -> None:
    nothing = vectorize(np.zeros((5, 5), np.uint8))
    assert len(simplify_polygons(nothing, 1.0)) == 0


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_must_be_a_length(vectorize: Vectorize, tolerance: float) -> None:
    with pytest.raises(InputError, match="simplification tolerance"):
        simplify_polygons(vectorize(np.ones((2, 2), np.uint8)), tolerance)


@pytest.mark.parametrize(("tolerance", "goes"), [(1.2, False), (1.3, True)])
def test_the_tolerance_squared_is_the_largest_triangle(vectorize: Vectorize, tolerance: float, goes: bool) -> None:
    mask = np.ones((12, 12), np.uint8)
    mask[0, 4:7] = 0  # a notch: each of its corners makes a triangle of 1.5 px^2 with its neighbours
    notched = vectorize(mask)
    assert (columns(simplify_polygons(notched, tolerance)) != columns(notched)) is goes


def test_a_staircase_becomes_a_slope(vectorize: Vectorize) -> None:
    polygons = vectorize((ROWS >= COLS).astype(np.uint8) + 1)
    simple = geometries(simplify_polygons(polygons, 1.0))
    # two triangles that share the diagonal; the steps at its ends lean on the junctions, which stay
    assert shapely.get_num_coordinates(geometries(polygons)).min() > 120
    assert (shapely.get_num_coordinates(simple) <= 8).all()
    assert shapely.coverage_is_valid(simple)


def test_single_pixels_stay_squares(vectorize: Vectorize) -> None:
    pixels = vectorize(MASKS["single pixels"])
    assert columns(simplify_polygons(pixels, 30.0)) == columns(pixels)


def test_a_vertex_in_the_way_stops_the_line(vectorize: Vectorize) -> None:
    mask = np.zeros((9, 30), np.uint8)
    mask[4:, :] = 1
    mask[3, 10:20] = 1  # a step that would be cut off ...
    mask[2, 14:16] = 2  # ... were it not for what stands on it
    simple = geometries(simplify_polygons(vectorize(mask), 30.0))
    assert shapely.coverage_is_valid(simple)
    assert not shapely.overlaps(simple[0], simple[1])
    assert shapely.area(shapely.intersection(simple[0], simple[1])) == 0


@pytest.mark.parametrize("tolerance", [1.0, 3.0])
def test_about_as_simple_and_as_close_as_geos(vectorize: Vectorize, landscape: np.ndarray, tolerance: float) -> None:
    traced = vectorize(landscape)
    exact = geometries(traced)
    ours, theirs = geometries(simplify_polygons(traced, tolerance)), shapely.coverage_simplify(exact, tolerance)
    assert shapely.get_num_coordinates(ours).sum() < 1.15 * shapely.get_num_coordinates(theirs).sum()

    def misplaced(simple: np.ndarray) -> float:
        return float(shapely.area(shapely.symmetric_difference(exact, simple)).sum())

    assert misplaced(ours) < 1.05 * misplaced(theirs)

"""Geometries against GDAL, measures against pyproj's geodesics."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import rasterio.features
import shapely
from affine import Affine

from geoseg.errors import InputError
from geoseg.stages import polygons as polygons_module
from geoseg.stages.polygons import measure, to_geometries
from geoseg.stages.simplify import simplify_polygons
from geoseg.stages.trace import Polygons

UTM = Affine(0.5, 0, 500_000.25, 0, -0.5, 5_300_000.75)
ROTATED = Affine(0.3, 0.41, 200_000.1, 0.4, -0.31, 6_900_000.7)
DEGREES = Affine(1e-5, 0, 12.3456789, 0, -1e-5, 47.1234567)


@pytest.fixture(scope="module")
def traced(vectorize, landscape: np.ndarray) -> Polygons:
    return vectorize(landscape, None, 100)


def normalised(geometries: np.ndarray) -> list[bytes]:
    return sorted(shapely.to_wkb(shapely.normalize(geometries)))


@pytest.mark.parametrize("transform", [UTM, ROTATED, DEGREES])
def test_without_junctions_the_bits_are_those_of_gdal(
    traced: Polygons, landscape: np.ndarray, transform: Affine
) -> None:
    wanted = ~np.isin(landscape, (0, 255))
    shapes = rasterio.features.shapes(landscape, mask=wanted, connectivity=4, transform=transform)
    expected = np.array([shapely.geometry.shape(s) for s, _ in shapes], object)
    geometries = to_geometries(traced, transform, keep_junctions=False)
    assert normalised(geometries) == normalised(expected)


def test_junctions_make_a_coverage_and_change_no_area(traced: Polygons) -> None:
    without = to_geometries(traced, UTM, keep_junctions=False)
    covering = to_geometries(traced, UTM, keep_junctions=True)
    assert not shapely.coverage_is_valid(without)
    assert shapely.coverage_is_valid(covering)
    assert shapely.equals(without, covering).all()
    assert np.allclose(shapely.area(covering), traced.area_px * 0.25, rtol=1e-12)


@pytest.mark.parametrize("keep_junctions", [False, True])
def test_no_polygons(vectorize, keep_junctions: bool) -> None:
    geometries = to_geometries(vectorize(np.zeros((4, 4), np.uint8)), UTM, keep_junctions=keep_junctions)
    assert geometries.shape == (0,)
    assert [column.shape for column in measure(geometries, "EPSG:32633")] == [(0,), (0,)]


def by_geod(geometries: np.ndarray, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """Karney's areas and perimeters, polygon by polygon."""
    source = pyproj.CRS(crs)
    to_lonlat = pyproj.Transformer.from_crs(source, source.geodetic_crs, always_xy=True)
    geod = source.get_geod()
    areas, lengths = [], []
    for geometry in geometries:
        rings = []
        for ring in shapely.get_parts(shapely.get_rings(geometry)):
            lon, lat = to_lonlat.transform(*shapely.get_coordinates(ring).T)
            unit = np.degrees(source.geodetic_crs.axis_info[0].unit_conversion_factor)
            area, length = geod.polygon_area_perimeter(np.asarray(lon) * unit, np.asarray(lat) * unit)
            rings.append((abs(area), length))
        areas.append(2 * rings[0][0] - sum(area for area, _ in rings))
        lengths.append(sum(length for _, length in rings))
    return np.array(areas), np.array(lengths)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32633", UTM),
        ("EPSG:32633", ROTATED),
        ("EPSG:4326", DEGREES),
        ("EPSG:4326", Affine(1e-4, 0, 179.99, 0, -1e-4, -45.0)),  # over the antimeridian
        ("EPSG:4326", Affine(1e-4, 0, -3.0, 0, -1e-4, 0.01)),  # over the equator
        ("EPSG:4326", Affine(1e-3, 0, 30.0, 0, -1e-4, 89.98)),  # by the pole
        ("EPSG:3857", Affine(10.0, 0, 1e6, 0, -10.0, 8e6)),  # stretched by 2
        ("EPSG:2263", Affine(2.0, 0, 1e6, 0, -2.0, 2e5)),  # in feet
        ("EPSG:4807", Affine(1e-5, 0, 2.0, 0, -1e-5, 50.0)),  # in grads, from Paris
    ],
)
@pytest.mark.parametrize("tolerance_px", [0.0, 4.0])
def test_measures_are_geodesic(traced: Polygons, crs: str, transform: Affine, tolerance_px: float) -> None:
    geometries = to_geometries(simplify_polygons(traced, tolerance_px), transform, keep_junctions=True)
    area_m2, perimeter_m = measure(geometries, crs)
    expected_area, expected_perimeter = by_geod(geometries, crs)
    # Karney's sum runs over areas down to the equator, which round to some 1e-4 m2
    np.testing.assert_allclose(area_m2, expected_area, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(perimeter_m, expected_perimeter, rtol=1e-6)


def test_areas_equal_those_of_an_equal_area_projection(traced: Polygons) -> None:
    geometries = to_geometries(traced, Affine(2.0, 0, 4_000_000, 0, -2.0, 3_000_000), keep_junctions=False)
    area_m2, _ = measure(geometries, "EPSG:3035")
    np.testing.assert_allclose(area_m2, traced.area_px * 4.0, rtol=5e-7)


def test_holes_count_as_perimeter_but_not_as_area() -> None:
    hole = shapely.box(500_010, 5_300_010, 500_020, 5_300_020)
    ring = shapely.box(500_000, 5_300_000, 500_100, 5_300_100).difference(hole)
    area_m2, perimeter_m = measure(np.array([ring, hole, shapely.Polygon(ring.exterior)], object), "EPSG:32633")
    assert area_m2[0] == pytest.approx(area_m2[2] - area_m2[1], rel=1e-12)
    assert perimeter_m[0] == pytest.approx(perimeter_m[2] + perimeter_m[1], rel=1e-12)


def test_multipolygons_and_empty_ones(traced: Polygons) -> None:
    geometries = to_geometries(traced, UTM, keep_junctions=False)[:3]
    mixed = np.array([shapely.MultiPolygon(list(geometries[:2])), shapely.Polygon(), geometries[2]], object)
    single, together = measure(geometries, "EPSG:32633"), measure(mixed, "EPSG:32633")
    for alone, column in zip(single, together, strict=True):
        np.testing.assert_allclose(column, [alone[0] + alone[1], 0, alone[2]], rtol=1e-14)
    assert [column.tolist() for column in measure(mixed[1:2], "EPSG:32633")] == [[0.0], [0.0]]


def test_long_edges_are_measured_along_the_geodesic() -> None:
    triangle = np.array([shapely.Polygon([(0, 0), (60, 0), (30, 40)])], object)
    _, perimeter_m = measure(triangle, "EPSG:4326")
    assert perimeter_m[0] == pytest.approx(by_geod(triangle, "EPSG:4326")[1][0], rel=1e-12)


def test_batches_do_not_change_a_bit(traced: Polygons, monkeypatch: pytest.MonkeyPatch) -> None:
    geometries = to_geometries(traced, UTM, keep_junctions=False)
    at_once = measure(geometries, "EPSG:32633")
    monkeypatch.setattr(polygons_module, "BATCH_VERTICES", 50)
    for whole, batched in zip(at_once, measure(geometries, "EPSG:32633"), strict=True):
        assert np.array_equal(whole, batched)


def test_what_cannot_be_measured_is_refused() -> None:
    box = np.array([shapely.box(0, 0, 1, 1)], object)
    with pytest.raises(InputError, match="has no ellipsoid"):
        measure(box, 'LOCAL_CS["somewhere",UNIT["metre",1]]')
    with pytest.raises(InputError, match="no longitude and latitude"):
        measure(np.array([shapely.box(0, 0, 1e30, 1e30)], object), "EPSG:32633")
    with pytest.raises(InputError, match="give polygons"):
        measure(np.array([shapely.LineString([(0, 0), (1, 1)])], object), "EPSG:32633")

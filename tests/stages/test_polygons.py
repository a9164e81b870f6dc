"""Geometries against GDAL, measures against pyproj's geodesics."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace

import numpy as np
import pyproj
import pytest
import rasterio.features
import shapely
from affine import Affine

from geoseg.errors import InputError
from geoseg.rings import Polygons
from geoseg.stages import polygons as polygons_module
from geoseg.stages.polygons import Ground, ground_bounds, hilbert_keys, to_wkb

PIXELS = Affine.identity()
UTM = Affine(0.5, 0, 500_000.25, 0, -0.5, 5_300_000.75)
ROTATED = Affine(0.3, 0.41, 200_000.1, 0.4, -0.31, 6_900_000.7)
UPSIDE_DOWN = Affine(0.5, 0, 500_000.25, 0, 0.5, 5_300_000.75)
DEGREES = Affine(1e-5, 0, 12.3456789, 0, -1e-5, 47.1234567)


def gdal_shapes(mask: np.ndarray, transform: Affine = PIXELS) -> tuple[np.ndarray, list[int]]:
    wanted = ~np.isin(mask, (0, 255))
    found = list(rasterio.features.shapes(mask, mask=wanted, connectivity=4, transform=transform))
    return np.array([shapely.geometry.shape(shape) for shape, _ in found], object), [int(code) for _, code in found]


@pytest.fixture(scope="module")
def traced(as_polygons, landscape: np.ndarray) -> Polygons:
    shapes, codes = gdal_shapes(landscape)
    return as_polygons(shapes, landscape.shape[1], codes=codes)


@pytest.fixture(scope="module")
def slanting(as_polygons, landscape: np.ndarray) -> Polygons:
    """The same, thinned: slanting edges, odd half pixels and fewer vertices."""
    shapes, _ = gdal_shapes(landscape)
    thinned = shapely.simplify(shapes, 4.0)
    halves = np.round(2 * shapely.get_coordinates(thinned)) / 2
    return as_polygons(shapely.set_coordinates(thinned, halves), landscape.shape[1])


def part_of(polygons: Polygons, chosen: slice) -> Polygons:
    """Some polygons that follow one another."""
    rings = polygons.polygon_offsets[chosen.start : chosen.stop + 1]
    vertices = polygons.ring_offsets[rings[0] : rings[-1] + 1]
    columns = {name: values[chosen] for name, values in polygons.to_arrays().items()}
    places = {
        "coords": polygons.coords[vertices[0] : vertices[-1]],
        "ring_offsets": vertices - vertices[0],
        "polygon_offsets": rings - rings[0],
    }
    return Polygons.from_arrays(columns | places)


def ground_of(transform: Affine, crs: str, landscape: np.ndarray) -> Ground:
    return Ground(transform, crs, landscape.shape)


# --- map coordinates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [UTM, ROTATED, UPSIDE_DOWN, DEGREES])
def test_the_bits_are_those_of_gdal(to_geometries, traced: Polygons, landscape: np.ndarray, transform: Affine) -> None:
    expected, _ = gdal_shapes(landscape, transform)
    geometries = to_geometries(traced, transform)
    assert sorted(shapely.to_wkb(shapely.normalize(geometries))) == sorted(shapely.to_wkb(shapely.normalize(expected)))
    rings = [shapely.get_rings(geometry) for geometry in geometries]
    assert any(len(polygon) > 1 for polygon in rings)
    assert all(shapely.is_ccw(polygon).tolist() == [True] + [False] * (len(polygon) - 1) for polygon in rings)


@pytest.mark.parametrize("transform", [UTM, ROTATED, UPSIDE_DOWN])
def test_wkb_and_bounds_are_those_of_the_geometries(slanting: Polygons, transform: Affine) -> None:
    data, offsets = to_wkb(slanting, transform)
    col, row = slanting.coords.T / 2
    a, b, c, d, e, f = tuple(transform)[:6]
    ground = np.column_stack([c + a * col + b * row, f + d * col + e * row])
    if transform.determinant < 0:
        ground = np.concatenate([ground[first:last][::-1] for first, last in itertools.pairwise(slanting.ring_offsets)])
    places = slanting.ring_offsets, slanting.polygon_offsets
    geometries = shapely.from_ragged_array(shapely.GeometryType.POLYGON, ground, places)
    assert shapely.is_ccw(shapely.get_exterior_ring(geometries)).all()
    wkb = [data[start:stop].tobytes() for start, stop in itertools.pairwise(offsets)]
    assert wkb == shapely.to_wkb(geometries, byte_order=1).tolist()
    assert np.array_equal(ground_bounds(slanting, transform), shapely.bounds(geometries))


def test_no_polygons(as_polygons, landscape: np.ndarray) -> None:
    none = as_polygons([], 4)
    assert [column.tolist() for column in to_wkb(none, UTM)] == [[], [0]]
    assert ground_bounds(none, UTM).shape == (0, 4)
    assert hilbert_keys(none, (4, 4)).shape == (0,)
    ground = ground_of(UTM, "EPSG:32633", landscape)
    assert [column.shape for column in ground.measure(none)] == [(0,), (0,)]
    assert ground.pixel_area_m2(np.zeros(0, np.int64), np.zeros(0, np.int64)).shape == (0,)


# --- order ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 16), (16, 5), (3, 100_000)])
def test_keys_run_along_a_hilbert_curve(as_polygons, shape: tuple[int, int]) -> None:
    rows, cols = shape[0], min(shape[1], 16)
    cells = [shapely.box(col, row, col + 1, row + 1) for row in range(rows) for col in range(cols)]
    polygons = as_polygons(cells, shape[1])
    keys = hilbert_keys(polygons, shape)
    assert len(set(keys.tolist())) == len(keys)
    assert keys.min() >= 0
    if shape == (16, 16):  # the whole square: every step leads to a neighbour
        places = polygons.coords[polygons.ring_offsets[:-1]][np.argsort(keys)] // 2
        assert (np.abs(np.diff(places, axis=0)).sum(axis=1) == 1).all()


def test_keys_depend_on_the_bounds_alone(as_polygons) -> None:
    box, diamond = shapely.box(2, 2, 6, 6), shapely.Polygon([(4, 2), (6, 4), (4, 6), (2, 4)])
    inner = shapely.box(3, 3, 5, 5)
    keys = hilbert_keys(as_polygons([box, diamond, inner, shapely.box(2, 2, 6, 7)], 9), (9, 9))
    assert len(set(keys[:3].tolist()) | {keys[3]}) == 2


def test_a_scene_too_wide_for_integers_is_refused(as_polygons) -> None:
    polygons = as_polygons([shapely.box(0, 0, 1, 1)], 9)
    assert hilbert_keys(polygons, (1, 2**29 - 1)) >= 0
    with pytest.raises(InputError, match=r"536870912 x 1 pixels is too wide"):
        hilbert_keys(polygons, (1, 2**29))


# --- measures -------------------------------------------------------------------------------------------------------


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


PLACES = [
    ("EPSG:32633", UTM),
    ("EPSG:32633", ROTATED),
    ("EPSG:32633", UPSIDE_DOWN),
    ("EPSG:32633", Affine(20.0, 0, 300_000, 0, -20.0, 7_300_000)),  # many cells
    ("EPSG:32633", Affine(150.0, 0, 300_000, 0, -150.0, 7_300_000)),  # the smallest cells
    ("EPSG:4326", DEGREES),
    ("EPSG:4326", Affine(1e-4, 0, 179.99, 0, -1e-4, -45.0)),  # over the antimeridian
    ("EPSG:4326", Affine(1e-4, 0, -3.0, 0, -1e-4, 0.01)),  # over the equator
    ("EPSG:4326", Affine(1e-3, 0, 30.0, 0, -1e-4, 89.98)),  # by the pole
    ("EPSG:3857", Affine(10.0, 0, 1e6, 0, -10.0, 8e6)),  # stretched by 2
    ("EPSG:3857", Affine(10.0, 0, 1e6, 0, -10.0, 18e6)),  # stretched by 8
    ("EPSG:2263", Affine(2.0, 0, 1e6, 0, -2.0, 2e5)),  # in feet
    ("EPSG:4807", Affine(1e-5, 0, 2.0, 0, -1e-5, 50.0)),  # in grads, from Paris
]


@pytest.mark.parametrize(("crs", "transform"), PLACES)
@pytest.mark.parametrize("kind", ["traced", "slanting"])
def test_measures_are_geodesic(
    request, to_geometries, landscape: np.ndarray, crs: str, transform: Affine, kind: str
) -> None:
    polygons = request.getfixturevalue(kind)
    area_m2, perimeter_m = ground_of(transform, crs, landscape).measure(polygons)
    expected_area, expected_perimeter = by_geod(to_geometries(polygons, transform), crs)
    # Karney's sum runs over areas down to the equator, which round to some 1e-4 m2
    np.testing.assert_allclose(area_m2, expected_area, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(perimeter_m, expected_perimeter, rtol=1e-6)


@pytest.mark.parametrize("crs", ["EPSG:3995", "EPSG:3031"])
def test_polygons_around_a_pole_are_measured(to_geometries, traced: Polygons, landscape: np.ndarray, crs: str) -> None:
    ground = ground_of(Affine(10.0, 0, -1200, 0, -10.0, 1200), crs, landscape)
    area_m2, perimeter_m = ground.measure(traced)
    assert np.ptp(area_m2 / traced.area_px) < 1e-3  # the projection's scale is flat there; Karney cannot be asked
    assert perimeter_m == pytest.approx(by_geod(to_geometries(traced, ground.transform), crs)[1], rel=1e-6)


def test_areas_equal_those_of_an_equal_area_projection(traced: Polygons, landscape: np.ndarray) -> None:
    area_m2, _ = ground_of(Affine(2.0, 0, 4_000_000, 0, -2.0, 3_000_000), "EPSG:3035", landscape).measure(traced)
    np.testing.assert_allclose(area_m2, traced.area_px * 4.0, rtol=5e-7)


@pytest.mark.parametrize(("crs", "transform"), PLACES)
def test_interpolated_and_exact_measures_agree(
    traced: Polygons, landscape: np.ndarray, crs: str, transform: Affine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = ground_of(transform, crs, landscape)
    interpolated = ground.measure(traced)
    monkeypatch.setattr(polygons_module, "LEAST_CELL_PX", 2**30)
    for column, exact in zip(interpolated, ground.measure(traced), strict=True):
        assert not np.array_equal(column, exact)  # so the case is a case
        np.testing.assert_allclose(column, exact, rtol=3e-7)


def test_cells_that_stray_are_not_interpolated(landscape: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    # by the edge of the globe an orthographic projection has no bounds on its slopes, and beyond it no places
    radius = 6_371_000
    transform = Affine(100.0, 0, radius - 24_000, 0, -100.0, 12_000)
    ground = ground_of(transform, f"+proj=ortho +lat_0=0 +lon_0=0 +R={radius}", landscape)
    rows, cols = np.full(230, 119), np.arange(230)
    edges = np.arcsin(1 + (100 * np.arange(231) - 24_000) / radius)
    expected = 100 * radius * np.diff(edges)
    np.testing.assert_allclose(ground.pixel_area_m2(rows, cols), expected, rtol=1e-6)
    with pytest.raises(InputError, match="no longitude and latitude"):
        ground.pixel_area_m2(np.array([119]), np.array([245]))
    monkeypatch.setattr(polygons_module, "STRAYS", 1)
    assert not np.allclose(ground.pixel_area_m2(rows, cols), expected, rtol=1e-3)  # so the case is a case


def test_holes_count_as_perimeter_but_not_as_area(as_polygons, landscape: np.ndarray) -> None:
    hole = shapely.box(10, 10, 20, 20)
    ring = shapely.box(0, 0, 100, 100).difference(hole)
    polygons = as_polygons([ring, hole, shapely.Polygon(ring.exterior)], 240)
    area_m2, perimeter_m = ground_of(UTM, "EPSG:32633", landscape).measure(polygons)
    with_hole, whole, inner = 0, 1, 2  # sorted by id
    assert area_m2[with_hole] == pytest.approx(area_m2[whole] - area_m2[inner], rel=1e-12)
    assert perimeter_m[with_hole] == pytest.approx(perimeter_m[whole] + perimeter_m[inner], rel=1e-12)


def test_long_edges_are_measured_along_the_geodesic(as_polygons, to_geometries) -> None:
    shapes = [shapely.Polygon([(0, 0), (60, 0), (30, 40)]), shapely.box(61, 1, 62, 2)]
    polygons = as_polygons(shapes, 100)
    ground = Ground(Affine.identity(), "EPSG:4326", (80, 100))
    _, perimeter_m = ground.measure(polygons)
    expected = by_geod(to_geometries(polygons, ground.transform), "EPSG:4326")[1]
    assert perimeter_m == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3857"])
@pytest.mark.parametrize("gsd_m", [0.5, 40.0, 500.0])
def test_parts_and_batches_do_not_change_a_bit(
    slanting: Polygons, landscape: np.ndarray, crs: str, gsd_m: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = ground_of(Affine(gsd_m, 0, 500_000, 0, -gsd_m, 5_300_000), crs, landscape)
    at_once = ground.measure(slanting)
    cuts = [0, 1, 2, 17, 40, len(slanting)]
    parts = [
        pickle.loads(pickle.dumps(ground)).measure(part_of(slanting, slice(*cut))) for cut in itertools.pairwise(cuts)
    ]
    monkeypatch.setattr(polygons_module, "BATCH_VERTICES", 50)
    batched = ground.measure(slanting)
    for column in range(2):
        assert np.array_equal(at_once[column], np.concatenate([part[column] for part in parts]))
        assert np.array_equal(at_once[column], batched[column])


@pytest.mark.parametrize(("crs", "transform"), PLACES)
def test_pixels_measure_what_their_squares_do(
    as_polygons, landscape: np.ndarray, crs: str, transform: Affine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, cols = np.random.default_rng(5).integers(0, 240, (2, 50))
    rows[0] = cols[0] = 239
    ground = ground_of(transform, crs, landscape)
    squares = as_polygons([shapely.box(col, row, col + 1, row + 1) for row, col in zip(rows, cols, strict=True)], 240)
    areas = ground.pixel_area_m2(rows, cols)
    order = np.argsort(rows * 240 + cols, kind="stable")
    np.testing.assert_allclose(areas[order], ground.measure(squares)[0], rtol=1e-6)
    monkeypatch.setattr(polygons_module, "BATCH_VERTICES", 12)
    assert np.array_equal(areas, ground.pixel_area_m2(rows, cols))


@pytest.mark.parametrize(("crs", "transform"), PLACES)
def test_the_scene_measures_as_much_as_its_pixels(landscape: np.ndarray, crs: str, transform: Affine) -> None:
    ground = ground_of(transform, crs, landscape)
    rows, cols = np.indices(landscape.shape).reshape(2, -1)
    assert ground.scene_area_m2() == pytest.approx(ground.pixel_area_m2(rows, cols).sum(), rel=1e-6)


def test_the_whole_earth_has_its_area() -> None:
    ground = Ground(Affine(0.1, 0, -180, 0, -0.1, 90), "EPSG:4326", (1800, 3600))
    assert ground.scene_area_m2() == pytest.approx(510_065_621_724_000, rel=1e-3)  # of WGS 84; parallels are cut short


def test_what_cannot_be_measured_is_refused(traced: Polygons, landscape: np.ndarray) -> None:
    with pytest.raises(InputError, match="has no ellipsoid"):
        ground_of(UTM, 'LOCAL_CS["somewhere",UNIT["metre",1]]', landscape)
    far = replace(ground_of(UTM, "EPSG:32633", landscape), transform=Affine(1e28, 0, 0, 0, -1e28, 0))
    with pytest.raises(InputError, match="no longitude and latitude"):
        far.measure(traced)

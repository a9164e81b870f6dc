"""Longitude and latitude: the quick way never differs from the slow one, and that one always gives sound geometries."""

from __future__ import annotations

import itertools

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import shapes as gdal_shapes

from geoseg.errors import OutputError
from geoseg.export import lonlat
from geoseg.export.lonlat import round_polygons, to_lonlat

UTM32 = "EPSG:32632"


def pixel_polygons(seed=0, *, rows=60, cols=60, gsd_m=0.3, fill=0.55):
    """Polygons along pixel edges, with holes and corners that touch, as GDAL traces them; exteriors clockwise."""
    mask = (np.random.default_rng(seed).random((rows, cols)) < fill).astype(np.uint8)
    grid = Affine(gsd_m, 0, 687_000.3, 0, -gsd_m, 5_334_000.9)
    traced = gdal_shapes(mask, mask=mask > 0, connectivity=4, transform=grid)
    return np.array([shapely.geometry.shape(geometry) for geometry, _ in traced], dtype=object)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    gsd_m=st.sampled_from([0.005, 0.02, 0.1, 0.3, 2.0]),
    fill=st.floats(0.2, 0.9),
)
def test_rounding_never_makes_a_polygon_invalid_or_lose_much(seed, gsd_m, fill):
    shapes = pixel_polygons(seed, rows=24, cols=24, gsd_m=gsd_m, fill=fill)
    rounded = to_lonlat(shapes, UTM32)
    assert len(rounded) == len(shapes)
    kept = np.array([shape is not None for shape in rounded], dtype=bool)
    assert kept.all() or gsd_m < 0.03
    assert shapely.is_valid(rounded[kept]).all()
    assert set(shapely.get_type_id(rounded[kept])) <= {3, 6}
    back = gpd.GeoSeries(rounded[kept], crs=4326).to_crs(UTM32).area.to_numpy()
    assert (np.abs(back - shapely.area(shapes[kept])) <= 0.012 * shapely.length(shapes[kept])).all()


def test_long_straight_edges_stay_where_they_are():
    # 30 km along a parallel of UTM: the straight line in longitude and latitude strays 25 m from the true edge
    strip = shapely.box(560_000, 5_500_000, 590_000, 5_500_010)
    exact = shapely.segmentize(strip, 10.0)
    expected = gpd.GeoSeries([exact], crs=UTM32).to_crs(4326)
    ours = to_lonlat([strip], UTM32)[0]
    assert shapely.symmetric_difference(ours, expected[0]).area / expected[0].area < 0.003
    straight = gpd.GeoSeries([strip], crs=UTM32).to_crs(4326)
    assert straight[0].symmetric_difference(expected[0]).area / expected[0].area > 1  # so the case is a case


def geodesic_area(shape):
    return abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shape)[0])


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:4269", "EPSG:4267", "EPSG:4807"])
def test_longitudes_beyond_180_come_back_into_range(crs):
    # NAD27 goes through a datum shift that wraps longitudes; the last one counts grads from Paris
    turn = 400 if crs == "EPSG:4807" else 360
    across, beyond = shapely.box(turn / 2 - 5, 1, turn / 2 + 5, 2), shapely.box(turn - 160, -1, turn - 159, 1)
    split, moved = to_lonlat([across, beyond], crs)
    assert split.geom_type == "MultiPolygon"
    assert split.bounds[::2] == (-180, 180)
    assert split.area == pytest.approx(across.area * (360 / turn) ** 2, rel=1e-3)
    assert moved.geom_type == "Polygon"
    assert moved.area == pytest.approx(beyond.area * (360 / turn) ** 2, rel=1e-3)
    if crs == "EPSG:4326":
        assert shapely.equals(split, shapely.union(shapely.box(175, 1, 180, 2), shapely.box(-180, 1, -175, 2)))
        assert shapely.equals(moved, shapely.box(-160, -1, -159, 1))


def test_a_polygon_around_the_world_stays_as_it_is():
    world = shapely.box(-180, -90, 180, 90)
    assert shapely.equals(to_lonlat([world], "EPSG:4326")[0], world)


@pytest.mark.parametrize(("crs", "pole"), [("EPSG:3995", 90.0), ("EPSG:3031", -90.0)])
def test_polygons_around_a_pole_are_closed_at_the_pole(crs, pole):
    disc = shapely.Point(0, 0).buffer(300_000)
    hole = shapely.Point(-1_000, 100_000).buffer(20_000)  # across the antimeridian or the zero meridian
    shapes = [disc, disc.difference(hole), disc.difference(shapely.Point(0, 0).buffer(50_000))]
    whole, holed, annulus = to_lonlat(shapes, crs)
    assert shapely.is_valid([whole, holed, annulus]).all()
    assert pole in whole.bounds
    assert pole not in annulus.bounds
    scale = geodesic_area(whole) / disc.area
    assert geodesic_area(holed) == pytest.approx(shapes[1].area * scale, rel=1e-4)
    assert geodesic_area(annulus) == pytest.approx(shapes[2].area * scale, rel=1e-4)


@pytest.mark.parametrize(
    ("crs", "place", "gsd_m", "side", "fill"),
    [
        ("EPSG:32660", (180.0, 5.0), 10.0, 120, 0.4),
        ("EPSG:32601", (180.0, 64.9), 10.0, 120, 0.55),
        ("EPSG:3413", (0.0, 90.0), 1000.0, 240, 0.55),
        ("EPSG:3031", (0.0, -90.0), 1000.0, 240, 0.55),
    ],
)
def test_noise_at_the_edges_of_longitude_keeps_its_areas(crs, place, gsd_m, side, fill):
    """Rings that cross the antimeridian a few times, and beside a pole."""
    x, y = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(*place)
    mask = (np.random.default_rng(1).random((side, side)) < fill).astype(np.uint8)
    grid = Affine(gsd_m, 0, x - (side / 2 + 0.3) * gsd_m, 0, -gsd_m, y + (side / 2 + 0.7) * gsd_m)
    traced = gdal_shapes(mask, mask=mask > 0, connectivity=4, transform=grid)
    shapes = np.array([shapely.geometry.shape(geometry) for geometry, _ in traced], object)
    found = to_lonlat(shapes, crs)
    assert shapely.is_valid(found).all()
    there = pyproj.Transformer.from_crs(crs, 4326, always_xy=True)
    for shape, carried in zip(shapes, found, strict=True):
        shell, *holes = (
            abs(
                pyproj.Geod(ellps="WGS84").polygon_area_perimeter(*there.transform(*shapely.get_coordinates(ring).T))[0]
            )
            for ring in shapely.get_rings(shapely.segmentize(shape, gsd_m / 2))
        )
        assert geodesic_area(shapely.orient_polygons(carried)) == pytest.approx(shell - sum(holes), rel=5e-3)


def test_coordinates_off_the_globe_are_an_error():
    with pytest.raises(OutputError, match="lie nowhere on the globe; check the CRS"):
        to_lonlat([shapely.box(1e9, 1e9, 1e9 + 1, 1e9 + 1)], UTM32)


# --- the quick way ----------------------------------------------------------------------------------------------------


def quickly(shapes, crs=UTM32, *, orient=True):
    """Rounded polygons, and None for those that the quick way is not sure of."""
    shapes = np.asarray(shapes, object)
    wkb = pa.array(shapely.to_wkb(shapely.orient_polygons(shapes) if orient else shapes), pa.large_binary())
    units, ring_offsets, polygon_offsets, sure = round_polygons(wkb, pyproj.CRS.from_user_input(crs))
    rings = [units[start:stop] / 1e7 for start, stop in itertools.pairwise(ring_offsets)]
    polygons = [rings[start:stop] for start, stop in itertools.pairwise(polygon_offsets)]
    return [shapely.Polygon(part[0], part[1:]) if good else None for part, good in zip(polygons, sure, strict=True)]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    gsd_m=st.sampled_from([0.003, 0.006, 0.01, 0.02, 0.1, 0.3, 2.0]),
    fill=st.floats(0.2, 0.9),
    thin=st.sampled_from([0.0, 1.5, 4.0]),
)
def test_the_quick_way_gives_what_the_slow_one_does(seed, gsd_m, fill, thin):
    shapes = pixel_polygons(seed, rows=24, cols=24, gsd_m=gsd_m, fill=fill)
    thinned = shapely.simplify(shapes, thin * gsd_m)
    shapes = np.concatenate([shapes, thinned[shapely.is_valid(thinned)]])
    slow = to_lonlat(shapes, UTM32)
    quick = quickly(shapes)
    sure = [place for place, shape in enumerate(quick) if shape is not None]
    for place in sure:
        assert shapely.is_valid(quick[place])
        assert quick[place].wkb == slow[place].wkb
    assert set(np.flatnonzero(shapely.is_valid(shapes))) <= set(sure) or gsd_m < 0.1


def test_most_polygons_take_the_quick_way():
    smooth = [shapely.Point(687_000 + 100 * n, 5_334_000).buffer(20 + n).simplify(0.5) for n in range(30)]
    ring = smooth[9].difference(smooth[9].buffer(-4)).difference(smooth[9].centroid.buffer(1))
    assert None not in quickly([*smooth, ring, shapely.box(687_000, 5_334_000, 687_000.3, 5_334_000.3)])


SHELL = [(0, 0), (9, 0), (9, 9), (0, 9)]


@pytest.mark.parametrize(
    "shape",
    [
        shapely.Polygon([(0, 0), (9, 0), (0, 9), (9, 9)]),  # a bow
        shapely.Polygon([(0, 0), (9, 0), (9, 5), (4, 0), (0, 5)]),  # a vertex on an edge
        shapely.Polygon([(0, 0), (9, 0), (5, 5), (9, 9), (0, 9), (5, 5)]),  # a vertex met twice
        shapely.Polygon([(0, 0), (9, 0), (9, 9), (9, 4), (9, 9), (0, 9)]),  # a spike outwards and back
        shapely.Polygon([(0, 0), (9, 0), (4, 0)]),  # nothing but an edge
        shapely.Polygon([(0, 0), (9, 0), (9, 0.00000001)]),  # the same once rounded
        shapely.Polygon([(0, 0), (0.00000001, 0.00000001), (0, 0.00000001)]),  # a point once rounded
        shapely.Polygon(SHELL, [[(0, 4), (5, 5), (5, 4)]]),  # a hole with a vertex on an edge of the shell
        shapely.Polygon(SHELL, [[(0, 0), (9, 9), (9, 0)]]),  # a hole with an edge of the shell
        shapely.Polygon(SHELL, [[(0, 0), (4, 5), (9, 9), (5, 4)]]),  # a hole that parts the inside
        shapely.Polygon(  # three that do
            SHELL, [[(2, 2), (3, 4), (5, 5)], [(5, 5), (5, 3), (7, 2)], [(7, 2), (4, 1), (2, 2)]]
        ),
        shapely.Polygon(SHELL, [[(1, 1), (5, 5), (6, 1)], [(6, 1), (2, 3), (5, 4)]]),  # holes that meet and cross
        shapely.Polygon(SHELL, [[(9, 9), (12, 10), (10, 12)]]),  # a hole outside that touches
        shapely.Polygon(SHELL, [[(11, 1), (11, 2), (12, 2)]]),  # a hole outside
        shapely.Polygon(SHELL, [[(1, 1), (1, 8), (8, 8), (8, 1)], [(3, 3), (3, 4), (4, 4)]]),  # a hole in a hole
        shapely.Polygon(SHELL, [[(1, 1), (2, 2), (1, 2)][::1], [(4, 4), (5, 4), (5, 5)]]),  # holes that turn as shells
        shapely.Polygon(SHELL[::-1]),  # a shell that turns as a hole
        shapely.box(175, 0, 185, 1),  # across the antimeridian
        shapely.box(0, 0, 60, 60),  # so wide that products overflow
        shapely.MultiPolygon([shapely.box(0, 0, 1, 1)]),
        shapely.LineString([(0, 0), (1, 1)]),
        shapely.Polygon(),
        None,
    ],
)
def test_the_quick_way_leaves_what_is_not_plain(shape):
    scaled = (
        shape
        if shape is None or shape.is_empty or shape.bounds[2] > 20
        else shapely.transform(shape, lambda xy: xy / 10)
    )
    assert quickly([scaled, shapely.box(0, 0, 1, 1)], "EPSG:4326", orient=False) == [
        None,
        shapely.box(0, 0, 1, 1, ccw=True),
    ]


@pytest.mark.parametrize(
    "shape",
    [
        shapely.Polygon(SHELL, [[(0, 0), (4, 5), (5, 4)]]),  # a hole that touches the shell
        shapely.Polygon(SHELL, [[(0, 0), (4, 5), (5, 4)], [(9, 9), (5, 6), (6, 5)]]),  # two
        shapely.Polygon(SHELL, [[(1, 1), (1, 2), (2, 2)], [(2, 2), (2, 3), (3, 3)]]),  # holes that touch
        shapely.Polygon(  # three of them in one place
            SHELL, [[(4, 4), (1, 4), (1, 5)], [(4, 4), (4, 1), (3, 1)], [(4, 4), (7, 4), (7, 3)]]
        ),
    ],
)
def test_the_quick_way_takes_rings_that_touch(shape):
    oriented = shapely.orient_polygons(shapely.transform(shape, lambda xy: xy / 10))
    assert shapely.is_valid(oriented)
    [found] = quickly([oriented], "EPSG:4326")
    assert found.wkb == oriented.wkb


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_valid_are_those_that_geos_finds_valid(data):
    """Polygons of small numbers touch everywhere."""
    places = st.tuples(st.integers(0, 6), st.integers(0, 6))
    rings = data.draw(st.lists(st.lists(places, min_size=3, max_size=6, unique=True), min_size=1, max_size=4))
    shape = shapely.Polygon(rings[0], rings[1:])
    [found] = quickly([shapely.orient_polygons(shapely.transform(shape, lambda xy: xy / 10))], "EPSG:4326")
    assert found is None or shapely.is_valid(shape)


def test_the_quick_way_leaves_long_edges_and_many_vertices(monkeypatch):
    long = shapely.box(560_000, 5_500_000, 560_600, 5_500_010)
    round_ = shapely.Point(560_000, 5_500_000).buffer(100, quad_segs=20)
    assert [shape is None for shape in quickly([long, round_])] == [True, False]
    monkeypatch.setattr(lonlat, "_MAX_EDGE_M", 1e6)
    assert [shape is None for shape in quickly([long, round_])] == [False, False]
    many = shapely.Point(560_000, 5_500_000).buffer(20_000, quad_segs=10_000)
    assert [shape is None for shape in quickly([many, round_])] == [True, False]


def test_the_quick_way_drops_repeated_vertices():
    shape = shapely.Polygon([(0, 0), (1, 0), (1, 0.00000001), (1, 1), (0, 1)])
    assert quickly([shape], "EPSG:4326")[0].equals_exact(shapely.Polygon([(0, 0), (1, 0), (1, 1), (0, 1)]))


def test_the_quick_way_names_what_lies_off_the_globe():
    with pytest.raises(OutputError, match="lie nowhere on the globe"):
        quickly([shapely.box(1e9, 1e9, 1e9 + 1, 1e9 + 1)])


def test_a_slice_of_an_array_is_read_from_its_start():
    boxes = [shapely.box(n, 0, n + 0.5, 1) for n in range(5)]
    wkb = pa.array(shapely.to_wkb(shapely.orient_polygons(boxes)), pa.large_binary())
    units, *_ = round_polygons(wkb.slice(2, 2), pyproj.CRS(4326))
    assert units.min(axis=0).tolist() == [20_000_000, 0]
    assert units.max(axis=0).tolist() == [35_000_000, 10_000_000]

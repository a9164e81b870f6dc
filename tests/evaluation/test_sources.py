from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.features import rasterize

from geoseg.errors import InputError
from geoseg.evaluation.sources import InstanceSource, MaskSource, PolygonSource
from geoseg.lattice import Window
from geoseg.scene import Scene
from geoseg.shapes import is_vector

CODES = {"water": 1, "field": 3}


@pytest.fixture
def grid(write_raster) -> Scene:
    return Scene.open(write_raster(np.zeros((40, 50), np.uint8), "grid.tif"))


def test_a_mask_shows_its_classes_in_order_and_nothing_around_it(write_raster, make_mask):
    pixels = make_mask(1, (40, 50), unknown=True)
    source = MaskSource.open(str(write_raster(pixels, "mask.tif", nodata=2)), None, [3, 1])
    codes, labels = source.read(Window(-2, -3, 60, 50))
    assert labels is None
    expected = np.full((50, 60), 255)
    expected[3:43, 2:52] = np.array([0, 2, 255, 1, *[0] * 251, 255])[pixels]
    assert np.array_equal(codes, expected)


def test_a_raster_on_another_grid_is_taken_at_pixel_centres(write_raster, grid):
    # twice as fine, 5 px to the right and 3 px up, and smaller
    fine = np.arange(60 * 40, dtype=np.uint16).reshape(60, 40) % 250
    moved = Affine(0.25, 0, 500_002.5, 0, -0.25, 5_200_001.5)
    path = write_raster(fine, "fine.tif", transform=moved)
    codes, labels = InstanceSource.open(str(path), grid, 2).read(grid.window)
    expected = np.full((40, 50), -1)
    expected[0:27, 5:25] = fine[7::2, 1::2]
    assert np.array_equal(labels, np.maximum(expected, 0))
    assert np.array_equal(codes, np.where(expected < 0, 255, np.where(expected > 0, 2, 0)))


def test_a_raster_in_another_crs_is_taken_at_pixel_centres(write_raster, grid):
    west, south, east, north = grid.bounds_lonlat
    wide = Affine((east - west) / 25, 0, west, 0, (south - north) / 20, north)
    coarse = np.arange(500, dtype=np.uint16).reshape(20, 25) + 1
    path = write_raster(coarse, "lonlat.tif", transform=wide, crs="EPSG:4326")
    _, labels = InstanceSource.open(str(path), grid, 1).read(grid.window)
    assert np.mean(labels == np.kron(coarse, np.ones((2, 2)))) > 0.97


@pytest.mark.parametrize("name", ["truth.gpkg", "truth.geojson", "truth.parquet", "truth.shp", "truth.fgb"])
@pytest.mark.parametrize("crs", ["EPSG:32614", "EPSG:4326"])
def test_polygons_of_any_format_and_crs_are_drawn_by_pixel_centres(write_boxes, grid, name, crs):
    boxes = [(5, 5, 10, 12), (20, 8, 15, 30), (2, 30, 5.4, 5.6)]
    kinds = ["water", "field", "road"]
    source = PolygonSource.open([str(write_boxes(boxes, name, crs, **{"class": kinds}))], grid, CODES, "class")
    codes, labels = source.read(grid.window)
    expected = np.zeros((40, 50), np.uint8)
    expected[5:15, 5:17], expected[20:35, 8:38] = 1, 2  # roads are not asked for
    assert np.array_equal(codes, expected)
    assert len(np.unique(labels)) == 3
    around = source.read(Window(-3, -4, 60, 50))
    assert np.array_equal(around[0][4:44, 3:53], codes)
    assert (around[0][:4] == 255).all()
    assert not around[1][:4].any()


def test_windows_show_what_the_whole_grid_shows(grid, tmp_path):
    rng = np.random.default_rng(2)
    x, y = 500_000 + 25 * rng.random(30), 5_200_000 - 20 * rng.random(30)
    shapes = shapely.buffer(shapely.points(x, y), 0.3 + 3 * rng.random(30))
    gpd.GeoDataFrame({"confidence": rng.random(30)}, geometry=shapes, crs="EPSG:32614").to_file(tmp_path / "a.gpkg")
    source = PolygonSource.open([str(tmp_path / "a.gpkg")], grid, {"water": 1}, "class")
    _, labels = source.read(grid.window)
    order = np.argsort(-shapely.area(shapes))
    drawn = rasterize(zip(shapes[order], range(1, 31), strict=True), out_shape=(40, 50), transform=grid.transform)
    assert np.array_equal(labels, drawn)
    for row in range(0, 40, 7):
        for col in range(0, 50, 9):
            window = Window(col, row, min(9, 50 - col), min(7, 40 - row))
            assert np.array_equal(source.read(window)[1], labels[window.slices()])
    assert source.scores is not None
    assert np.isnan(source.scores[0])


def test_classes_may_be_codes_and_one_class_needs_no_name(write_boxes, grid):
    path = str(write_boxes([(0, 0, 9, 9), (20, 20, 9, 9)], kind=[3, 1]))
    codes, _ = PolygonSource.open([path], grid, CODES, "kind").read(grid.window)
    assert (codes[0, 0], codes[20, 20]) == (2, 1)
    codes, _ = PolygonSource.open([path], grid, {"water": 1}, "class").read(grid.window)
    assert (codes[0, 0], codes[20, 20]) == (1, 1)
    with pytest.raises(InputError, match="has no attribute 'class'"):
        PolygonSource.open([path], grid, CODES, "class")
    with pytest.raises(InputError, match="its 'kind' is 1, 3; --classes has road"):
        PolygonSource.open([path], grid, {"road": 7}, "kind")


def test_all_layers_of_a_file_count(grid, tmp_path):
    for name, x in (("water", 500_000), ("field", 500_010)):
        shapes = [shapely.box(x, 5_199_990, x + 5, 5_200_000)]
        gpd.GeoDataFrame({"class": [name]}, geometry=shapes, crs="EPSG:32614").to_file(tmp_path / "a.gpkg", layer=name)
    codes, _ = PolygonSource.open([str(tmp_path / "a.gpkg")], grid, CODES, "class").read(grid.window)
    assert (codes[0, 0], codes[0, 20]) == (1, 2)


@pytest.mark.parametrize("name", ["none.geojson", "none.parquet", "none.gpkg"])
def test_a_layer_may_be_empty(write_boxes, grid, tmp_path, name):
    full = write_boxes([(0, 0, 9, 9)], f"full{name[4:]}", confidence=[0.5], **{"class": ["field"]})
    frame = gpd.read_parquet(full) if name.endswith("parquet") else gpd.read_file(full)
    if name.endswith("parquet"):
        frame[:0].to_parquet(tmp_path / name)
    else:
        frame[:0].to_file(tmp_path / name)
    codes, labels = PolygonSource.open([str(tmp_path / name)], grid, CODES, "class").read(grid.window)
    assert not codes.any()
    assert not labels.any()
    both = PolygonSource.open([str(tmp_path / name), str(full)], grid, CODES, "class")
    assert both.read(grid.window)[0].sum() == 2 * 81
    assert both.scores.tolist()[1:] == [0.5]


def test_what_cannot_be_judged_is_refused(write_raster, write_boxes, grid, tmp_path):
    wide = str(write_raster(np.zeros((4, 4), np.uint16), "wide.tif"))
    assert not is_vector(wide)
    with pytest.raises(InputError, match="needs --instances"):
        MaskSource.open(wide, grid, [1])
    with pytest.raises(InputError, match="3 bands"):
        MaskSource.open(str(write_raster(np.zeros((3, 4, 4), np.uint8), "three.tif")), grid, [1])
    with pytest.raises(InputError, match="whole"):
        InstanceSource.open(str(write_raster(np.zeros((4, 4), np.float32), "real.tif")), grid, 1)
    with pytest.raises(InputError, match="no such file"):
        is_vector(str(tmp_path / "none.gpkg"))
    path = write_boxes([(0, 0, 9, 9)])
    assert is_vector(str(path))
    frame = gpd.read_file(path)
    frame.to_file(tmp_path / "nowhere.shp")
    (tmp_path / "nowhere.prj").unlink()
    with pytest.raises(InputError, match="no CRS"):
        PolygonSource.open([str(tmp_path / "nowhere.shp")], grid, {"water": 1}, "class")
    frame.set_geometry(frame.geometry.centroid).to_file(tmp_path / "points.gpkg")
    with pytest.raises(InputError, match="no polygons"):
        PolygonSource.open([str(tmp_path / "points.gpkg")], grid, {"water": 1}, "class")
    (tmp_path / "bad.geojson").write_text("{}")
    with pytest.raises(InputError, match="cannot be read as a vector layer"):
        PolygonSource.open([str(tmp_path / "bad.geojson")], grid, {"water": 1}, "class")


def test_spikes_of_polygons_are_not_drawn(grid, tmp_path):
    x, y = 500_000, 5_200_000
    spiked = shapely.Polygon(
        [(x, y), (x + 5, y), (x + 5, y - 2.7), (x + 20, y - 2.7), (x + 5, y - 2.7), (x + 5, y - 5), (x, y - 5)]
    )
    gpd.GeoDataFrame(geometry=[spiked], crs="EPSG:32614").to_file(tmp_path / "a.gpkg")
    codes, _ = PolygonSource.open([str(tmp_path / "a.gpkg")], grid, {"water": 1}, "class").read(grid.window)
    assert codes[:10, :10].all()
    assert codes.sum() == 100

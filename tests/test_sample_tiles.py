"""The sample tiles: scene, mask and polygons fit together."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize

FOLDER = Path(__file__).parents[1] / "sample_tiles"
CODES = {"water": 1, "road": 2, "field": 3, "parking": 4}


@pytest.fixture(scope="module")
def mask():
    with rasterio.open(FOLDER / "riverside_truth.tif") as tif:
        return tif.read(1), tif.transform, tif.crs


@pytest.fixture(scope="module")
def truth():
    return gpd.read_file(FOLDER / "riverside_truth.geojson")


def test_scene_is_georeferenced_and_small(mask):
    path = FOLDER / "riverside.tif"
    assert path.stat().st_size < 4e6
    with rasterio.open(path) as tif:
        assert (tif.count, tif.height, tif.width, tif.dtypes[0]) == (3, 2048, 2048, "uint8")
        assert tif.profile["tiled"]
        assert tif.overviews(1)
        assert tif.tags()["TIFFTAG_DATETIME"] == "2026:06:21 10:30:00"
        assert (tif.transform, tif.crs) == mask[1:]


def test_polygons_are_the_mask(mask, truth):
    codes, transform, crs = mask
    shapes = zip(truth.to_crs(crs).geometry, truth["class"].map(CODES), strict=True)
    burnt = rasterize(shapes, out_shape=codes.shape, transform=transform, dtype=np.uint8)
    # coordinates are rounded to a millimetre
    assert np.count_nonzero(burnt != codes) < 400


def test_it_shows_everything(mask, truth):
    codes = mask[0]
    assert set(np.unique(codes)) == {0, 1, 2, 3, 4}
    counts = truth["class"].value_counts()
    assert counts["field"] > 50
    assert counts["parking"] >= 3
    water = truth[truth["class"] == "water"].geometry
    assert max(len(shape.interiors) for shape in water) >= 2
    assert truth.geometry.is_valid.all()


def test_stalls_lie_on_lots(truth):
    stalls = gpd.read_file(FOLDER / "riverside_stalls.geojson").to_crs(32633)
    assert 0 < stalls["taken"].astype(bool).sum() < len(stalls)
    lots = truth[truth["class"] == "parking"].to_crs(32633).union_all()
    assert stalls.geometry.centroid.within(lots).mean() > 0.99

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image

from geoseg.errors import GeosegError
from geoseg.lattice import Window
from geoseg.training.config import read_config
from geoseg.training.crops import Crop
from geoseg.training.pictures import OpenSet, RasterPicture, open_sets

GREY = (124, 116, 104)
LEFT, TOP = 500_000, 5_200_000  # of `write_raster`, at half a metre


def open_one(folder: Path, one: dict[str, Any], **more: Any) -> OpenSet:
    given = {"name": "m", "classes": ["water", "road", "field"], "gsd_range_m": [0.5, 1], "steps": 1, "data": [one]}
    config = read_config(given | more)
    (found,) = open_sets(dataclasses.replace(config, folder=folder), GREY)
    return found


def whole(opened: OpenSet, place: int = 0) -> Crop:
    picture = opened.pictures[place]
    return picture.read(Window(0, 0, picture.size[1], picture.size[0]))


@pytest.fixture
def image(write_raster) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 40, 60)).astype(np.uint8)
    return write_raster(pixels, "a.tif", descriptions=("red", "green", "blue"))


@pytest.fixture
def write_polygons(tmp_path: Path):
    """Write boxes given in pixels (left, top, right, bottom) of the image."""

    def write(
        boxes: list[tuple[float, ...]], name: str = "labels.gpkg", crs: str = "EPSG:32614", **columns: Any
    ) -> Path:
        shapes = [shapely.box(LEFT + a / 2, TOP - d / 2, LEFT + c / 2, TOP - b / 2) for a, b, c, d in boxes]
        gpd.GeoDataFrame(columns, geometry=shapes, crs="EPSG:32614").to_crs(crs).to_file(tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize("crs", ["EPSG:32614", "EPSG:4326"])
@pytest.mark.parametrize("name", ["labels.gpkg", "labels.geojson", "labels.shp"])
def test_polygons_become_classes_and_objects(image: Path, write_polygons, tmp_path: Path, crs: str, name: str) -> None:
    boxes = [(5, 5, 20, 30), (20, 5, 40, 30), (0, 32, 60, 36), (50, 0, 55, 5)]
    write_polygons(boxes, name, crs, **{"class": ["field", "field", "road", "barn"]})
    opened = open_one(tmp_path, {"images": "*.tif", "polygons": name})
    crop = whole(opened)
    expected = np.zeros((40, 60), np.uint16)
    expected[5:30, 5:40] = 4
    expected[32:36] = 2
    assert np.array_equal(crop.present, expected)
    assert (crop.known == 7).all()
    assert crop.instances is not None
    assert len(np.unique(crop.instances[5:30, 5:20])) == len(np.unique(crop.instances[5:30, 20:40])) == 1
    assert crop.instances[10, 10] != crop.instances[10, 30]
    assert opened.notes == (f"{name}: polygons with class barn are left out",)
    assert opened.stems == ("a",)
    with rasterio.open(image) as data:
        assert np.array_equal(crop.image.transpose(2, 0, 1), data.read())


def test_one_class_for_a_file_leaves_the_others_unknown_and_an_area_limits_all(
    image: Path, write_polygons, tmp_path: Path
) -> None:
    write_polygons([(5, 5, 20, 30)], "lakes.gpkg")
    write_polygons([(0, 0, 30, 40)], "area.gpkg")
    crop = whole(
        open_one(tmp_path, {"images": "a.tif", "polygons": "lakes.gpkg", "class": "water", "area": "area.gpkg"})
    )
    assert (crop.known[:, :30] == 1).all()
    assert not crop.known[:, 30:].any()
    assert np.count_nonzero(crop.present) == 15 * 25


def test_attributes_may_have_other_names_and_words(image: Path, write_polygons, tmp_path: Path) -> None:
    write_polygons([(5, 5, 20, 30), (30, 5, 40, 30)], kind=[211.0, 112.0])
    one = {"images": "a.tif", "polygons": "labels.gpkg", "field": "kind", "values": {211: "field", 112: "road"}}
    crop = whole(open_one(tmp_path, one))
    assert (crop.known == 6).all()
    assert set(np.unique(crop.present)) == {0, 2, 4}


def test_masks_pair_by_stem_and_may_lie_on_another_grid(image: Path, write_raster, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    codes = np.zeros((40, 60), np.uint8)
    codes[:10], codes[10:20], codes[20:25], codes[25:30] = 3, 9, 255, 77
    write_raster(codes, "masks/a.tif")
    one = {"images": "a.tif", "labels": "masks", "codes": {3: "water", 9: "field"}, "unknown": [255, 77]}
    opened = open_one(tmp_path, one)
    crop = whole(opened)
    assert crop.instances is None
    assert (crop.present[:10] == 1).all()
    assert (crop.present[10:20] == 4).all()
    assert not crop.known[20:30].any()
    assert (crop.known[30:] == 5).all()
    write_raster(codes[::2, ::2], "a_coarse.tif", transform=rasterio.Affine(1, 0, LEFT, 0, -1, TOP))
    again = whole(open_one(tmp_path, one | {"labels": "{stem}_coarse.tif"}))
    assert np.array_equal(again.present, crop.present)
    (tmp_path / "masks" / "a.img").touch()
    with pytest.raises(GeosegError, match=r"a\.tif has two masks, .*masks/a\.img and .*masks/a\.tif; leave one"):
        open_one(tmp_path, one)


def test_oblong_pixels_become_square_as_in_a_run(write_raster, tmp_path: Path) -> None:
    codes = np.zeros((40, 40), np.uint8)
    codes[10:30, 8:32] = 1
    step = 9e-6  # a metre of latitude, and half a metre of longitude at 60 degrees north
    place = {"transform": rasterio.Affine(step, 0, 10, 0, -step, 60), "crs": "EPSG:4326"}
    write_raster(np.stack([codes * 200] * 3), "a.tif", descriptions=("red", "green", "blue"), **place)
    write_raster(codes, "m_a.tif", **place)
    opened = open_one(tmp_path, {"images": "a.tif", "labels": "m_{stem}.tif", "codes": {1: "water"}})
    rows, cols = opened.pictures[0].size
    assert rows == pytest.approx(2 * cols, abs=1)
    crop = whole(opened)
    assert np.mean((crop.present > 0) == (crop.image[..., 0] >= 100)) > 0.97


def test_chips_without_a_place_have_the_gsd_that_is_given(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder, size in (("images", (20, 30, 3)), ("masks", (20, 30))):
        (tmp_path / folder).mkdir()
        Image.fromarray(rng.integers(0, 3, size).astype(np.uint8)).save(tmp_path / folder / "c.png")
    one = {"images": "images", "labels": "masks", "codes": {1: "water"}, "gsd_m": 0.6, "mosaic": True}
    opened = open_one(tmp_path, one)
    assert opened.pictures[0].gsd_m == pytest.approx(0.6)
    assert opened.gsd_range_m == (0.5, 1)
    with Image.open(tmp_path / "masks" / "c.png") as mask:
        assert np.array_equal(whole(opened).present > 0, np.asarray(mask) == 1)
    with pytest.raises(GeosegError, match=r"data\[0\] \(set 1\): .*no geotransform"):
        open_one(tmp_path, {key: value for key, value in one.items() if key != "gsd_m"})


def test_pictures_too_large_to_hold_are_read_by_windows(
    image: Path, write_polygons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_polygons([(5, 5, 20, 30), (20, 5, 40, 30)], **{"class": ["field", "road"]})
    one = {"images": "a.tif", "polygons": "labels.gpkg"}
    held = open_one(tmp_path, one)
    monkeypatch.setattr("geoseg.training.pictures.HELD_BYTES", 100)
    opened = open_one(tmp_path, one)
    assert isinstance(held.pictures[0], Crop)
    assert isinstance(opened.pictures[0], RasterPicture)
    assert held.digest == opened.digest
    for window in (Window(0, 0, 60, 40), Window(7, 3, 20, 20), Window(-5, -6, 80, 60)):
        first, second = held.pictures[0].read(window), opened.pictures[0].read(window)
        assert np.array_equal(first.present, second.present)
        assert np.array_equal(first.known, second.known)
        inside = first.known > 0
        assert np.array_equal(first.image[inside], second.image[inside])


def test_pixels_without_data_are_unknown_and_filled(write_raster, tmp_path: Path) -> None:
    pixels = np.full((3, 20, 20), 2000, np.uint16)
    pixels[:, :5] = 0
    write_raster(pixels, "b.tif", nodata=0)
    one = {"images": "b.tif", "annotates": ["water"], "scale": [1000, 3000], "bands": [3, 2, 1]}
    crop = whole(open_one(tmp_path, one))
    assert not crop.known[:5].any()
    assert (crop.known[5:] == 1).all()
    assert not crop.present.any()
    assert (crop.image[:5] == GREY).all()
    assert set(np.unique(crop.image[5:])) <= {127, 128}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": "none/*.tif"}, "images: none/.* finds no file"),
        ({"polygons": "none.gpkg"}, "polygons: none.gpkg finds no file"),
        ({"polygons": "a.tif"}, "is no vector file"),
        ({"field": "kind"}, "no attribute kind"),
        ({"field": "id"}, "none of them is"),
        ({"polygons": "plain.gpkg"}, "no attribute class"),
        ({"bands": ["nir"]}, 'no band is "nir"'),
        ({"bands": [1]}, "the model takes red, green, blue"),
        ({"gsd_range_m": [0.1, 0.2]}, None),
    ],
)
def test_what_does_not_fit_is_refused(
    image: Path, write_polygons, tmp_path: Path, change: dict[str, Any], message: str | None
) -> None:
    write_polygons([(5, 5, 20, 30)], **{"class": ["field"], "id": ["x"]})
    write_polygons([(5, 5, 20, 30)], "plain.gpkg")
    one = {"images": "a.tif", "polygons": "labels.gpkg"} | change
    if message is None:
        assert open_one(tmp_path, one).gsd_range_m == (0.1, 0.2)
        with pytest.raises(GeosegError, match="give finer images"):
            open_one(tmp_path, {"images": "a.tif", "polygons": "labels.gpkg"}, gsd_range_m=[0.1, 0.2])
        return
    with pytest.raises(GeosegError, match=message) as caught:
        open_one(tmp_path, one)
    assert "\n" not in str(caught.value)


def test_masks_must_be_there_and_numbers_must_fit(image: Path, write_raster, tmp_path: Path) -> None:
    write_raster(np.zeros((3, 20, 20), np.uint16), "b.tif")
    write_raster(np.zeros((40, 60), np.uint8), "mask.tif")
    masks = {"labels": "mask.tif", "codes": {1: "water"}}
    with pytest.raises(GeosegError, match="has no mask of stem a"):
        open_one(tmp_path, {"images": "a.tif"} | masks)
    with pytest.raises(GeosegError, match=r"is uint16; say with scale"):
        open_one(tmp_path, {"images": "b.tif", "annotates": ["water"]})


def test_images_without_polygons_are_noted(image: Path, write_raster, write_polygons, tmp_path: Path) -> None:
    far = rasterio.Affine(0.5, 0, LEFT + 900, 0, -0.5, TOP)
    write_raster(np.zeros((3, 20, 20), np.uint8), "far.tif", transform=far)
    write_polygons([(5, 5, 20, 30)], **{"class": ["field"]})
    opened = open_one(tmp_path, {"images": ["a.tif", "far.tif"], "polygons": "labels.gpkg"})
    assert opened.notes == ("1 images have no polygon: all background (far.tif)",)
    assert (whole(opened, 1).known == 7).all()

"""The vector half alone, against GDAL's own polygonizer on the whole mask."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
from affine import Affine

import geoseg
from geoseg import Execution, VectorSettings
from geoseg.errors import SceneError, SettingsError

EXACT = VectorSettings(min_area_m2=0, simplify_m=0, formats=("parquet",))


@pytest.fixture
def write_mask(tmp_path):
    def write(mask: np.ndarray, name: str = "mask", **profile) -> Path:
        path = tmp_path / f"{name}.tif"
        options = {
            "driver": "GTiff",
            "count": 1,
            "height": mask.shape[0],
            "width": mask.shape[1],
            "dtype": mask.dtype,
            "crs": "EPSG:32614",
            "transform": Affine(2, 0, 500_000, 0, -2, 5_000_000),
            "nodata": 255,
        } | profile
        with rasterio.open(path, "w", **options) as raster:
            raster.write(mask, 1)
        return path

    return write


def realistic(height: int, width: int, seed: int) -> np.ndarray:
    """Classes from smooth noise, with a nodata strip, (rows, cols) uint8."""
    rng = np.random.default_rng(seed)
    planes = []
    for _ in range(5):
        plane = np.zeros((height, width))
        for cell in (4, 24, 90):
            coarse = rng.normal(size=(-(-height // cell) + 1, -(-width // cell) + 1))
            plane += np.kron(coarse, np.ones((cell, cell)))[:height, :width] * cell**0.5
        planes.append(plane)
    mask = np.argmax(planes, axis=0).astype(np.uint8)
    mask[:, width // 2 : width // 2 + 9] = 255
    return mask


def contents(directory: Path) -> dict[str, bytes]:
    """All layers, byte for byte."""
    return {
        path.name: path.read_bytes()
        for path in sorted(directory.iterdir())
        if path.name != "run.json" and path.is_file()
    }


def canonical(geometries) -> list[bytes]:
    return sorted(shapely.to_wkb(shapely.normalize(np.asarray(geometries))))


MASKS = {
    "few pixels": np.random.default_rng(9).choice(np.array([0, 1, 1, 2, 255], np.uint8), (11, 14)),
    "noise": np.random.default_rng(1).integers(0, 4, (61, 83), dtype=np.uint8),
    "realistic": realistic(230, 310, 2),
    "checkerboard": (np.indices((40, 41)).sum(axis=0) % 2 + 1).astype(np.uint8),
    "one class": np.full((33, 70), 7, np.uint8),
    "nothing": np.zeros((12, 12), np.uint8),
    "nodata": np.full((12, 12), 255, np.uint8),
    "one row": np.random.default_rng(3).integers(0, 3, (1, 150), dtype=np.uint8),
    "one column": np.random.default_rng(4).integers(0, 3, (150, 1), dtype=np.uint8),
}


@pytest.mark.parametrize("name", MASKS)
def test_gives_exactly_gdals_polygons_for_any_chunk(write_mask, tmp_path, name):
    mask = MASKS[name]
    path = write_mask(mask)
    with rasterio.open(path) as raster:
        shapes = rasterio.features.shapes(
            mask, mask=(mask != 0) & (mask != 255), connectivity=4, transform=raster.transform
        )
        expected: dict[str, list] = {}
        for geometry, value in shapes:
            expected.setdefault(f"class_{int(value)}", []).append(shapely.geometry.shape(geometry))
    first = None
    for chunk in (2048, 64, 17, *([7] if mask.size < 5000 else []), *([1] if mask.size < 200 else [])):
        home = tmp_path / str(chunk)
        result = geoseg.vectorize(path, home, settings=EXACT, execution=Execution(serial=True, chunk=chunk))
        first = first or contents(home)
        assert contents(home) == first, chunk
    assert set(result.layers) == set(expected)
    for layer, geometries in expected.items():
        found = result.layer(layer).geometry
        assert canonical(found) == canonical(geometries)
        assert found.is_valid.all()


@pytest.mark.parametrize(
    "settings",
    [
        VectorSettings(min_area_m2=0),
        VectorSettings(min_area_m2=0, simplify_method="douglas-peucker", simplify_m=3),
        VectorSettings(min_area_m2=0, smooth=True),
        VectorSettings(min_area_m2=0, boundaries=((1, 2),), growth_px=5),
        VectorSettings(),
    ],
    ids=["default tolerance", "douglas-peucker", "smooth", "split class", "small ones sieved"],
)
def test_layers_do_not_depend_on_chunks_or_workers(write_mask, tmp_path, settings):
    path = write_mask(realistic(150, 170, 8))
    first = None
    for name, execution in {
        "whole": Execution(serial=True, chunk=2048),
        "small": Execution(serial=True, chunk=23),
        "middle": Execution(serial=True, chunk=64),
        "workers": Execution(workers=2, chunk=50),
    }.items():
        geoseg.vectorize(path, tmp_path / name, settings=settings, execution=execution)
        first = first or contents(tmp_path / name)
        assert len(first) > 2
        assert contents(tmp_path / name) == first, name


def test_touching_fields_stay_apart(write_mask, tmp_path):
    mask = np.full((60, 70), 5, np.uint8)
    for row in range(0, 60, 14):
        for col in range(0, 70, 11):
            mask[row : row + 11, col : col + 8] = 3
    settings = VectorSettings(min_area_m2=0, boundaries=((3, 5),), formats=("parquet",))
    result = geoseg.vectorize(
        write_mask(mask), tmp_path / "layers", settings=settings, execution=Execution(serial=True, chunk=16)
    )
    assert list(result.layers) == ["class_3"]
    fields = result.layer("class_3").geometry
    assert len(fields) == 5 * 7
    assert fields.area.sum() == mask.size * 4
    assert shapely.coverage_is_valid(fields.to_numpy())


def test_names_classes_and_leaves_confidence_unknown(write_mask, tmp_path):
    path = write_mask(realistic(200, 200, 5))
    result = geoseg.vectorize(
        path, tmp_path / "layers", classes={"lake": 2, "wood": 3}, execution=Execution(serial=True)
    )
    assert list(result.layers) == ["lake", "wood"]
    feature = json.loads((result.directory / "lake.geojson").read_text())["features"][0]
    assert feature["properties"]["class"] == "lake"
    assert feature["properties"]["confidence"] is None
    assert sum(layer.share for layer in result.layers.values()) < 1


def test_default_settings_leave_a_valid_coverage(write_mask, tmp_path):
    path = write_mask(realistic(300, 300, 6))
    result = geoseg.vectorize(
        path, tmp_path / "layers", settings=VectorSettings(min_area_m2=0), execution=Execution(serial=True, chunk=100)
    )
    everything = np.concatenate([result.layer(name).geometry.to_numpy() for name in result.layers])
    assert shapely.is_valid(everything).all()
    assert shapely.coverage_is_valid(everything)


def test_small_polygons_are_left_out(write_mask, tmp_path):
    mask = np.zeros((50, 50), np.uint8)
    mask[5, 5], mask[20:30, 20:30] = 1, 1
    settings = VectorSettings(min_area_m2=5, simplify_m=0)
    result = geoseg.vectorize(
        write_mask(mask), tmp_path / "layers", settings=settings, execution=Execution(serial=True)
    )
    assert result.layers["class_1"].polygons == 1
    assert result.layers["class_1"].area_m2 == pytest.approx(400, rel=1e-2)


@pytest.mark.parametrize(
    ("mask", "profile", "message"),
    [
        (np.array([[0, 255]], np.uint8), {"nodata": None}, "255"),
        (np.array([[0, 700]], np.uint16), {"nodata": None}, "700.*0-254"),
        (np.array([[0.5, 1]], np.float32), {"nodata": None}, "whole numbers"),
    ],
    ids=["255 not declared", "code too large", "no whole number"],
)
def test_masks_that_are_no_masks_are_refused(write_mask, tmp_path, mask, profile, message):
    path = write_mask(mask, **profile)
    with pytest.raises(SceneError, match=message):
        geoseg.vectorize(path, tmp_path / "layers", execution=Execution(serial=True))
    assert not (tmp_path / "layers").exists()


def test_a_scene_is_no_mask(land, tmp_path):
    with pytest.raises(SceneError, match="3 bands; a mask has one"):
        geoseg.vectorize(land, tmp_path / "layers", execution=Execution(serial=True))


@pytest.mark.parametrize(
    ("classes", "boundaries", "complaint"),
    [
        ({"field": 1, "edge": 2}, ((1, 2),), "edge=2"),
        ({"field": 300}, (), "300"),
        ({"ground": 0}, (), "0"),
    ],
)
def test_refuses_layers_that_no_mask_can_have(write_mask, tmp_path, classes, boundaries, complaint):
    path = write_mask(np.ones((4, 4), np.uint8))
    with pytest.raises(SettingsError, match=complaint):
        geoseg.vectorize(path, tmp_path / "out", classes=classes, settings=VectorSettings(boundaries=boundaries))
    assert not (tmp_path / "out").exists()


def test_rewritten_masks_do_not_outlive_the_run(write_mask, tmp_path):
    settings = VectorSettings(min_area_m2=40, min_width_m=4, formats=("parquet",))
    geoseg.vectorize(
        write_mask(MASKS["realistic"]), tmp_path / "out", settings=settings, execution=Execution(serial=True)
    )
    left = sorted(path.name for path in (tmp_path / "out" / ".geoseg").iterdir())
    assert left == ["arrays.zarr", "done", "lock", "manifest.json"]
    assert [path.name for path in (tmp_path / "out" / ".geoseg" / "arrays.zarr").iterdir()] == ["zarr.json"]


def test_a_scene_whose_corners_lie_off_the_earth(write_mask, tmp_path):
    rows, cols = np.mgrid[-9:9, -18:18]
    mask = np.where((rows / 9) ** 2 + (cols / 18) ** 2 < 0.8, 1 + (cols > 0), 255).astype(np.uint8)
    path = write_mask(mask, crs="ESRI:54009", transform=Affine(1e6, 0, -18e6, 0, -1e6, 9e6))
    result = geoseg.vectorize(
        path, tmp_path / "out", settings=VectorSettings(formats=("parquet",)), execution=Execution(serial=True)
    )
    assert {name: (layer.polygons, layer.share) for name, layer in result.layers.items()} == {
        "class_1": (1, None),
        "class_2": (1, None),
    }

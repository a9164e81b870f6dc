"""The vector half alone, against GDAL's own polygonizer on the whole mask."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
from affine import Affine

import geoseg
from geoseg import Execution, VectorSettings
from geoseg.engine import kernels
from geoseg.errors import ChunkError, SceneError, SettingsError
from geoseg.export import vectors

from ..stages.masks import nested, spiral  # noqa: TID252  (the tests lie on no path)

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
    "spiral": spiral(45, 70),
    "nested rings": nested(45, 70),
    "one-pixel lines": (np.indices((45, 70)).sum(axis=0) // 9 % 2 * 2 + np.indices((45, 70))[0] % 2).astype(np.uint8),
    "more than a thousand pixels": realistic(1012, 1030, 4),
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
    chunks = (1000, 256) if mask.size > 1e6 else (64, 17)
    for chunk in (2048, *chunks, *([7] if mask.size < 5000 else []), *([1] if mask.size < 200 else [])):
        home = tmp_path / str(chunk)
        result = geoseg.vectorize(path, home, settings=EXACT, execution=Execution(threads=1, chunk=chunk))
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
    ],
    ids=["default tolerance", "douglas-peucker", "smooth", "split class"],
)
def test_layers_do_not_depend_on_chunks_or_workers(write_mask, tmp_path, settings):
    path = write_mask(realistic(150, 170, 8))
    first = None
    for name, execution in {
        "whole": Execution(threads=1, chunk=2048),
        "small": Execution(threads=1, chunk=23),
        "middle": Execution(threads=1, chunk=64),
        "workers": Execution(workers=2, chunk=50),
    }.items():
        geoseg.vectorize(path, tmp_path / name, settings=settings, execution=execution)
        first = first or contents(tmp_path / name)
        assert len(first) > 2
        assert contents(tmp_path / name) == first, name


def nest(depth: int, ring: int) -> np.ndarray:
    """Squares within squares of the codes 1 and 2, each a ring of so many pixels."""
    side = np.arange(2 * depth + 1)
    deep = np.minimum(side, side[::-1])
    return np.kron(1 + np.minimum(deep[:, None], deep) % 2, np.ones((ring, ring))).astype(np.uint8)


def cluttered() -> np.ndarray:
    """What cleaning is for, over the seams of any chunks: specks, holes, thin roads, and nests of small ones."""
    mask = np.full((106, 130), 3, np.uint8)
    mask[:, 70:] = 4
    random = np.random.default_rng(7)
    for _ in range(160):
        row, col = random.integers(0, 104), random.integers(0, 127)
        height, width = random.integers(1, 7, 2)
        mask[row : row + height, col : col + width] = random.choice(
            [0, 0, 1, 2, 3, 4, 255], p=[0.2] * 4 + [0.08] * 2 + [0.04]
        )
    mask[30:32], mask[:, 20:23], mask[60:66, :] = 1, 2, 1
    for row, col, depth, ring in ((8, 42, 6, 1), (38, 85, 5, 3), (94, 58, 5, 1), (75, 2, 3, 3)):
        square = nest(depth, ring)[: 106 - row]
        mask[row : row + len(square), col : col + square.shape[1]] = square
    return mask


CLEANING = {
    "sieved": VectorSettings(min_area_m2=260, fill_holes_m2=90, smooth=True),
    "opened": VectorSettings(min_area_m2=0, min_width_m=9, simplify_m=3),
    "all": VectorSettings(
        min_area_m2=1500, fill_holes_m2=300, min_width_m=6, smooth=True, simplify_method="douglas-peucker"
    ),
    "split": VectorSettings(min_area_m2=150, fill_holes_m2=60, min_width_m=8, boundaries=((1, 2),), growth_px=5),
}


@pytest.mark.parametrize("name", CLEANING)
def test_cleaned_layers_do_not_depend_on_chunks_or_workers(write_mask, tmp_path, name):
    path = write_mask(cluttered())
    settings = replace(CLEANING[name], formats=("parquet",))
    first = None
    for execution in (
        Execution(threads=1, chunk=2048),
        Execution(threads=1, chunk=16),
        Execution(threads=1, chunk=100),
        Execution(workers=2, chunk=64) if name == "all" else Execution(threads=1, chunk=64),
    ):
        home = tmp_path / str(execution.chunk)
        geoseg.vectorize(path, home, settings=settings, execution=execution)
        first = first or contents(home)
        assert len(first) >= 2
        assert contents(home) == first, execution


@pytest.fixture
def areas_of(write_mask, tmp_path):
    """Vectorize a mask of pixels of 4 m2 in chunks of 16; give the pixels, and the holes, of each polygon by layer."""

    def areas_of(mask: np.ndarray, **settings) -> dict[str, list[tuple[float, int]]]:
        result = geoseg.vectorize(
            write_mask(mask),
            tmp_path / "layers",
            settings=VectorSettings(**{"min_area_m2": 0, "simplify_m": 0, "formats": ("parquet",)} | settings),
            execution=Execution(threads=1, chunk=16),
            overwrite=True,
        )
        everything = np.concatenate([result.layer(name).geometry.to_numpy() for name in result.layers])
        if settings.get("simplify_m"):
            assert shapely.coverage_is_valid(everything)
        return {
            name: sorted((shape.area / 4, len(shape.interiors)) for shape in result.layer(name).geometry)
            for name in result.layers
        }

    return areas_of


def test_holes_are_filled(areas_of):
    mask = np.full((60, 70), 1, np.uint8)
    mask[14:18, 30:34], mask[40:45, 40:45], mask[0:2, 5:8] = 0, 0, 0
    kept = mask.size - 16 - 25 - 6
    assert areas_of(mask) == {"class_1": [(kept, 2)]}
    # the larger hole is too large, and the one at the scene's edge may go on
    assert areas_of(mask, fill_holes_m2=100) == {"class_1": [(kept + 16, 1)]}
    assert areas_of(mask, fill_holes_m2=101) == {"class_1": [(kept + 16 + 25, 0)]}


def test_parts_below_the_least_width_vanish(areas_of):
    mask = np.full((60, 70), 1, np.uint8)
    mask[:, 40:] = 3
    mask[:, 31:33], mask[:, 50:53] = 2, 2  # 4 m and 6 m wide; the first at a seam
    expected = {"class_1": [(60 * 7, 0), (60 * 31, 0)], "class_2": [(60 * 2, 0), (60 * 3, 0)]}
    assert areas_of(mask) == expected | {"class_3": [(60 * 10, 0), (60 * 17, 0)]}
    expected = {"class_1": [(60 * 40, 0)], "class_2": [(60 * 3, 0)]}
    assert areas_of(mask, min_width_m=6) == expected | {"class_3": [(60 * 10, 0), (60 * 17, 0)]}
    assert areas_of(mask, min_width_m=6.1) == {"class_1": [(60 * 40, 0)], "class_3": [(60 * 30, 0)]}


def test_small_ones_go_to_the_longest_boundary(areas_of):
    mask = np.full((60, 70), 1, np.uint8)
    mask[:, 32:] = 3
    mask[15:18, 31:35], mask[40:44, 30:34] = 2, 2  # 12 px, more of its boundary with 3; 16 px
    everywhere = {"class_1": [(60 * 32 - 3 - 8, 0)], "class_2": [(12, 0), (16, 0)], "class_3": [(60 * 38 - 9 - 8, 0)]}
    assert areas_of(mask) == everywhere
    expected = {"class_1": [(60 * 32 - 3 - 8, 0)], "class_2": [(16, 0)], "class_3": [(60 * 38 + 3 - 8, 0)]}
    assert areas_of(mask, min_area_m2=60) == expected
    # equally long ones: the smaller code
    assert areas_of(mask, min_area_m2=65) == {"class_1": [(60 * 32 - 3 + 8, 0)], "class_3": [(60 * 38 + 3 - 8, 0)]}


def test_cleaning_opens_no_hole(areas_of):
    mask = cluttered()
    mask[8:21, 42:55], mask[38:71, 85:118] = 3, 4  # nests so deep that what is inmost becomes background, as noise does
    mask[np.isin(mask, (0, 255))] = 1
    for settings in (CLEANING["sieved"], CLEANING["all"]):
        options = {name: getattr(settings, name) for name in ("min_area_m2", "fill_holes_m2", "min_width_m", "smooth")}
        found = areas_of(mask, simplify_m=2, **options)
        assert sum(area for layer in found.values() for area, _ in layer) == pytest.approx(mask.size, abs=1e-6), options


def test_touching_fields_stay_apart(write_mask, tmp_path):
    mask = np.full((60, 70), 5, np.uint8)
    for row in range(0, 60, 14):
        for col in range(0, 70, 11):
            mask[row : row + 11, col : col + 8] = 3
    settings = VectorSettings(min_area_m2=0, boundaries=((3, 5),), formats=("parquet",))
    result = geoseg.vectorize(
        write_mask(mask), tmp_path / "layers", settings=settings, execution=Execution(threads=1, chunk=16)
    )
    assert list(result.layers) == ["class_3"]
    fields = result.layer("class_3").geometry
    assert len(fields) == 5 * 7
    assert fields.area.sum() == mask.size * 4
    assert shapely.coverage_is_valid(fields.to_numpy())


def test_names_classes_and_leaves_confidence_unknown(write_mask, tmp_path):
    path = write_mask(realistic(200, 200, 5))
    result = geoseg.vectorize(path, tmp_path / "layers", classes={"lake": 2, "wood": 3}, execution=Execution(threads=1))
    assert list(result.layers) == ["lake", "wood"]
    feature = json.loads((result.directory / "lake.geojson").read_text())["features"][0]
    assert feature["properties"]["class"] == "lake"
    assert feature["properties"]["confidence"] is None
    assert sum(layer.share for layer in result.layers.values()) < 1


def test_default_settings_leave_a_valid_coverage(write_mask, tmp_path):
    path = write_mask(realistic(300, 300, 6))
    result = geoseg.vectorize(
        path, tmp_path / "layers", settings=VectorSettings(min_area_m2=0), execution=Execution(threads=1, chunk=100)
    )
    everything = np.concatenate([result.layer(name).geometry.to_numpy() for name in result.layers])
    assert shapely.is_valid(everything).all()
    assert shapely.coverage_is_valid(everything)


def test_small_polygons_are_left_out(write_mask, tmp_path):
    mask = np.zeros((50, 50), np.uint8)
    mask[5, 5], mask[20:30, 20:30] = 1, 1
    settings = VectorSettings(min_area_m2=5, simplify_m=0)
    result = geoseg.vectorize(write_mask(mask), tmp_path / "layers", settings=settings, execution=Execution(threads=1))
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
        geoseg.vectorize(path, tmp_path / "layers", execution=Execution(threads=1))
    assert not (tmp_path / "layers").exists()


def test_a_worker_refuses_a_mask_without_a_traceback(write_mask, tmp_path, capfd):
    path = write_mask(np.array([[0, 255]], np.uint8), nodata=None)
    with pytest.raises(SceneError, match="255"):
        geoseg.vectorize(path, tmp_path / "layers", execution=Execution(workers=1))
    assert capfd.readouterr().err == ""


def test_a_scene_is_no_mask(land, tmp_path):
    with pytest.raises(SceneError, match="3 bands; a mask has one"):
        geoseg.vectorize(land, tmp_path / "layers", execution=Execution(threads=1))


@pytest.mark.parametrize(
    ("classes", "boundaries", "complaint"),
    [
        ({"field": 1, "edge": 2}, ((1, 2),), "edge=2"),
        ({"field": 300}, (), "300"),
        ({"field": 1, "crop": 1}, (), "two layers one code"),
        ({"ground": 0}, (), "0"),
        ({"Failed": 1}, (), "that failed; give the layer another name"),
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
        write_mask(MASKS["realistic"]), tmp_path / "out", settings=settings, execution=Execution(threads=1)
    )
    left = sorted(path.name for path in (tmp_path / "out" / ".geoseg").iterdir())
    assert left == ["lock", "manifest.json", "masks"]
    [store] = (tmp_path / "out" / ".geoseg" / "masks").iterdir()
    assert sorted(path.name for path in store.iterdir()) == ["arrays.zarr", "done"]
    assert [path.name for path in (store / "arrays.zarr").iterdir()] == ["zarr.json"]


def test_a_scene_whose_corners_lie_off_the_earth(write_mask, tmp_path):
    rows, cols = np.mgrid[-9:9, -18:18]
    mask = np.where((rows / 9) ** 2 + (cols / 18) ** 2 < 0.8, 1 + (cols > 0), 255).astype(np.uint8)
    path = write_mask(mask, crs="ESRI:54009", transform=Affine(1e6, 0, -18e6, 0, -1e6, 9e6))
    result = geoseg.vectorize(
        path, tmp_path / "out", settings=VectorSettings(formats=("parquet",)), execution=Execution(threads=1)
    )
    assert {name: (layer.polygons, layer.share) for name, layer in result.layers.items()} == {
        "class_1": (1, None),
        "class_2": (1, None),
    }


def test_a_chunk_may_be_larger_than_any_memory(write_mask, tmp_path):
    whole = Execution(threads=1, chunk=1_000_000)
    result = geoseg.vectorize(write_mask(MASKS["realistic"]), tmp_path / "out", execution=whole)
    assert result.layers["class_1"].polygons > 0


def test_what_cannot_be_prepared_is_told_by_nobody_who_does_not_need_it(write_mask, tmp_path, monkeypatch, capfd):
    def fail():
        raise RuntimeError("not today")

    monkeypatch.setattr("geoseg.engine.kernels.prepare", fail)
    result = geoseg.vectorize(write_mask(MASKS["realistic"]), tmp_path / "out", execution=Execution(threads=1))
    assert result.layers["class_1"].polygons > 0
    assert "not today" not in capfd.readouterr().err


def test_a_refusal_waits_for_what_is_being_prepared(write_mask, tmp_path, monkeypatch):
    begun, done = threading.Event(), []

    def slowly():
        begun.set()
        time.sleep(0.5)
        done.append(True)
        raise RuntimeError

    def refuse(*_):
        assert begun.wait(60)
        raise SceneError("no mask")

    monkeypatch.setattr("geoseg.engine.kernels.prepare", slowly)
    monkeypatch.setattr("geoseg.engine.kernels.check", refuse)
    with pytest.raises(SceneError, match="no mask"):
        geoseg.vectorize(write_mask(MASKS["realistic"]), tmp_path / "out", execution=Execution(threads=1))
    assert done == [True]


def test_a_damaged_mask_leaves_nothing(write_mask, tmp_path):
    path = write_mask(np.ones((256, 512), np.uint8), tiled=True, blockxsize=256, blockysize=256, compress="deflate")
    with rasterio.open(path) as raster:
        place = int(raster.get_tag_item("BLOCK_OFFSET_1_0", "TIFF", bidx=1))
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 16)
    with pytest.raises(ChunkError, match=r"1 of 2 chunks cannot be read, .*; nothing was written"):
        geoseg.vectorize(path, tmp_path / "out", execution=Execution(threads=1, chunk=256))
    assert not (tmp_path / "out").exists()


def test_all_that_can_be_prepared_is():
    rows = kernels.prepare()
    assert rows.num_rows > 1
    vectors.prepare(rows)

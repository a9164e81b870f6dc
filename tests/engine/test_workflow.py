"""The main job on small scenes: what it leaves, what it refuses, and that nothing depends on how it is cut."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from rio_cogeo.cogeo import cog_validate

import geoseg
from geoseg import Execution, RunSettings, VectorSettings
from geoseg.engine import prediction
from geoseg.errors import ChunkError, InputError, OutputError, SceneError, SettingsError

from .conftest import CORE, paint

SERIAL = Execution(threads=1, chunk=CORE)
NAMES = ("water", "road", "field", "parking")


@pytest.fixture(scope="session")
def settings(small_card) -> RunSettings:
    return RunSettings(models=(str(small_card),), vector=VectorSettings(min_area_m2=0))


@pytest.fixture(scope="session")
def finished(land, settings, tmp_path_factory):
    """The land scene, run serially with chunks of one core: the oracle of the other tests."""
    directory = tmp_path_factory.mktemp("finished") / "layers"
    return geoseg.run(land, directory, settings=settings, execution=SERIAL)


def contents(directory: Path) -> dict[str, bytes]:
    """All that must not depend on how the work was cut: vector files byte for byte, rasters pixel by pixel."""
    found = {
        path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.suffix in {".geojson", ".parquet"}
    }
    for name in ("mask.tif", "confidence.tif"):
        with rasterio.open(directory / name) as raster:
            found[name] = raster.read().tobytes()
    return found


def test_leaves_all_files_and_tells_what_they_are(finished, land):
    expected = {f"{name}{suffix}" for name in NAMES for suffix in (".geojson", ".parquet")}
    assert set(finished.files) == expected | {"mask.tif", "mask.tif.aux.xml", "confidence.tif"}
    record = json.loads((finished.directory / "run.json").read_text())
    assert record["identity"]["scene"] == str(land)
    assert record["passes"][0]["lattice"]["core"] == CORE
    assert {stage["name"] for stage in record["stages"]} >= {"predict", "label", "trace", "join", "export"}
    assert not list(finished.directory.glob(".partial*"))


def test_every_valid_pixel_is_predicted_and_no_other(finished, land):
    with rasterio.open(land) as scene, rasterio.open(finished.directory / "mask.tif") as raster:
        valid = (scene.read() != 0).any(axis=0)
        mask = raster.read(1)
        assert raster.transform == scene.transform
        assert raster.crs == scene.crs
    assert mask.shape == valid.shape
    np.testing.assert_array_equal(mask != 255, valid)
    with rasterio.open(finished.directory / "confidence.tif") as raster:
        confidence = raster.read(1)
    np.testing.assert_array_equal(confidence != 255, valid)
    assert confidence[valid].min() >= 127


def test_layers_hold_exactly_the_masks_pixels(land, settings, tmp_path):
    exact = replace(settings, vector=VectorSettings(min_area_m2=0, simplify_m=0, formats=("parquet",)))
    result = geoseg.run(land, tmp_path / "layers", settings=exact, execution=SERIAL)
    with rasterio.open(result.directory / "mask.tif") as raster:
        mask = raster.read(1)
    assert len(np.unique(mask)) > 2, "the scene must give the test something to look at"
    for code, name in enumerate(NAMES, start=1):
        layer = result.layer(name)
        assert layer.crs.to_epsg() == 32614
        assert layer.geometry.is_valid.all()
        assert layer.geometry.area.sum() == pytest.approx((mask == code).sum(), abs=1e-6)


@pytest.mark.parametrize(
    "execution",
    [
        Execution(threads=1, chunk=2 * CORE),
        Execution(threads=1, chunk=5 * CORE),
        Execution(workers=1, chunk=2 * CORE),
        Execution(workers=2, chunk=CORE),
        Execution(workers=4, chunk=2 * CORE),
    ],
    ids=lambda e: f"{e.threads or 0}-{e.workers or 0}-{e.chunk}",
)
def test_result_does_not_depend_on_chunks_or_workers(finished, land, settings, execution, tmp_path):
    result = geoseg.run(land, tmp_path / "layers", settings=settings, execution=execution)
    assert contents(result.directory) == contents(finished.directory)
    assert result.layers == finished.layers


def test_the_same_command_again_does_nothing(finished, land, settings):
    before = {path: path.stat().st_mtime_ns for path in finished.directory.iterdir()}
    again = geoseg.run(land, finished.directory, settings=settings, execution=Execution(threads=1, chunk=5 * CORE))
    assert again.layers == finished.layers
    assert {path: path.stat().st_mtime_ns for path in finished.directory.iterdir()} == before


def test_other_settings_are_refused_with_the_difference(finished, land, settings):
    other = replace(settings, vector=VectorSettings(min_area_m2=7))
    before = contents(finished.directory)
    with pytest.raises(OutputError, match=r"min_area_m2 is 0.* there, 7.* now"):
        geoseg.run(land, finished.directory, settings=other, execution=SERIAL)
    assert contents(finished.directory) == before


def test_layers_of_something_else_are_refused_in_a_word(finished, land, settings, tmp_path):
    complaint = r"holds layers of a scene; give another -o, or --overwrite$"
    with pytest.raises(OutputError, match=complaint):
        geoseg.vectorize(shutil.copy(finished.directory / "mask.tif", tmp_path), finished.directory)
    with pytest.raises(OutputError, match=complaint):
        geoseg.run_catalogue([land], finished.directory, settings=settings)


def test_a_folder_within_a_file_is_refused(land, settings, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is a file; -o takes a directory"):
        geoseg.run(land, tmp_path / "file" / "run", settings=settings)


def test_overwrite_replaces_the_earlier_run_and_nothing_else(land, settings, tmp_path):
    home = tmp_path / "layers"
    geoseg.run(land, home, settings=settings, execution=SERIAL)
    (home / "notes.txt").write_text("mine")
    water = replace(settings, classes=("water",))
    geoseg.run(land, home, settings=water, execution=SERIAL, overwrite=True)
    assert {path.name for path in home.glob("*.geojson")} == {"water.geojson"}
    assert (home / "notes.txt").read_text() == "mine"


def test_a_stopped_run_goes_on_where_it_was(finished, land, settings, tmp_path, monkeypatch):
    home = tmp_path / "layers"
    predict, done = prediction.predict, []

    def stop_after_five(job, chunk):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(chunk.key)
        return predict(job, chunk)

    monkeypatch.setattr(prediction, "predict", stop_after_five)
    with pytest.raises(KeyboardInterrupt):
        geoseg.run(land, home, settings=settings, execution=SERIAL)
    assert not list(home.glob("*.geojson"))

    def count(job, chunk):
        done.append(chunk.key)
        return predict(job, chunk)

    monkeypatch.setattr(prediction, "predict", count)
    geoseg.run(land, home, settings=settings, execution=SERIAL)
    assert len(done) == len(set(done)), "a finished chunk was done again"
    assert contents(home) == contents(finished.directory)


def test_a_failing_chunk_keeps_the_others(finished, land, settings, tmp_path, monkeypatch):
    home = tmp_path / "layers"
    predict = prediction.predict

    def fail_on_one(job, chunk):
        if chunk.key == "0001.0001":
            raise OSError("the disk is full")
        return predict(job, chunk)

    monkeypatch.setattr(prediction, "predict", fail_on_one)
    with pytest.raises(ChunkError, match=r"1 of 24 chunks failed in stage predict.*the disk is full.*again"):
        geoseg.run(land, home, settings=settings, execution=SERIAL)
    monkeypatch.undo()
    geoseg.run(land, home, settings=settings, execution=SERIAL)
    assert contents(home) == contents(finished.directory)


def test_bounding_box_gives_the_pixels_of_the_whole_run(finished, land, settings, tmp_path):
    with rasterio.open(finished.directory / "mask.tif") as raster:
        whole, transform, crs = raster.read(1), raster.transform, raster.crs
    box = geopandas.GeoSeries([shapely.box(*(transform @ (150, 180)), *(transform @ (290, 90)))], crs=crs)
    bounds = tuple(box.to_crs(4326).total_bounds)
    result = geoseg.run(land, tmp_path / "part", settings=replace(settings, bounds=bounds), execution=SERIAL)
    with rasterio.open(result.directory / "mask.tif") as raster:
        part = raster.read(1)
        col, row = (round(value) for value in ~transform @ (raster.transform.c, raster.transform.f))
    same = whole[row : row + part.shape[0], col : col + part.shape[1]]
    inside = part != 255
    assert inside.sum() >= 140 * 90
    np.testing.assert_array_equal(part[inside], same[inside])


def test_classes_are_a_choice_of_the_same_layers(finished, land, settings, tmp_path):
    result = geoseg.run(land, tmp_path / "layers", settings=replace(settings, classes=("field",)), execution=SERIAL)
    assert list(result.layers) == ["field"]
    assert result.layers["field"] == finished.layers["field"]


def test_confidence_of_layers_is_that_of_their_pixels(finished):
    with rasterio.open(finished.directory / "mask.tif") as raster:
        mask = raster.read(1)
    with rasterio.open(finished.directory / "confidence.tif") as raster:
        confidence = raster.read(1) / 254
    for code, name in enumerate(NAMES, start=1):
        layer = finished.layer(name)
        if len(layer) == 1:
            assert layer["confidence"].iloc[0] == pytest.approx(confidence[mask == code].mean(), abs=1e-4)
        assert layer["confidence"].between(0.5, 1).all()
        assert (layer["confidence_p10"] <= layer["confidence"] + 0.01).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (33, 1), (20, 20)], ids=str)
def test_scenes_smaller_than_a_tile(write_scene, settings, tmp_path, size):
    scene = write_scene(paint(*size, seed=3) | 1, f"small-{size[0]}-{size[1]}")
    result = geoseg.run(scene, tmp_path / "layers", settings=settings, execution=SERIAL)
    with rasterio.open(result.directory / "mask.tif") as raster:
        assert raster.shape == size
        assert (raster.read(1) != 255).all()


def test_a_scene_without_data_gives_empty_layers(write_scene, settings, tmp_path):
    scene = write_scene(np.zeros((3, 90, 90), np.uint8), "empty", nodata=0)
    result = geoseg.run(scene, tmp_path / "layers", settings=settings, execution=SERIAL)
    assert all(layer.polygons == 0 for layer in result.layers.values())
    assert json.loads((result.directory / "water.geojson").read_text())["features"] == []


def test_uint16_needs_a_scale_and_is_right_with_one(write_scene, finished, land, settings, tmp_path):
    with rasterio.open(land) as raster:
        pixels = raster.read()
    wide = write_scene(pixels.astype(np.uint16) * 10, "wide", nodata=0, photometric="RGB")
    with pytest.raises(SceneError, match=r"uint16.*--scale"):
        geoseg.run(wide, tmp_path / "refused", settings=settings, execution=SERIAL)
    assert not (tmp_path / "refused").exists()
    result = geoseg.run(wide, tmp_path / "layers", settings=replace(settings, scale=(0, 2550)), execution=SERIAL)
    assert result.layers == finished.layers


def test_four_bands_without_names_are_asked_for(write_scene, finished, land, settings, tmp_path):
    with rasterio.open(land) as raster:
        red, green, blue = raster.read()
    pixels = np.stack([np.where(red + green + blue == 0, 0, red // 2), red, green, blue])
    four = write_scene(pixels, "four", nodata=0, photometric="MINISBLACK", alpha="NO")
    with pytest.raises(SceneError, match="--bands"):
        geoseg.run(four, tmp_path / "refused", settings=settings, execution=SERIAL)
    assert not (tmp_path / "refused").exists()
    result = geoseg.run(four, tmp_path / "layers", settings=replace(settings, bands=("2", "3", "4")), execution=SERIAL)
    assert result.layers == finished.layers


def test_a_scene_finer_than_the_model_is_read_coarser(write_scene, settings, tmp_path):
    fine = write_scene(paint(300, 300, seed=5) | 1, "fine", gsd_m=0.1)
    result = geoseg.run(fine, tmp_path / "layers", settings=settings, execution=SERIAL)
    with rasterio.open(result.directory / "mask.tif") as raster:
        assert raster.transform.a == pytest.approx(0.3)
        assert raster.shape == (100, 100)


def test_a_scene_far_coarser_than_the_model_is_refused(write_scene, settings, tmp_path):
    coarse = write_scene(paint(50, 50), "coarse", gsd_m=30)
    with pytest.raises(SceneError, match=r"GSD of 30 m.*0\.3-5 m"):
        geoseg.run(coarse, tmp_path / "layers", settings=settings, execution=SERIAL)
    assert not (tmp_path / "layers").exists()


def test_directories_of_others_are_left_alone(land, settings, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mask.tif").write_text("precious")
    with pytest.raises(OutputError, match="not empty"):
        geoseg.run(land, tmp_path / "mine", settings=settings, execution=SERIAL)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["mask.tif"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"classes": ("lake",)}, InputError, "no class lake; it has water, road, field, parking"),
        ({"bands": ("1", "2")}, SettingsError, "names 2 bands"),
        ({"bands": ("1", "2", "9")}, SceneError, "9"),
        ({"halo": 7}, SettingsError, "multiple of its stride"),
        ({"models": ("nonesuch",)}, InputError, "no model 'nonesuch'"),
        ({"bounds": (10.0, 10.0, 11.0, 11.0)}, SceneError, "outside"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_bad_settings_are_refused_before_anything_is_written(land, settings, tmp_path, change, error, message):
    with pytest.raises(error, match=message) as caught:
        geoseg.run(land, tmp_path / "layers", settings=replace(settings, **change), execution=SERIAL)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "layers").exists()


def test_a_damaged_finished_run_is_repaired(land, settings, tmp_path):
    home = tmp_path / "layers"
    geoseg.run(land, home, settings=settings, execution=SERIAL)
    before = contents(home)
    (home / "water.geojson").unlink()
    geoseg.run(land, home, settings=settings, execution=SERIAL)
    assert contents(home) == before
    (home / "run.json").unlink()
    geoseg.run(land, home, settings=settings, execution=SERIAL)
    assert contents(home) == before


def test_an_input_inside_the_output_is_never_overwritten(land, settings, tmp_path):
    home = tmp_path / "layers"
    geoseg.run(land, home, settings=settings, execution=SERIAL)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="lies inside"):
            geoseg.vectorize(home / "mask.tif", home, execution=SERIAL, overwrite=overwrite)
    assert (home / "mask.tif").exists()


def test_two_runs_do_not_share_a_directory(land, settings, tmp_path, monkeypatch):
    home = tmp_path / "layers"
    predict = prediction.predict

    def meanwhile(job, chunk):
        if chunk.key == "0000.0000":
            with pytest.raises(OutputError, match="another run is writing"):
                geoseg.run(land, home, settings=settings, execution=SERIAL)
        return predict(job, chunk)

    monkeypatch.setattr(prediction, "predict", meanwhile)
    geoseg.run(land, home, settings=settings, execution=SERIAL)


def test_another_card_is_another_run(land, settings, write_card, tmp_path):
    home = tmp_path / "layers"
    geoseg.run(land, home, settings=settings, execution=SERIAL)
    other = write_card("small", mean=10.0)
    with pytest.raises(OutputError, match="model_digest is"):
        geoseg.run(land, home, settings=replace(settings, models=(str(other),)), execution=SERIAL)


def test_a_block_that_cannot_be_read_fails_its_chunks_only(write_scene, settings, tmp_path):
    scene = write_scene(
        paint(200, 200, seed=8), "damaged", tiled=True, blockxsize=64, blockysize=64, compress="deflate"
    )
    with scene.open("r+b") as file:
        file.truncate(int(scene.stat().st_size * 0.7))
    with pytest.raises(ChunkError, match=r"chunks failed in stage predict.*cannot be read"):
        geoseg.run(scene, tmp_path / "layers", settings=settings, execution=SERIAL)
    assert any((tmp_path / "layers" / ".geoseg" / "masks" / "small" / "done").iterdir())


@pytest.mark.parametrize("kind", ["geographic", "rotated"])
def test_other_grids_have_their_places_and_areas(write_scene, settings, tmp_path, kind):
    if kind == "geographic":
        degree = 1 / 111_320
        place = {"crs": "EPSG:4326", "transform": Affine(degree / np.cos(np.radians(50)), 0, 10, 0, -degree, 50)}
    else:
        place = {"transform": Affine.translation(500_000, 5_000_000) @ Affine.rotation(30) @ Affine.scale(1, -1)}
    scene = write_scene(paint(150, 180, seed=11) | 1, kind, **place)
    result = geoseg.run(scene, tmp_path / "layers", settings=settings, execution=SERIAL)
    layers = pd.concat([result.layer(name) for name in NAMES])
    with rasterio.open(result.directory / "mask.tif") as raster:
        mask, transform = raster.read(1), raster.transform
    assert layers["area_m2"].sum() == pytest.approx(((mask > 0) & (mask < 255)).sum(), rel=0.02)
    share = sum(layer.share for layer in result.layers.values())
    assert share == pytest.approx(((mask > 0) & (mask < 255)).mean(), abs=0.01)
    inside = shapely.contains_xy(layers.union_all(), *(transform @ (np.array([90.5]), np.array([75.5]))))
    assert inside[0] == (0 < mask[75, 90] < 255)


def test_other_tools_read_what_a_run_leaves(finished):
    for name in NAMES:
        for suffix, epsg in ((".geojson", 4326), (".parquet", 32614)):
            path = finished.directory / f"{name}{suffix}"
            layer = geopandas.read_parquet(path) if suffix == ".parquet" else pyogrio.read_dataframe(path)
            assert len(layer) == finished.layers[name].polygons
            assert layer.crs.to_epsg() == epsg
            assert layer["area_m2"].sum() == pytest.approx(finished.layers[name].area_m2, abs=0.1)
    for name in ("mask.tif", "confidence.tif"):
        valid, errors, warnings = cog_validate(finished.directory / name, strict=True)
        assert (valid, errors, warnings) == (True, [], [])

"""Several models on one scene: each has a mask of its own, and nothing depends on who shares a read with whom."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely

import geoseg
from geoseg import Execution, RunSettings, Scene, VectorSettings
from geoseg.engine import prediction
from geoseg.engine.store import Store

from .conftest import CORE, HALO, TILE, paint

SERIAL = Execution(threads=1, chunk=CORE)
CLASSES = {"near": ("water", "road"), "twin": ("field",), "far": ("parking",)}
TILES = {"near": 12, "twin": 12, "far": 4}


@pytest.fixture(scope="session")
def scene(write_scene) -> Path:
    """150 x 200 px at 1 m with a nodata corner."""
    pixels = paint(150, 200, seed=2) | 1
    pixels[:, :30, :50] = 0
    return write_scene(pixels, "three", nodata=0)


@pytest.fixture(scope="session")
def cards(write_card) -> dict[str, Path]:
    """Three models: two at the scene's GSD, one at twice that."""
    return {
        "near": write_card("near", gsd_m=(0.5, 1.2), classes=("water", "road", "a", "b")),
        "twin": write_card("twin", gsd_m=(1, 1), classes=("c", "d", "field", "e"), mean=110.0),
        "far": write_card("far", gsd_m=(2, 5), classes=("f", "g", "h", "parking")),
    }


@pytest.fixture(scope="session")
def settings(cards) -> RunSettings:
    return RunSettings(
        models=tuple(map(str, cards.values())),
        classes=tuple(name for names in CLASSES.values() for name in names),
        vector=VectorSettings(min_area_m2=12),
    )


@pytest.fixture(scope="session")
def finished(scene, settings, tmp_path_factory):
    """All three, run serially with chunks of one core."""
    return geoseg.run(scene, tmp_path_factory.mktemp("three") / "layers", settings=settings, execution=SERIAL)


def contents(directory: Path) -> dict[str, bytes]:
    """Vector files byte for byte, rasters pixel by pixel."""
    found = {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in {".geojson", ".parquet"}}
    for path in directory.glob("*.tif"):
        with rasterio.open(path) as raster:
            found[path.name] = raster.read().tobytes()
    return found


def test_every_pass_leaves_a_mask_and_all_leave_layers(finished):
    masks = {f"{array}_{model}.tif" for array in ("mask", "confidence") for model in CLASSES}
    names = {name for names in CLASSES.values() for name in names}
    layers = {f"{name}{suffix}" for name in names for suffix in (".geojson", ".parquet")}
    assert set(finished.files) == masks | layers | {f"mask_{model}.tif.aux.xml" for model in CLASSES}
    assert set(finished.layers) == names
    for model, classes in CLASSES.items():
        for name in classes:
            assert set(finished.layer(name)["model"]) <= {model}
    assert sum(layer.polygons for layer in finished.layers.values()) > 0
    record = json.loads((finished.directory / "run.json").read_text())
    told = {part["model"]: part for part in record["passes"]}
    assert {model: tuple(part["classes"]) for model, part in told.items()} == CLASSES
    assert {model: part["gsd_m"] for model, part in told.items()} == {"near": 1, "twin": 1, "far": 2}
    assert told["far"]["lattice"] == {"height": 75, "width": 100, "core": CORE, "halo": HALO, "chunk": CORE}
    assert told["far"]["version"]
    assert told["far"]["refine"] == "none"
    stages = {stage.name: stage.pixels for stage in finished.stages}
    assert list(stages) == ["predict", "sieve", "label", "trace", "join", "export"]
    assert stages["predict"] == stages["label"] == 2 * 150 * 200 + 75 * 100


@pytest.mark.parametrize("model", CLASSES)
def test_a_pass_is_what_its_model_does_alone(finished, scene, settings, cards, tmp_path, model):
    alone = replace(settings, models=(str(cards[model]),), classes=CLASSES[model])
    result = geoseg.run(scene, tmp_path / "layers", settings=alone, execution=SERIAL)
    expected = {name.replace(f"_{model}.", "."): held for name, held in contents(finished.directory).items()}
    found = contents(result.directory)
    assert set(found) >= {"mask.tif", "confidence.tif"}
    assert found == {name: expected[name] for name in found}
    assert result.layers == {name: finished.layers[name] for name in CLASSES[model]}


@pytest.mark.parametrize("execution", [Execution(threads=1, chunk=2 * CORE), Execution(workers=2, chunk=CORE)], ids=str)
def test_result_does_not_depend_on_chunks_or_workers(finished, scene, settings, execution, tmp_path):
    result = geoseg.run(scene, tmp_path / "layers", settings=settings, execution=execution)
    assert contents(result.directory) == contents(finished.directory)
    assert result.layers == finished.layers


@pytest.fixture
def reads(monkeypatch):
    """Counts how often each tile is read, by GSD."""
    found: Counter[float] = Counter()
    read = Scene.read

    def counting(self, window, indexes):
        assert (window.width, window.height) == (TILE, TILE)
        found[self.gsd_m] += 1
        return read(self, window, indexes)

    monkeypatch.setattr(Scene, "read", counting)
    return found


def test_passes_on_one_grid_read_each_tile_once(finished, scene, settings, reads, tmp_path):
    result = geoseg.run(scene, tmp_path / "layers", settings=settings, execution=SERIAL)
    assert reads == {1.0: TILES["near"], 2.0: TILES["far"]}
    assert contents(result.directory) == contents(finished.directory)


class Killed(BaseException):
    """As a signal: nobody catches it."""


@pytest.mark.parametrize(
    ("method", "at"),
    [("mark_predicted", 8), ("mark_predicted", 26), ("write_fragment", 15)],
    ids=["between two models", "in the second read", "while the second mask is traced"],
)
def test_a_killed_run_goes_on_where_it_was(finished, scene, settings, reads, tmp_path, monkeypatch, method, at):
    home = tmp_path / "layers"
    done: list[tuple[str, str]] = []
    do = getattr(Store, method)

    def once(store, chunk, *arguments):
        if len(done) == at - 1 and not home.joinpath("stopped").exists():
            home.joinpath("stopped").touch()
            raise Killed
        done.append((store.root.name, chunk.key))
        do(store, chunk, *arguments)

    monkeypatch.setattr(Store, method, once)
    with pytest.raises(Killed):
        geoseg.run(scene, home, settings=settings, execution=SERIAL)
    assert not list(home.glob("*.geojson"))
    geoseg.run(scene, home, settings=settings, execution=Execution(threads=1, chunk=5 * CORE))
    assert sorted(done) == sorted(set(done)), "what was finished is not done again"
    assert len(done) == sum(TILES.values())
    assert sum(reads.values()) <= TILES["near"] + TILES["far"] + (method == "mark_predicted")
    assert contents(home) == contents(finished.directory)


def test_a_chunk_that_another_worker_finished_is_left_alone(monkeypatch):
    job = prediction.PredictJob(None, None, (1,), "uint8", None, None, "cpu", "crop", "none", (), 1)
    monkeypatch.setattr(prediction, "predict_chunk", None)
    prediction.predict(job, None)


def test_bounding_box_gives_the_pixels_of_the_whole_run(finished, scene, settings, tmp_path):
    with rasterio.open(scene) as raster:
        transform, crs = raster.transform, raster.crs
    box = geopandas.GeoSeries([shapely.box(*(transform @ (80, 140)), *(transform @ (180, 70)))], crs=crs)
    part = replace(settings, bounds=tuple(box.to_crs(4326).total_bounds))
    result = geoseg.run(scene, tmp_path / "part", settings=part, execution=SERIAL)
    for model, gsd_m in (("near", 1), ("twin", 1), ("far", 2)):
        with rasterio.open(finished.directory / f"mask_{model}.tif") as raster:
            whole, transform = raster.read(1), raster.transform
        with rasterio.open(result.directory / f"mask_{model}.tif") as raster:
            mask = raster.read(1)
            col, row = (round(value) for value in ~transform @ (raster.transform.c, raster.transform.f))
        inside = mask != 255
        assert inside.sum() >= 100 * 70 / gsd_m**2
        np.testing.assert_array_equal(mask[inside], whole[row:, col:][: mask.shape[0], : mask.shape[1]][inside])


def test_the_command_line_tells_of_every_pass(geoseg, finished, scene, cards, tmp_path):
    models = [option for path in cards.values() for option in ("--model", path)]
    classes = ["--classes", "water,road,field,parking"]
    code, out, _ = geoseg("plan", scene, *models, *classes, "--threads=1")
    assert code == 0
    for words in ("near 1", "twin 1", "far 1", "12 of 128 px", "4 of 128 px", "100 x 75 px at 2 m", "near and twin"):
        assert words in out
    code, out, _ = geoseg("info", finished.directory)
    assert code == 0
    assert "far 1" in out
    assert "at 2 m, mask_far.tif" in out
    code, out, err = geoseg("run", scene, *models, "--classes", "water,lake", "-o", tmp_path / "layers")
    assert (code, out) == (2, "")
    assert "no class lake" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "layers").exists()

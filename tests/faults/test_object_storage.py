"""Runs into a real S3 server that fails, breaks connections, answers slowly: the same bytes as in a folder."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

import geoseg
from geoseg import Execution, RunSettings, VectorSettings
from geoseg.errors import OutputError, SettingsError
from geoseg.models import zoo
from geoseg.remote import place_of

STEP = 64  # core of the small tiles below
CHUNKS = 3 * 4
TROUBLE = {"failing": 0.1, "unheard": 0.05, "dropped": 0.03, "slow": 0.1, "hanging": 0.005}


def write(path: Path, pixels: np.ndarray, **profile) -> Path:
    place = {"crs": "EPSG:32614", "transform": Affine(1, 0, 5e5, 0, -1, 5e6), "dtype": "uint8", "driver": "GTiff"}
    count, height, width = pixels.shape
    with rasterio.open(path, "w", count=count, height=height, width=width, **place, **profile) as raster:
        raster.write(pixels)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="module")
def card(folder) -> Path:
    """The default model with small tiles."""
    item = zoo.load("landscape").to_item()
    item["properties"]["geoseg:halo"] = 32
    item["properties"]["mlm:input"][0]["input"]["shape"][-2:] = [128, 128]
    (folder / "small.card.json").write_text(json.dumps(item))
    weights = zoo.load("landscape").weights_path
    (folder / weights.name).write_bytes(weights.read_bytes())
    return folder / "small.card.json"


@pytest.fixture(scope="module")
def scene(folder) -> Path:
    """Of 3 x 4 chunks."""
    pixels = np.kron(np.random.default_rng(0).integers(40, 200, (3, 12, 16)), np.ones((16, 16))).astype(np.uint8)
    return write(folder / "scene.tif", pixels, photometric="RGB")


@pytest.fixture(scope="module")
def mask(folder) -> Path:
    """Of 7 x 7 chunks of 32 px."""
    random = np.random.default_rng(0)
    codes = np.kron(random.integers(0, 4, (23, 30)), np.ones((9, 7))).astype(np.uint8)
    for row, col in random.integers(0, 204, (80, 2)):
        codes[row : row + 1 + col % 3, col : col + 1 + row % 4] = row % 4
    return write(folder / "mask.tif", codes[None])


@pytest.fixture(scope="module")
def settings(card) -> RunSettings:
    return RunSettings(models=(str(card),), vector=VectorSettings(min_area_m2=0, formats=("geojson", "parquet", "fgb")))


@pytest.fixture(scope="module")
def local(folder, scene, settings) -> dict[str, bytes]:
    """All files of a run into a folder."""
    geoseg.run(scene, folder / "local", settings=settings, execution=Execution(threads=1, chunk=STEP))
    return {path.name: path.read_bytes() for path in (folder / "local").iterdir() if path.is_file()}


@pytest.fixture
def call(request):
    """The command line in this process."""
    return request.getfixturevalue("geoseg")


def command(verb: str, source: Path, *options: object) -> list[str]:
    return [sys.executable, "-m", "geoseg", verb, str(source), "--quiet", "--min-area", "0", *map(str, options)]


def start(made: list[str], bucket: str) -> subprocess.CompletedProcess:
    whole = [*made, "-o", f"s3://{bucket}/run"]
    return subprocess.run(whole, check=False, capture_output=True, text=True, timeout=300)


def files(object_store, bucket: str, prefix: str = "run/") -> dict[str, bytes]:
    """All that a run left but its working state."""
    keys = [key for key in object_store.keys(bucket, prefix) if "/.geoseg/" not in key]
    return {key.removeprefix(prefix): object_store.content(bucket, key) for key in keys}


def without_record(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in found.items() if name != "run.json"}


def test_a_run_by_workers_is_that_into_a_folder(object_store, bucket, scene, card, local):
    made = command("run", scene, "--model", card, "--chunk", STEP, "--workers", 2, "--formats", "geojson,parquet,fgb")
    with object_store.troubled(**TROUBLE):
        ended = start(made, bucket)
    assert (ended.returncode, ended.stderr) == (0, "")
    found = files(object_store, bucket)
    assert without_record(found) == without_record(local)
    assert json.loads(found["run.json"])["files"] == json.loads(local["run.json"])["files"]
    kept = [key.partition("/.geoseg/")[2] for key in object_store.keys(bucket) if "/.geoseg/" in key]
    assert {key.split("/")[0] for key in kept} == {"manifest.json", "masks"}, "no lock, no probe"
    assert sum("/done/" in key for key in kept) == CHUNKS
    assert not any(f"/{part}/" in key for key in kept for part in ("found", "rows", "fragments"))


def test_a_run_in_this_process_its_result_and_its_requests(object_store, bucket, scene, settings, local, call):
    where, execution = f"s3://{bucket}/run", Execution(threads=2, chunk=STEP)
    object_store.requests.clear()
    result = geoseg.run(scene, where, settings=settings, execution=execution)
    assert without_record(files(object_store, bucket)) == without_record(local)
    # a chunk: two arrays and a mark written, the mark looked for once; read with its neighbours for labels and for
    # tracing, alone for two rasters; its labels' mark, rows and what goes on elsewhere written, and these read again
    asked = object_store.requests
    assert asked["PUT"] <= 6 * CHUNKS + 30
    assert asked["GET"] <= 24 * CHUNKS + 30
    assert asked["LIST"] <= 31
    assert str(result.directory) == where
    read = result.layer("water")
    assert len(read) == result.layers["water"].polygons
    object_store.requests.clear()
    again = geoseg.run(scene, where, settings=settings, execution=execution)
    assert again.layers == result.layers
    assert not object_store.requests["PUT"]
    code, told, _ = call("info", where)
    assert code == 0
    assert f"{where}: " in told
    with pytest.raises(OutputError, match=r"halo is .* there, .* now"):
        geoseg.run(scene, where, settings=RunSettings(models=settings.models, halo=0), execution=execution)


def test_in_the_memory_of_this_process(scene, settings, local):
    where = f"memory://{uuid.uuid4().hex}/run"
    geoseg.run(scene, where, settings=settings, execution=Execution(threads=2, chunk=STEP))
    found = {path.name: path.read_bytes() for path in place_of(where).iterdir() if path.name in local}
    assert without_record(found) == without_record(local)
    with pytest.raises(SettingsError, match="lies in the memory of this process"):
        geoseg.run(scene, where + "2", settings=settings, execution=Execution(workers=2, chunk=STEP))


def kill_when(marks: int, object_store, bucket: str, made: list[str], where: str) -> int:
    """Run a command until there are so many objects of a kind, and kill it; gives how many there are."""
    with subprocess.Popen([*made, "-o", f"s3://{bucket}/run"]) as process:
        deadline = time.monotonic() + 200
        while len(object_store.keys(bucket, where)) < marks:
            assert process.poll() is None, "it was too late"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert not files(object_store, bucket)
    return len(object_store.keys(bucket, where))


def test_killed_with_its_workers_and_run_again(object_store, bucket, scene, card, settings, local):
    made = command("run", scene, "--model", card, "--chunk", STEP, "--workers", 2, "--formats", "geojson,parquet,fgb")
    name = json.loads(local["run.json"])["passes"][0]["model"]
    done = f"run/.geoseg/masks/{name}/done/"
    kept = kill_when(4, object_store, bucket, made, done)
    assert 4 <= kept < CHUNKS
    object_store.paths.clear()
    with object_store.troubled(failing=0.1):
        geoseg.run(scene, f"s3://{bucket}/run", settings=settings, execution=Execution(threads=2, chunk=STEP))
    assert without_record(files(object_store, bucket)) == without_record(local)
    marked = {path for method, path in object_store.paths if method == "PUT" and f"/{done}" in path}
    assert 0 < len(marked) <= CHUNKS - kept, "what was missing, and what orphaned workers did not finish"


def test_a_mask_killed_while_tracing_and_run_again(object_store, bucket, mask, tmp_path):
    settings = VectorSettings(min_area_m2=0)
    geoseg.vectorize(mask, tmp_path, settings=settings, execution=Execution(threads=1, chunk=64))
    made = command("vectorize", mask, "--chunk", 32, "--threads", 2)
    kept = kill_when(5, object_store, bucket, made, "run/.geoseg/masks/mask/fragments/")
    assert kept < 7 * 7
    geoseg.vectorize(mask, f"s3://{bucket}/run", settings=settings, execution=Execution(threads=2))
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert without_record(files(object_store, bucket)) == without_record(whole)


def test_another_run_is_replaced_whole_when_asked(object_store, bucket, mask):
    where, execution = f"s3://{bucket}/run", Execution(threads=1, chunk=64)
    geoseg.vectorize(mask, where, settings=VectorSettings(formats=("fgb",)), execution=execution)
    (place_of(where) / "notes.txt").write_bytes(b"of somebody")
    geoseg.vectorize(
        mask,
        where,
        settings=VectorSettings(formats=("geojson",), min_area_m2=50),
        execution=Execution(threads=1, chunk=50),
        overwrite=True,
    )
    names = set(files(object_store, bucket))
    assert names == {"class_1.geojson", "class_2.geojson", "class_3.geojson", "run.json", "notes.txt"}
    (place_of(where) / ".geoseg" / "manifest.json").unlink()
    with pytest.raises(OutputError, match="is not empty and holds no geoseg run"):
        geoseg.vectorize(mask, where, execution=execution)


@pytest.mark.parametrize("what", ["bucket", "permission"])
def test_what_will_not_pass_is_one_line_before_any_work(object_store, bucket, mask, call, what):
    where = f"s3://{'there-is-no-such-bucket' if what == 'bucket' else bucket}/run"
    with object_store.troubled(refusing=("PUT",) if what == "permission" else ()):
        code, told, error = call("vectorize", mask, "-o", where)
    assert (code, told) == (2, "")
    assert error.count("\n") == 1
    assert error.startswith(f"geoseg: {where} cannot be written: ")
    assert not object_store.keys(bucket)

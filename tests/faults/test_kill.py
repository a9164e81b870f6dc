"""Real processes, really killed: what is finished is kept, and the next run ends with the same bytes."""

from __future__ import annotations

import collections
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

import geoseg
from geoseg import Execution, VectorSettings
from geoseg.engine import kernels
from geoseg.engine.result import StageTime
from geoseg.engine.store import Store
from geoseg.models import zoo

STEP = 64  # core of the small tiles below


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The start of a command line that runs a scene of 5 x 6 chunks with small tiles."""
    folder = tmp_path_factory.mktemp("kill")
    item = zoo.load("landscape").to_item()
    item["properties"]["geoseg:halo"] = 32
    item["properties"]["mlm:input"][0]["input"]["shape"][-2:] = [128, 128]
    (folder / "small.card.json").write_text(json.dumps(item))
    weights = zoo.load("landscape").weights_path
    (folder / weights.name).write_bytes(weights.read_bytes())
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(40, 200, (3, 20, 24)), np.ones((16, 16))).astype(np.uint8)
    with rasterio.open(
        folder / "scene.tif",
        "w",
        driver="GTiff",
        count=3,
        height=pixels.shape[1],
        width=pixels.shape[2],
        dtype="uint8",
        photometric="RGB",
        crs="EPSG:32614",
        transform=Affine(1, 0, 5e5, 0, -1, 5e6),
    ) as raster:
        raster.write(pixels)
    options = ["--model", str(folder / "small.card.json"), "--min-area", "0", "--chunk", str(STEP), "--quiet"]
    return [sys.executable, "-m", "geoseg", "run", str(folder / "scene.tif"), *options]


def layers(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in {".geojson", ".parquet"}}


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """Where an undisturbed run of the scene left its layers."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run([*command, "-o", str(folder), "--threads=1"], check=True, timeout=120)
    return folder


@pytest.mark.parametrize(
    ("how", "signal_number", "code"), [("--threads=1", signal.SIGKILL, -9), ("--workers=2", signal.SIGTERM, 130)]
)
def test_killed_and_run_again(command, whole, tmp_path, how, signal_number, code):
    home = tmp_path / "killed"
    with subprocess.Popen([*command, "-o", str(home), how], stderr=subprocess.PIPE, text=True) as process:
        done = home / ".geoseg" / "masks" / "landscape" / "done"
        deadline = time.monotonic() + 100
        while not (done.exists() and len(list(done.iterdir())) >= 3):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal_number)
        message = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert "Traceback" not in message, message
    kept = {path.name: path.stat().st_mtime_ns for path in done.iterdir()}
    assert 3 <= len(kept) < 30
    assert not list(home.glob("*.geojson"))
    subprocess.run([*command, "-o", str(home), "--threads=1"], check=True, timeout=120)
    assert layers(home) == layers(whole)
    assert {name: (done / name).stat().st_mtime_ns for name in kept} == kept, "a finished chunk was done again"


@pytest.fixture
def coarse_mask(tmp_path):
    """A mask of 207 x 210 px with specks, holes and thin parts; and one small part in another, over edges of chunks."""
    random = np.random.default_rng(1)
    mask = np.kron(random.integers(0, 4, (23, 30)), np.ones((9, 7))).astype(np.uint8)
    for row, col in random.integers(0, 204, (80, 2)):
        mask[row : row + 1 + col % 3, col : col + 1 + row % 4] = row % 4
    mask[50:70, 20:40], mask[57:63, 27:33], mask[59:61, 29:31] = 1, 2, 3
    path = tmp_path / "mask.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=mask.shape[0],
        width=mask.shape[1],
        dtype="uint8",
        crs="EPSG:32614",
        transform=Affine(1, 0, 5e5, 0, -1, 5e6),
    ) as raster:
        raster.write(mask, 1)
    return path


def kill_when(home: Path, reached: Callable[[], bool], command: list[str]) -> None:
    """Run a command until something is reached, and kill it."""
    with subprocess.Popen([*command, "-o", str(home)]) as process:
        deadline = time.monotonic() + 100
        while not reached():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
    assert not list(home.glob("*.geojson"))


def test_killed_while_tracing_and_run_again(coarse_mask, tmp_path):
    command = [sys.executable, "-m", "geoseg", "vectorize", str(coarse_mask), "--min-area", "0"]
    command += ["--chunk", "16", "--threads=1", "--quiet"]
    whole, home = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, "-o", str(whole)], check=True, timeout=120)
    fragments = home / ".geoseg" / "masks" / "mask" / "fragments"
    kill_when(home, lambda: len(list(fragments.glob("*.npz"))) >= 5, command)
    kept = list(fragments.glob("*.npz"))
    assert 5 <= len(kept) < 13 * 14, "it was too late"
    subprocess.run([*command, "-o", str(home)], check=True, timeout=120)
    assert layers(home) == layers(whole)
    assert len(layers(whole)) == 2 * 3


CLEANING = VectorSettings(min_area_m2=40, fill_holes_m2=9, min_width_m=2)


def clean(mask: Path, home: Path) -> Sequence[StageTime]:
    """Vectorize with cleaning, or go on with that; gives the stages that ran."""
    return geoseg.vectorize(mask, home, settings=CLEANING, execution=Execution(threads=1, chunk=30)).stages


def counted(monkeypatch: pytest.MonkeyPatch, clean: Callable[[], object]) -> collections.Counter[str]:
    """How many chunks each step of a cleaning, or labelling, goes over in this process."""
    calls: collections.Counter[str] = collections.Counter()

    def count(kernel):
        def counting(job, item):
            calls[getattr(job, "step", kernel.__name__)] += 1
            return kernel(job, item)

        return counting

    with monkeypatch.context() as patched:
        for kernel in (kernels.open_mask, kernels.find_small_components, kernels.sieve, kernels.label):
            patched.setattr(kernels, kernel.__name__, count(kernel))
        clean()
    return calls


@pytest.mark.parametrize("step", ["opened", "found-0", "sieved-0", "found-1", "cleaned", "label"])
def test_killed_while_cleaning_or_labelling_and_run_again(coarse_mask, tmp_path, monkeypatch, step):
    whole, home = tmp_path / "whole", tmp_path / "killed"
    wanted = counted(monkeypatch, lambda: clean(coarse_mask, whole))
    assert {"opened", "found-0", "sieved-0", "found-1", "sieved-1", "label"} <= set(wanted)
    command = [sys.executable, "-m", "geoseg", "vectorize", str(coarse_mask), "--chunk", "30", "--threads=1", "--quiet"]
    command += ["--min-area", "40", "--fill-holes", "9", "--min-width", "2"]
    store = home / ".geoseg" / "masks" / "mask"
    found, mark = store / "found", store / "done" / "cleaned"
    kill_when(home, mark.exists if step == "cleaned" else lambda: len(list((found / step).glob("*"))) >= 3, command)
    assert mark.exists() == (step in {"cleaned", "label"}), "it was too late"
    kept = collections.Counter(path.parent.name for path in found.glob("*/*.npz"))
    if mark.exists():
        kept |= {name: count for name, count in wanted.items() if name != "label"}
    assert counted(monkeypatch, lambda: clean(coarse_mask, home)) == wanted - kept
    assert layers(home) == layers(whole)


def test_a_run_that_is_continued_tells_what_it_reused(coarse_mask, tmp_path, monkeypatch):
    def fail(store, *_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write_fragment", fail)
        with pytest.raises(Killed):
            clean(coarse_mask, tmp_path / "run")
    stages = clean(coarse_mask, tmp_path / "run")
    assert {stage.name: stage.chunks.reused for stage in stages if stage.chunks} == {"label": 49, "trace": 0}


class Killed(BaseException):
    """As a signal: nobody catches it."""


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_killed_while_tidying_up_and_run_again(coarse_mask, tmp_path, monkeypatch, at):
    home = tmp_path / "killed"
    removed, drop, rmtree = [], Store.drop_intermediates, shutil.rmtree

    def remove(folder, **options):
        removed.append(folder)
        if len(removed) < at:
            return rmtree(folder, **options)
        for entry in sorted(Path(folder).iterdir())[::2]:  # half of it
            rmtree(entry) if entry.is_dir() else entry.unlink()
        raise Killed

    def drop_some(store):
        with monkeypatch.context() as inner:
            inner.setattr(shutil, "rmtree", remove)
            drop(store)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "drop_intermediates", drop_some)
        with pytest.raises(Killed):
            clean(coarse_mask, home)
    assert len(removed) == at
    written = layers(home)
    assert written
    next(home.glob("*.geojson")).unlink()  # else there is nothing to do
    clean(coarse_mask, home)
    assert layers(home) == written

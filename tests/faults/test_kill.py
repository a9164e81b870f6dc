"""Real processes, really killed: what is finished is kept, and the next run ends with the same bytes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from geoseg.models import zoo

STEP = 64  # core of the small tiles below


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The start of a command line that runs a scene of 5 x 6 chunks with small tiles."""
    folder = tmp_path_factory.mktemp("kill")
    item = zoo.load("rgb-lite0").to_item()
    item["properties"]["geoseg:halo"] = 32
    item["properties"]["mlm:input"][0]["input"]["shape"][-2:] = [128, 128]
    (folder / "small.card.json").write_text(json.dumps(item))
    weights = zoo.load("rgb-lite0").weights_path
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


@pytest.mark.parametrize(
    ("how", "signal_number", "code"), [("--serial", signal.SIGKILL, -9), ("--workers=2", signal.SIGTERM, 130)]
)
def test_killed_and_run_again(command, tmp_path, how, signal_number, code):
    whole = tmp_path / "whole"
    subprocess.run([*command, "-o", str(whole), "--serial"], check=True, timeout=120)
    home = tmp_path / "killed"
    with subprocess.Popen([*command, "-o", str(home), how], stderr=subprocess.PIPE, text=True) as process:
        done = home / ".geoseg" / "done"
        deadline = time.monotonic() + 100
        while not (done.exists() and len(list(done.iterdir())) >= 3):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal_number)
        message = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert "Traceback" not in message
    kept = {path.name: path.stat().st_mtime_ns for path in done.iterdir()}
    assert 3 <= len(kept) < 30
    assert not list(home.glob("*.geojson"))
    subprocess.run([*command, "-o", str(home), "--serial"], check=True, timeout=120)
    assert layers(home) == layers(whole)
    assert {name: (done / name).stat().st_mtime_ns for name in kept} == kept, "a finished chunk was done again"


def test_killed_while_tracing_and_run_again(tmp_path):
    coarse = np.random.default_rng(1).integers(0, 4, (45, 60))
    mask = np.kron(coarse, np.ones((9, 7))).astype(np.uint8)
    with rasterio.open(
        tmp_path / "mask.tif",
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
    command = [sys.executable, "-m", "geoseg", "vectorize", str(tmp_path / "mask.tif"), "--min-area", "0"]
    command += ["--chunk", "16", "--serial", "--quiet"]
    whole, home = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, "-o", str(whole)], check=True, timeout=120)
    with subprocess.Popen([*command, "-o", str(home)]) as process:
        fragments = home / ".geoseg" / "fragments"
        deadline = time.monotonic() + 100
        while not (fragments.exists() and len(list(fragments.glob("*.npz"))) >= 5):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
    kept = list(fragments.glob("*.npz"))
    assert 5 <= len(kept) < 26 * 27, "it was too late"
    assert not list(home.glob("*.geojson"))
    subprocess.run([*command, "-o", str(home)], check=True, timeout=120)
    assert layers(home) == layers(whole)
    assert len(layers(whole)) == 2 * 3

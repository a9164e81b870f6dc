"""A catalogue of 25 overlapping scenes, run with one command, killed in the middle, and run again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine

import geoseg

SAMPLES = Path(__file__).parents[2] / "sample_tiles"
SIDE, STEP, COUNT = 512, 384, 25
WATER, ROAD = 1, 2
SETTINGS = geoseg.RunSettings(models=("ndwi",), bands=("1", "2"), vector=geoseg.VectorSettings(simplify_m=0))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The water and roads of the sample, as two bands, cut into 5 x 5 scenes that overlap by a quarter; and uncut."""
    folder = tmp_path_factory.mktemp("catalogue")
    (folder / "scenes").mkdir()
    with rasterio.open(SAMPLES / "riverside_truth.tif") as source:
        codes, profile = source.read(1), source.profile
    wanted = np.isin(codes, (WATER, ROAD))
    pixels = np.stack([np.where(wanted, 90, 40), np.where(wanted, 30, 120)]).astype(np.uint8)
    profile = {
        "driver": "GTiff",
        "count": 2,
        "dtype": "uint8",
        "crs": profile["crs"],
        "transform": profile["transform"],
    }
    a, _, left, _, e, top = tuple(profile["transform"])[:6]
    whole = profile | {"height": codes.shape[0], "width": codes.shape[1]}
    with rasterio.open(folder / "whole.tif", "w", **whole) as raster:
        raster.write(pixels)
        for row in range(0, codes.shape[0] - SIDE + 1, STEP):
            for col in range(0, codes.shape[1] - SIDE + 1, STEP):
                place = Affine(a, 0, left + col * a, 0, e, top + row * e)
                part = profile | {"height": SIDE, "width": SIDE, "transform": place}
                with rasterio.open(folder / "scenes" / f"{row:04}_{col:04}.tif", "w", **part) as scene:
                    scene.write(pixels[:, row : row + SIDE, col : col + SIDE])
    assert len(list((folder / "scenes").iterdir())) == COUNT
    return folder


def command(scene: Path, home: Path) -> list[str]:
    options = ["--model", "ndwi", "--bands", "1,2", "--simplify", "0", "--quiet"]
    return [sys.executable, "-m", "geoseg", "run", str(scene), "-o", str(home), *options]


def layers(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in {".geojson", ".parquet"}}


def records(home: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in home.glob("scenes/*/run.json")}


def test_interrupted_and_run_again(scenes, tmp_path):
    whole, home = tmp_path / "whole", tmp_path / "killed"
    geoseg.run_catalogue(scenes / "scenes", whole, settings=SETTINGS)
    with subprocess.Popen(command(scenes / "scenes", home)) as process:
        deadline = time.monotonic() + 200
        while len(records(home)) < 9:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    kept = records(home)
    assert 9 <= len(kept) < COUNT, "it was too late"
    assert not (home / "run.json").exists()
    subprocess.run(command(scenes / "scenes", home), check=True, timeout=240)
    after = records(home)
    assert {name: after[name] for name in kept} == kept, "a finished scene was done again"
    states = [scene["state"] for scene in json.loads((home / "run.json").read_text())["scenes"]]
    assert (states.count("reused"), states.count("done")) == (len(kept), COUNT - len(kept))
    assert layers(home) == layers(whole)
    for name in after:
        assert layers(home / "scenes" / name) == layers(whole / "scenes" / name)

    # the same objects as in the uncut mosaic
    expected = geoseg.run(scenes / "whole.tif", tmp_path / "uncut", settings=SETTINGS).layer("water")
    found = gpd.read_parquet(home / "water.parquet")
    assert len(found) == len(expected)
    # what the edge of a scene cut to less than the least area, that scene did not see
    assert sorted(found.area_m2) == pytest.approx(sorted(expected.area_m2), rel=2e-3)
    difference = found.union_all().symmetric_difference(expected.union_all()).area
    assert difference < 2e-4 * expected.area.sum()
    # each scene alone saw pieces: they were put together
    pieces = sum(len(gpd.read_parquet(path)) for path in home.glob("scenes/*/water.parquet"))
    assert pieces > 2 * len(found)
    assert found.scenes.max() >= 15, "the roads hang together through most scenes"

"""Inputs that break while they are read: the rest is finished, what is missing is told, and is made good later."""

from __future__ import annotations

import json
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
from rasterio.warp import transform_geom

from geoseg import Execution
from geoseg.engine import faults
from geoseg.engine.inspection import inspect
from geoseg.errors import ChunkError, InputError, OutputError

CHUNKS = 30
PX = 64


def block_places(path: Path) -> tuple[list[int], list[int]]:
    """Where the compressed blocks of a little-endian classic TIFF lie, and how many bytes they have."""
    data = path.read_bytes()
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    found = {}
    for place in range(start + 2, start + 2 + 12 * entries, 12):
        tag, kind, count, pointer = struct.unpack_from("<HHII", data, place)
        if tag in (324, 325):
            found[tag] = list(struct.unpack_from(f"<{count}{'H' if kind == 3 else 'I'}", data, pointer))
    return found[324], found[325]


class Damage:
    """Damages a file, and mends it: with the times that it had, as on a disk that fails for a while."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._whole = path.read_bytes()
        self._times = path.stat().st_atime_ns, path.stat().st_mtime_ns

    def _write(self, data: bytes) -> None:
        with self._path.open("r+b") as file:
            file.write(data)
            file.truncate()
        os.utime(self._path, ns=self._times)

    def spoil(self, block: int) -> None:
        places, sizes = block_places(self._path)
        data = bytearray(self._whole)
        data[places[block] : places[block] + sizes[block]] = b"\xff" * sizes[block]
        self._write(bytes(data))

    def truncate(self, share: float) -> None:
        self._write(self._whole[: int(len(self._whole) * share)])

    def mend(self) -> None:
        self._write(self._whole)


def windows_in(home: Path) -> set[tuple[int, ...]]:
    return {tuple(window["window"]) for window in json.loads((home / "run.json").read_text())["failed"]}


def around(row: int, col: int) -> set[tuple[int, ...]]:
    """The windows of the chunks whose tiles see a block: with a halo of half a chunk, its own and its neighbours."""
    return {
        (PX * c, PX * r, PX, PX)
        for r in range(max(row - 1, 0), min(row + 2, 5))
        for c in range(max(col - 1, 0), min(col + 2, 6))
    }


@pytest.mark.parametrize(
    "execution", [Execution(threads=1, chunk=PX), Execution(threads=2, chunk=PX), Execution(workers=2, chunk=PX)]
)
def test_one_corrupt_block(subject, tmp_path, execution):
    home, damage = tmp_path / "layers", Damage(subject.scene)
    damage.spoil(block=2 * 6 + 4)
    with pytest.raises(ChunkError) as caught:
        subject.run(home, execution=execution)
    missing = around(2, 4)
    first = "the first with: .*scene.tif: Window.* cannot be read: .*"
    told = rf"^9 of 30 chunks failed in stage predict, {first}{home}/failed.geojson.* predict just those, or "
    assert caught.match(told)
    assert "\n" not in str(caught.value)

    assert windows_in(home) == missing
    with rasterio.open(home / "mask.tif") as raster, rasterio.open(home / "confidence.tif") as beside:
        mask, transform, crs = raster.read(1), raster.transform, raster.crs
        assert ((mask == 255) == (beside.read(1) == 255)).all()
    told = json.loads((home / "failed.geojson").read_text())["features"]
    assert {tuple(feature["properties"]["window"]) for feature in told} == missing
    assert {feature["properties"]["stage"] for feature in told} == {"predict"}
    assert all("cannot be read" in feature["properties"]["reason"] for feature in told)
    for feature in told:
        assert shapely.geometry.shape(feature["geometry"]).exterior.is_ccw
    places = [transform_geom("OGC:CRS84", crs, feature["geometry"]) for feature in told]
    shown = rasterio.features.rasterize(places, out_shape=mask.shape, transform=transform, default_value=1)
    np.testing.assert_array_equal(shown == 1, mask == 255)

    again = {path.name: path.stat().st_mtime_ns for path in home.iterdir()}
    with pytest.raises(ChunkError, match="9 of 30 chunks failed"):
        subject.run(home)
    assert {path.name: path.stat().st_mtime_ns for path in home.iterdir()} == again, "there was nothing to write"

    damage.mend()
    result = subject.run(home)
    subject.assert_whole(home)
    assert result.failed == ()
    predicted = json.loads((home / "run.json").read_text())["passes"][0]["chunks"]["predict"]
    assert predicted == {"total": CHUNKS, "reused": 21, "done": 9, "failed": 0}
    assert result.stages[0].chunks.reused == 21


def test_truncated_before_the_run(subject, tmp_path):
    home, whole = tmp_path / "layers", subject.scene.read_bytes()
    subject.scene.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ChunkError, match=r"\d+ of 30 chunks failed in stage predict"):
        subject.run(home)
    rows = [row // PX for _, row, _, _ in windows_in(home)]
    assert min(rows) >= 1, "the first half can be read"
    assert rows.count(3) == rows.count(4) == 6, "and nothing beyond"
    assert (home / "water.geojson").exists()
    subject.scene.write_bytes(whole)
    with pytest.raises(OutputError, match="scene_fingerprint"):  # who knows what else is new in it
        subject.run(home)


@pytest.mark.usefixtures("impatient")
def test_truncated_while_it_is_read(subject, tmp_path):
    home, damage = tmp_path / "layers", Damage(subject.scene)

    def cut(stage, chunks):
        if (stage, chunks) == ("predict", 3):
            damage.truncate(0.6)

    with pytest.raises(ChunkError, match="chunks failed"):
        subject.run(home, cut)
    assert 6 <= len(windows_in(home)) < 27
    damage.mend()
    subject.run(home)
    subject.assert_whole(home)


def test_stopped_after_a_failure_and_mended(subject, tmp_path):
    """What was traced of a mask with a gap must not outlive the gap."""
    home, damage = tmp_path / "layers", Damage(subject.scene)

    def stop(stage, chunks):
        if (stage, chunks) == ("trace", 20):
            raise KeyboardInterrupt

    damage.spoil(block=0)
    with pytest.raises(KeyboardInterrupt):
        subject.run(home, stop)
    assert not list(home.glob("*.geojson"))
    damage.mend()
    result = subject.run(home)
    subject.assert_whole(home)
    assert "predict: 26 of 30 chunks were done before" in subject.seen.notes
    assert {stage.name: stage.chunks.reused for stage in result.stages if stage.chunks} == {
        "predict": 26,
        "label": 0,
        "trace": 0,
    }


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(faults, "_PATIENCE_S", 0.5)
    monkeypatch.setattr(faults, "_PAUSES_S", (0.1, 0.2))


def at_the_start(action):
    """What a watcher sees: the action when the prediction begins."""
    return lambda stage, chunks: action() if (stage, chunks) == ("predict", 0) else None


@pytest.mark.usefixtures("impatient")
def test_a_source_of_a_mosaic_disappears_and_comes_back(subject, mosaic, tmp_path):
    right, home, away = mosaic, tmp_path / "layers", tmp_path / "away.tif"
    with pytest.raises(ChunkError, match=r"^20 of 30 chunks failed.*right\.tif.*No such file"):
        subject.run(home, at_the_start(lambda: right.rename(away)))
    assert windows_in(home) == {(PX * col, PX * row, PX, PX) for row in range(5) for col in range(2, 6)}
    away.rename(right)
    subject.run(home)
    subject.assert_whole(home)


def test_a_source_that_is_away_for_a_moment_is_waited_for(subject, tmp_path):
    home, away = tmp_path / "layers", tmp_path / "away.tif"

    def leave():
        subject.scene.rename(away)
        threading.Timer(1.5, away.rename, [subject.scene]).start()

    result = subject.run(home, at_the_start(leave), Execution(threads=2, chunk=PX))
    assert result.failed == ()
    subject.assert_whole(home)


@pytest.mark.usefixtures("impatient")
def test_a_source_that_is_gone_ends_the_run_soon(subject, tmp_path):
    home, away = tmp_path / "layers", tmp_path / "away.tif"
    with pytest.raises(
        ChunkError, match=r"^all 30 chunks failed in stage predict.*No such file.*no layers were written"
    ):
        subject.run(home, at_the_start(lambda: subject.scene.rename(away)))
    assert [path.name for path in home.iterdir()] == [".geoseg"]
    with pytest.raises(InputError, match="holds a run that is not finished; the command that began it goes on"):
        inspect(str(home))
    away.rename(subject.scene)
    subject.run(home)
    subject.assert_whole(home)


def test_the_command_line_tells_it_in_one_line(subject, geoseg, tmp_path, tiny_card):
    home, damage = tmp_path / "layers", Damage(subject.scene)
    damage.spoil(block=29)
    options = ["--model", tiny_card, "--chunk", PX, "--threads=1"]
    code, out, err = geoseg("run", subject.scene, "-o", home, *options, "--quiet")
    assert (code, out) == (1, "")
    assert err.startswith("geoseg: 4 of 30 chunks failed in stage predict, the first with: ")
    assert err.count("\n") == 1
    code, out, _ = geoseg("info", home)
    assert code == 0
    assert "4 windows failed and are in no layer, see failed.geojson" in out
    damage.mend()
    code, _, err = geoseg("run", subject.scene, "-o", home, *options)
    assert code == 0
    assert "predict: 26 of 30 chunks were done before" in err
    assert "30/30 chunks, 26 before" in err
    assert not (home / "failed.geojson").exists()

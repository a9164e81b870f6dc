"""A run by each runtime: the same bytes in any chunks, and a record of what ran."""

from __future__ import annotations

import json
import threading
from importlib.util import find_spec

import pytest

from geoseg.engine import plan, prediction
from geoseg.engine.directory import RunDirectory
from geoseg.engine.plan import make_plan
from geoseg.errors import WriteError
from geoseg.models import runtimes
from geoseg.settings import RunSettings

needs_extras = pytest.mark.skipif(
    find_spec("openvino") is None or find_spec("onnxruntime") is None, reason="needs the extras openvino and onnx"
)


@needs_extras
@pytest.mark.parametrize(
    ("runtime", "precision", "tta"),
    [
        ("torch", "fp32", "none"),
        ("torch", "bf16", "none"),
        ("openvino", "fp32", "none"),
        ("openvino", "bf16", "none"),
        ("onnx", "fp32", "none"),
        ("openvino", "fp32", "d4"),
    ],
)
def test_any_chunks_and_threads_give_the_same_bytes(geoseg, land, small_card, tmp_path, runtime, precision, tta):
    found = []
    for chunk, threads in ((64, 1), (200, 3)):
        folder = tmp_path / str(chunk)
        how = ("--model", small_card, "--threads", threads, "--quiet", "--min-area", 0, "--chunk", chunk)
        how += ("--runtime", runtime, "--precision", precision, "--tta", tta)
        assert geoseg("run", land, "-o", folder, *how) == (0, "", "")
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        ways = [(part["runtime"], part["precision"], part["tta"]) for part in record["passes"]]
        assert ways == [(runtime, precision, tta)]
        assert (record["settings"]["runtime"], record["settings"]["tta"]) == (runtime, tta)
        files = sorted(folder.glob("*.geojson")) + sorted(folder.glob("*.tif"))
        found.append({path.name: path.read_bytes() for path in files})
    assert "mask.tif" in found[0]
    assert found[0] == found[1]


def test_networks_are_loaded_once_for_all_threads_and_forgotten_after(geoseg, land, small_card, tmp_path, monkeypatch):
    opened = []

    def open_runtime(card, **how):
        opened.append(how["at_once"])
        return runtimes.open_runtime(card, **how)

    monkeypatch.setattr(prediction, "open_runtime", open_runtime)
    how = ("--model", small_card, "--threads", 3, "--chunk", 64, "--quiet", "--runtime", "torch")
    assert geoseg("run", land, "-o", tmp_path / "layers", *how) == (0, "", "")
    assert opened == [3]
    assert not prediction._networks


def test_networks_are_opened_while_the_run_begins(geoseg, land, small_card, tmp_path, monkeypatch):
    """But not by one that goes on and has nothing to predict."""
    opened, open_stores = threading.Event(), RunDirectory.open_stores

    def open_runtime(card, **how):
        opened.set()
        return runtimes.open_runtime(card, **how)

    def wait(directory, *args):
        assert directory.resumes or opened.wait(60)
        return open_stores(directory, *args)

    monkeypatch.setattr(prediction, "open_runtime", open_runtime)
    monkeypatch.setattr(RunDirectory, "open_stores", wait)
    command = ("run", land, "-o", tmp_path / "layers", "--model", small_card, "--threads", 2, "--quiet")
    assert geoseg(*command) == (0, "", "")
    (tmp_path / "layers" / "run.json").unlink()
    opened.clear()
    assert geoseg(*command) == (0, "", "")
    assert not opened.is_set()
    assert (tmp_path / "layers" / "run.json").exists()


def test_a_run_that_fails_keeps_no_networks(geoseg, land, small_card, tmp_path, monkeypatch):
    opened = threading.Event()

    def open_runtime(card, **how):
        opened.set()
        return runtimes.open_runtime(card, **how)

    def fail(*_):
        assert opened.wait(60)
        raise WriteError("no room")

    monkeypatch.setattr(prediction, "open_runtime", open_runtime)
    monkeypatch.setattr(RunDirectory, "open_stores", fail)
    code, _, message = geoseg("run", land, "-o", tmp_path / "layers", "--model", small_card, "--threads", 2, "--quiet")
    assert code
    assert "no room" in message
    assert not prediction._networks


@needs_extras
def test_another_runtime_is_another_run(land, small_card):
    torch, onnx = (
        make_plan(str(land), RunSettings(models=(str(small_card),), precision="fp32", runtime=runtime)).identity()
        for runtime in ("torch", "onnx")
    )
    assert {name for name in torch if torch[name] != onnx[name]} == {"runtime"}


@needs_extras
def test_plan_tells_the_runtime(geoseg, land, small_card):
    code, text, _ = geoseg(
        "plan", land, "--model", small_card, "--threads=1", "--runtime", "openvino", "--precision", "fp32"
    )
    assert code == 0
    assert "openvino, fp32" in text


def test_a_missing_package_is_told_in_one_line(geoseg, land, small_card, tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes, "find_spec", lambda _: None)
    for runtime in ("openvino", "onnx"):
        code, _, errors = geoseg("run", land, "-o", tmp_path / "out", "--model", small_card, "--runtime", runtime)
        assert code == 2
        assert errors.count("\n") == 1
        assert f"pip install 'geoseg[{runtime}]'" in errors
    assert not (tmp_path / "out").exists()


@needs_extras
def test_networks_that_take_more_memory_have_smaller_tiles(land, write_card, monkeypatch):
    monkeypatch.setattr(plan, "_TILE_BYTES", 210 * 192**2)
    path = write_card("any", tile=192)
    item = json.loads(path.read_text(encoding="utf-8"))
    sides = []
    for architecture in ("unet-tf_efficientnet_lite0", "tiramisu-56", "somebody's"):
        item["properties"]["mlm:architecture"] = architecture
        path.write_text(json.dumps(item), encoding="utf-8")
        settings = RunSettings(models=(str(path),), runtime="openvino", precision="fp32")
        sides.append(make_plan(str(land), settings).passes[0].lattice.tile_size)
    assert sides[0] > sides[2] >= sides[1]

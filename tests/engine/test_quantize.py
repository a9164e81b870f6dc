"""Integers for a model: found from scenes, told in its card, used by runs, and the same bytes however work is cut."""

from __future__ import annotations

import json

import numpy as np
import pytest

import geoseg as package
from geoseg import Execution, RunSettings
from geoseg.engine import quantize
from geoseg.engine.plan import make_plan
from geoseg.engine.quantize import measure_quantization
from geoseg.errors import ModelError, SceneError, SettingsError
from geoseg.machine import cpu_has
from geoseg.models import runtimes
from geoseg.models.card import Card

from .conftest import CORE, paint

needs_integers = pytest.mark.skipif(
    bool(runtimes._missing("openvino")) or not cpu_has("avx512_vnni", "avx_vnni", "amx_int8"),
    reason="needs the extra openvino and a CPU with VNNI",
)


@pytest.fixture(scope="module")
def scenes(write_scene):
    return [str(write_scene(paint(220, 300, seed=seed), f"quantized{seed}")) for seed in (3, 4)]


@pytest.fixture(scope="module")
def rounded(write_card, scenes):
    """A card with integers."""
    path = write_card("rounded")
    measured = measure_quantization(str(path), scenes, RunSettings(), rate=0.5, window_px=128, windows=8)
    assert measured.write().path == path
    return path


def test_the_card_tells_of_them(rounded):
    card = Card.read(rounded)
    assert card.precisions == ("fp32", "int8")
    told = dict(card.int8_measured)
    assert (told["left_out"], told["scenes"], told["windows"], told["examples"]) == (3, 2, 4, 4)
    assert 0 <= told["differing"] <= 0.5
    assert told["pixels"] == 4 * 128**2


def test_the_same_scenes_give_the_same_integers(rounded, scenes):
    card = Card.read(rounded)
    before = card.int8_path.read_bytes()
    again = measure_quantization(str(rounded), scenes, RunSettings(), rate=0.5, window_px=128, windows=8)
    again.write()
    assert Card.read(rounded).int8_path.read_bytes() == before


def test_more_stay_as_they_are_until_labels_agree(write_card, scenes, monkeypatch):
    monkeypatch.setattr(quantize, "_LEFT_OUT", (0, 56, 64))
    measured = measure_quantization(str(write_card("strict")), scenes, RunSettings(), rate=1, window_px=64, windows=4)
    assert [row.left_out for row in measured.rows] == [0, 56]
    assert not measured.enough
    assert measured.rows[-1].agreement.differing < measured.rows[0].agreement.differing
    with pytest.raises(ModelError, match=r"no integers of model strict reach the rate 1.* nothing was written"):
        measured.write()


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (SettingsError, "--rate is 0", {"rate": 0}),
        (SettingsError, "--window is 100", {"window_px": 100}),
        (SettingsError, "--windows is 3", {"windows": 3}),
        (SettingsError, "no scene is given", {"scenes": []}),
        (ModelError, "has no weights", {"model": "ndvi"}),
    ],
)
def test_bad_input_is_refused(small_card, scenes, error, message, options):
    asked = {"model": str(small_card), "scenes": scenes} | options
    with pytest.raises(error, match=message):
        measure_quantization(asked.pop("model"), asked.pop("scenes"), RunSettings(), **asked)


def test_scenes_of_one_class_are_refused(small_card, scenes, monkeypatch):
    monkeypatch.setattr(quantize, "_label", lambda card, network, pixels: np.zeros(len(pixels), np.uint8))
    with pytest.raises(SceneError, match="labels everything alike in these windows"):
        measure_quantization(str(small_card), scenes, RunSettings(), window_px=64, windows=4)


def test_command_line(write_card, scenes, geoseg):
    path = write_card("told8")
    how = ("--window", 64, "--windows", 4)
    code, out, err = geoseg("quantize", path, *scenes, *how, "--rate", 0.5, "--write")
    assert code == 0, err
    assert "labels agree at the rate of 0.5" in out
    assert f"written to {path}" in err
    code, out, _ = geoseg("quantize", path, *scenes, *how, "--rate", 0.5, "--json")
    facts = json.loads(out)
    assert (facts["enough"], facts["convolutions"], facts["windows"]) == (True, 63, 2)
    code, out, err = geoseg("quantize", "ndvi", *scenes)
    assert (code, out, err.count("\n")) == (2, "", 1)


@needs_integers
def test_runs_take_them(rounded, land, geoseg):
    part = make_plan(str(land), RunSettings(models=(str(rounded),), runtime="openvino")).passes[0]
    assert part.precision == "int8"
    plain = make_plan(str(land), RunSettings(models=(str(rounded),), runtime="openvino", precision="fp32")).passes[0]
    assert plain.precision == "fp32"
    code, out, _ = geoseg("plan", land, "--model", rounded, "--threads=1")
    assert code == 0
    assert "openvino, int8" in out


@needs_integers
@pytest.mark.parametrize("precision", ["int8", "int8-bf16"])
def test_layers_do_not_depend_on_the_cut(rounded, land, tmp_path, precision):
    settings = RunSettings(models=(str(rounded),), runtime="openvino", precision=precision)
    found = []
    for name, execution in {
        "small": Execution(threads=1, chunk=CORE),
        "large": Execution(threads=1, chunk=8 * CORE),
        "workers": Execution(workers=2, chunk=2 * CORE),
    }.items():
        package.run(land, tmp_path / name, settings=settings, execution=execution)
        files = sorted((tmp_path / name).glob("*.geojson")) + sorted((tmp_path / name).glob("*.tif"))
        found.append({path.name: path.read_bytes() for path in files})
    assert "mask.tif" in found[0]
    assert found[0] == found[1] == found[2]


def test_what_cannot_run_is_told(rounded, small_card, land, geoseg, monkeypatch):
    monkeypatch.setattr(runtimes, "cpu_has", lambda *flags: False)
    for arguments, message in (
        (("--model", rounded, "--runtime", "torch"), "openvino alone runs"),
        (("--model", small_card, "--runtime", "openvino"), "make them with geoseg quantize"),
        (("--model", rounded, "--runtime", "openvino"), "this CPU lacks VNNI"),
    ):
        code, _, errors = geoseg("plan", land, "--precision", "int8", *arguments)
        assert code == 2
        assert errors.count("\n") == 1
        assert message in errors
    assert runtimes.resolve_precision("auto", "cpu", "openvino", passed=("fp32", "int8")) == "fp32"

"""Labels of every runtime and precision against torch in float32: measured, told, written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from geoseg import RunSettings
from geoseg.engine import parity
from geoseg.engine.agreement import compare
from geoseg.engine.parity import measure_parity
from geoseg.errors import ModelError, SceneError, SettingsError
from geoseg.models.card import Card
from geoseg.models.runtimes import runtimes_of

from .conftest import paint

HOW = {"window_px": 64, "windows": 4}


@pytest.fixture(scope="module")
def scenes(write_scene):
    return [str(write_scene(paint(220, 300, seed=seed), f"parity{seed}")) for seed in (3, 4)]


def test_every_way_of_this_machine_is_compared(small_card, scenes):
    measured = measure_parity(str(small_card), scenes, RunSettings(device="cpu"), **HOW)
    ways = {(row.runtime, row.precision) for row in measured.rows}
    assert ways == set(runtimes_of(Card.read(small_card), "cpu")) - {("torch", "fp32")}
    assert ("torch", "bf16") in ways
    for row in measured.rows:
        assert row.agreement.pixels == 4 * 64**2
        assert 0 <= row.agreement.differing <= (1e-3 if row.precision == "fp32" else 0.05)


def test_labels_are_counted(monkeypatch, small_card, scenes):
    def label(card, shown, runtime, device, precision):
        labels = [np.ones(pixels.shape[:1] + pixels.shape[2:], np.uint8) for pixels in shown]
        labels[0][0, 0, 0] = 2
        if precision == "bf16":
            labels[1][:, :32] = 7
        return labels

    monkeypatch.setattr(parity, "_label", label)
    measured = measure_parity(str(small_card), scenes, RunSettings(device="cpu"), rate=0.9, **HOW)
    for row in measured.rows:
        expected = (0.25, 0.5) if row.precision == "bf16" else (0, 0)
        assert (row.agreement.differing, row.agreement.worst) == expected
        assert measured.passes(row) == (row.precision != "bf16")


def test_what_passes_is_written(write_card, scenes):
    path = write_card("written")
    digest = Card.read(path).digest
    generous = measure_parity(str(path), scenes, RunSettings(device="cpu"), rate=0.5, **HOW)
    card = generous.write()
    assert card.precisions == ("fp32", "bf16")
    assert card.digest == digest  # the labels of a way of running it are as they were
    assert {(row["runtime"], row["precision"]) for row in card.parity} == {
        (row.runtime, row.precision) for row in generous.rows
    }
    assert {(row["device"], row["scenes"]) for row in card.parity} == {("cpu", 2)}
    strict = measure_parity(str(path), scenes, RunSettings(device="cpu"), rate=1, **HOW)
    assert any(row.precision == "bf16" and row.agreement.differing for row in strict.rows)
    assert strict.write().precisions == ("fp32",)


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (SettingsError, "--rate is 0", {"rate": 0}),
        (SettingsError, "--window is 100", {"window_px": 100}),
        (SettingsError, "--windows is 1: give 2 or more, 1 for each scene", {"windows": 1}),
        (SettingsError, "no scene is given", {"scenes": []}),
        (ModelError, "no weights of geoseg's own format", {"model": "ndvi"}),
    ],
)
def test_bad_input_is_refused(small_card, scenes, error, message, options):
    asked = {"model": str(small_card), "scenes": scenes, **HOW} | options
    with pytest.raises(error, match=message):
        measure_parity(asked.pop("model"), asked.pop("scenes"), RunSettings(), **asked)


def test_scenes_of_one_class_are_refused(small_card, scenes, monkeypatch):
    monkeypatch.setattr(parity, "_label", lambda card, shown, *_: [np.zeros(len(pixels), np.uint8) for pixels in shown])
    with pytest.raises(SceneError, match="labels everything alike"):
        measure_parity(str(small_card), scenes, RunSettings(device="cpu"), **HOW)


def test_one_scene_has_no_interval():
    found = compare([np.zeros((1, 2, 2), np.uint8)], [np.array([[[0, 1], [0, 0]]], np.uint8)])
    assert (found.differing, found.low, found.high, found.worst) == (0.25, None, None, 0.25)


def test_command_line(write_card, scenes, geoseg):
    path = write_card("told")
    code, out, err = geoseg("parity", path, *scenes, "--window", 64, "--windows", 2, "--rate", 0.5, "--write")
    assert code == 0, err
    assert "a precision passes from 0.5 on" in out
    assert f"written to {path}" in err
    code, out, _ = geoseg("parity", path, *scenes, "--window", 64, "--windows", 2, "--json")
    facts = json.loads(out)
    assert code == 0
    assert all({"runtime", "precision", "differing", "passes"} <= row.keys() for row in facts["rows"])

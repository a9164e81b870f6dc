"""Graphs that are kept: the same bytes as made anew, never another model's, and no torch to read them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest

torch = pytest.importorskip("torch")
if find_spec("onnx") is None:
    pytest.skip("needs the extra onnx", allow_module_level=True)

from geoseg.models import graphs, kept, zoo  # noqa: E402
from geoseg.models.architectures import build  # noqa: E402
from geoseg.models.card import write_model  # noqa: E402


@pytest.fixture
def card(tmp_path):
    torch.manual_seed(0)
    made = replace(zoo.load("vehicle"), name="small", architecture="unet-mobilenetv3_small_050", tile=128, halo=32)
    return write_model(tmp_path, made, build(made.architecture, classes=1).state_dict())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "graphs"


@pytest.fixture
def made(monkeypatch):
    """How often a graph was made."""
    times = []
    export = graphs._export
    monkeypatch.setattr(graphs, "_export", lambda *args: times.append(1) or export(*args))
    return times


def test_a_kept_graph_is_what_was_made(card, folder, made):
    first = graphs.labels_graph(card, halo=32, form="merged")
    assert graphs.labels_graph(card, halo=32, form="merged") == first
    assert len(made) == len(list(folder.iterdir())) == 1


def test_whatever_decides_a_graph_makes_another(card, folder, made, monkeypatch):
    graphs.labels_graph(card, halo=32, form="merged")
    graphs.labels_graph(card, halo=0, form="merged")
    graphs.labels_graph(replace(card, tile=160), halo=32, form="merged")
    graphs.labels_graph(replace(card, mean=(1.0, 2.0, 3.0)), halo=32, form="merged")
    graphs.labels_graph(card, halo=32, form="plain")
    graphs.scores_graph(card, halo=32, form="plain")
    graphs.logits_graph(card, form="plain")
    monkeypatch.setattr(kept, "_code", lambda: "changed")
    graphs.logits_graph(card, form="plain")
    assert len(made) == len(list(folder.iterdir())) == 8


@pytest.mark.parametrize("spoilt", [b"", b"half of it", None])
def test_a_spoilt_file_is_made_anew(card, folder, made, spoilt):
    first = graphs.labels_graph(card, halo=32, form="merged")
    [file] = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] if spoilt is None else spoilt)
    assert graphs.labels_graph(card, halo=32, form="merged") == first
    assert len(made) == 2
    assert file.read_bytes() == whole


def test_a_folder_that_takes_nothing_is_no_error(card, tmp_path, monkeypatch, made):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "file"))
    assert graphs.labels_graph(card, halo=32, form="merged")
    assert len(made) == 1


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")
def test_a_run_of_a_kept_graph_takes_no_torch(card, folder):
    script = f"""
import sys
import numpy as np
from geoseg.models.card import Card
from geoseg.models.runtimes import open_runtime, open_scorer
from pathlib import Path

card, how = Card.read(Path({str(card.path)!r})), {{"runtime": "openvino", "device": "cpu", "precision": "fp32"}}
mask, _ = open_runtime(card, **how, halo=32)(np.zeros((1, 3, 128, 128), np.uint8))
assert mask.shape == (1, 64, 64)
[scores] = open_scorer(card, **how)(np.zeros((1, 3, 128, 128), np.uint8))
assert scores.shape == (1, 1, 128, 128)
print("torch" in sys.modules)
"""
    said = [subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True) for _ in "12"]
    assert [run.stdout.strip() for run in said] == ["True", "False"]

"""The parity gate: in every runtime and precision, shipped models label nearly all pixels as torch does in float32."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import rasterio

torch = pytest.importorskip("torch")

from geoseg.models import runtimes, zoo  # noqa: E402
from geoseg.models.graphs import load_merged  # noqa: E402
from geoseg.models.quantization import load_layers, quantized  # noqa: E402
from geoseg.models.runtime_torch import Labeller  # noqa: E402
from geoseg.models.runtimes import open_runtime  # noqa: E402
from geoseg.settings import OF_INTEGERS, Arithmetic  # noqa: E402

SAMPLE = "sample_tiles/riverside.tif"
GATE = 0.003  # of labels may differ
SIDE = 512
WAYS = [
    (card.name, runtime, precision)
    for card in zoo.available()
    if card.automatic and card.weights
    for runtime, precisions in {"torch": ("bf16",), "openvino": get_args(Arithmetic), "onnx": ("fp32",)}.items()
    for precision in precisions
    if precision in card.precisions
]


@functools.cache
def tiles_of(name: str) -> np.ndarray:
    """A tile of the sample, averaged to a GSD that the model reads."""
    times = max(1, round(zoo.load(name).gsd_range_m[0] / 0.5))
    with rasterio.open(SAMPLE) as scene:
        pixels = scene.read([1, 2, 3], window=((0, SIDE * times), (0, SIDE * times)))
    coarse = pixels.reshape(3, SIDE, times, SIDE, times).mean((2, 4)).round().astype(np.uint8)
    return np.ascontiguousarray(coarse[None])


def label(name: str, runtime: str, precision: str) -> np.ndarray:
    card = replace(zoo.load(name), tile=SIDE)
    return open_runtime(card, runtime=runtime, device="cpu", precision=precision, halo=0)(tiles_of(name))[0]


@functools.cache
def expected(name: str) -> np.ndarray:
    return label(name, "torch", "fp32")


@pytest.mark.parametrize(("name", "runtime", "precision"), WAYS)
def test_labels_are_those_of_torch(name, runtime, precision):
    if runtimes._missing(runtime):
        pytest.skip(f"needs the extra {runtime}")
    if precision in OF_INTEGERS and not runtimes.cpu_multiplies("int8"):
        pytest.skip("needs a CPU with VNNI")
    assert len(np.unique(expected(name))) > 1
    assert (label(name, runtime, precision) != expected(name)).mean() <= GATE


@pytest.mark.parametrize("name", [card.name for card in zoo.available() if card.int8])
def test_integers_are_simulated_as_they_run(name):
    """By which `geoseg quantize` judges them, on any CPU."""
    card = replace(zoo.load(name), tile=SIDE)
    assert dict(card.int8_measured)["differing"] <= GATE
    how = {"device": torch.device("cpu"), "halo": 0, "refine": "none", "tta": "none"}
    rounded = quantized(load_merged(card), load_layers(card.int8_path))
    with torch.inference_mode():
        simulated = Labeller(card, rounded, **how)(torch.from_numpy(tiles_of(name)))[0].numpy()
    assert (simulated != expected(name)).mean() <= GATE
    if runtimes.cpu_multiplies("int8") and not runtimes._missing("openvino"):
        assert (label(name, "openvino", "int8") != simulated).mean() <= 0.001

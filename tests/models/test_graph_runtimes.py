"""Runtimes other than torch: what they say is what torch says, and what cannot run is refused in one line."""

from __future__ import annotations

import functools
import io
import json
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import rasterio

from geoseg.errors import ModelError, SettingsError
from geoseg.machine import cpu_has
from geoseg.models import runtimes, zoo
from geoseg.models.architectures import build
from geoseg.models.card import Card, CardClass, write_int8, write_model
from geoseg.models.runtimes import (
    open_decision,
    open_runtime,
    open_scorer,
    resolve_device,
    resolve_precision,
    resolve_runtime,
)
from geoseg.settings import OF_INTEGERS, Arithmetic

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
if find_spec("openvino") is None or find_spec("onnxruntime") is None:
    pytest.skip("needs the extras openvino and onnx", allow_module_level=True)

SAMPLE = Path(__file__).parents[2] / "sample_tiles" / "riverside.tif"
TILE, HALO = 384, 64
GRAPHS = ("openvino", "onnx")


@functools.cache
def tile_of_sample(row: int = 600, col: int = 600) -> np.ndarray:
    with rasterio.open(SAMPLE) as scene:
        return scene.read([1, 2, 3], window=((row, row + TILE), (col, col + TILE)))[None]


@functools.cache
def shipped(name: str, runtime: str):
    card = replace(zoo.load(name), tile=TILE)
    return open_runtime(card, runtime=runtime, device="cpu", precision="fp32", halo=HALO)


def agree(first, second) -> bool:
    """The parity gate: labels on all but 3 of 1000 pixels, and confidences alike where labels are."""
    same = first[0] == second[0]
    return same.mean() >= 0.997 and np.abs(first[1].astype(int) - second[1])[same].max() <= 2


@pytest.mark.parametrize(("name", "runtime"), [("landscape", "openvino"), ("town", "openvino"), ("vehicle", "onnx")])
def test_shipped_models_say_what_they_say_in_torch(name, runtime):
    tiles = tile_of_sample()
    expected = shipped(name, "torch")(tiles)
    found = shipped(name, runtime)(tiles)
    assert [plane.dtype for plane in found] == [np.uint8, np.uint8]
    assert len(np.unique(expected[0])) > 1
    assert agree(found, expected)


@pytest.mark.parametrize(("name", "runtime"), [("landscape", "openvino"), ("vehicle", "onnx")])
def test_a_result_is_not_overwritten_by_the_next(name, runtime):
    infer = shipped(name, runtime)
    first = infer(tile_of_sample())
    kept = [plane.copy() for plane in first]
    infer(tile_of_sample(900, 200))
    again = infer(tile_of_sample())
    for plane, copy, later in zip(first, kept, again, strict=True):
        np.testing.assert_array_equal(plane, copy)
        np.testing.assert_array_equal(later, copy)


@pytest.mark.parametrize("runtime", GRAPHS)
def test_calls_at_once_are_as_calls_one_by_one(runtime):
    shared = open_runtime(
        replace(zoo.load("vehicle"), tile=TILE), runtime=runtime, device="cpu", precision="fp32", halo=HALO, at_once=3
    )
    tiles = [tile_of_sample(row, 600) for row in (600, 300)]
    alone = [shipped("vehicle", runtime)(tile) for tile in tiles]
    with ThreadPoolExecutor(5) as pool:
        together = list(pool.map(lambda index: shared(tiles[index % 2]), range(8)))
    for index, planes in enumerate(together):
        for plane, expected in zip(planes, alone[index % 2], strict=True):
            np.testing.assert_array_equal(plane, expected)


@functools.cache
def model_of(name: str, form: str):
    """A shipped model for OpenVINO."""
    return compilable(replace(zoo.load(name), tile=TILE), form)


def compilable(card: Card, form: str):
    from geoseg.models.graphs import labels_graph
    from geoseg.models.runtime_openvino import _core, _fold

    model = _core().read_model(io.BytesIO(labels_graph(card, halo=HALO, form=form)))
    model.reshape([1, 3, TILE, TILE])
    _fold(model)
    return model


def convolutions(model) -> int:
    return sum(node.get_type_name().endswith("Convolution") for node in model.get_ops())


def test_a_network_is_cut_in_two():
    """Which hand over what the second needs of the first, and no more."""
    import openvino

    from geoseg.models.graphs import EXACT
    from geoseg.models.parts import _first_convolutions, _split

    def names(ports):
        return [port.get_friendly_name() for port in ports]

    model = model_of("vehicle", "bf16")
    before = convolutions(model)
    first, second = _split(openvino, model, _first_convolutions, "bf16")
    assert [convolutions(part) for part in (model, first, second)] == [before, EXACT, before - EXACT]
    assert names(first.get_results()) == names(second.get_parameters())
    assert len(first.outputs) == 1
    assert [output.element_type for output in second.outputs] == [openvino.Type.u8] * 2
    middle, last = _split(openvino, second, _first_convolutions, "bf16")
    assert len(middle.outputs) == 1
    skipped, given = names(second.get_parameters()), names(middle.get_results())
    assert names(last.get_parameters()) == [*skipped, *given]  # one is skipped to the decoder
    assert not _first_convolutions(first)
    assert _split(openvino, model, lambda _: set(), "bf16") == (None, model)


def test_the_first_convolutions_of_bf16_are_exact():
    import openvino

    from geoseg.models.graphs import EXACT
    from geoseg.models.parts import cut_network

    for in_blocks, count in (("nothing", 2), ("beginning", 3), ("both ends", 4)):
        parts = cut_network(openvino, model_of("vehicle", "bf16"), "bf16", in_blocks, (64, 64))
        assert [part.hint for part in parts] == ["f32", *["bf16"] * (count - 1)]
        assert [part.blocks is not None for part in parts[:2]] == [count > 2] * 2
        assert convolutions(parts[0].model) == EXACT


@pytest.fixture(scope="module")
def as_many_integers_as_can_be(tmp_path_factory):
    """A shipped model with integers in all its convolutions but those that are always left out."""
    from geoseg.models.graphs import EXACT
    from geoseg.models.quantization import Calibration, save_layers
    from geoseg.models.runtime_torch import example_inputs, load_network, settle
    from geoseg.models.upsampling import merge_upsampling

    settle("cpu")
    shipped = zoo.load("vehicle")
    network = merge_upsampling(load_network(shipped).eval(), example_inputs(shipped, 128))
    examples = torch.from_numpy(tile_of_sample().astype(np.float32) / 64 - 2)
    layers = Calibration(network, examples[..., :128, :128]).quantize(EXACT)
    folder = tmp_path_factory.mktemp("integers")
    plain = replace(shipped, int8=None, int8_checksum="", int8_measured=(), precisions=("fp32",), parity=())
    card = write_model(folder, plain, load_network(shipped).state_dict())
    return replace(write_int8(card, lambda path: save_layers(path, layers), {"differing": 0.0}), tile=TILE)


def test_integers_stay_with_those_who_multiply_them(as_many_integers_as_can_be):
    import openvino

    from geoseg.models.graphs import EXACT
    from geoseg.models.parts import cut_network

    model = compilable(as_many_integers_as_can_be, "int8-bf16")
    first, rest = cut_network(openvino, model, "bf16")
    assert convolutions(first.model) == EXACT
    assert roundings(first.model) == 0
    assert len(first.model.outputs) == 1
    assert convolutions(rest.model) == convolutions(model) - EXACT
    whole = roundings(rest.model)
    first, second, rest = cut_network(openvino, model, "bf16", "beginning", (64, 64))
    assert roundings(second.model) == convolutions(second.model)
    assert roundings(second.model) + roundings(rest.model) == whole


def roundings(model) -> int:
    """Of what depends on its inputs."""
    from geoseg.models.parts import _numbered

    return sum(node.get_type_name() == "FakeQuantize" for node in _numbered(model)[0])


def test_what_comes_of_a_rounding_is_gone_over_once():
    """However many ways lead there: two to the power of forty would not end."""
    import openvino

    from geoseg.models.nodes import name_of
    from geoseg.models.parts import _convolutions_after

    operations = openvino.opset13
    image = operations.parameter([1, 3, 8, 8], openvino.Type.f32)
    limits = [operations.constant(np.float32(value)) for value in (0, 1, 0, 1)]
    rounded = found = operations.fake_quantize(image, *limits, 256)
    for _ in range(40):
        found = operations.add(found, operations.sigmoid(found))
    weight = operations.constant(np.ones((2, 3, 1, 1), np.float32))
    last = operations.convolution(found, weight, [1, 1], [0, 0], [0, 0], [1, 1])
    model = openvino.Model([operations.result(last)], [image])
    assert len(model.get_ops()) > 80
    assert _convolutions_after(rounded) == {name_of(last)}


class Together(torch.nn.Module):
    """A network whose last convolution sees what two others give, together."""

    def __init__(self, last):
        super().__init__()
        self.one, self.other = (torch.nn.Conv2d(3, 16, 3, padding=1) for _ in range(2))
        self.last = last

    def forward(self, image):
        return self.last(torch.cat([self.one(image), self.other(image)], 1))


@pytest.mark.skipif(not cpu_has("avx512_vnni", "avx_vnni", "amx_int8"), reason="needs a CPU with VNNI")
@pytest.mark.parametrize(
    "last",
    [
        torch.nn.Conv2d(32, 2, 1),
        torch.nn.Conv2d(32, 16, 3, padding=1),
        torch.nn.ConvTranspose2d(32, 8, 4, 2, 1),
    ],
)
def test_integers_are_multiplied_as_they_are_simulated(last, monkeypatch, tmp_path):
    """Also where zero is in the middle of their range."""
    from geoseg.models import quantization
    from geoseg.models.quantization import Calibration, quantized
    from geoseg.models.runtime_openvino import compile_graph

    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path))
    steps = quantization._steps
    monkeypatch.setattr(quantization, "_steps", lambda *args, even: steps(*args, even=True))
    torch.manual_seed(0)
    network, examples = Together(last).eval(), torch.randn(4, 3, 64, 64)
    layers = Calibration(network, examples).quantize(2)
    assert int(layers["last"].zero) == 128
    simulation, graph = quantized(network, layers), io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(simulation, (examples[:1],), graph, dynamo=False, opset_version=17)
        expected = simulation(examples[:1]).numpy()
    [found] = compile_graph(graph.getvalue(), (1, 3, 64, 64), precision="int8", at_once=1)(examples[:1].numpy())
    assert np.abs(found - expected).max() < 0.02 * expected.std()


@pytest.mark.skipif(not cpu_has("avx512_vnni", "avx_vnni", "amx_int8"), reason="needs a CPU with VNNI")
def test_nearly_all_convolutions_multiply_integers():
    from geoseg.models.runtime_openvino import _core

    compiled = _core().compile_model(model_of("vehicle", "int8"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kinds = [fact["runtimePrecision"].value for fact in facts if "onvolution" in fact["layerType"].value]
    left_out = dict(zoo.load("vehicle").int8_measured)["left_out"]
    assert len(kinds) > 60
    assert sum(kind in {"u8", "i8"} for kind in kinds) == len(kinds) - left_out


@pytest.mark.parametrize("in_blocks", ["nothing", "both ends"])
@pytest.mark.parametrize("precision", get_args(Arithmetic))
def test_what_was_compiled_before_is_kept(precision, in_blocks, tmp_path, monkeypatch):
    from geoseg.models import runtime_openvino

    if precision in OF_INTEGERS and not cpu_has("avx512_vnni", "avx_vnni", "amx_int8"):
        pytest.skip("needs a CPU with VNNI")
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path))
    monkeypatch.setattr(runtime_openvino, "_choose_blocks", lambda _: (in_blocks, (64, 64)))
    compiled = []
    made = runtime_openvino.compile_part
    monkeypatch.setattr(runtime_openvino, "compile_part", lambda *args: compiled.append(1) or made(*args))
    card = replace(zoo.load("vehicle"), tile=TILE)
    how = {"runtime": "openvino", "device": "cpu", "precision": precision, "halo": HALO}
    tile = tile_of_sample()
    first, second = (open_runtime(card, **how)(tile) for _ in range(2))
    assert len(list((tmp_path / "compiled").iterdir())) == 1
    once = len(compiled)
    assert (once > 2) == (in_blocks == "both ends")
    shared = open_runtime(card, **how, at_once=2)
    assert len(compiled) == once
    with ThreadPoolExecutor(2) as pool:
        for planes in pool.map(lambda _: shared(tile), range(4)):
            for one, other in zip(first, planes, strict=True):
                np.testing.assert_array_equal(one, other)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_openvino_does_not_take_back_is_compiled_anew(tmp_path, monkeypatch):
    from geoseg.models import runtime_openvino

    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path))
    card = replace(zoo.load("vehicle"), tile=TILE)
    how = {"runtime": "openvino", "device": "cpu", "precision": "fp32", "halo": HALO}
    tile = tile_of_sample()
    expected = open_runtime(card, **how)(tile)

    refused = []

    def refuse(*_):
        refused.append(1)
        raise RuntimeError("another format")

    monkeypatch.setattr(runtime_openvino, "unpack", refuse)
    monkeypatch.setattr(runtime_openvino, "pack", refuse)
    for one, other in zip(open_runtime(card, **how)(tile), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(refused) == 2


_SIGNALLED = """
import ctypes, gc, threading
from dataclasses import replace
import numpy as np
from geoseg.models import zoo
from geoseg.models.graphs import labels_graph
from geoseg.models.runtime_openvino import compile_graph

class Stack(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

card = replace(zoo.load("vehicle"), tile=256)
networks = [compile_graph(labels_graph(card, halo=64, form="plain"), (1, 3, 256, 256), precision="fp32", at_once=1)]
networks[0](np.zeros((1, 3, 256, 256), np.uint8))
thread = threading.Thread(target=networks.clear)
thread.start()
thread.join()
gc.collect()
stack = Stack()
ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
if stack.address is not None:
    with open("/proc/self/maps") as maps:
        spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps]
    assert any(start <= stack.address < end for start, end in spans)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_signals_are_handled_on_memory_that_is_there_once_networks_are_gone():
    subprocess.run([sys.executable, "-c", _SIGNALLED], check=True, timeout=120)


def test_nobody_is_told_that_openvino_runs():
    shipped("landscape", "openvino")
    assert "openvino_telemetry" not in sys.modules


@pytest.fixture(scope="module")
def soft_card(tmp_path_factory):
    """A small network for five bands of any values, with softmax and a boundary."""
    torch.manual_seed(4)
    made = replace(
        zoo.load("town"),
        name="soft",
        architecture="unet-mobilenetv3_small_050",
        activation="softmax",
        dtype="any",
        tile=192,
        halo=32,
        bands=tuple(f"band_{index}" for index in range(5)),
        mean=(100.0,) * 5,
        std=(3000.0,) * 5,
        classes=(CardClass(3, "field", (0, 255, 0)), CardClass(4, "edge", (0, 0, 255), boundary_of="field", odds=2.0)),
    )
    network = build(made.architecture, classes=3, bands=5)
    torch.nn.init.normal_(network.segmentation_head[0].weight, std=0.3)  # so that all classes occur
    return write_model(tmp_path_factory.mktemp("models"), made, network.state_dict())


@pytest.fixture(scope="module")
def deep_tiles():
    rng = np.random.default_rng(0)
    tiles = np.kron(rng.normal(1500, 2000, (2, 5, 12, 12)), np.ones((16, 16))).astype(np.float32)
    tiles[0, 2, 3:9, 5], tiles[1, 3, 7, 7] = np.nan, np.inf
    return tiles


@pytest.mark.parametrize("runtime", GRAPHS)
def test_softmax_and_any_values(soft_card, deep_tiles, runtime):
    how = {"device": "cpu", "precision": "fp32", "halo": 32}
    expected = open_runtime(soft_card, runtime="torch", **how)(deep_tiles[:1])
    found = open_runtime(soft_card, runtime=runtime, **how)(deep_tiles[:1])
    assert set(np.unique(expected[0])) == {0, 3, 4}
    assert agree(found, expected)


def test_scores_are_refined_alike(soft_card, deep_tiles):
    how = {"device": "cpu", "precision": "fp32", "halo": 32}
    plain = open_runtime(soft_card, runtime="torch", **how)(deep_tiles[:1])
    expected = open_runtime(soft_card, runtime="torch", refine="guided", **how)(deep_tiles[:1])
    assert (expected[0] != plain[0]).any()
    assert agree(open_runtime(soft_card, runtime="openvino", refine="guided", **how)(deep_tiles[:1]), expected)


def test_views_are_averaged_alike(soft_card, deep_tiles):
    how = {"device": "cpu", "precision": "fp32", "halo": 32}
    plain, expected = (
        open_runtime(soft_card, runtime="torch", tta=tta, **how)(deep_tiles[:1]) for tta in ("none", "d4")
    )
    assert (expected[0] != plain[0]).any()
    assert agree(open_runtime(soft_card, runtime="onnx", tta="d4", **how)(deep_tiles[:1]), expected)


def scores_agree(card, first, second) -> bool:
    """The same gate for scores, and for what is decided by them."""
    assert first.shape == second.shape == (1, card.planes, *first.shape[2:])
    assert len(np.unique(first)) > 20
    labels = [open_decision(card)(scores[0].astype(np.uint16) * 256) for scores in (first, second)]
    return (np.abs(first.astype(int) - second) <= 1).mean() >= 0.997 and agree(*labels)


def test_scores_of_a_shipped_model_are_those_in_torch():
    card = replace(zoo.load("landscape"), tile=TILE)
    expected, found = (
        open_scorer(card, runtime=one, device="cpu", precision="fp32")(tile_of_sample())[0]
        for one in ("torch", "openvino")
    )
    assert scores_agree(card, found, expected)


@pytest.mark.parametrize(
    ("runtime", "more"),
    [("openvino", {}), ("onnx", {}), ("onnx", {"tta": "d4"}), ("openvino", {"refine": "guided"})],
    ids=str,
)
def test_scores_of_any_values_with_softmax_agree(soft_card, deep_tiles, runtime, more):
    expected, found = (
        open_scorer(soft_card, runtime=one, device="cpu", precision="fp32", **more)(deep_tiles[:1])[0]
        for one in ("torch", runtime)
    )
    assert scores_agree(soft_card, found, expected)


@pytest.mark.parametrize("runtime", GRAPHS)
def test_one_tile_or_two_at_a_time_are_the_same(soft_card, deep_tiles, runtime):
    from geoseg.models import runtime_onnx, runtime_openvino
    from geoseg.models.runtime_graph import GraphRuntime

    compile_graph = {
        "openvino": functools.partial(runtime_openvino.compile_graph, precision="fp32", at_once=1),
        "onnx": functools.partial(runtime_onnx.compile_graph, device="cpu", at_once=1),
    }[runtime]
    one, two = (GraphRuntime(soft_card, compile_graph, batch=batch, halo=32) for batch in (1, 2))
    together, _ = two(deep_tiles)
    for index, mask in enumerate(together):
        np.testing.assert_array_equal(one(deep_tiles[index : index + 1])[0][0], mask)


def test_networks_whose_sizes_freeze_are_traced_by_a_whole_tile(soft_card):
    from geoseg.models.graphs import _example_side

    card = replace(soft_card, tile=192, bands=("red", "green", "blue"))
    assert _example_side(build("pspnet-resnet18", classes=1).eval(), card, 0) == 192
    unet = build("unet-resnet18", classes=1).eval()
    assert [_example_side(unet, card, halo) for halo in (0, 32, 63, 64)] == [128, 128, 128, 192]


@pytest.fixture
def write_onnx(tmp_path):
    """Returns a function that writes an ONNX file of one 1 x 1 convolution of three bands, and its card."""
    weights = np.array([[1, -1, 0], [0, -1, 1]], np.float32).reshape(2, 3, 1, 1)

    def write(*, takes=("n", 3, 64, 64), kind=np.float32, scores=False, path="net.onnx", **changes) -> Card:
        types = {np.float32: onnx.TensorProto.FLOAT, np.float16: onnx.TensorProto.FLOAT16}
        types |= {np.uint8: onnx.TensorProto.UINT8, np.int64: onnx.TensorProto.INT64}
        nodes = [
            onnx.helper.make_node("Cast", ["image"], ["wide"], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("Conv", ["wide", "weights"], ["logits"]),
            onnx.helper.make_node("Sigmoid", ["logits"], ["scores"]),
        ]
        result = "scores" if scores else "logits"
        graph = onnx.helper.make_graph(
            nodes,
            "net",
            [onnx.helper.make_tensor_value_info("image", types[kind], takes)],
            [onnx.helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, None)],
            [onnx.numpy_helper.from_array(weights, "weights")],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, tmp_path / path)
        plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "tile": 64, "halo": 0, "checksum": "", "output": result}
        classes = (CardClass(3, "water", (0, 0, 255)), CardClass(7, "field", (0, 255, 0)))
        made = replace(zoo.load("town"), name="own", architecture="mine", weights=path, classes=classes)
        made = replace(made, path=tmp_path / "own.card.json", **plain | changes)
        made.path.write_text(json.dumps(made.to_item()), encoding="utf-8")
        return Card.read(made.path)

    return write


def label(card, tiles, runtime="onnx"):
    return open_runtime(card, runtime=runtime, device="cpu", precision="fp32", halo=card.halo)(tiles)


@pytest.fixture
def picture():
    tiles = np.random.default_rng(5).integers(0, 256, (1, 3, 64, 64), dtype=np.uint8)
    red, green, blue = tiles[0].astype(int)
    odds = np.stack([red - green, blue - green])
    return tiles, np.where(odds.max(axis=0) >= 0, np.array([3, 7])[odds.argmax(axis=0)], 0)


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.uint8])
@pytest.mark.parametrize("runtime", GRAPHS)
def test_an_onnx_file_is_a_model(write_onnx, picture, runtime, kind):
    tiles, expected = picture
    card = write_onnx(kind=kind)
    assert card.is_onnx
    assert card.checksum == f"1220{card.weights_sha256}"
    mask, confidence = label(card, tiles, runtime)
    np.testing.assert_array_equal(mask[0], expected)
    assert confidence.min() >= 127


def test_an_onnx_file_may_give_scores(write_onnx, picture):
    tiles, expected = picture
    from_scores = label(write_onnx(scores=True, mean=(128.0,) * 3, std=(64.0,) * 3), tiles)
    np.testing.assert_array_equal(from_scores[0][0], expected)
    from_logits = label(write_onnx(mean=(128.0,) * 3, std=(64.0,) * 3), tiles)
    assert np.abs(from_scores[1].astype(int) - from_logits[1]).max() <= 1


def test_an_onnx_file_gives_scores_of_whole_tiles(write_onnx, picture):
    tiles, _ = picture
    card = write_onnx(scores=True, mean=(128.0,) * 3, std=(64.0,) * 3)
    [scores] = open_scorer(card, runtime="onnx", device="cpu", precision="fp32")(tiles)
    red, green, _ = (tiles[0].astype(float) - 128) / 64
    np.testing.assert_allclose(scores[0, 0], 255 / (1 + np.exp(green - red)), atol=0.51)


@pytest.mark.parametrize("runtime", GRAPHS)
def test_an_onnx_file_says_how_many_tiles_it_takes(write_onnx, picture, runtime):
    card = write_onnx(takes=(2, 3, 64, 64))
    infer = open_runtime(card, runtime=runtime, device="cpu", precision="fp32", halo=0)
    assert infer.batch == 2
    mask, _ = infer(np.concatenate([picture[0]] * 2))
    np.testing.assert_array_equal(mask[1], picture[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"takes": ("n", 3, 96, 96)},
            "takes any x 3 x 96 x 96; by its card it should take one input of 1 x 3 x 64 x 64",
        ),
        ({"takes": ("n", 64, 64, 3)}, "correct tile and bands"),
        ({"takes": ("n", 3, 64)}, "correct tile and bands"),
        ({"kind": np.int64}, "float32, float16 or uint8"),
        ({"kind": np.uint8, "mean": (120.0,) * 3}, "takes bytes as they are"),
        ({"classes": (CardClass(1, "water", (0, 0, 255)),)}, "gives 1 x 2 x 64 x 64; by its card .* 1 x 1 x 64 x 64"),
        ({"checksum": "1220" + "0" * 64}, "are not the weights that the card of own describes"),
    ],
)
def test_an_onnx_file_that_does_not_fit_its_card_is_refused(write_onnx, picture, changes, message):
    changes = dict(changes)
    checksum = changes.pop("checksum", None)
    card = write_onnx(**changes)
    with pytest.raises(ModelError, match=message) as caught:
        label(replace(card, checksum=checksum or card.checksum), picture[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [(b"\xff\xff\xff", "cannot be read"), (b"", "takes nothing")])
def test_what_is_no_onnx_file_is_refused(write_onnx, picture, content, message):
    card = write_onnx()
    card.weights_path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        label(replace(card, checksum=""), picture[0])


def test_an_onnx_file_needs_a_card(write_onnx):
    path = write_onnx().weights_path
    with pytest.raises(ModelError, match="network without a card"):
        zoo.load(str(path))


def test_auto_takes_what_suits_and_is_there(write_onnx, soft_card, monkeypatch):
    file, dpt = write_onnx(), replace(soft_card, architecture="dpt-vit_small_patch16_224")
    assert resolve_runtime("auto", soft_card, "cpu") == "openvino"
    assert resolve_runtime("auto", soft_card, "cuda") == "torch"
    for odd in (dpt, replace(soft_card, architecture="upernet-resnet18")):
        assert resolve_runtime("auto", odd, "cpu") == "torch"
    assert resolve_runtime("auto", file, "cpu") == "onnx"
    assert resolve_runtime("openvino", zoo.load("ndwi"), "cpu") == "torch"
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None if name in {"openvino", "onnxruntime"} else name)
    assert resolve_runtime("auto", soft_card, "cpu") == "torch"
    with pytest.raises(SettingsError, match=r"needs the package onnxruntime; .*pip install 'geoseg\[onnx\]'"):
        resolve_runtime("auto", file, "cpu")
    with pytest.raises(SettingsError, match=r"needs the package openvino; .*pip install 'geoseg\[openvino\]'"):
        open_runtime(soft_card, runtime="openvino", device="cpu", precision="fp32", halo=0)


def test_what_a_runtime_cannot_do_is_refused(write_onnx, soft_card):
    with pytest.raises(SettingsError, match="choose auto, onnx or openvino"):
        resolve_runtime("torch", write_onnx(), "cpu")
    with pytest.raises(SettingsError, match="torch alone runs"):
        resolve_runtime("openvino", replace(soft_card, architecture="dpt-vit_small_patch16_224"), "cpu")
    with pytest.raises(SettingsError, match="--runtime openvino runs on CPUs"):
        resolve_device("cuda", "openvino")
    assert resolve_device("auto", "openvino") == "cpu"
    with pytest.raises(SettingsError, match="--precision is bf16"):
        resolve_precision("bf16", "cpu", "onnx")
    assert resolve_precision("auto", "cpu", "onnx") == "fp32"

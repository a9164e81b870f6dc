from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geoseg.errors import ModelError, SettingsError
from geoseg.models import zoo
from geoseg.models.architectures import build
from geoseg.models.card import CardClass, write_model
from geoseg.models.lanes import Lane, count_lanes
from geoseg.models.runtime_torch import Scorer, load_network
from geoseg.models.runtimes import open_decision, open_runtime, open_scorer, resolve_device, resolve_precision
from geoseg.models.slots import NoRoomError, Slots

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """A small network with two classes and random weights."""
    torch.manual_seed(1)
    made = replace(
        zoo.load("town"),
        name="small",
        architecture="unet-mobilenetv3_small_050",
        classes=(CardClass(3, "field", (0, 255, 0)), CardClass(7, "water", (0, 0, 255))),
    )
    network = build(made.architecture, classes=2)
    network.segmentation_head[0].weight.data *= 60  # so that scores differ from a half
    return write_model(tmp_path_factory.mktemp("models"), made, network.state_dict())


@pytest.fixture(scope="module")
def soft_card(tmp_path_factory):
    """The same for eight bands of any values, with softmax."""
    torch.manual_seed(2)
    made = replace(
        zoo.load("town"),
        name="soft",
        architecture="unet-mobilenetv3_small_050",
        activation="softmax",
        dtype="any",
        bands=tuple(f"band_{index}" for index in range(8)),
        mean=(0.0,) * 8,
        std=(3000.0,) * 8,
        classes=(CardClass(3, "field", (0, 255, 0)), CardClass(4, "edge", (0, 0, 255), boundary_of="field")),
    )
    network = build(made.architecture, classes=3, bands=8)
    network.segmentation_head[0].weight.data *= 60  # so that scores differ from a half
    return write_model(tmp_path_factory.mktemp("models"), made, network.state_dict())


@pytest.fixture(scope="module")
def tiles():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (2, 3, 16, 16)), np.ones((12, 12))).astype(np.uint8)


@pytest.fixture(scope="module")
def deep_tiles():
    rng = np.random.default_rng(0)
    return np.kron(rng.normal(1500, 2000, (1, 8, 8, 8)), np.ones((12, 12))).astype(np.float32)


def runtime(card, halo=32, precision="fp32", **options):
    return open_runtime(card, runtime="torch", device="cpu", precision=precision, halo=halo, **options)


def scores_of(card, tiles):
    mean, std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (card.mean, card.std))
    with torch.inference_mode():
        logits = load_network(card).eval()(torch.from_numpy((tiles - mean) / std).float())
        return (torch.sigmoid(logits) if card.activation == "sigmoid" else torch.softmax(logits, dim=1)).numpy()


def test_codes_and_confidence(card, tiles):
    mask, confidence = runtime(card)(tiles)
    assert mask.shape == confidence.shape == (2, 128, 128)
    assert mask.dtype == confidence.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 3, 7}
    assert confidence.min() >= 127
    assert confidence.max() <= 254


def test_halo_is_cropped_and_nothing_else(card, tiles):
    whole, whole_confidence = runtime(card, halo=0)(tiles)
    core, core_confidence = runtime(card, halo=32)(tiles)
    np.testing.assert_array_equal(core, whole[:, 32:-32, 32:-32])
    np.testing.assert_array_equal(core_confidence, whole_confidence[:, 32:-32, 32:-32])


def test_same_tile_same_bits_whatever_else_ran(card, tiles):
    infer = runtime(card)
    first = infer(tiles[:1])
    infer(tiles[1:])
    again = runtime(card)(tiles[:1])
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_calls_at_once_are_as_calls_one_by_one(card, tiles, precision):
    alone = [runtime(card, precision=precision)(tiles[index : index + 1]) for index in (0, 1)]
    shared = runtime(card, precision=precision, at_once=2)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda index: shared(tiles[index % 2][None]), range(8)))
    for index, planes in enumerate(together):
        for plane, expected in zip(planes, alone[index % 2], strict=True):
            np.testing.assert_array_equal(plane, expected)


class _Full(Lane):
    """A lane of a device that has no memory."""

    def __init__(self, compute, shape, dtype):
        raise NoRoomError


def test_a_tile_that_fits_no_gpu_is_told_in_one_line(card, tiles):
    full = runtime(card)
    full._lanes = Slots(lambda: _Full(None, (), None), 3)
    with pytest.raises(ModelError, match=r"does not fit this GPU with tiles of \d+ px; .*--device cpu"):
        full(tiles[:1])


def test_small_tiles_have_more_lanes():
    assert [count_lanes(side**2) for side in (256, 1024, 2048, 3072)] == [16, 12, 3, 3]


def test_mask_is_the_best_sigmoid_from_a_half_on(card, tiles):
    scores = scores_of(card, tiles)
    mask, confidence = runtime(card, halo=0)(tiles)
    best = scores.max(axis=1)
    clear = (np.abs(best - 0.5) > 1e-3) & ((np.abs(scores[:, 0] - scores[:, 1]) > 1e-3) | (best < 0.5))
    expected = np.where(best >= 0.5, np.array([3, 7])[scores.argmax(axis=1)], 0)
    np.testing.assert_array_equal(mask[clear], expected[clear])
    np.testing.assert_allclose(confidence / 254, np.where(best >= 0.5, best, 1 - best), atol=0.004)


def test_softmax_takes_the_most_probable_of_any_bands_and_values(soft_card, deep_tiles, tmp_path):
    free = tuple(replace(entry, boundary_of=None) for entry in soft_card.classes)
    card = write_model(tmp_path, replace(soft_card, classes=free), load_network(soft_card).state_dict())
    scores = scores_of(card, deep_tiles)
    mask, confidence = runtime(card, halo=0)(deep_tiles)
    ranked = np.sort(scores, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > 1e-3
    np.testing.assert_array_equal(mask[clear], np.array([0, 3, 4])[scores.argmax(axis=1)][clear])
    assert set(np.unique(mask)) == {0, 3, 4}
    np.testing.assert_allclose(confidence / 254, ranked[:, -1], atol=0.004)


@pytest.mark.parametrize("odds", [1.0, 4.0, 0.5])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_class_and_its_boundary_stand_together(soft_card, deep_tiles, tmp_path, activation, odds):
    network = build(soft_card.architecture, classes=3 if activation == "softmax" else 2, bands=8)
    torch.manual_seed(3)
    torch.nn.init.normal_(network.segmentation_head[0].weight, std=0.3)
    classes = (soft_card.classes[0], replace(soft_card.classes[1], odds=odds))
    card = write_model(tmp_path, replace(soft_card, activation=activation, classes=classes), network.state_dict())
    scores = scores_of(card, deep_tiles)
    inside, boundary = scores[:, -2], scores[:, -1]
    there = np.clip(inside + boundary, 0, 1)
    against = inside, boundary
    if activation == "sigmoid":
        against = inside / (1 - inside), boundary / (1 - boundary)
    lead = against[0] / (odds * against[1])
    clear = (np.abs(there - 0.5) > 1e-3) & (np.abs(lead - 1) > 1e-2)
    mask, confidence = runtime(card, halo=0)(deep_tiles)
    expected = np.where(there >= 0.5, np.where(lead >= 1, 3, 4), 0)
    np.testing.assert_array_equal(mask[clear], expected[clear])
    neither = (np.maximum(inside, boundary) < 0.5) & (there >= 0.5)
    assert (neither & clear).any(), "nothing that only the pair can decide"
    np.testing.assert_allclose(confidence / 254, np.where(there >= 0.5, there, 1 - there), atol=0.004)


def test_what_is_no_number_counts_as_the_mean(soft_card, deep_tiles):
    broken, mended = deep_tiles.copy(), deep_tiles.copy()
    broken[:, 2, 3:9, 5], broken[:, 3, 7, 7], mended[:, 2, 3:9, 5], mended[:, 3, 7, 7] = np.nan, np.inf, 0, 0
    for got, expected in zip(runtime(soft_card)(broken), runtime(soft_card)(mended), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_bf16_nearly_agrees(card, tiles):
    exact, _ = runtime(card)(tiles)
    quick, _ = runtime(card, precision="bf16")(tiles)
    assert (exact == quick).mean() > 0.9


def test_weights_of_another_card_are_refused(card):
    with pytest.raises(ModelError, match="are not the weights that the card of small describes"):
        runtime(replace(card, checksum="1220" + "0" * 64))
    with pytest.raises(ModelError, match="do not fit the architecture unet-mobilenet_v2"):
        runtime(replace(card, architecture="unet-mobilenet_v2"))
    with pytest.raises(ModelError, match="needs a multiple of 32"):
        runtime(replace(card, stride=16))


def test_views_are_turned_and_mirrored_and_averaged(card, tiles):
    plain, averaged = runtime(card), runtime(card, tta="d4")
    network = load_network(card).eval()
    mean, std = (np.array(values).reshape(1, -1, 1, 1) for values in (card.mean, card.std))
    inputs, total = (tiles - mean) / std, 0.0
    for mirrored in (False, True):
        for turns in range(4):
            view = np.rot90(inputs[..., ::-1] if mirrored else inputs, turns, (2, 3))
            with torch.inference_mode():
                scores = torch.sigmoid(network(torch.from_numpy(view.copy()).float())).numpy()
            back = np.rot90(scores, -turns, (2, 3))
            total = total + (back[..., ::-1] if mirrored else back)
    scores = (total / 8)[..., 32:-32, 32:-32]
    codes = np.array([entry.code for entry in card.classes])
    expected = np.where(scores.max(1) >= 0.5, codes[scores.argmax(1)], 0)
    found, _ = averaged(tiles)
    assert (found == expected).mean() > 0.9999
    assert (found != plain(tiles)[0]).mean() > 0.001


def test_scores_are_those_of_the_network_as_bytes(card, soft_card, tiles, deep_tiles):
    for one, shown in ((card, tiles), (soft_card, deep_tiles)):
        [found] = open_scorer(one, runtime="torch", device="cpu", precision="fp32")(shown)
        assert found.dtype == np.uint8
        assert found.shape == (len(shown), one.planes, *shown.shape[2:])
        assert np.abs(found - 255 * scores_of(one, shown)).max() < 0.51


@pytest.mark.parametrize("more", [{}, {"tta": "d4"}, {"refine": "guided"}], ids=str)
@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_scores_are_decided_as_labels_are(card, soft_card, tiles, deep_tiles, kind, more):
    one, shown = (card, tiles[:1]) if kind == "sigmoid" else (soft_card, deep_tiles)
    expected = runtime(one, halo=0, **more)(shown)
    [scores] = open_scorer(one, runtime="torch", device="cpu", precision="fp32", **more)(shown)
    mask, confidence = open_decision(one)(scores[0].astype(np.uint16) * 256)
    assert len(np.unique(mask)) > 1
    same = mask == expected[0][0]
    assert same.mean() > 0.99
    assert np.abs(confidence.astype(int) - expected[1][0])[same].max() <= 2


def test_classes_are_told_apart_where_none_of_them_may_be_background(soft_card):
    shares = torch.tensor([1e-7, 0.6, 0.4]).view(1, 3, 1, 1).expand(-1, -1, 96, 96)
    how = {"device": torch.device("cpu"), "halo": 0, "refine": "none", "tta": "none"}
    [scores] = Scorer(soft_card, lambda inputs: shares.log() + 5, **how)(torch.zeros(1, 8, 96, 96))
    assert scores[0, :, 0, 0].tolist() == [0, 153, 102]
    mask, confidence = open_decision(soft_card)(scores[0].numpy().astype(np.uint16) * 256)
    assert set(np.unique(mask)) == {3}
    assert set(np.unique(confidence)) == {254}  # that of the class and its boundary together


def test_choices_are_resolved():
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in {"cpu", "cuda"}
    assert resolve_precision("bf16", "cpu") == "bf16"
    assert resolve_precision("auto", "cpu") in {"fp32", "bf16"}
    assert resolve_precision("auto", "cpu", passed=("fp32",)) == "fp32"


@pytest.mark.parametrize(
    ("flags", "runtime", "passed", "expected"),
    [
        ("amx_bf16 amx_int8 avx512_bf16 avx512_vnni", "openvino", ("fp32", "bf16", "int8"), "bf16"),
        ("amx_bf16 amx_int8 avx512_bf16 avx512_vnni", "openvino", ("fp32", "int8"), "int8"),
        ("avx512_bf16 avx512_vnni", "openvino", ("fp32", "bf16", "int8"), "bf16"),
        ("avx512_bf16 avx512_vnni", "openvino", ("fp32", "bf16", "int8", "int8-bf16"), "int8-bf16"),
        ("amx_bf16 amx_int8 avx512_bf16 avx512_vnni", "openvino", ("fp32", "bf16", "int8-bf16"), "bf16"),
        ("avx512_bf16", "openvino", ("fp32", "bf16", "int8-bf16"), "bf16"),
        ("avx512_vnni", "openvino", ("fp32", "int8-bf16"), "fp32"),
        ("avx512_bf16 avx512_vnni", "torch", ("fp32", "bf16", "int8-bf16"), "bf16"),
        ("avx512_vnni", "openvino", ("fp32", "bf16", "int8"), "int8"),
        ("avx512_bf16 avx512_vnni", "torch", ("fp32", "bf16", "int8"), "bf16"),
        ("avx512_bf16 avx512_vnni", "openvino", ("fp32", "bf16"), "bf16"),
        ("avx512_vnni", "openvino", ("fp32", "bf16"), "fp32"),
        ("avx512_vnni", "torch", ("fp32", "bf16", "int8"), "fp32"),
        ("avx2", "openvino", ("fp32", "bf16", "int8"), "fp32"),
        ("amx_bf16 avx512_vnni", "openvino", ("fp32",), "fp32"),
        ("amx_bf16", "onnx", ("fp32", "bf16"), "fp32"),
    ],
)
def test_auto_is_what_the_cpu_multiplies_and_the_card_allows(monkeypatch, flags, runtime, passed, expected):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"flags : avx512f {flags} sse")
    assert resolve_precision("auto", "cpu", runtime, passed=passed) == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_cuda_without_a_device_is_refused():
    with pytest.raises(SettingsError, match="--device is cuda"):
        resolve_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_says_the_same_however_many_lanes_there_are(card, tiles):
    one, many = (open_runtime(card, runtime="torch", device="cuda", precision="bf16", halo=32) for _ in range(2))
    one._lanes = Slots(one._lanes._open_slot, 1)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda index: many(tiles[index % 2][None]), range(32)))
    for index, planes in enumerate(together):
        for plane, expected in zip(planes, one(tiles[index % 2][None]), strict=True):
            np.testing.assert_array_equal(plane, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_nearly_agrees_with_cpu(card, tiles):
    exact, _ = runtime(card)(tiles[:1])
    quick, _ = open_runtime(card, runtime="torch", device="cuda", precision="fp32", halo=32)(tiles[:1])
    assert (exact == quick).mean() > 0.995

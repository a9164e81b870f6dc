from __future__ import annotations

import numpy as np
import pytest

from geoseg.errors import SettingsError
from geoseg.models import zoo
from geoseg.models.runtimes import TorchRuntime, resolve_device, resolve_precision

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def tiles():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (2, 3, 16, 16)), np.ones((12, 12))).astype(np.uint8)


def runtime(halo=32, precision="fp32"):
    return TorchRuntime(zoo.load("rgb-lite0"), device="cpu", precision=precision, halo=halo)


def test_codes_and_confidence(tiles):
    mask, confidence = runtime()(tiles)
    assert mask.shape == confidence.shape == (2, 128, 128)
    assert mask.dtype == confidence.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 1, 2, 3, 4}
    assert confidence.min() >= 127
    assert confidence.max() <= 254


def test_halo_is_cropped_and_nothing_else(tiles):
    whole, whole_confidence = runtime(halo=0)(tiles)
    core, core_confidence = runtime(halo=32)(tiles)
    np.testing.assert_array_equal(core, whole[:, 32:-32, 32:-32])
    np.testing.assert_array_equal(core_confidence, whole_confidence[:, 32:-32, 32:-32])


def test_same_tile_same_bits_whatever_else_ran(tiles):
    infer = runtime()
    first = infer(tiles[:1])
    infer(tiles[1:])
    again = runtime()(tiles[:1])
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


def test_mask_is_the_best_sigmoid_from_a_half_on(tiles):
    infer = runtime(halo=0)
    card = zoo.load("rgb-lite0")
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (card.mean, card.std))
    with torch.inference_mode():
        logits = infer._network(torch.from_numpy((tiles - mean) / std).float())
        scores = torch.sigmoid(logits).numpy()
    mask, confidence = infer(tiles)
    clear = np.abs(scores.max(axis=1) - 0.5) > 1e-3
    expected = np.where(scores.max(axis=1) >= 0.5, scores.argmax(axis=1) + 1, 0)
    np.testing.assert_array_equal(mask[clear], expected[clear])
    best = scores.max(axis=1)
    np.testing.assert_allclose(confidence / 254, np.where(best >= 0.5, best, 1 - best), atol=0.004)


def test_bf16_nearly_agrees(tiles):
    exact, _ = runtime()(tiles)
    quick, _ = runtime(precision="bf16")(tiles)
    assert (exact == quick).mean() > 0.9


def test_choices_are_resolved():
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in {"cpu", "cuda"}
    assert resolve_precision("bf16", "cpu") == "bf16"
    assert resolve_precision("auto", "cpu") in {"fp32", "bf16"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_cuda_without_a_device_is_refused():
    with pytest.raises(SettingsError, match="--device is cuda"):
        resolve_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_nearly_agrees_with_cpu(tiles):
    card = zoo.load("rgb-lite0")
    exact, _ = runtime()(tiles)
    quick, _ = TorchRuntime(card, device="cuda", precision="fp32", halo=32)(tiles)
    assert (exact == quick).mean() > 0.995

"""Layers near the image in blocks: the values of the whole, where their pixels belong."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
if find_spec("openvino") is None:
    pytest.skip("needs the extra openvino", allow_module_level=True)

from geoseg.models import parts, runtime_openvino, zoo  # noqa: E402
from geoseg.models.architectures import build  # noqa: E402
from geoseg.models.blocks import COLS, ROWS, find_cuts  # noqa: E402
from geoseg.models.heads import SQUARE, split_head  # noqa: E402
from geoseg.models.narrowing import narrow  # noqa: E402
from geoseg.models.runtime_torch import Labeller, Scorer  # noqa: E402
from geoseg.models.upsampling import merge_upsampling  # noqa: E402

SIDE = 256
WHOLE = 10 * SIDE, 10 * SIDE


class Labels(torch.nn.Module):
    """A network with a crop and a decision, or its scores."""

    def __init__(self, network, halo, *, scores=False):
        super().__init__()
        self.network, self.halo, self.scores = network, halo, scores

    def forward(self, tiles):
        stop = tiles.shape[-1] - self.halo
        logits = self.network((tiles.float() - 100) / 50)[..., self.halo : stop, self.halo : stop]
        if self.scores:
            return (torch.sigmoid(logits) * 255).round().to(torch.uint8)
        best = logits.amax(dim=1)
        mask = torch.where(
            logits[:, 0] >= best, torch.full((), 3, dtype=torch.uint8), torch.full((), 5, dtype=torch.uint8)
        )
        return mask, (torch.sigmoid(best) * 254).round().to(torch.uint8)


def graph_of(network, side=SIDE) -> bytes:
    graph = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.zeros(1, 3, side, side, dtype=torch.uint8)
        torch.onnx.export(network.eval(), (example,), graph, dynamo=False, opset_version=17)
    return graph.getvalue()


def results(graph, block, monkeypatch, *, precision="fp32", side=SIDE, seed=0):
    """Of a network, in blocks of so many rows and columns."""
    monkeypatch.setattr(runtime_openvino, "_choose_blocks", lambda _: ("both ends", block))
    infer = runtime_openvino.compile_graph(graph, (1, 3, side, side), precision=precision, at_once=1)
    tiles = np.random.default_rng(seed).integers(0, 255, (1, 3, side, side), dtype=np.uint8)
    infer(255 - tiles)  # whose rows must not show
    return infer(tiles)


def blocks_of(graph, block, precision="fp32", side=SIDE):
    """Of each part, how many rows of blocks there are, and how many columns of them: 0 where they are not cut."""
    model = runtime_openvino._core().read_model(io.BytesIO(graph))
    model.reshape([1, 3, side, side])
    runtime_openvino._fold(model)
    narrow(runtime_openvino._openvino(), model)
    hint = "bf16" if precision == "bf16" else "f32"
    found = parts.cut_network(runtime_openvino._openvino(), model, hint, "both ends", block)
    return [
        part.blocks and (len(part.blocks.rows.places), len(part.blocks.cols.places) if part.blocks.cols else 0)
        for part in found
    ]


def alike(found, expected) -> bool:
    """But for pixels where rounding decides: how sums are cut depends on the sides of images."""
    return all(
        one.shape == other.shape and (np.abs(one.astype(int) - other) > 1).mean() < 2e-3
        for one, other in zip(found, expected, strict=True)
    )


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    network = build("unet-tf_efficientnet_lite0", classes=2).eval()
    return merge_upsampling(network, torch.randn(1, 3, 128, 128))


@pytest.fixture(scope="module")
def labels(unet):
    return graph_of(Labels(unet, 32))


@pytest.mark.parametrize("block", [(24, 10 * SIDE), (32, 32), (40, 100), (64, 64), (100, 40), (10 * SIDE, 64)])
def test_any_blocks_give_the_same(labels, block, monkeypatch):
    expected = results(labels, WHOLE, monkeypatch)
    assert len(np.unique(expected[0])) == 2
    assert alike(results(labels, block, monkeypatch), expected)
    assert blocks_of(labels, WHOLE) == [None]
    counts = blocks_of(labels, block)
    if block[0] > SIDE:
        assert counts == [None]
        return
    assert counts[1] is None
    for rows, cols in (counts[0], counts[2]):
        assert rows > 1
        assert cols > 1 or block[1] > SIDE


def test_in_bf16(labels, monkeypatch):
    """The first convolutions, the shallow ones, all others, and the last."""
    assert [count is not None for count in blocks_of(labels, (64, 64), "bf16")] == [True, True, False, True]
    expected = results(labels, WHOLE, monkeypatch, precision="bf16")
    assert alike(results(labels, (64, 64), monkeypatch, precision="bf16"), expected)


@pytest.mark.parametrize("halo", [0, 1, 31, 64])
def test_scores_and_any_halo(unet, halo, monkeypatch):
    """Planes of which do not lie together."""
    graph = graph_of(Labels(unet, halo, scores=True))
    assert blocks_of(graph, (64, 64))[-1]
    expected = results(graph, WHOLE, monkeypatch)
    assert expected[0].shape == (1, 2, SIDE - 2 * halo, SIDE - 2 * halo)
    assert alike(results(graph, (64, 64), monkeypatch), expected)


@pytest.mark.parametrize("kind", [Labeller, Scorer])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_heads_that_give_squares_of_pixels(unet, kind, precision, monkeypatch):
    """Channels that are split, and become pixels beside each other."""
    card = replace(zoo.load("town"), classes=zoo.load("town").classes[:2])
    split = split_head(unet, torch.randn(1, 3, 128, 128))
    how = {"device": torch.device("cpu"), "halo": 32, "refine": "none", "tta": "none"}
    graph = graph_of(kind(card, split, square=SQUARE, **how))
    counts = blocks_of(graph, (64, 64), precision)
    rows, cols = counts[-1]
    assert rows > 1
    assert cols == 0  # one size of what is split may be any
    assert counts[-2] is None
    expected = results(graph_of(kind(card, unet, **how)), WHOLE, monkeypatch, precision=precision)
    for block in (WHOLE, (64, 64), (40, 100)):
        assert alike(results(graph, block, monkeypatch, precision=precision), expected)


@pytest.mark.parametrize(
    "architecture",
    [
        "unet-resnet18",
        "linknet-resnet18",
        "unetplusplus-tf_efficientnet_lite0",
        "fpn-mobilenet_v2",
        "unet-efficientnet-b0",
        "tiramisu-56",
    ],
)
def test_other_networks(architecture, monkeypatch):
    torch.manual_seed(0)
    graph = graph_of(Labels(build(architecture, classes=2), 32, scores=True))
    assert alike(results(graph, (48, 80), monkeypatch), results(graph, WHOLE, monkeypatch))


def test_results_are_their_callers(labels, monkeypatch):
    monkeypatch.setattr(runtime_openvino, "_choose_blocks", lambda _: ("both ends", (64, 64)))
    infer = runtime_openvino.compile_graph(labels, (1, 3, SIDE, SIDE), precision="fp32", at_once=1)
    tiles = np.random.default_rng(0).integers(0, 255, (2, 3, SIDE, SIDE), dtype=np.uint8)
    first = infer(tiles[:1])
    kept = [plane.copy() for plane in first]
    infer(tiles[1:])
    for plane, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(plane, copy)


def read(network, height, width=32):
    graph = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.zeros(1, 2, height, width),), graph, dynamo=False, opset_version=17)
    model = runtime_openvino._core().read_model(io.BytesIO(graph.getvalue()))
    model.reshape([1, 2, height, width])
    runtime_openvino._fold(model)
    return model


@pytest.mark.parametrize("axis", [ROWS, COLS])
def test_every_pixel_is_kept_once_and_far_enough_from_the_ends_of_its_block(axis):
    sides = [(3, 5), (5, 3)][axis == ROWS]
    convolution = torch.nn.Conv2d(2, 3, sides, padding=tuple(side // 2 for side in sides))
    for size in (64, 100, 128):
        model = read(convolution, *((size, 32) if axis == ROWS else (32, size)))
        for low, high in ((0, size), (10, 57)):
            found = find_cuts(model, axis, size, 20, (Fraction(low, size), Fraction(high, size)))
            assert found.ratios == (Fraction(1),)
            pixels = [pixel for place in found.places for pixel in range(place.begin, place.end)]
            assert pixels == list(range(pixels[0], pixels[-1] + 1))
            assert pixels[0] <= low
            assert pixels[-1] >= high - 1
            for place in found.places:
                assert (
                    place.begin - place.first >= 2 or place.begin == place.first == pixels[0] == 0 or place.begin < low
                )
                assert 0 <= place.first <= size - found.length


class Of(torch.nn.Module):
    """Images become smaller and larger again; and what is done with what comes of it."""

    def __init__(self, after, before=lambda image: image):
        super().__init__()
        self.after, self.before = after, before
        self.body = torch.nn.Sequential(
            *(torch.nn.Conv2d(before, 4, 3, stride, padding=1) for before, stride in ((3, 1), (4, 2), (4, 2), (4, 1))),
            *(torch.nn.ConvTranspose2d(4, 4, 2, 2) for _ in range(2)),
        )
        self.last = torch.nn.Conv2d(4, 2, 5, padding=2)

    def forward(self, tiles):
        return self.after(self.body(self.before(tiles.float() / 255)), self.last)


@pytest.mark.parametrize(
    "network",
    [
        Of(lambda image, last: last(image[..., 32:224, 32:224])),  # which sees zeros around what was cropped
        Of(lambda image, last: last(image[..., 32:224, :])[..., 32:224]),
        Of(lambda image, last: (last(image)[..., 32:224, 32:224], image)),  # one of two results is cropped
        Of(lambda image, last: (last(image)[..., 32:224], image)),
        Of(lambda image, last: last(image).narrow(-1, 7, 200).narrow(-2, 9, 190)),
        Of(lambda image, last: last(image)[:, :, ::2, ::2]),
        Of(lambda image, last: last(image).amax(1)[:, 30:200, 31:201]),
        Of(lambda image, last: last(image.transpose(2, 3))),
        Of(lambda image, last: last(image).transpose(2, 3)),
        Of(lambda image, last: last(image), lambda image: image.transpose(2, 3)),
        Of(lambda image, last: last(image) + torch.linspace(0, 1, SIDE)[:, None]),
        Of(lambda image, last: torch.cat([last(image), torch.linspace(0, 1, SIDE).expand(1, 1, SIDE, SIDE)], 1)),
    ],
)
def test_whatever_networks_do_besides(network, monkeypatch):
    torch.manual_seed(0)
    graph = graph_of(network)
    expected = results(graph, WHOLE, monkeypatch)
    for block in ((24, 24), (40, 100), (100, 40)):
        for one, other in zip(results(graph, block, monkeypatch), expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


class Turned(torch.nn.Module):
    """Rows and columns change places between two convolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (torch.nn.Conv2d(2, 2, 3, padding=1) for _ in range(2))

    def forward(self, image):
        return self.second(self.first(image).transpose(2, 3))


def test_what_sees_far_is_not_cut():
    for network in (
        torch.nn.Sequential(torch.nn.Conv2d(2, 2, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1)),
        torch.nn.Sequential(torch.nn.Upsample(scale_factor=2, mode="bilinear"), torch.nn.Conv2d(2, 2, 3, padding=1)),
        torch.nn.Softmax(dim=2),
        torch.nn.ConvTranspose2d(2, 2, 2, stride=2, dilation=3, padding=1),
        torch.nn.Conv2d(2, 2, 3),
        Turned(),
    ):
        assert find_cuts(read(network, 64), ROWS, 64, 16) is None
    assert find_cuts(read(torch.nn.Softmax(dim=1), 64), ROWS, 64, 16) is not None
    assert find_cuts(read(torch.nn.Softmax(dim=2), 32, 64), COLS, 64, 16) is None
    assert find_cuts(read(torch.nn.Conv2d(2, 2, 3, padding=1), 64), ROWS, 64, 64) is None  # one block

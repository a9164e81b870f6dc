"""Heads that give two by two pixels at once: the same logits, as channels."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from geoseg.models import zoo  # noqa: E402
from geoseg.models.architectures import build  # noqa: E402
from geoseg.models.heads import put_side_by_side, split_head, split_layers  # noqa: E402
from geoseg.models.quantization import Calibration, quantized  # noqa: E402
from geoseg.models.runtime_torch import load_network  # noqa: E402


@pytest.fixture(scope="module")
def example():
    torch.manual_seed(0)
    return torch.randn(2, 3, 128, 192)


class Head(torch.nn.Module):
    """A network that is nothing but its last convolution."""

    def __init__(self, size, classes, **how):
        super().__init__()
        self.segmentation_head = torch.nn.Sequential(torch.nn.Conv2d(3, classes, size, **how), torch.nn.Identity())

    def forward(self, image):
        return self.segmentation_head(image)


@pytest.mark.parametrize("name", ["town", "landscape", "vehicle"])
def test_logits_of_shipped_networks_are_the_same(name, example):
    network = load_network(zoo.load(name)).eval()
    split = split_head(network, example)
    planes = zoo.load(name).planes
    with torch.no_grad():
        expected, found = network(example), split(example)
    assert found.shape == (2, 4 * planes, 64, 96)
    for plane in range(planes):
        for place in range(4):
            torch.testing.assert_close(
                found[:, 4 * plane + place],
                expected[:, plane, place // 2 :: 2, place % 2 :: 2],
                rtol=1e-4,
                atol=1e-4,
            )


def test_integers_of_a_head_are_split_with_it(example):
    torch.manual_seed(0)
    network = Head(3, 3, padding=1)
    layers = Calibration(network, example).quantize()
    assert split_layers(layers, network)["segmentation_head.0"] is layers["segmentation_head.0"]
    split = split_head(network, example)
    with torch.no_grad():
        found = torch.nn.functional.pixel_shuffle(quantized(split, split_layers(layers, split))(example), 2)
        torch.testing.assert_close(found, quantized(network, layers)(example), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 5, (3, 1)])
def test_any_kernel_that_looks_around_alike(size, example):
    around = tuple(side // 2 for side in size) if isinstance(size, tuple) else size // 2
    network = Head(size, 2, padding=around, bias=size != 3)
    split = split_head(network, example)
    with torch.no_grad():
        found = torch.nn.functional.pixel_shuffle(split(example), 2)
        torch.testing.assert_close(found, network(example), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "network",
    [
        Head(3, 5, padding=1),  # twenty channels take as long as five
        Head(3, 2),  # loses the edges
        Head(3, 2, padding=1, padding_mode="reflect"),
        Head(3, 2, padding=2, dilation=2),
        Head(3, 3, padding=1, groups=3),
        Head(2, 2, padding=1),
        build("fpn-resnet18", classes=1).eval(),  # enlarges what its last convolution gives
        build("tiramisu-56", classes=1).eval(),
        torch.nn.Conv2d(3, 1, 3, padding=1),
    ],
)
def test_others_are_not_split(network, example):
    assert split_head(network, example) is None


def test_the_network_itself_stays_as_it_is(example):
    network = Head(3, 2, padding=1)
    split_head(network, example)
    assert network.segmentation_head[0].out_channels == 2


def test_pixels_are_put_side_by_side():
    plane = torch.arange(2 * 6 * 8, dtype=torch.uint8).view(2, 6, 8)
    squares = torch.stack([plane[:, row::2, col::2] for row in (0, 1) for col in (0, 1)], dim=1)
    torch.testing.assert_close(put_side_by_side(squares), plane)
    torch.testing.assert_close(
        put_side_by_side(torch.stack([squares, 1 + squares], dim=1)), torch.stack([plane, 1 + plane], dim=1)
    )

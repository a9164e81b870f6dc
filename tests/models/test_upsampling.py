"""Merged upsampling: the same logits with fewer products, and hands off what does not repeat pixels."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from geoseg.models import zoo  # noqa: E402
from geoseg.models.architectures import build  # noqa: E402
from geoseg.models.runtime_torch import load_network  # noqa: E402
from geoseg.models.upsampling import merge_upsampling  # noqa: E402


def transposed(network) -> int:
    return sum(isinstance(part, torch.nn.ConvTranspose2d) for part in network.modules())


@pytest.fixture(scope="module")
def example():
    torch.manual_seed(0)
    return torch.randn(2, 3, 128, 192)


@pytest.mark.parametrize("name", ["town", "landscape"])
def test_logits_of_shipped_networks_are_the_same(name, example):
    network = load_network(zoo.load(name)).eval()
    merged = merge_upsampling(network, example)
    assert (transposed(network), transposed(merged)) == (0, 5)
    larger = torch.randn(1, 3, 256, 160)
    with torch.no_grad():
        torch.testing.assert_close(merged(larger), network(larger), rtol=1e-4, atol=2e-4)


def test_edges_of_the_image_are_the_same(example):
    network = build("unet-resnet18", classes=2).eval()
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(part.running_mean)
            torch.nn.init.uniform_(part.running_var, 0.5, 2)
            torch.nn.init.normal_(part.bias)
    merged = merge_upsampling(network, example)
    assert transposed(merged) == 5
    with torch.no_grad():
        expected, found = network(example), merged(example)
    scale = expected.std()
    for border in (expected[..., 0] - found[..., 0], expected[..., -1, :] - found[..., -1, :]):
        assert border.abs().max() < 1e-4 * scale


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("fpn-resnet18", {}),  # no block of a U-Net
        ("unet-resnet18", {"decoder_attention_type": "scse"}),  # weighs channels between doubling and convolution
        ("unet-resnet18", {"decoder_interpolation": "bilinear"}),
    ],
)
def test_others_are_left_as_they_are(architecture, options, example):
    network = build(architecture, classes=1, options=options).eval()
    merged = merge_upsampling(network, example)
    with torch.no_grad():
        torch.testing.assert_close(merged(example), network(example), rtol=1e-3, atol=1e-3)
    assert transposed(merged) <= 1  # scse's last block has nothing to weigh


def test_what_merging_would_change_is_left_alone(example, monkeypatch):
    from geoseg.models import upsampling

    monkeypatch.setattr(upsampling, "_SPREAD", tuple(row[::-1] for row in upsampling._SPREAD))
    network = build("unet-resnet18", classes=1).eval()
    assert merge_upsampling(network, example) is network

from __future__ import annotations

import hashlib
import importlib
import json

import pytest
import torch
from torch import nn

from geoseg.errors import ModelError
from geoseg.models.architectures import DECODERS, STRIDE, build, stride_of
from geoseg.models.tiramisu import LAYERS, Tiramisu

OWN = ("unet-resnet18", "unet-tf_efficientnet_lite0")
# what makes a pixel's output depend on the whole tile, and so breaks exact tiling
GLOBAL = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.InstanceNorm2d, nn.GroupNorm, nn.MultiheadAttention)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", OWN)
def test_output_has_a_plane_per_class_at_full_size(name: str) -> None:
    network = build(name, classes=4).eval()
    with torch.inference_mode():
        logits = network(torch.zeros(1, 3, 2 * STRIDE, 3 * STRIDE))
    assert logits.shape == (1, 4, 2 * STRIDE, 3 * STRIDE)
    assert logits.dtype == torch.float32
    assert not any(isinstance(module, GLOBAL) for module in network.modules())


@pytest.mark.parametrize(("name", "digest"), [(OWN[0], "1db993d23f7267d1"), (OWN[1], "23ba21c1095b3617")])
def test_own_networks_are_those_that_old_weights_fit(name, digest) -> None:
    """The digest was taken when the networks were first shipped."""
    with torch.device("meta"):
        network = build(name, classes=2)
    shapes = [(key, list(value.shape)) for key, value in network.state_dict().items()]
    assert hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16] == digest
    assert {block.interpolation_mode for block in network.decoder.blocks} == {"nearest"}


@pytest.mark.parametrize("decoder", [name for name in DECODERS if name != "dpt"])
def test_every_decoder_takes_any_bands(decoder: str) -> None:
    with torch.device("meta"):  # shapes alone
        network = build(f"{decoder}-resnet18" if decoder != "unet" else "unet-mobilenet_v2", classes=3, bands=5).eval()
        logits = network(torch.zeros(1, 5, 128, 160))
    assert logits.shape == (1, 3, 128, 160)
    assert STRIDE % stride_of(network) == 0


@pytest.mark.parametrize(
    "name", ["dpt-vit_tiny_patch16_224", "segformer-pvt_v2_b0", "unet-swin_tiny_patch4_window7_224"]
)
def test_transformers_take_tiles_of_any_size(name: str) -> None:
    with torch.device("meta"):
        assert build(name, classes=2).eval()(torch.zeros(1, 3, 64, 96)).shape == (1, 2, 64, 96)


def test_encoders_of_timm_need_no_prefix_and_options_reach_the_decoder() -> None:
    channels = (32, 16, 8, 8, 8)
    network = build("unet-mobilenetv3_small_050", classes=1, options={"decoder_channels": channels})
    assert network.segmentation_head[0].in_channels == 8
    assert type(network.encoder).__name__ == "TimmUniversalEncoder"
    assert type(build("linknet-tu-resnet18", classes=1).encoder).__name__ == "TimmUniversalEncoder"


def test_fcn_is_torchvisions() -> None:
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be loaded here: {error}")
    with torch.device("meta"):
        network = build("fcn-resnet50", classes=2, bands=4).eval()
        assert network(torch.zeros(1, 4, 64, 96)).shape == (1, 2, 64, 96)
    assert "classifier.4.weight" in network.state_dict()
    assert network.backbone.conv1.in_channels == 4
    assert stride_of(network) == 8


def test_fcn_without_torchvision_is_one_line(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchvision.models", None)
    with pytest.raises(ModelError, match="torchvision's, which cannot be loaded here") as caught:
        build("fcn-resnet50", classes=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("depth", "millions", "all_millions"), [("56", 1.4, 1.4), ("67", 3.5, 3.5), ("103", 9.3, 9.4)])
def test_tiramisu_has_the_papers_layers_and_parameters(depth, millions, all_millions) -> None:
    """Table 1 says 1.5, 3.5 and 9.4 M and counts batch norms' statistics; of FC-DenseNet56 others count 1.4 M, too."""
    with torch.device("meta"):
        network = build(f"tiramisu-{depth}", classes=11)
    assert isinstance(network, Tiramisu)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(layers) == int(depth)
    statistics = sum(buffer.numel() for name, buffer in network.named_buffers() if "running" in name)
    assert round(parameters(network) / 1e6, 1) == millions
    assert round((parameters(network) + statistics) / 1e6, 1) == all_millions
    assert network.last.in_channels == {"56": 192, "67": 288, "103": 256}[depth]


def test_tiramisu_has_the_papers_channels() -> None:
    """Table 2 for FC-DenseNet103: 112, 192, 304, 464, 656 down, 896 at the bottom."""
    with torch.device("meta"):
        network = build("tiramisu-103", classes=11, bands=4)
        assert network(torch.zeros(1, 4, 64, 96)).shape == (1, 11, 64, 96)
    assert [pool[2].in_channels for pool in network.pool] == [112, 192, 304, 464, 656]
    assert 656 + network.bottleneck.added == 896
    assert [raised.in_channels for raised in network.raised] == [240, 192, 160, 112, 80]
    assert network.first.in_channels == 4
    assert set(LAYERS) == {"56", "67", "103"}


def test_far_pixels_do_not_reach_the_output() -> None:
    torch.manual_seed(0)
    network = build("unet-tf_efficientnet_lite0", classes=4).eval()
    image = torch.rand(1, 3, 64, 1024)
    other = image.clone()
    other[..., 960:] = 0
    with torch.inference_mode():
        first, second = network(image), network(other)
    assert torch.equal(first[..., :64], second[..., :64])
    assert not torch.equal(first[..., 960:], second[..., 960:])


def test_shift_by_the_stride_shifts_the_output() -> None:
    torch.manual_seed(0)
    network = build("unet-tf_efficientnet_lite0", classes=4).eval()
    image = torch.rand(1, 3, 64, 1088)
    with torch.inference_mode():
        whole, shifted = network(image), network(image[..., STRIDE:])
    # the middle lies outside the reach of the left and right edges
    torch.testing.assert_close(whole[..., 544:576], shifted[..., 512:544], rtol=1e-4, atol=1e-5)


def test_float16_weights_load_strictly() -> None:
    network = build("unet-tf_efficientnet_lite0", classes=4)
    half = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    other = build("unet-tf_efficientnet_lite0", classes=4)
    other.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in half.items()}, strict=True)
    assert parameters(other) < 4_000_000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unet", "expected DECODER-ENCODER"),
        ("transunet-resnet18", "expected DECODER-ENCODER"),
        ("unet-resnet33", r"unknown encoder 'resnet33'.*perhaps .*resnet3"),
        ("tiramisu-57", "there is tiramisu-56, tiramisu-67, tiramisu-103"),
        ("fcn-resnet18", "there is fcn-resnet50, fcn-resnet101"),
        ("dpt-resnet18", "cannot be built"),
    ],
)
def test_unknown_names_are_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        build(name, classes=4)
    assert "\n" not in str(caught.value)


def test_no_classes_and_unfit_options_are_refused() -> None:
    with pytest.raises(ModelError, match="at least 1"):
        build("unet-resnet18", classes=0)
    with pytest.raises(ModelError, match="at least 1"):
        build("unet-resnet18", classes=1, bands=0)
    with pytest.raises(ModelError, match="takes no options"):
        build("tiramisu-56", classes=1, options={"decoder_channels": (1,)})
    with pytest.raises(ModelError, match="cannot be built"):
        build("unet-resnet18", classes=1, options={"decoder_channels": (8, 8)})

from __future__ import annotations

import pytest
import torch
from torch import nn

from geoseg.errors import ModelError
from geoseg.models.architectures import ARCHITECTURES, STRIDE, build

# what makes a pixel's output depend on the whole tile, and so breaks exact tiling
GLOBAL = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.InstanceNorm2d, nn.GroupNorm, nn.MultiheadAttention)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_output_has_a_plane_per_class_at_full_size(name: str) -> None:
    network = build(name, classes=4).eval()
    with torch.inference_mode():
        logits = network(torch.zeros(1, 3, 2 * STRIDE, 3 * STRIDE))
    assert logits.shape == (1, 4, 2 * STRIDE, 3 * STRIDE)
    assert logits.dtype == torch.float32
    assert not any(isinstance(module, GLOBAL) for module in network.modules())


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
    assert sum(p.numel() for p in other.parameters()) < 4_000_000


def test_unknown_names_and_no_classes_are_refused() -> None:
    with pytest.raises(ModelError, match="expected one of"):
        build("unet-nothing", classes=4)
    with pytest.raises(ModelError, match="at least 1"):
        build("unet-resnet18", classes=0)

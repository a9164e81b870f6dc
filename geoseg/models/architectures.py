"""Networks that geoseg can build by name: fully convolutional, stride 32, no global pooling.

A tiled prediction equals the whole-image one only when a pixel's output depends on a bounded neighbourhood
(see the halo in a model's card). So every architecture here is a U-Net (Ronneberger et al., 2015,
https://arxiv.org/abs/1505.04597) with batch normalisation, nearest upsampling, and neither squeeze-excite nor
attention, built by segmentation_models_pytorch over a timm encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from geoseg.errors import ModelError

__all__ = ["ARCHITECTURES", "IMAGENET_MEAN", "IMAGENET_STD", "STRIDE", "Architecture", "build"]

STRIDE = 32
"""Input height and width must be multiples of this."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Architecture:
    """What distinguishes one U-Net from another."""

    encoder: str
    decoder_channels: tuple[int, int, int, int, int]


ARCHITECTURES: dict[str, Architecture] = {
    # EfficientNet-lite drops squeeze-excite and swish for mobile runtimes; that is also what exact tiling needs.
    "unet-tf_efficientnet_lite0": Architecture("tu-tf_efficientnet_lite0", (64, 48, 32, 24, 16)),
    "unet-resnet18": Architecture("tu-resnet18", (128, 96, 64, 32, 16)),
}


def build(architecture: str, *, classes: int) -> nn.Module:
    """Build a network with random weights.

    Args:
        architecture: a key of `ARCHITECTURES`.
        classes: number of output planes, one independent sigmoid each.

    Returns:
        A module from float32 (N, 3, H, W), normalised RGB, H and W multiples of 32, to logits (N, classes, H, W).

    Raises:
        ModelError: for an unknown name, or fewer than one class.
    """
    known = ARCHITECTURES.get(architecture)
    if known is None:
        raise ModelError(f"unknown architecture {architecture!r}; expected one of {', '.join(sorted(ARCHITECTURES))}")
    if classes < 1:
        raise ModelError(f"a network with {classes} classes cannot be built; give at least 1")
    # Imported here: the package takes over a second to import, and only torch models need it.
    import segmentation_models_pytorch as smp

    network = smp.Unet(
        known.encoder,
        encoder_weights=None,
        decoder_channels=known.decoder_channels,
        decoder_use_norm="batchnorm",
        decoder_attention_type=None,
        decoder_interpolation="nearest",
        classes=classes,
    )
    if not isinstance(network, nn.Module):  # pragma: no cover - smp is untyped
        raise ModelError(f"architecture {architecture!r} did not build a torch module; reinstall geoseg")
    return network.to(memory_format=torch.channels_last)

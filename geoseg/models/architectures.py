"""Networks that geoseg can build by name, with random weights and without any download.

The grammar of names is ``DECODER-ENCODER``:

================================  ==============================================================================
name                              network
================================  ==============================================================================
``unet-resnet34`` ...             a decoder of segmentation_models_pytorch (`DECODERS`) over any encoder of it
``unetplusplus-convnext_tiny``    the same over any encoder of timm that has feature pyramids; the prefixes
                                  ``smp-`` and ``tu-`` say which package where both know the name
``fcn-resnet50``, ``-resnet101``  FCN (Long et al., 2015, https://arxiv.org/abs/1411.4038), torchvision's
``tiramisu-56``, ``-67``, ``-103``  FC-DenseNet, see `geoseg.models.tiramisu`
================================  ==============================================================================

A tiled prediction equals the whole-image one only when a pixel's output depends on a bounded neighbourhood;
`geoseg.models.reach` finds out whether it does.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from geoseg.errors import ModelError
from geoseg.models.tiramisu import LAYERS, Tiramisu

__all__ = ["DECODERS", "FAMILIES", "IMAGENET_MEAN", "IMAGENET_STD", "STRIDE", "build", "stride_of"]

STRIDE = 32
"""Sides of tiles and crops that suit every network here are multiples of this."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

DECODERS = {
    "unet": "Unet",
    "unetplusplus": "UnetPlusPlus",
    "manet": "MAnet",
    "linknet": "Linknet",
    "fpn": "FPN",
    "pspnet": "PSPNet",
    "deeplabv3": "DeepLabV3",
    "deeplabv3plus": "DeepLabV3Plus",
    "pan": "PAN",
    "upernet": "UPerNet",
    "segformer": "Segformer",
    "dpt": "DPT",
}
"""Decoders of segmentation_models_pytorch: name in the grammar, name of the class."""

FAMILIES = (*DECODERS, "fcn", "tiramisu")
"""What a name may begin with."""

_FCN_ENCODERS = ("resnet50", "resnet101")
_SLIM: dict[str, tuple[str, tuple[int, ...]]] = {
    # geoseg's own: light decoders for CPUs. EfficientNet-lite has no squeeze-excite, which exact tiling needs.
    "unet-tf_efficientnet_lite0": ("tu-tf_efficientnet_lite0", (64, 48, 32, 24, 16)),
    "unet-resnet18": ("tu-resnet18", (128, 96, 64, 32, 16)),
}


def build(architecture: str, *, classes: int, bands: int = 3, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a network with random weights; nothing is downloaded.

    Args:
        architecture: a name of the grammar above.
        classes: number of output planes.
        bands: number of input planes.
        options: arguments of the decoder's class in segmentation_models_pytorch where they differ from its defaults,
            such as ``decoder_channels``, for weights that others trained.

    Returns:
        A module from float32 (N, bands, H, W), normalised, H and W multiples of `stride_of` it, to logits
        (N, classes, H, W).

    Raises:
        ModelError: an unknown name, a pair that does not fit, a package that is missing, or no class or band.
    """
    family, _, rest = architecture.partition("-")
    if family not in FAMILIES or not rest:
        raise ModelError(
            f"unknown architecture {architecture!r}; expected DECODER-ENCODER such as unet-resnet34, "
            f"with one of the decoders {', '.join(FAMILIES)}"
        )
    if classes < 1 or bands < 1:
        raise ModelError(f"a network with {classes} classes and {bands} bands cannot be built; give at least 1 of each")
    if options and family not in DECODERS:
        raise ModelError(f"architecture {architecture} takes no options; leave out {', '.join(options)}")
    if family == "tiramisu":
        network = _tiramisu(architecture, rest, classes, bands)
    elif family == "fcn":
        network = _fcn(architecture, rest, classes, bands)
    else:
        network = _smp(architecture, family, rest, {"classes": classes, "in_channels": bands, **(options or {})})
    return network.to(memory_format=torch.channels_last)


def stride_of(network: nn.Module) -> int:
    """The side, pixels, of which input height and width must be multiples, and by which a network may be shifted."""
    if isinstance(network, Tiramisu):
        return network.stride
    if isinstance(network, _Fcn):
        return 8
    stride = getattr(getattr(network, "encoder", None), "output_stride", STRIDE)
    return int(max(stride) if isinstance(stride, list | tuple) else stride)


def _tiramisu(architecture: str, depth: str, classes: int, bands: int) -> nn.Module:
    if depth not in LAYERS:
        raise ModelError(f"unknown architecture {architecture!r}; there is tiramisu-{', tiramisu-'.join(LAYERS)}")
    return Tiramisu(depth, classes=classes, bands=bands)


def _fcn(architecture: str, encoder: str, classes: int, bands: int) -> nn.Module:
    if encoder not in _FCN_ENCODERS:
        raise ModelError(f"unknown architecture {architecture!r}; there is fcn-{', fcn-'.join(_FCN_ENCODERS)}")
    try:
        from torchvision.models import segmentation
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise ModelError(
            f"architecture {architecture} is torchvision's, which cannot be loaded here "
            f"({str(error).splitlines()[0]}); install the torchvision that belongs to your torch"
        ) from None
    make: Callable[..., nn.Module] = getattr(segmentation, f"fcn_{encoder}")
    return _Fcn(make(weights=None, weights_backbone=None, num_classes=classes), bands)


class _Fcn(nn.Module):
    """torchvision's FCN with a tensor for an output, any number of bands, and torchvision's names of weights."""

    def __init__(self, network: Any, bands: int) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.classifier = network.classifier
        first = self.backbone.conv1
        if bands != first.in_channels:
            self.backbone.conv1 = nn.Conv2d(
                bands, first.out_channels, first.kernel_size, first.stride, first.padding, bias=False
            )

    def forward(self, pixels: Tensor) -> Tensor:
        logits = self.classifier(self.backbone(pixels)["out"])
        return nn.functional.interpolate(logits, size=pixels.shape[-2:], mode="bilinear", align_corners=False)


def _smp(architecture: str, family: str, encoder: str, arguments: dict[str, Any]) -> nn.Module:
    # Imported here: the package takes over a second to import, and only its networks need it.
    import segmentation_models_pytorch as smp

    if architecture in _SLIM:
        name, channels = _SLIM[architecture]
        arguments = {"decoder_channels": channels, **arguments}
    else:
        name = _encoder(architecture, encoder, timm_only=family == "dpt")
        arguments = _any_size(family, name) | arguments
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # smp only warns of some pairs that do not fit
            network = getattr(smp, DECODERS[family])(name, encoder_weights=None, **arguments)
    except Exception as error:  # noqa: BLE001 - smp and timm refuse a pair in many ways
        why = " ".join(f"{type(error).__name__} {error}".split())
        raise ModelError(
            f"architecture {architecture} cannot be built: {why[:200]}; choose another encoder or decoder"
        ) from None
    if not isinstance(network, nn.Module):  # pragma: no cover - smp is untyped
        raise ModelError(f"architecture {architecture!r} did not build a torch module; reinstall geoseg")
    return network


def _any_size(family: str, encoder: str) -> dict[str, Any]:
    """What keeps transformers of timm from insisting on the size of ImageNet's pictures."""
    if family == "dpt":
        return {"dynamic_img_size": True}
    return {"strict_img_size": False} if encoder.startswith("tu-swin") else {}


def _encoder(architecture: str, encoder: str, *, timm_only: bool) -> str:
    """The encoder's name as segmentation_models_pytorch has it, ``tu-`` before those of timm."""
    import timm
    from segmentation_models_pytorch.encoders import encoders

    own = {name for name in encoders if not name.startswith("timm-")}  # those are deprecated twins of timm's
    if encoder.removeprefix("smp-") in own and not timm_only:
        return encoder.removeprefix("smp-")
    name = encoder.removeprefix("tu-")
    if timm.is_model(name.partition(".")[0]):
        return f"tu-{name}"
    near = difflib.get_close_matches(encoder, [*own, *timm.list_models()], n=3, cutoff=0.5)
    hint = f"; perhaps {' or '.join(near)}" if near else ""
    raise ModelError(
        f"unknown encoder {encoder!r} in architecture {architecture!r}; expected one of segmentation_models_pytorch or "
        f"timm{hint}"
    )

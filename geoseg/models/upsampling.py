"""U-Nets whose upsampling and the convolution after it are one: the same sums with less than half the work (floor 3).

A convolution of 3 x 3 over pixels that were doubled in rows and columns meets each of them up to three times. Adding up
its weights first gives a transposed convolution of 4 x 4 with stride 2 over the small image: 16 products for four
pixels in place of 36 (W. Shi et al., *Is the deconvolution layer the same as a convolutional layer?*, arXiv 1609.07009,
2016, section 2). What comes by the skip connection keeps the convolution that it had.
"""

from __future__ import annotations

import copy

import torch
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["merge_upsampling"]

_SPREAD = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))  # which weights meet in which product
_TOLERANCE = 1e-3  # of logits; rounding alone makes less than a tenth of it


class _MergedBlock(nn.Module):
    """A block of a U-Net's decoder, with the arguments that it had."""

    def __init__(self, block: UnetDecoderBlock, below: int) -> None:
        """Takes over a block whose smaller image has so many channels."""
        super().__init__()
        first = fuse_conv_bn_eval(block.conv1[0], block.conv1[1])
        weight, spread = first.weight.detach(), torch.tensor(_SPREAD)
        self.up = nn.ConvTranspose2d(below, first.out_channels, 4, stride=2, padding=1)
        self.up.weight.data = torch.einsum("ik,jl,ockl->coij", spread, spread, weight[:, :below]).contiguous()
        self.up.bias = first.bias
        self.beside: nn.Conv2d | None = None
        if first.in_channels > below:
            self.beside = nn.Conv2d(first.in_channels - below, first.out_channels, 3, padding=1, bias=False)
            self.beside.weight.data = weight[:, below:].contiguous()
        self.rest = nn.Sequential(block.conv1[2], block.conv2, block.attention2)

    def forward(
        self,
        feature_map: Tensor,
        target_height: int,  # noqa: ARG002  (twice what the feature map has)
        target_width: int,  # noqa: ARG002
        skip_connection: Tensor | None = None,
    ) -> Tensor:
        total: Tensor = self.up(feature_map)
        if self.beside is not None:
            total = total + self.beside(skip_connection)
        rest: Tensor = self.rest(total)
        return rest


def merge_upsampling(network: nn.Module, example: Tensor) -> nn.Module:
    """The network with its upsampling merged into convolutions, as far as it can be.

    Args:
        network: any, in evaluation mode; it is left as it is.
        example: inputs (N, bands, T, T) for which both must give the same but for rounding.

    Returns:
        A copy, or the network itself where there is nothing to merge or where merging would change it.
    """
    below = {}
    blocks = {name: part for name, part in network.named_modules() if _is_mergeable(part)}

    def note(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        below[block] = inputs[0].shape[1]

    hooks = [block.register_forward_pre_hook(note) for block in blocks.values()]
    with torch.no_grad():
        expected = network(example)
        for hook in hooks:
            hook.remove()
        if not below:
            return network
        merged = copy.deepcopy(network)
        for name, block in blocks.items():
            if block in below:
                merged.set_submodule(name, _MergedBlock(copy.deepcopy(block), below[block]).eval())
        try:
            alike = torch.allclose(merged(example), expected, rtol=_TOLERANCE, atol=_TOLERANCE)
        except RuntimeError:  # its upsampling is not by two
            alike = False
    return merged if alike else network


def _is_mergeable(part: nn.Module) -> bool:
    """Whether a module is a block that repeats pixels and then convolves them."""
    return (
        isinstance(part, UnetDecoderBlock)
        and part.interpolation_mode == "nearest"
        and isinstance(part.attention1.attention, nn.Identity)
        and isinstance(part.conv1[1], nn.BatchNorm2d)
    )

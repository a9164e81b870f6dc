"""Networks whose last convolution gives two by two pixels at once (floor 3).

A CPU makes sixteen channels in the time of one, and classes are few: most of the last convolution, which is that of the
most pixels, comes to nothing. Over steps of two rows and columns, with its weights at four places of a kernel that is
larger by one, it gives the logits of four pixels as channels, by less than half the work for four classes. What decides
by them does not care where pixels lie; only its bytes are put side by side (W. Shi et al., *Real-Time Single Image and
Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network*, 2016,
https://arxiv.org/abs/1609.05158, there to enlarge images).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from geoseg.models.quantization import QuantizedLayer

__all__ = ["SQUARE", "put_side_by_side", "split_head", "split_layers"]

_HEAD = "segmentation_head"
_LAST = f"{_HEAD}.0"

SQUARE = 2
"""side of the square of pixels that one place stands for"""

_LANES = 16  # channels that are made at once
_TOLERANCE = 1e-3  # of logits


def split_head(network: nn.Module, example: Tensor) -> nn.Module | None:
    """The network with such a last convolution.

    Args:
        network: in evaluation mode; it is left as it is.
        example: inputs (N, bands, T, T) for which both must give the same but for rounding.

    Returns:
        A copy, from inputs (N, bands, T, T) to logits (N, planes * SQUARE^2, T / SQUARE, T / SQUARE), the pixels of a
        square row by row for each plane; ``None`` where the last convolution is none that can be split, or gives too
        many planes to gain by it.
    """
    head = getattr(network, _HEAD, None)
    if not isinstance(head, nn.Sequential) or not isinstance(head[0], nn.Conv2d) or not _fits(head[0]):
        return None
    split = copy.deepcopy(network)
    split.set_submodule(_LAST, _over_squares(head[0]))
    with torch.no_grad():
        found = nn.functional.pixel_shuffle(split(example), SQUARE)
        expected = network(example)
        alike = found.shape == expected.shape and torch.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE)
    return split if alike else None


def split_layers(layers: Mapping[str, QuantizedLayer], network: nn.Module) -> dict[str, QuantizedLayer]:
    """Convolutions of integers for a network whose head may have been split: the head's as well, if it was.

    Args:
        layers: by name, of the network as it was before.
        network: as it is.
    """
    found = dict(layers)
    head, last = found.get(_LAST), dict(network.named_modules()).get(_LAST)
    if head is not None and isinstance(last, nn.Conv2d) and last.kernel_size != head.weight.shape[2:]:
        scale, bias = (each.repeat_interleave(SQUARE**2) for each in (head.weight_scale, head.bias))
        found[_LAST] = replace(head, weight=_spread(head.weight), weight_scale=scale, bias=bias)
    return found


def put_side_by_side(planes: Tensor) -> Tensor:
    """Pixels (N, ..., SQUARE^2, rows, cols) at their places: (N, ..., rows * SQUARE, cols * SQUARE)."""
    if planes.dim() == 4:  # of one plane
        return nn.functional.pixel_shuffle(planes, SQUARE)[:, 0]
    return nn.functional.pixel_shuffle(planes.flatten(1, 2), SQUARE)


def _fits(conv: nn.Conv2d) -> bool:
    """Whether a convolution looks around each pixel alike, and gives few planes."""
    around = tuple(size // 2 for size in conv.kernel_size)
    return (
        conv.out_channels * SQUARE**2 <= _LANES
        and all(size % 2 for size in conv.kernel_size)
        and (conv.padding, conv.padding_mode) == (around, "zeros")
        and (conv.stride, conv.dilation, conv.groups) == ((1, 1), (1, 1), 1)
    )


def _over_squares(conv: nn.Conv2d) -> nn.Conv2d:
    weight = _spread(conv.weight.detach())
    planes, channels, rows, cols = weight.shape
    padding, bias = conv.padding, conv.bias is not None
    found = nn.Conv2d(channels, planes, (rows, cols), stride=SQUARE, padding=padding, bias=bias)  # type: ignore[arg-type]
    found.weight.data = weight
    if conv.bias is not None:
        found.bias = nn.Parameter(conv.bias.detach().repeat_interleave(SQUARE**2))
    return found.eval()


def _spread(weight: Tensor) -> Tensor:
    """Weights (planes, in, rows, cols) at the places of a square's pixels, of any type."""
    planes, channels, rows, cols = weight.shape
    sides = rows + SQUARE - 1, cols + SQUARE - 1
    found = torch.zeros(planes, SQUARE, SQUARE, channels, *sides, dtype=weight.dtype)
    for row in range(SQUARE):
        for col in range(SQUARE):
            found[:, row, col, :, row : row + rows, col : col + cols] = weight
    return found.flatten(0, 2)

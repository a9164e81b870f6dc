"""The One Hundred Layers Tiramisu: fully convolutional DenseNets (Jegou et al., 2017, https://arxiv.org/abs/1611.09326).

A U-Net whose every stage is a dense block: each layer sees the outputs of all layers before it. On the way up only what
a block added is upsampled, not its input, or the number of channels would explode.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["LAYERS", "Tiramisu"]


@dataclass(frozen=True, slots=True)
class _Depth:
    growth: int
    down: tuple[int, int, int, int, int]
    bottleneck: int
    up: tuple[int, int, int, int, int]


LAYERS = {
    "56": _Depth(12, (4, 4, 4, 4, 4), 4, (4, 4, 4, 4, 4)),
    "67": _Depth(16, (5, 5, 5, 5, 5), 5, (5, 5, 5, 5, 5)),
    "103": _Depth(16, (4, 5, 7, 10, 12), 15, (12, 10, 7, 5, 4)),
}
"""Growth rate and layers of the dense blocks, by the number of all convolutions (the paper's tables 1 and 2)."""

_FIRST_CHANNELS = 48
_DROPOUT = 0.2


class Tiramisu(nn.Module):
    """FC-DenseNet56, 67 or 103.

    Args:
        depth: a key of `LAYERS`.
        classes: output planes.
        bands: input planes.

    From (N, bands, H, W), H and W multiples of 32, to logits (N, classes, H, W).
    """

    stride = 32

    def __init__(self, depth: str, *, classes: int, bands: int) -> None:
        super().__init__()
        layers = LAYERS[depth]
        self.first = nn.Conv2d(bands, _FIRST_CHANNELS, 3, padding=1)
        self.down, self.pool = nn.ModuleList(), nn.ModuleList()
        channels, skips = _FIRST_CHANNELS, []
        for count in layers.down:
            block = _DenseBlock(channels, layers.growth, count)
            channels += block.added
            skips.append(channels)
            self.down.append(block)
            self.pool.append(_TransitionDown(channels))
        self.bottleneck = _DenseBlock(channels, layers.growth, layers.bottleneck)
        self.raised, self.up = nn.ModuleList(), nn.ModuleList()
        below = self.bottleneck.added
        for count, skip in zip(layers.up, reversed(skips), strict=True):
            self.raised.append(nn.ConvTranspose2d(below, below, 3, stride=2, padding=1, output_padding=1))
            channels = below + skip
            block = _DenseBlock(channels, layers.growth, count)
            below = block.added
            channels += below
            self.up.append(block)
        self.last = nn.Conv2d(channels, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):  # HeUniform, as the paper says
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of normalised pixels."""
        stack, skips = self.first(pixels), []
        for block, pool in zip(self.down, self.pool, strict=True):
            stack = torch.cat([stack, block(stack)], dim=1)
            skips.append(stack)
            stack = pool(stack)
        added = self.bottleneck(stack)
        for raised, block in zip(self.raised, self.up, strict=True):
            stack = torch.cat([raised(added), skips.pop()], dim=1)
            added = block(stack)
        logits: Tensor = self.last(torch.cat([stack, added], dim=1))
        return logits


class _DenseBlock(nn.Module):
    """Layers that each see the input and the outputs of all before; the result is the outputs without the input."""

    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.added = layers * growth
        self.layers = nn.ModuleList(_layer(channels + index * growth, growth) for index in range(layers))

    def forward(self, stack: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for layer in self.layers:
            outputs.append(layer(stack))
            stack = torch.cat([stack, outputs[-1]], dim=1)
        return torch.cat(outputs, dim=1)


def _layer(channels: int, growth: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, growth, 3, padding=1),
        nn.Dropout2d(_DROPOUT),
    )


class _TransitionDown(nn.Sequential):
    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
            nn.Dropout2d(_DROPOUT),
            nn.MaxPool2d(2),
        )

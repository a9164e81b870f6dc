"""How far a network looks, and so which halo makes tiles exact (floor 3).

A tiled prediction equals that of the whole image if a pixel's result depends on nothing beyond the halo, and if the
network does the same wherever a tile begins. Both are measured on the network itself, of an architecture with random
weights:

- A block of pixels is made NaN, which spreads through sums, products and maxima to all results that depend on it, and
  to no others. What stays a number is out of reach. This bounds the reach from above, also of layers nobody thought of.
- The picture is shifted by the stride; the result must shift with it. Positional embeddings and windows of attention
  that begin at the tile's corner fail here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from geoseg.errors import ModelError
from geoseg.models.architectures import build, stride_of

__all__ = ["Tiling", "measure", "measure_network"]

_BANDS = 3
_LENGTH = 4096  # px; what reaches across half of it is as good as global
_BREADTH = 128
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Tiling:
    """What an architecture means for tiles.

    Attributes:
        architecture: its name.
        parameters: of the network.
        stride: tiles and halos are multiples of it, pixels.
        halo_px: from which tiles are exact, pixels; ``None`` if they never are.
        why: they are not; else empty.
    """

    architecture: str
    parameters: int
    stride: int
    halo_px: int | None
    why: str


def measure(architecture: str) -> Tiling:
    """Builds a network for three bands and one class and measures its reach; takes seconds.

    Raises:
        ModelError: an unknown architecture, or one that cannot take a strip of 128 x 4096 pixels.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        network = build(architecture, classes=1, bands=_BANDS).eval()
    return measure_network(network, architecture, bands=_BANDS)


def measure_network(network: nn.Module, architecture: str, *, bands: int) -> Tiling:
    """Measures the reach of a network with the weights that it has; takes seconds.

    Args:
        network: on the CPU, for evaluation.
        architecture: its name.
        bands: that it takes.

    Raises:
        ModelError: it cannot take a strip of 128 x 4096 pixels.
    """
    stride = stride_of(network)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    strip = torch.rand(1, bands, _BREADTH, _LENGTH, generator=torch.Generator().manual_seed(0))
    block = slice(_LENGTH // 2, _LENGTH // 2 + stride)
    poisoned = strip.clone()
    poisoned[..., block] = torch.nan
    try:
        with torch.inference_mode():
            cols = network(poisoned).isnan().any(dim=(0, 1, 2)).nonzero().flatten()
            reach = max(block.start - int(cols[0]), int(cols[-1]) + 1 - block.stop)
            if reach >= _LENGTH // 2 - 4 * stride:
                return Tiling(architecture, parameters, stride, None, "every pixel depends on all of the tile")
            halo = -(-reach // stride) * stride
            whole, shifted = network(strip), network(strip[..., stride:])
            middle = slice(_LENGTH // 2 - stride, _LENGTH // 2 + stride)
            here, there = whole[..., stride:][..., middle], shifted[..., middle]
            if (here - there).abs().max() > _TOLERANCE * (1 + here.abs().max()):
                return Tiling(architecture, parameters, stride, None, "results depend on where a tile begins")
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"architecture {architecture} takes no tiles of any size: {' '.join(str(error).split())[:160]}"
        ) from None
    return Tiling(architecture, parameters, stride, halo, "")

"""Networks in bfloat16 that lose little by it, without any images (floor 3).

Rounding each weight to the nearest of bfloat16's 8 bits adds up: where the inputs of a kernel are much alike, as beside
each other they are, what counts is the error of the kernel's sum. So of each kernel some weights are rounded the other
way, such that the sum is kept (C. Guo et al., *SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian
Approximation*, 2022, https://arxiv.org/abs/2202.07471, there for integers). Batch normalizations are folded first, else
they would be rounded as well. What then is left of the error comes of the first convolutions, whose results are large
where all that matters is how they differ; torch can keep these in float32.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from geoseg.models.folding import fold_normalizations

__all__ = ["round_weights", "to_bfloat16"]

_MOST_TURNS = 64  # of rounding one more weight of every kernel the other way
_BETTER = 0.999
_EXACT = 3  # first convolutions that stay float32 in torch


def round_weights(network: nn.Module, example: Tensor) -> nn.Module:
    """The network with weights of convolutions that bfloat16 holds exactly, kept as float32.

    Args:
        network: in evaluation mode; it is left as it is.
        example: inputs (N, bands, T, T), by which the folding of normalizations is checked.

    Returns:
        A copy, or the network itself where its normalizations cannot be folded.
    """
    folded = fold_normalizations(network, example)
    if folded is network:
        return network
    for part in folded.modules():
        if isinstance(part, nn.ConvTranspose2d):
            rows, cols = part.stride
            for row in range(rows):  # one output meets only these of the weights
                for col in range(cols):
                    met = part.weight.data[:, :, row::rows, col::cols]
                    met.copy_(_round_kernels(met))
        elif isinstance(part, nn.Conv2d):
            part.weight.data = _round_kernels(part.weight.data)
    return folded


def to_bfloat16(network: nn.Module, example: Tensor) -> nn.Module:
    """The network in bfloat16, its first convolutions and what they give in float32.

    Args:
        network: in evaluation mode; it is left as it is.
        example: as of :func:`round_weights`.

    Returns:
        A copy that takes inputs of any float type.
    """
    rounded = copy.deepcopy(round_weights(network, example))
    used: list[nn.Module] = []

    def note(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:  # noqa: ARG001
        used.append(part)

    hooks = [part.register_forward_pre_hook(note) for part in rounded.modules() if isinstance(part, nn.Conv2d)]
    with torch.no_grad():
        rounded(example)
    for hook in hooks:
        hook.remove()
    exact = dict.fromkeys(used[:_EXACT])
    for part in rounded.modules():
        own = list(part.parameters(recurse=False))
        if own and part not in exact:
            part.register_forward_pre_hook(_narrow)
    rounded = rounded.bfloat16()
    for part in exact:
        part.float().register_forward_pre_hook(_widen)
    return rounded


def _narrow(part: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: ARG001
    return tuple(value.bfloat16() for value in inputs)


def _widen(part: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: ARG001
    return tuple(value.float() for value in inputs)


def _round_kernels(weight: Tensor) -> Tensor:
    """Weights (out, in, rows, cols) that bfloat16 holds, with sums of kernels as near as can be."""
    exact = weight.flatten(2).flatten(0, 1)  # (kernels, weights)
    nearest = exact.bfloat16()
    step = torch.where(nearest.float().abs() < exact.abs(), 1, -1)  # to the other side of the exact value
    other = (nearest.view(torch.int16) + step).to(torch.int16).view(torch.bfloat16).float()
    chosen, other = nearest.float(), torch.where(nearest.float() == exact, exact, other)
    kernels = torch.arange(len(exact))
    for _ in range(_MOST_TURNS if exact.shape[1] > 1 else 0):
        error = (chosen - exact).sum(1)
        after, place = (error[:, None] + other - chosen).abs().min(1)
        better = after < _BETTER * error.abs()
        if not better.any():
            break
        where = kernels[better], place[better]
        chosen[where], other[where] = other[where], chosen[where]
    return chosen.view_as(weight)

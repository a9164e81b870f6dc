"""Networks in bfloat16 that lose little by it, without any images (floor 3).

Rounding each weight to the nearest of bfloat16's 8 bits adds up: where the inputs of a kernel are much alike, as beside
each other they are, what counts is the error of the kernel's sum. So of each kernel some weights are rounded the other
way, such that the sum is kept (C. Guo et al., *SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian
Approximation*, 2022, https://arxiv.org/abs/2202.07471, there for integers). What still shifts a channel's mean is taken
from its bias; which inputs a convolution has on the average is known by the batch normalizations before it (M. Nagel et
al., *Data-Free Quantization Through Weight Equalization and Bias Correction*, 2019, https://arxiv.org/abs/1906.04721,
section 4.2). These are folded first, else they would be rounded as well.

Most of what is then left of the error comes of the first convolutions, whose results are large where all that matters
is how they differ; so runtimes keep the first few of them in float32.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from geoseg.models.folding import fold_normalizations
from geoseg.models.graphs import EXACT

__all__ = ["round_weights", "to_bfloat16"]

_MOST_TURNS = 64  # of rounding one more weight of every kernel the other way
_BETTER = 0.999


def round_weights(network: nn.Module, example: Tensor) -> nn.Module:
    """The network with weights of convolutions that bfloat16 holds exactly, kept as float32.

    Args:
        network: in evaluation mode; it is left as it is.
        example: inputs (N, bands, T, T), by which the folding of normalizations is checked, and the first convolutions
            are told from the others: these stay as they are.

    Returns:
        A copy, or the network itself where its normalizations cannot be folded.
    """
    folded = fold_normalizations(network, example)
    if folded is network:
        return network
    expected = _expected_inputs(network, example)
    for name, part in folded.named_modules():
        if isinstance(part, nn.ConvTranspose2d):
            rows, cols = part.stride
            for row in range(rows):  # one output meets only these of the weights
                for col in range(cols):
                    met = part.weight.data[:, :, row::rows, col::cols]
                    met.copy_(_round_kernels(met))
        elif isinstance(part, nn.Conv2d) and name not in list(expected)[:EXACT]:
            rounded = _round_kernels(part.weight.data)
            if part.bias is not None and name in expected:
                errors = (rounded - part.weight.data).sum((2, 3)).view(part.groups, -1, part.weight.shape[1])
                shift = errors @ expected[name].view(part.groups, -1, 1)
                part.bias.data = part.bias.data - shift.flatten()
            part.weight.data = rounded
    return folded


def _expected_inputs(network: nn.Module, example: Tensor) -> dict[str, Tensor]:
    """Means of the inputs (in,) of each convolution over what the network was trained on, in the order of their use.

    Whatever an example makes of them, normalizations give values of the mean and deviation that they learned.
    """
    noise = torch.Generator().manual_seed(0)
    names = {part: name for name, part in network.named_modules()}
    means: dict[str, Tensor] = {}

    def note(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        means.setdefault(names[part], inputs[0].mean((0, 2, 3)))

    def dream(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:  # noqa: ARG001
        assert isinstance(norm, nn.BatchNorm2d)  # noqa: S101 - no others are hooked
        spread, centre = (value.detach().view(1, -1, 1, 1) for value in (norm.weight, norm.bias))
        values = torch.randn(output.shape, generator=noise) * spread.abs() + centre
        activation: Any = getattr(norm, "act", None)  # timm's have it inside
        return values if activation is None else activation(values)

    hooks = [part.register_forward_pre_hook(note) for part in network.modules() if isinstance(part, nn.Conv2d)]
    hooks += [
        part.register_forward_hook(dream)
        for part in network.modules()
        if isinstance(part, nn.BatchNorm2d) and part.affine
    ]
    with torch.no_grad():
        network(torch.zeros_like(example))
    for hook in hooks:
        hook.remove()
    return means


def to_bfloat16(network: nn.Module, example: Tensor) -> nn.Module:
    """The network in bfloat16, its first convolutions and what they give in float32.

    Args:
        network: in evaluation mode; it is left as it is.
        example: as of :func:`round_weights`.

    Returns:
        A copy that takes inputs of any float type.
    """
    rounded = copy.deepcopy(round_weights(network, example))
    exact = [rounded.get_submodule(name) for name in list(_expected_inputs(network, example))[:EXACT]]
    for part in rounded.modules():
        own = list(part.parameters(recurse=False))
        if own and part not in exact:
            part.register_forward_pre_hook(_narrow)
    kept = [copy.deepcopy(part.state_dict()) for part in exact]
    rounded = rounded.bfloat16()
    for part, state in zip(exact, kept, strict=True):
        part.float().load_state_dict(state)
        part.register_forward_pre_hook(_widen)
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

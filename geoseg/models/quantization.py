"""Networks whose convolutions multiply 8-bit integers: how they are made, kept and run (floor 3).

Inputs of a convolution are rounded to 256 steps and its weights to 255 for each output channel, which CPUs multiply
four times as fast as float32. No training is needed, only some images of what the network is made for:

- Batch normalizations are folded into the convolutions before them.
- Channels of an input that are small where others are large would be lost between the steps. So each is divided by a
  factor of its own, and the weights that it meets are multiplied by it, which changes nothing but how the error is
  shared (G. Xiao et al., *SmoothQuant*, 2023, https://arxiv.org/abs/2211.10438; here also for convolutions).
- The range of an input is the one that loses least: values beyond it are clipped.
- Weights are rounded one after the other, and what one loses the next ones make up for, as far as their inputs go
  together (E. Frantar et al., *GPTQ*, 2023, https://arxiv.org/abs/2210.17323), where that many weights can be inverted.
- What still shifts a channel's mean is taken from its bias, layer after layer (M. Nagel et al., *Data-free quantization
  through weight equalization and bias correction*, 2019, https://arxiv.org/abs/1906.04721, section 4.2).

In torch the result is simulated in float32; engines for graphs recognize the rounding and multiply integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from geoseg.errors import ModelError
from geoseg.models.folding import fold_normalizations

__all__ = ["Calibration", "QuantizedLayer", "load_layers", "quantized", "save_layers"]

_Convolution: TypeAlias = nn.Conv2d | nn.ConvTranspose2d

_LOWEST, _HIGHEST = 0, 255  # of inputs
_MIDDLE = 128  # the step of zero where there must be as many on both sides
_LARGEST = 127  # of weights; -128 is left out, so that their range is even
_OF_WEIGHTS = -128, 127  # steps that there are
_SMOOTHING = 0.75  # how much of the difference between channels goes from inputs to weights
_CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # of the range seen
_WEIGHT_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
_SAMPLES = 2000  # values of a channel that stand for all, of each example
_MOST_AT_ONCE = 48  # examples whose means of channels are kept
_PLACES = 4000  # at which inputs are seen together, of each example
_MOST_TOGETHER = 1200  # weights of an output channel that are rounded together
_BLOCK = 64  # weights that the others make up for at once
_DAMPING = 0.01
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class QuantizedLayer:
    """A convolution of integers.

    Attributes:
        weight: (out, in, rows, cols) int8, smoothed; of a transposed one (in, out, rows, cols).
        weight_scale: (out,) float32: what one step of a weight is.
        bias: (out,) float32.
        smoothing: (in,) float32, by which inputs are divided first.
        scale: () float32: what one step of an input is.
        zero: () int32: the step, 0-255, that stands for an input of zero.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor
    smoothing: Tensor
    scale: Tensor
    zero: Tensor


class Calibration:
    """What a network does with some images of what it is made for, from which it can be quantized.

    Args:
        network: in evaluation mode; it is left as it is.
        examples: inputs (N, bands, T, T) of it; what comes of up to 48 is in memory at once.
    """

    def __init__(self, network: nn.Module, examples: Tensor) -> None:
        self._network = fold_normalizations(network, examples[:1])
        if self._network is network:
            raise ModelError("the network uses its normalizations in an order of its own, and cannot be quantized")
        self._examples = examples
        self._together = examples[:: -(-len(examples) // _MOST_AT_ONCE)]
        self._seen: dict[str, _Seen] = {}
        self._means: dict[str, Tensor] = {}
        self._rounded: dict[str, QuantizedLayer] = {}
        with torch.no_grad():
            self._watch()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the convolutions, in the order in which they are used."""
        return tuple(self._seen)

    def quantize(self, first: int = 0) -> dict[str, QuantizedLayer]:
        """The convolutions of integers, by name: all but the first ones, which stay as they are."""
        with torch.no_grad():
            for name in self.layers[first:]:
                if name not in self._rounded:
                    self._rounded[name] = _round(self._network.get_submodule(name), self._seen[name])
            return self._corrected({name: self._rounded[name] for name in self.layers[first:]})

    def _watch(self) -> None:
        """Notes what convolutions meet in each example, and the means of what they give in those together."""

        def see(name: str, conv: _Convolution, inputs: Tensor, _: Tensor) -> None:
            self._seen.setdefault(name, _Seen()).add(conv, inputs)

        def average(name: str, _: _Convolution, __: Tensor, output: Tensor) -> None:
            self._means[name] = output.mean((0, 2, 3))

        for note, batches in ((see, self._examples.tensor_split(len(self._examples))), (average, [self._together])):
            hooks = [
                conv.register_forward_hook(partial(_tell, note, name))
                for name, conv in _convolutions(self._network).items()
            ]
            for batch in batches:
                self._network(batch)
            for hook in hooks:
                hook.remove()

    def _corrected(self, layers: dict[str, QuantizedLayer]) -> dict[str, QuantizedLayer]:
        """The layers with biases that keep the means of channels, given all layers before them."""
        network = quantized(self._network, layers)
        shifts: dict[str, Tensor] = {}

        def correct(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
            def hook(conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:  # noqa: ARG001
                shifts[name] = output.mean((0, 2, 3)) - self._means[name]
                return output - shifts[name].view(1, -1, 1, 1)

            return hook

        for name in layers:
            network.get_submodule(name).register_forward_hook(correct(name))
        network(self._together)
        return {
            name: QuantizedLayer(
                layer.weight,
                layer.weight_scale,
                layer.bias - shifts[name],
                layer.smoothing,
                layer.scale,
                layer.zero,
            )
            for name, layer in layers.items()
        }


def _tell(
    note: Callable[[str, _Convolution, Tensor, Tensor], None],
    name: str,
    conv: nn.Module,
    inputs: tuple[Tensor, ...],
    output: Tensor,
) -> None:
    """A hook of a convolution that tells what it takes and gives."""
    assert isinstance(conv, _Convolution)  # noqa: S101 - no others are hooked
    note(name, conv, inputs[0], output)


def quantized(network: nn.Module, layers: Mapping[str, QuantizedLayer]) -> nn.Module:
    """A copy of a network, its batch normalizations folded, in which some convolutions are of integers.

    Args:
        network: in evaluation mode, as it was calibrated.
        layers: of it, by name.

    Raises:
        ModelError: layers of another network.
    """
    network = fold_normalizations(network)
    convolutions = _convolutions(network)
    for name, layer in layers.items():
        conv = convolutions.get(name)
        if conv is None or conv.weight.shape != layer.weight.shape:
            raise ModelError(
                f"the network has no convolution {name} of {tuple(layer.weight.shape)}; "
                "make its integers anew with geoseg quantize"
            )
        conv.bias = nn.Parameter(layer.bias.clone(), requires_grad=False)
        axis = 1 if isinstance(conv, nn.ConvTranspose2d) else 0  # of output channels
        scales = layer.weight_scale.view([-1 if place == axis else 1 for place in range(4)])
        conv.weight = nn.Parameter(layer.weight * scales, requires_grad=False)
        register_parametrization(conv, "weight", _WeightSteps(layer.weight_scale, axis), unsafe=True)
        conv.register_forward_pre_hook(_InputSteps(layer, signed=axis == 1 and int(layer.zero) == _MIDDLE))
    return network


def save_layers(path: Path, layers: Mapping[str, QuantizedLayer]) -> None:
    """Writes convolutions of integers as safetensors, at once or not at all if ``path`` is staged.

    Args:
        path: of the file.
        layers: by name.
    """
    from safetensors.torch import save_file

    tensors = {
        f"{name}.{part.name}": getattr(layer, part.name).contiguous()
        for name, layer in layers.items()
        for part in fields(QuantizedLayer)
    }
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors writes files for their owner alone


def load_layers(path: Path) -> dict[str, QuantizedLayer]:
    """Reads what :func:`save_layers` wrote.

    Raises:
        ModelError: it cannot be read, or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    parts: dict[str, dict[str, Tensor]] = {}
    try:
        for key, value in load_file(path).items():
            name, _, part = key.rpartition(".")
            parts.setdefault(name, {})[part] = value
        return {name: QuantizedLayer(**part) for name, part in parts.items()}
    except (OSError, SafetensorError, TypeError) as error:
        raise ModelError(f"{path} holds no convolutions of integers ({error}); make it with geoseg quantize") from None


class _Seen:
    """The inputs of one convolution, as far as rounding needs them."""

    def __init__(self) -> None:
        self.largest = torch.zeros(())
        self.samples: list[Tensor] = []
        self._products: Tensor | None = None
        self._count = 0

    def add(self, conv: _Convolution, inputs: Tensor) -> None:
        """Sees the inputs (1, in, rows, cols) of one example."""
        values = inputs[0].flatten(1)
        self.largest = torch.maximum(self.largest, values.abs().amax(1))
        self.samples.append(values[:, :: -(-values.shape[1] // _SAMPLES)].clone())
        together = _rows(conv.weight, conv).shape[2]
        if together > _MOST_TOGETHER or min(inputs.shape[2:]) < max(conv.kernel_size):
            return
        if isinstance(conv, nn.ConvTranspose2d):  # what any of its outputs sees, but for the edges
            sides = tuple(side // step for side, step in zip(conv.kernel_size, conv.stride, strict=True))
            patches = nn.functional.unfold(inputs, sides)[0]
        else:
            padding = 0 if isinstance(conv.padding, str) else conv.padding
            patches = nn.functional.unfold(inputs, conv.kernel_size, conv.dilation, padding, conv.stride)[0]
        patches = patches.view(conv.groups, together, -1)
        patches = patches[..., :: -(-patches.shape[2] // _PLACES)]
        patches = patches - patches.mean(2, keepdim=True)  # a shift of the mean is the bias's business
        products = patches @ patches.mT
        self._products = products if self._products is None else self._products + products
        self._count += patches.shape[2]

    @property
    def products(self) -> Tensor | None:
        """(groups, weights, weights): mean products of the inputs that an output's weights meet."""
        return None if self._products is None else self._products / self._count


class _WeightSteps(nn.Module):
    """Rounds weights, so that engines see what their steps are."""

    def __init__(self, scale: Tensor, axis: int) -> None:
        super().__init__()
        self._scale = scale.clone()
        self._zero = torch.zeros(len(scale), dtype=torch.int32)
        self._axis = axis

    def forward(self, weight: Tensor) -> Tensor:
        return torch.fake_quantize_per_channel_affine(weight, self._scale, self._zero, self._axis, *_OF_WEIGHTS)


class _InputSteps:
    """Smooths inputs and rounds them.

    The same steps can have signs, so that zero is zero. Engines know no other for transposed convolutions; to others
    OpenVINO gives wrong inputs then, if these come of several together.
    """

    def __init__(self, layer: QuantizedLayer, *, signed: bool) -> None:
        self._factor = (1 / layer.smoothing).view(1, -1, 1, 1)
        shift = _MIDDLE if signed else 0
        self._steps = float(layer.scale), int(layer.zero) - shift, _LOWEST - shift, _HIGHEST - shift

    def __call__(self, conv: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:  # noqa: ARG002
        return (torch.fake_quantize_per_tensor_affine(inputs[0] * self._factor, *self._steps),)


def _convolutions(network: nn.Module) -> dict[str, _Convolution]:
    return {
        name: part
        for name, part in network.named_modules()
        if isinstance(part, nn.Conv2d) or (isinstance(part, nn.ConvTranspose2d) and _can_be_told_apart(part))
    }


def _can_be_told_apart(conv: nn.ConvTranspose2d) -> bool:
    """Whether a transposed convolution is one convolution for each place within a stride, all of the same size."""
    whole = all(side % step == 0 for side, step in zip(conv.kernel_size, conv.stride, strict=True))
    return whole and conv.groups == 1 and set(conv.dilation) == {1}


def _rows(weight: Tensor, conv: _Convolution) -> Tensor:
    """Weights as (groups, out, those of one output): of a transposed convolution a group for each place in a stride."""
    if isinstance(conv, nn.Conv2d):
        return weight.reshape(conv.groups, -1, weight[0].numel())
    (high, wide), (rows, cols) = conv.kernel_size, conv.stride
    apart = weight.reshape(*weight.shape[:2], high // rows, rows, wide // cols, cols)
    # the first weight of a place meets the last pixel
    return apart.flip(2, 4).permute(3, 5, 1, 0, 2, 4).flatten(3).flatten(0, 1)


def _back(rows: Tensor, conv: _Convolution) -> Tensor:
    """Undoes :func:`_rows`."""
    if isinstance(conv, nn.Conv2d):
        return rows.reshape(conv.weight.shape)
    (high, wide), steps = conv.kernel_size, conv.stride
    apart = rows.view(*steps, *rows.shape[1:2], -1, high // steps[0], wide // steps[1])
    return apart.permute(3, 2, 4, 0, 5, 1).flip(2, 4).reshape(conv.weight.shape)


def _round(conv: nn.Module, seen: _Seen) -> QuantizedLayer:
    """A convolution of integers that does the same with the inputs seen, as near as can be."""
    assert isinstance(conv, _Convolution)  # noqa: S101 - no others are seen
    weight = conv.weight.detach()
    by_input = _by_input(weight.abs(), conv)
    largest = seen.largest.clamp_min(_TINY)
    depthwise = conv.groups > 1 and weight.shape[1] == 1
    if depthwise:  # a channel's weights meet no other channel, and have a scale of their own
        smoothing = largest / largest.max()
    else:
        smoothing = largest**_SMOOTHING / by_input.clamp_min(_TINY) ** (1 - _SMOOTHING)
        smoothing = smoothing / smoothing.median()
    smoothing = smoothing.clamp_min(1e-3)
    samples = torch.cat(seen.samples, dim=1) / smoothing[:, None]
    transposed = isinstance(conv, nn.ConvTranspose2d)
    scale, zero = _steps(samples, (smoothing * by_input) ** 2, even=transposed)  # which engines know no other zero for
    factors = _rows(_to_weights(smoothing, conv).expand_as(weight), conv)
    flat, products = _rows(weight, conv) * factors, seen.products
    if products is not None:
        met = factors[:, 0]
        products = products / (met[:, :, None] * met[:, None, :])
    integers, weight_scale = _round_weights(flat, products, together=transposed)
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().clone()
    tensors = (smoothing, torch.tensor(scale), torch.tensor(zero).int())
    return QuantizedLayer(_back(integers, conv), weight_scale, bias, *tensors)


def _by_input(weight: Tensor, conv: _Convolution) -> Tensor:
    """(in,): the largest weight that each input channel meets."""
    if isinstance(conv, nn.ConvTranspose2d):
        return weight.amax((1, 2, 3))
    grouped = weight.view(conv.groups, -1, *weight.shape[1:])  # (groups, out, in, rows, cols)
    return grouped.amax((1, 3, 4)).flatten()


def _to_weights(factors: Tensor, conv: _Convolution) -> Tensor:
    """(in,) as factors of weights."""
    if isinstance(conv, nn.ConvTranspose2d):
        return factors.view(-1, 1, 1, 1)
    out, within = conv.weight.shape[:2]
    grouped = factors.view(conv.groups, 1, within, 1, 1)
    return grouped.expand(-1, out // conv.groups, -1, -1, -1).reshape(out, within, 1, 1)


def _steps(samples: Tensor, matters: Tensor, *, even: bool) -> tuple[float, int]:
    """Size of a step and the step of zero, by which samples (in, n) of channels that matter so much lose least.

    Args:
        samples: of inputs.
        matters: (in,).
        even: whether as many steps must be below zero as above, if any are.
    """
    low, high = min(float(samples.min()), 0.0), max(float(samples.max()), 0.0)
    if even and low < 0:
        low, high = min(low, -high), max(high, -low)
    best = (torch.inf, 1.0, 0)
    for clip in _CLIPS:
        scale = max((high - low) * clip / (_HIGHEST - _LOWEST), _TINY)
        zero = _MIDDLE if even and low < 0 else min(max(round(-low * clip / scale), _LOWEST), _HIGHEST)
        rounded = torch.fake_quantize_per_tensor_affine(samples, scale, zero, _LOWEST, _HIGHEST)
        best = min(best, (float(((rounded - samples) ** 2 * matters[:, None]).mean()), scale, zero))
    return best[1:]


def _round_weights(flat: Tensor, products: Tensor | None, *, together: bool) -> tuple[Tensor, Tensor]:
    """Weights as int8, and what a step is, (out of all groups,).

    Args:
        flat: the weights, (groups, out, weights).
        products: mean products of the inputs that they meet, (groups or 1, weights, weights).
        together: whether an output has the same steps in all groups; then (out,) steps.
    """
    largest = flat.abs().amax(2).clamp_min(_TINY)
    if together:
        largest = largest.amax(0, keepdim=True).expand_as(largest)
    factor = None
    if products is not None:
        size = products.shape[-1]
        level = products.diagonal(dim1=1, dim2=2).mean(1).clamp_min(_TINY)
        products = products + _DAMPING * level[:, None, None] * torch.eye(size)
        factor = torch.linalg.cholesky(torch.linalg.inv(products.double()), upper=True).float()
        factor = factor.expand(len(flat), -1, -1)
    steps = largest * torch.tensor(_WEIGHT_CLIPS).view(-1, 1, 1) / _LARGEST  # (clips, groups, out)
    if factor is None:
        tried = (flat / steps[..., None]).round().clamp(-_LARGEST, _LARGEST)
    else:
        tried = _round_together(flat, steps, factor)
    error = tried * steps[..., None] - flat
    loss = ((error if products is None else error @ products) * error).sum(3)  # (clips, groups, out)
    if together:
        loss = loss.sum(1, keepdim=True).expand_as(loss)
    best = loss.argmin(0, keepdim=True)
    integers = tried.gather(0, best[..., None].expand(1, *flat.shape))[0]
    steps = steps.gather(0, best)[0]
    return integers.to(torch.int8), steps[0].clone() if together else steps.flatten()


def _round_together(flat: Tensor, steps: Tensor, factor: Tensor) -> Tensor:
    """GPTQ: rounds weights in order; those to come make up for what was lost. For several sizes of steps at once.

    Args:
        flat: the weights, (groups, out, weights).
        steps: (sizes, groups, out).
        factor: upper triangular, of the inverse of the mean products of inputs, (groups, weights, weights).

    Returns:
        (sizes, groups, out, weights), whole numbers.
    """
    rest = flat.permute(2, 0, 1)[:, None].expand(-1, len(steps), -1, -1).clone()
    integers = torch.zeros_like(rest)
    for first in range(0, len(rest), _BLOCK):
        last = min(first + _BLOCK, len(rest))
        lost = torch.empty_like(rest[first:last])
        for place in range(first, last):
            row = factor[:, place]
            integers[place] = (rest[place] / steps).round().clamp(-_LARGEST, _LARGEST)
            lost[place - first] = (rest[place] - integers[place] * steps) / row[:, place, None]
            rest[place:last] -= lost[place - first] * row[:, place:last].T[:, None, :, None]
        rest[last:] -= torch.einsum("bsgo,gbw->wsgo", lost, factor[:, first:last, last:])  # all at once is quicker
    return integers.permute(1, 2, 3, 0)

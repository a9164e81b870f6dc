"""Runs a model on batches of tiles (floor 3). The only torch import outside architectures and training."""

from __future__ import annotations

import ctypes
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import ModelError, SettingsError
from geoseg.models.card import Card
from geoseg.settings import Device, Precision, Refinement

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "ClassicalRuntime",
    "Runtime",
    "TorchRuntime",
    "join_boundaries",
    "load_network",
    "open_runtime",
    "resolve_device",
    "resolve_precision",
]

_CUDA_BATCH = 8


def resolve_device(device: Device) -> Literal["cpu", "cuda"]:
    """Turns ``auto`` into what this machine has.

    Raises:
        SettingsError: ``cuda`` asked for where there is none.
    """
    if device == "cpu" or (device == "auto" and not _has_nvidia_driver()):
        return "cpu"
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise SettingsError("--device is cuda, but torch finds no CUDA device here; use --device cpu or auto")
    return "cuda" if there else "cpu"


def _has_nvidia_driver() -> bool:
    """Looks for CUDA's driver library, which is much quicker than importing torch to ask."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def resolve_precision(precision: Precision, device: Literal["cpu", "cuda"]) -> Literal["fp32", "bf16"]:
    """Turns ``auto`` into bf16 where the hardware multiplies bf16 matrices natively, else fp32.

    Without AMX tiles a CPU emulates bf16 and is slower with it than with fp32.
    """
    if precision != "auto":
        return precision
    if device == "cuda":
        import torch

        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return "fp32"
    return "bf16" if re.search(r"\bamx_bf16\b", flags) else "fp32"


class Runtime(Protocol):
    """A model on one device, ready for batches of one fixed shape."""

    batch: int
    """Tiles per call."""

    def __call__(self, tiles: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Labels a batch of tiles.

        Args:
            tiles: (batch, bands, tile, tile), uint8, or float32 for a card whose ``dtype`` is "any".

        Returns:
            mask and confidence of the tiles' cores, each (batch, core, core) uint8; confidence is 0-254 for 0-1.
        """
        ...


def open_runtime(
    card: Card,
    *,
    device: Literal["cpu", "cuda"],
    precision: Literal["fp32", "bf16"],
    halo: int,
    refine: Refinement = "none",
    thresholds: tuple[float, ...] | None = None,
) -> Runtime:
    """Loads a model.

    Args:
        card: the model.
        device: resolved, see :func:`resolve_device`.
        precision: of a network, resolved, see :func:`resolve_precision`.
        halo: pixels cropped from each side of a tile's result.
        refine: how scores are refined by the image before the decision, see ``geoseg.stages.refine``.
        thresholds: of the scene, for segmenters that need them, see ``geoseg.models.classical.scene_thresholds``.

    Raises:
        ModelError: weights that do not fit the architecture or the card, or thresholds that are not there.
    """
    if card.weights is None:
        return ClassicalRuntime(card, device=device, halo=halo, refine=refine, thresholds=thresholds)
    return TorchRuntime(card, device=device, precision=precision, halo=halo, refine=refine)


class TorchRuntime:
    """A network with weights.

    On a CPU each runtime keeps to one thread: parallelism comes from several workers, which is faster than several
    threads in one convolution, and the arithmetic is then the same however many workers there are.

    The arguments are those of :func:`open_runtime`.
    """

    def __init__(
        self,
        card: Card,
        *,
        device: Literal["cpu", "cuda"],
        precision: Literal["fp32", "bf16"],
        halo: int,
        refine: Refinement = "none",
    ) -> None:
        import torch

        _prepare(device)
        self.batch = _CUDA_BATCH if device == "cuda" else 1
        self._device = torch.device(device)
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._decision = _Decision(card, self._device, halo, refine)
        network = load_network(card).eval().to(self._device, self._dtype)
        self._network = network.to(memory_format=torch.channels_last)
        self._mean = torch.tensor(card.mean, device=self._device).view(1, -1, 1, 1)
        self._std = torch.tensor(card.std, device=self._device).view(1, -1, 1, 1)

    def __call__(self, tiles: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Labels a batch of tiles, see :class:`Runtime`.

        Sigmoid channels: a pixel takes the class of the highest score if that is at least 0.5, else 0; its confidence
        is that score, or one minus it for 0. Softmax: the most probable class or 0, and its probability.
        """
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(tiles).to(self._device, non_blocking=True)
            pixels = pixels.contiguous(memory_format=torch.channels_last).float()
            if tiles.dtype != np.uint8:  # one value that is no number would spread over all of the tile
                pixels = torch.where(torch.isfinite(pixels), pixels, self._mean)
            inputs = (pixels - self._mean) / self._std
            picture = pixels if tiles.dtype == np.uint8 else (inputs + 2) * 63.75  # two deviations to either side
            mask, confidence = self._decision(self._network(inputs.to(self._dtype)), picture)
            return mask.cpu().numpy(), confidence.cpu().numpy()


class ClassicalRuntime:
    """A segmenter without weights, see ``geoseg.models.classical``. The arguments are those of :func:`open_runtime`."""

    def __init__(
        self,
        card: Card,
        *,
        device: Literal["cpu", "cuda"],
        halo: int,
        refine: Refinement = "none",
        thresholds: tuple[float, ...] | None = None,
    ) -> None:
        import torch

        from geoseg.models.classical import Segmenter

        _prepare(device)
        self.batch = _CUDA_BATCH if device == "cuda" else 1
        self._device = torch.device(device)
        self._decision = _Decision(card, self._device, halo, refine)
        self._segment = Segmenter(card, thresholds)

    def __call__(self, tiles: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Labels a batch of tiles, see :class:`Runtime`; what nothing can be said of is 0 with confidence 0."""
        import torch

        scores, known, picture = self._segment(tiles)
        with torch.inference_mode():
            mask, confidence = self._decision.of_scores(
                torch.from_numpy(scores).to(self._device), torch.from_numpy(picture).to(self._device)
            )
            unknown = ~self._decision.core(torch.from_numpy(known).to(self._device))
            return mask.masked_fill(unknown, 0).cpu().numpy(), confidence.masked_fill(unknown, 0).cpu().numpy()


def load_network(card: Card) -> nn.Module:
    """A card's network with its weights, float32, on the CPU.

    Raises:
        ModelError: the weights are not those that the card describes, or do not fit the architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from geoseg.models.architectures import build, stride_of

    if card.checksum and card.checksum != f"1220{card.weights_sha256}":
        raise ModelError(
            f"{card.weights_path} are not the weights that the card of {card.name} describes: sha256 "
            f"{card.weights_sha256[:16]}..., expected {card.checksum[4:20]}...; fetch card and weights together"
        )
    network = build(card.architecture, classes=card.planes, bands=card.channels, options=dict(card.options))
    if card.stride % stride_of(network):
        raise ModelError(
            f"the card of {card.name} has stride {card.stride}; architecture {card.architecture} needs a multiple of "
            f"{stride_of(network)}"
        )
    try:
        state = load_file(card.weights_path)
        network.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
        )
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"the weights {card.weights_path} do not fit the architecture {card.architecture}: "
            f"{' '.join(str(error).split())[:200]}"
        ) from None
    return network


def _prepare(device: Literal["cpu", "cuda"]) -> None:
    import torch

    if device == "cpu":
        torch.set_num_threads(1)
    else:
        torch.backends.cudnn.deterministic = True


class _Decision:
    """From logits or scores of tiles to mask and confidence of their cores."""

    def __init__(self, card: Card, device: torch.device, halo: int, refine: Refinement) -> None:
        import torch

        self._halo = halo
        self._refine = refine
        self._sigmoid = card.activation == "sigmoid"
        self._codes = torch.tensor([entry.code for entry in card.classes], dtype=torch.uint8, device=device)
        channel = {entry.code: place for place, entry in enumerate(card.classes)}
        odds = {entry.code: entry.odds for entry in card.classes}
        self._boundaries = [
            (channel[code], channel[boundary], math.log(odds[boundary])) for code, boundary in card.boundaries
        ]
        self._exhaustive = card.architecture.startswith("otsu-")  # every pixel is of one of its classes

    def core(self, planes: torch.Tensor) -> torch.Tensor:
        """Crops the halo from (..., tile, tile)."""
        stop = planes.shape[-1] - self._halo
        return planes[..., self._halo : stop, self._halo : stop]

    def __call__(self, logits: torch.Tensor, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Decides by logits (N, planes, T, T).

        With softmax the first plane is the background's; a class stands against it as its score to one minus it. So
        both kinds of networks give odds against background, which is what refiners take.
        """
        import torch

        unrefined = self._refine == "none"
        logits = (self.core(logits) if unrefined else logits).float()
        if not self._sigmoid:
            logits = logits[:, 1:] - logits[:, :1]
        if unrefined:
            return self._decide(logits)
        return self.of_scores(torch.sigmoid(logits), picture)

    def of_scores(self, scores: torch.Tensor, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Decides by scores (N, classes, T, T), 0-1; ``picture`` (N, bands, T, T), float32, 0-255, refines them."""
        if self._refine != "none":
            from geoseg.stages.refine import refine

            scores = refine(scores, picture.clamp(0, 255), self._refine)
        return self._decide(self.core(scores).logit(eps=1e-7))

    def _decide(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask and confidence, (N, rows, cols) uint8, by odds against background (N, classes, rows, cols)."""
        import torch

        if self._boundaries:
            logits = join_boundaries(logits, self._boundaries, sigmoid=self._sigmoid)
        best, channel = logits.max(dim=1)
        found = (best >= 0) | self._exhaustive
        mask = torch.where(found, self._codes[channel], torch.zeros_like(channel, dtype=torch.uint8))
        if self._sigmoid:
            sure = torch.sigmoid(best if self._exhaustive else best.abs())
        else:
            sure = (best.clamp_min(0) - torch.logaddexp(logits.logsumexp(dim=1), torch.zeros_like(best))).exp()
        return mask, (sure * 254).round().to(torch.uint8)


def join_boundaries(
    logits: torch.Tensor, boundaries: Sequence[tuple[int, int, float]], *, sigmoid: bool = True
) -> torch.Tensor:
    """Lets a class and its boundary stand together against all else, and the likelier of the two speak for both.

    They exclude each other, so where an instance ends and its boundary begins neither may reach a half alone.

    Args:
        logits: (N, classes, rows, cols), odds against background.
        boundaries: of each class that has one: its channel, the boundary's, and the boundary's lead in logits.
        sigmoid: whether the network's channels are independent.
    """
    import torch

    joined = logits.clone()
    for inside, boundary, lead in boundaries:
        pair = logits[:, [inside, boundary]]
        together = pair.sigmoid().sum(dim=1).logit(eps=1e-7) if sigmoid else pair.logsumexp(dim=1)
        within = pair[:, 0] >= pair[:, 1] + lead
        nowhere = torch.full_like(together, -torch.inf)
        joined[:, inside] = torch.where(within, together, nowhere)
        joined[:, boundary] = torch.where(within, nowhere, together)
    return joined

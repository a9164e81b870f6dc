"""Runs networks in torch, and segmenters without weights (floor 3)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from geoseg.errors import ModelError
from geoseg.models.card import Activation, Card
from geoseg.models.classical import Segmenter
from geoseg.models.decision import Decision
from geoseg.models.heads import put_side_by_side
from geoseg.models.lanes import Lane, count_lanes
from geoseg.models.rounding import to_bfloat16
from geoseg.models.slots import NoRoomError, Slots
from geoseg.settings import Arithmetic, Refinement, Tta
from geoseg.stages.blend import FULL

__all__ = [
    "BlendedDecision",
    "ClassicalRuntime",
    "Labeller",
    "Scorer",
    "TorchRuntime",
    "example_inputs",
    "load_network",
    "settle",
]

_LEAST_SCORE = 1e-7
_Plane: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
_VIEWS: dict[Tta, tuple[tuple[int, bool], ...]] = {  # quarter turns, after being mirrored or not
    "none": ((0, False),),
    "d4": tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4)),
}


class Labeller(nn.Module):
    """All that happens to a batch of tiles: scaling, the network, the decision. Other runtimes convert it as a whole.

    Args:
        card: of the model.
        network: from inputs (N, bands, T, T) float32 to what the card says, (N, planes, T, T), of any float type.
        device: of the tiles.
        halo: pixels cropped from each side of a tile's result.
        refine: how scores are refined by the image before the decision.
        tta: views of a tile whose scores are averaged.
        square: side of the square of pixels whose logits the network gives as channels, see
            :func:`geoseg.models.heads.split_head`; then there is neither refining nor another view.
    """

    def __init__(
        self,
        card: Card,
        network: Callable[[torch.Tensor], torch.Tensor],
        *,
        device: torch.device,
        halo: int,
        refine: Refinement,
        tta: Tta,
        square: int = 1,
    ) -> None:
        super().__init__()
        self._network = network
        self._views = _VIEWS[tta]
        self._gives_scores = card.output == "scores"
        self._activate, self._undo = _ACTIVATIONS[card.activation]
        self._decision = Decision(card, halo, refine, square)
        self._place: _Plane = put_side_by_side if square > 1 else nn.Identity()
        self._mean = torch.tensor(card.mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(card.std, device=device).view(1, -1, 1, 1)

    def forward(self, tiles: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Mask and confidence (N, core, core) uint8 of tiles (N, bands, T, T), uint8 or float32."""
        return tuple(self._place(plane) for plane in self._decision(*self._see(tiles)))

    def _see(self, tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, planes, T, T) of tiles, and the picture (N, bands, T, T) that refines them."""
        pixels = tiles.float()
        if tiles.dtype != torch.uint8:  # one value that is no number would spread over all of the tile
            pixels = torch.where(torch.isfinite(pixels), pixels, self._mean)
        inputs = (pixels - self._mean) / self._std
        picture = pixels if tiles.dtype == torch.uint8 else (inputs + 2) * 63.75  # two deviations to either side
        return self._look(inputs), picture

    def _look(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits (N, planes, T, T) of inputs; of several views, those of their mean scores."""
        if len(self._views) == 1:
            logits = self._network(inputs)
            return self._undo(logits.float()) if self._gives_scores else logits
        total = None
        for turns, mirrored in self._views:
            view = torch.rot90(inputs.flip(3) if mirrored else inputs, turns, (2, 3))
            found = self._network(view.contiguous()).float()
            scores = torch.rot90(found if self._gives_scores else self._activate(found), -turns, (2, 3))
            scores = scores.flip(3) if mirrored else scores
            total = scores if total is None else total + scores
        assert total is not None  # noqa: S101 - there are views
        return self._undo(total / len(self._views))


class Scorer(Labeller):
    """The same up to the decision, so that scores of several tiles can be blended before it. See :class:`Labeller`."""

    def forward(self, tiles: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Scores (N, planes, core, core) uint8, 0-255 for 0-1, of tiles (N, bands, T, T), uint8 or float32.

        With softmax all planes are told, that of background first: of scores that say how a class stands against
        background alone, two classes have the highest where both are sure not to be background.
        """
        odds = self._decision.odds(*self._see(tiles))
        if self._activate is _softmax:
            odds = torch.cat([odds[:, :1] * 0, odds], dim=1)  # zeros of whatever size, so that graphs do for any tile
        return (self._place((self._activate(odds) * 255).round().to(torch.uint8)),)


def _softmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(dim=1)


def _logit(scores: torch.Tensor) -> torch.Tensor:
    return scores.logit(eps=_LEAST_SCORE)


def _log(scores: torch.Tensor) -> torch.Tensor:
    return scores.clamp_min(_LEAST_SCORE).log()


_ACTIVATIONS: dict[Activation, tuple[_Plane, _Plane]] = {
    "sigmoid": (torch.sigmoid, _logit),
    "softmax": (_softmax, _log),
}
"""what gives scores, and the way back"""


class TorchRuntime:
    """A network with weights. The arguments are those of :func:`geoseg.models.runtimes.open_runtime`.

    On a CUDA device each call has a lane of its own, as many as there is memory for: tiles go one by one through the
    very same kernels, however many of them are on their way.
    """

    batch = 1

    def __init__(
        self,
        card: Card,
        *,
        device: Literal["cpu", "cuda"],
        precision: Arithmetic,
        halo: int,
        refine: Refinement = "none",
        tta: Tta = "none",
        scores: bool = False,
        at_once: int = 1,
    ) -> None:
        settle(device)
        network = load_network(card).eval()
        if precision == "bf16":
            network = to_bfloat16(network, example_inputs(card, 4 * card.stride))
        network = network.to(device).to(memory_format=torch.channels_last)
        kind = Scorer if scores else Labeller
        self._label = kind(card, network, device=torch.device(device), halo=halo, refine=refine, tta=tta)
        self._name, self._tile = card.name, card.tile
        self._lanes: Slots[_Lane] = Slots(lambda: self._compute, at_once)
        if device == "cuda":
            shape = (1, card.channels, card.tile, card.tile)
            dtype = torch.uint8 if card.dtype == "uint8" else torch.float32
            self._lanes = Slots(lambda: Lane(self._label, shape, dtype), count_lanes(card.tile**2))

    def __call__(self, tiles: NDArray[Any]) -> tuple[NDArray[np.uint8], ...]:
        """Labels a batch of tiles, see :class:`geoseg.models.runtimes.Runtime`.

        Raises:
            ModelError: the device has no memory for a single tile.
        """
        try:
            with self._lanes.borrow() as compute:
                return compute(tiles)
        except NoRoomError:
            raise ModelError(
                f"model {self._name} does not fit this GPU with tiles of {self._tile} px; give --device cpu, a smaller "
                "--halo, or free the GPU's memory"
            ) from None

    def _compute(self, tiles: NDArray[Any]) -> tuple[NDArray[np.uint8], ...]:
        settle("cpu")  # threads of OpenMP are counted by each thread that starts some
        with torch.inference_mode():
            pixels = torch.from_numpy(tiles).contiguous(memory_format=torch.channels_last)
            return tuple(plane.numpy() for plane in self._label(pixels))


_Lane: TypeAlias = Callable[[NDArray[Any]], tuple[NDArray[np.uint8], ...]]


class ClassicalRuntime:
    """A segmenter without weights, see ``geoseg.models.classical``.

    The arguments are those of :func:`geoseg.models.runtimes.open_runtime`.
    """

    batch = 1

    def __init__(
        self,
        card: Card,
        *,
        device: Literal["cpu", "cuda"],
        halo: int,
        refine: Refinement = "none",
        thresholds: tuple[float, ...] | None = None,
        at_once: int = 1,
    ) -> None:
        self._device = device
        self._decision = Decision(card, halo, refine)
        self._segment = Segmenter(card, thresholds)
        self._at_once = threading.BoundedSemaphore(at_once)

    def __call__(self, tiles: NDArray[Any]) -> tuple[NDArray[np.uint8], ...]:
        """Labels a batch of tiles; what nothing can be said of is 0 with confidence 0."""
        with self._at_once, torch.inference_mode():
            settle(self._device)
            scores, known, picture = self._segment(tiles)
            mask, confidence = self._decision.of_scores(
                torch.from_numpy(scores).to(self._device), torch.from_numpy(picture).to(self._device)
            )
            unknown = ~self._decision.core(torch.from_numpy(known).to(self._device))
            return mask.masked_fill(unknown, 0).cpu().numpy(), confidence.masked_fill(unknown, 0).cpu().numpy()


class BlendedDecision:
    """Decides by mean scores of the tiles that hold a pixel, as a network's own scores are decided by.

    That is done on the CPU, whatever gave the scores: there they were added up.

    Args:
        card: of the model.
    """

    def __init__(self, card: Card) -> None:
        settle("cpu")
        _, self._undo = _ACTIVATIONS[card.activation]
        self._decision = Decision(card, 0, "none")

    def __call__(self, scores: NDArray[np.uint16]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Mask and confidence, (rows, cols) uint8, of scores (planes, rows, cols), see ``geoseg.stages.blend``."""
        with torch.inference_mode():
            shares = torch.from_numpy(scores.astype(np.float32) / np.float32(FULL))[None]
            mask, confidence = self._decision(self._undo(shares), shares)  # there is nothing to refine by a picture
            return mask[0].numpy(), confidence[0].numpy()


def load_network(card: Card) -> nn.Module:
    """A card's network with its weights, float32, on the CPU.

    Raises:
        ModelError: the weights are not those that the card describes, or do not fit the architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from geoseg.models.architectures import build, stride_of

    card.check_weights()
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


def example_inputs(card: Card, side: int) -> torch.Tensor:
    """Inputs of a card's network by which copies of it are compared, (1, bands, side, side) float32."""
    return torch.linspace(-2, 2, card.channels * side**2).view(1, -1, side, side)


def settle(device: Literal["cpu", "cuda"]) -> None:
    """Makes torch's arithmetic the same in every process.

    On a CPU each process keeps to one thread: parallelism comes from several workers, which is faster than several
    threads in one convolution, and the arithmetic is then the same however many workers there are.
    """
    if device == "cpu":
        torch.set_num_threads(1)
    else:
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False  # which rounds to 10 bits what is called float32

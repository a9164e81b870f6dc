"""From what a network says of a tile's pixels to their classes and confidences (floor 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from geoseg.models.card import Card
from geoseg.settings import Refinement

__all__ = ["Decision", "join_boundaries"]


class Decision:
    """From logits or scores of tiles to mask and confidence of their cores.

    Sigmoid channels: a pixel takes the class of the highest score if that is at least 0.5, else 0; its confidence is
    that score, or one minus it for 0. Softmax: the most probable class or 0, and its probability.

    Args:
        card: of the model.
        halo: pixels cropped from each side.
        refine: how scores are refined by the image before the decision.
        square: side of the square of pixels whose logits stand at one place, see :mod:`geoseg.models.heads`. Then what
            is decided has an axis of its own for them, after that of classes or in its place.
    """

    def __init__(self, card: Card, halo: int, refine: Refinement, square: int = 1) -> None:
        self._halo = halo // square
        self._square, self._planes = square, card.planes
        self._refine = refine
        self._sigmoid = card.activation == "sigmoid"
        self._codes = [(place, entry.code) for place, entry in enumerate(card.classes)]
        channel = {entry.code: place for place, entry in enumerate(card.classes)}
        odds = {entry.code: entry.odds for entry in card.classes}
        self._boundaries = [
            (channel[code], channel[boundary], math.log(odds[boundary])) for code, boundary in card.boundaries
        ]
        self._exhaustive = card.architecture.startswith("otsu-")  # every pixel is of one of its classes

    def core(self, planes: torch.Tensor) -> torch.Tensor:
        """Crops the halo from (..., side, side), of the tile or of its squares."""
        stop = planes.shape[-1] - self._halo
        return planes[..., self._halo : stop, self._halo : stop]

    def __call__(self, logits: torch.Tensor, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Decides by logits (N, planes, T, T) of any float type; mask and confidence are (N, core, core) uint8.

        With softmax the first plane is the background's; a class stands against it as its score to one minus it. So
        both kinds of networks give odds against background, which is what refiners take.
        """
        return self._decide(self.odds(logits, picture))

    def odds(self, logits: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        """By what :meth:`__call__` decides: odds against background (N, classes, core, core), as logits."""
        unrefined = self._refine == "none"
        logits = (self.core(logits) if unrefined else logits).float()
        if self._square > 1:
            logits = torch.unflatten(logits, 1, (self._planes, self._square**2))
        if not self._sigmoid:
            logits = logits[:, 1:] - logits[:, :1]
        return logits if unrefined else self._refined(torch.sigmoid(logits), picture)

    def of_scores(self, scores: torch.Tensor, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Decides by scores (N, classes, T, T), 0-1; ``picture`` (N, bands, T, T), float32, 0-255, refines them."""
        return self._decide(self._refined(scores, picture))

    def _refined(self, scores: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        """Odds of the tiles' cores, as logits, by scores that the picture refines if that is asked for."""
        if self._refine != "none":
            from geoseg.stages.refine import refine

            scores = refine(scores, picture.clamp(0, 255), self._refine)
        return self.core(scores).logit(eps=1e-7)

    def _decide(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask and confidence, (N, ...) uint8, by odds against background (N, classes, ...)."""
        if self._boundaries:
            logits = join_boundaries(logits, self._boundaries, sigmoid=self._sigmoid)
        best = logits.amax(dim=1)
        mask = self._all(0, best)
        for channel, code in reversed(self._codes):  # comparisons, since engines are slow at finding indexes
            mask = torch.where(logits[:, channel] >= best, self._all(code, best), mask)
        if not self._exhaustive:
            mask = torch.where(best < 0, self._all(0, best), mask)
        if self._sigmoid:
            sure = torch.sigmoid(best if self._exhaustive else best.abs())
        else:
            sure = (best.clamp_min(0) - torch.nn.functional.softplus(_logsumexp(logits))).exp()
        return mask, (sure * 254).round().to(torch.uint8)

    @staticmethod
    def _all(code: int, best: torch.Tensor) -> torch.Tensor:
        """A code for all pixels; of no size, so that graphs do for tiles of any."""
        return torch.full((), code, dtype=torch.uint8, device=best.device)


def join_boundaries(
    logits: torch.Tensor, boundaries: Sequence[tuple[int, int, float]], *, sigmoid: bool = True
) -> torch.Tensor:
    """Lets a class and its boundary stand together against all else, and the likelier of the two speak for both.

    They exclude each other, so where an instance ends and its boundary begins neither may reach a half alone.

    Args:
        logits: (N, classes, ...), odds against background.
        boundaries: of each class that has one: its channel, the boundary's, and the boundary's lead in logits.
        sigmoid: whether the network's channels are independent.
    """
    joined = list(logits.unbind(1))
    for inside, boundary, lead in boundaries:
        pair = torch.stack([logits[:, inside], logits[:, boundary]], dim=1)
        together = pair.sigmoid().sum(dim=1).logit(eps=1e-7) if sigmoid else _logsumexp(pair)
        within = pair[:, 0] >= pair[:, 1] + lead
        nowhere = torch.full((), -torch.inf, dtype=together.dtype, device=together.device)  # of no size, as `_all`
        joined[inside] = torch.where(within, together, nowhere)
        joined[boundary] = torch.where(within, nowhere, together)
    return torch.stack(joined, dim=1)


def _logsumexp(logits: torch.Tensor) -> torch.Tensor:
    """Of the channels (N, channels, ...), of which one at least is finite; OpenVINO's own overflows."""
    highest = logits.amax(dim=1, keepdim=True)
    return ((logits - highest).exp().sum(dim=1, keepdim=True).log() + highest).squeeze(1)

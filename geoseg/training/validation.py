"""How well a network does on samples that it does not learn from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoseg.evaluation.pixels import PixelCounts
from geoseg.models.decision import join_boundaries
from geoseg.training.feed import tensors_of
from geoseg.training.sampler import Sample

__all__ = ["Figures", "Verdict", "judge"]


@dataclass(frozen=True, slots=True)
class Figures:
    """Pixel figures of one class on the validation samples; None where they say nothing."""

    iou: float | None
    f1: float | None
    precision: float | None
    recall: float | None

    @classmethod
    def of(cls, counts: PixelCounts) -> Figures:
        """From counts of pixels."""
        iou = counts.iou
        return cls(iou, None if iou is None else 2 * iou / (1 + iou), counts.precision, counts.recall)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one validation.

    Attributes:
        classes: figures by class.
        mean_iou: over the classes that occur in the samples; they are the same at every validation.
    """

    classes: dict[str, Figures]
    mean_iou: float

    @classmethod
    def of(cls, class_names: Sequence[str], counts: Sequence[PixelCounts]) -> Verdict:
        """From counts of pixels, one per class."""
        classes = {name: Figures.of(count) for name, count in zip(class_names, counts, strict=True)}
        known = [count.iou for count in counts if count.present and count.iou is not None]
        return cls(classes, float(np.mean(known)) if known else 0.0)


@torch.no_grad()
def judge(
    network: nn.Module,
    samples: Sequence[Sample],
    *,
    channels: int,
    boundaries: Sequence[tuple[int, int]],
    device: torch.device,
    context: AbstractContextManager[Any],
    keep: int,
) -> tuple[Tensor, list[NDArray[np.int64]]]:
    """Predict samples and count pixels.

    A pixel takes the class of the highest score if that is at least 0.5, as in a run; a class and its boundary stand
    together.

    Args:
        network: from uint8 (N, bands, S, S) to logits, in evaluation mode.
        samples: to predict, one at a time: the arithmetic does not depend on how many there are.
        channels: of the network.
        boundaries: channels of each class that has a boundary, and of that.
        device: of the network.
        context: precision to predict in.
        keep: number of predictions to give back.

    Returns:
        int64 (C, 3) of true positives, false positives and false negatives; channels (rows, cols) of the first
        `keep` samples, -1 = background.
    """
    totals = torch.zeros((channels, 3), dtype=torch.int64, device=device)
    kept = []
    pairs = [(inside, boundary, 0.0) for inside, boundary in boundaries]
    with context:
        for number, sample in enumerate(samples):
            image, target, weight = (part[None].to(device) for part in tensors_of(sample))
            best, channel = join_boundaries(network(image).float(), pairs)[0].max(dim=0)
            channel = torch.where(best >= 0, channel, -1)
            if number < keep:
                kept.append(channel.cpu().numpy())
            guess = channel == torch.arange(channels, device=device).view(-1, 1, 1)
            seen, truth = weight[0] > 0, target[0] > 0
            cells = (guess & truth & seen, guess & ~truth & seen, ~guess & truth & seen)
            totals += torch.stack([cell.sum((1, 2)) for cell in cells], dim=1)
    return totals, kept

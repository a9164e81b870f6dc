"""The training loop: AdamW, warm-up and cosine decay over steps or minutes, averaged weights, resumable.

A budget in minutes suits a machine that is shared: the learning rate follows the share of the time that has
passed, so the run always ends annealed. A budget in steps is repeatable bit for bit on one machine.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoseg.errors import ModelError, SettingsError
from geoseg.models.architectures import IMAGENET_MEAN, IMAGENET_STD
from geoseg.training.losses import LossTerms, known_loss

__all__ = ["Batch", "Batches", "Progress", "TrainSettings", "Trainer", "learning_rate_factor", "normalise"]


Batch: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]


class Batches(Protocol):
    """Anything that draws batches, such as `geoseg.training.datasets.Sampler`."""

    def batch(self, count: int) -> Batch:
        """Images (N, 3, S, S) uint8, targets (N, C, S, S) uint8, weights (N, C, S, S) float32, 0 = unknown."""
        ...


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How to train. Give `steps` or `minutes`, not both.

    Attributes:
        steps: number of optimiser steps.
        minutes: wall time.
        batch: crops per step.
        learning_rate: peak, for the decoder and head.
        encoder_share: the encoder learns at this share of the rate, since it starts pre-trained.
        weight_decay: of AdamW, on weights of two or more dimensions.
        warmup: share of the budget in which the rate rises.
        average: decay of the moving average of the weights, per step.
        frozen: parameters whose name starts with one of these stay as they are; their batch norms use running
            statistics.
        class_weight: relative weight of each class in the loss.
        dice_share: share of dice in the loss.
        clip: largest gradient norm.
        checkpoint_every_s: seconds between checkpoints.
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int = 8
    learning_rate: float = 1.5e-3
    encoder_share: float = 0.4
    weight_decay: float = 1e-2
    warmup: float = 0.04
    average: float = 0.99
    frozen: tuple[str, ...] = ()
    class_weight: tuple[float, ...] | None = None
    dice_share: float = 0.4
    clip: float = 5.0
    checkpoint_every_s: float = 120.0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise SettingsError(f"steps is {self.steps} and minutes is {self.minutes}; give exactly one of them")
        budget = self.steps if self.steps is not None else self.minutes
        if budget is None or budget <= 0 or self.batch < 1:
            raise SettingsError(f"a budget of {budget} with batch {self.batch} trains nothing; give positive numbers")
        if not 0.0 <= self.average < 1.0 or not 0.0 <= self.warmup < 1.0:
            raise SettingsError(
                f"average {self.average} and warmup {self.warmup} must be at least 0 and below 1; change them"
            )


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands after a step."""

    step: int
    share: float
    elapsed_s: float
    loss: float
    bce: tuple[float, ...]
    dice: tuple[float, ...]


def learning_rate_factor(share: float, *, warmup: float) -> float:
    """Linear warm-up, then cosine decay to 1 % of the peak.

    Args:
        share: of the budget that is used, 0 to 1.
        warmup: share in which the rate rises.
    """
    share = min(max(share, 0.0), 1.0)
    if share < warmup:
        return 0.05 + 0.95 * share / warmup
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * (share - warmup) / (1.0 - warmup)))


def normalise(images: Tensor) -> Tensor:
    """Turn uint8 (N, 3, H, W) RGB into what the networks take: float32, ImageNet mean and deviation."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(1, 3, 1, 1)
    return ((images.float() / 255.0 - mean) / std).contiguous(memory_format=torch.channels_last)


@dataclass(slots=True)
class Trainer:
    """Trains one network; `averaged` is what to keep.

    Attributes:
        network: trained in place.
        settings: how.
        averaged: exponential moving average of weights and batch-norm statistics, in evaluation mode.
        step: optimiser steps done.
        elapsed_s: seconds of training done, over all resumed parts.
    """

    network: nn.Module
    settings: TrainSettings
    averaged: nn.Module = field(init=False)
    step: int = field(init=False, default=0)
    elapsed_s: float = field(init=False, default=0.0)
    _optimiser: torch.optim.AdamW = field(init=False)
    _device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        self._device = next(self.network.parameters()).device
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(not name.startswith(self.settings.frozen or ("\0",)))
        self.averaged = copy.deepcopy(self.network).eval().requires_grad_(requires_grad=False)
        self._optimiser = torch.optim.AdamW(self._groups(), lr=self.settings.learning_rate)

    def _groups(self) -> list[dict[str, Any]]:
        chosen: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                chosen.setdefault((name.startswith("encoder."), parameter.ndim > 1), []).append(parameter)
        if not chosen:
            raise SettingsError(f"frozen {self.settings.frozen} leaves nothing to train; freeze less")
        return [
            {
                "params": parameters,
                "share": self.settings.encoder_share if is_encoder else 1.0,
                "weight_decay": self.settings.weight_decay if is_matrix else 0.0,
            }
            for (is_encoder, is_matrix), parameters in chosen.items()
        ]

    def share(self) -> float:
        """Share of the budget that is used, 0 to 1."""
        if self.settings.steps is not None:
            return min(1.0, self.step / self.settings.steps)
        assert self.settings.minutes is not None  # noqa: S101 - TrainSettings holds it
        return min(1.0, self.elapsed_s / (60.0 * self.settings.minutes))

    def run(
        self,
        batches: Batches,
        *,
        checkpoint: Path | None = None,
        report: Callable[[Progress], None] | None = None,
    ) -> None:
        """Train until the budget is used.

        Args:
            batches: where crops come from.
            checkpoint: file written now and then, and at the end.
            report: called after every step.

        Raises:
            ModelError: when the loss is no longer finite; the last checkpoint is kept.
        """
        self._train_mode()
        last = saved = time.monotonic()
        drawn = self._draw_ahead(batches)
        while self.share() < 1.0:
            terms = self.train_step(next(drawn))
            now = time.monotonic()
            self.elapsed_s += now - last
            last = now
            if report is not None:
                report(
                    Progress(
                        self.step,
                        self.share(),
                        self.elapsed_s,
                        float(terms.total),
                        tuple(terms.parts["ce"].tolist()),
                        tuple(terms.parts["dice"].tolist()),
                    )
                )
            if checkpoint is not None and now - saved >= self.settings.checkpoint_every_s:
                self.save(checkpoint)
                saved = now
        drawn.close()
        if checkpoint is not None:
            self.save(checkpoint)

    def _draw_ahead(self, batches: Batches) -> Generator[Batch, None, None]:
        """Draw the next batch in a thread while the network learns from this one; the order stays the same."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as drawer:
            coming = drawer.submit(batches.batch, self.settings.batch)
            while True:
                drawn = coming.result()
                coming = drawer.submit(batches.batch, self.settings.batch)
                yield drawn

    def train_step(self, batch: Batch) -> LossTerms:
        """One optimiser step on one batch (see `Batches`)."""
        images, target, weight = (torch.from_numpy(part).to(self._device) for part in batch)
        factor = learning_rate_factor(self.share(), warmup=self.settings.warmup)
        for group in self._optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * group["share"] * factor
        class_weight = None
        if self.settings.class_weight is not None:
            class_weight = torch.tensor(self.settings.class_weight, device=self._device)
        self._optimiser.zero_grad(set_to_none=True)
        terms = known_loss(
            self.network(normalise(images)),
            target.float(),
            weight,
            class_weight=class_weight,
            losses={"ce": 1.0 - self.settings.dice_share, "dice": self.settings.dice_share},
        )
        if not torch.isfinite(terms.total):
            raise ModelError(f"the loss is {float(terms.total.detach())} at step {self.step}; lower the learning rate")
        torch.autograd.backward(terms.total)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        self._optimiser.step()
        self.step += 1
        self._average()
        return LossTerms(terms.total.detach(), terms.parts)

    def _train_mode(self) -> None:
        self.network.train()
        for name, module in self.network.named_modules():
            # "encoder.model.bn1" must match the prefix "encoder.model.bn1."
            if self.settings.frozen and f"{name}.".startswith(self.settings.frozen):
                module.eval()

    @torch.no_grad()
    def _average(self) -> None:
        # a short memory at first, else the random start lingers in the average
        decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
        for old, new in zip(self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True):
            if old.is_floating_point():
                old.lerp_(new, 1.0 - decay)
            else:
                old.copy_(new)

    def save(self, path: Path) -> None:
        """Write a checkpoint, atomically."""
        state = {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }
        partial = path.with_name(path.name + ".partial")
        torch.save(state, partial)
        partial.replace(path)

    def resume(self, path: Path, *, weights_only: bool = False) -> None:
        """Continue from a checkpoint.

        Args:
            path: written by `save` for the same network and the same frozen part.
            weights_only: take the averaged weights, and start a new schedule from step 0.

        Raises:
            ModelError: when the file is missing or of another network.
        """
        try:
            state = torch.load(path, map_location=self._device, weights_only=True)
            self.network.load_state_dict(state["averaged" if weights_only else "network"])
            self.averaged.load_state_dict(state["averaged"])
            if not weights_only:
                self._optimiser.load_state_dict(state["optimiser"])
                self.step, self.elapsed_s = int(state["step"]), float(state["elapsed_s"])
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"{path} does not continue this training: {reason}; give a checkpoint of it") from None

"""What happens around Lightning's steps: clock, learning rate, averaged weights, validation, log and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from geoseg.atomic import staged
from geoseg.errors import ModelError
from geoseg.evaluation.pixels import PixelCounts
from geoseg.training.module import Learner, learning_rate_factor
from geoseg.training.record import Record
from geoseg.training.sampler import Sample
from geoseg.training.validation import Verdict, judge

__all__ = ["CHECKPOINT", "Course", "Examiner", "Keeper", "MovingAverage", "Progress", "columns_of"]

CHECKPOINT = "last.ckpt"
_PICTURES = 4


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands.

    Attributes:
        step: optimiser steps done.
        share: of the budget that is used, 0 to 1.
        elapsed_s: seconds of training, over all resumed parts.
        loss: mean since the last report.
        verdict: of the validation of this step, if there was one.
    """

    step: int
    share: float
    elapsed_s: float
    loss: float
    verdict: Verdict | None


class MovingAverage(WeightAveraging):
    """Exponential moving average of weights and batch-norm statistics (Polyak and Juditsky, 1992).

    Args:
        decay: per step. It is shorter at first, else the random start lingers in the average.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self._blend)
        self._decay = decay
        self._steps = 0

    @property
    def learner(self) -> nn.Module:
        """The averaged copy of what learns, in evaluation mode."""
        assert self._average_model is not None  # noqa: S101 - made when the training begins
        module = self._average_model.module
        assert isinstance(module, nn.Module)  # noqa: S101
        return module.eval()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average."""
        self._steps = trainer.global_step
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _blend(self, averaged: Any, current: Any, count: Any) -> None:
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        get_ema_multi_avg_fn(decay)(averaged, current, count)  # type: ignore[no-untyped-call]


class Course(Callback):
    """The budget in steps or minutes, and the learning rate that follows the share of it that is used.

    Args:
        steps: optimiser steps, or None for minutes.
        minutes: wall time, validation included.
        warmup: share of the budget in which the rate rises.
        seed: of what the network itself draws, such as dropout.
    """

    def __init__(self, *, steps: int | None, minutes: float | None, warmup: float, seed: int) -> None:
        self.elapsed_s = 0.0
        self.rate = 0.0
        self._steps = steps
        self._minutes = minutes
        self._warmup = warmup
        self._seed = seed
        self._last = 0.0

    def share(self, trainer: Trainer) -> float:
        """Share of the budget that is used, 0 to 1."""
        if self._steps is not None:
            return min(1.0, trainer.global_step / self._steps)
        assert self._minutes is not None  # noqa: S101 - the settings hold it
        return min(1.0, self.elapsed_s / (60.0 * self._minutes))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._last = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the learning rate, and the random numbers of this step."""
        del batch, batch_idx
        assert isinstance(pl_module, Learner)  # noqa: S101
        factor = learning_rate_factor(self.share(trainer), warmup=self._warmup)
        self.rate = pl_module.set_rate(trainer.optimizers[0], factor)
        # a function of the step, so that a resumed training draws the same
        state = np.random.SeedSequence([self._seed, trainer.global_step, trainer.global_rank]).generate_state(1)
        torch.manual_seed(int(state[0]))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the clock, and end the training when the budget is used."""
        del pl_module, outputs, batch, batch_idx
        now = time.monotonic()
        # devices must agree on the time, else they take different rates and drift apart
        self.elapsed_s = float(trainer.strategy.broadcast(self.elapsed_s + now - self._last))
        self._last = now
        if self.share(trainer) >= 1.0:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"elapsed_s": self.elapsed_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.elapsed_s = state_dict["elapsed_s"]


class Examiner(Callback):
    """Validates the averaged weights at even shares of the budget, and keeps the best.

    Args:
        course: where the training stands.
        average: what to validate.
        samples: to validate on; without any, the last weights are the best.
        class_names: of the network's channels.
        boundaries: channels of each class that has a boundary, and of that.
        validations: over the whole budget.
        patience: validations without a better mean IoU before the training ends; None never ends it.
        keep_best: called with the averaged network and the verdict when it is the best so far, on one process only.
    """

    def __init__(
        self,
        course: Course,
        average: MovingAverage,
        samples: Sequence[Sample],
        class_names: Sequence[str],
        *,
        boundaries: Sequence[tuple[int, int]],
        validations: int,
        patience: int | None,
        keep_best: Callable[[Learner, int, Verdict | None], None],
    ) -> None:
        self.verdict: Verdict | None = None
        self.guesses: list[Any] = []
        self.best_step = 0
        self.best = -1.0
        self.waited = 0
        self.done = 0
        self._course = course
        self._average = average
        self._samples = samples
        self._class_names = class_names
        self._boundaries = boundaries
        self._validations = validations
        self._patience = patience
        self._keep_best = keep_best

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Validate when it is time to; `verdict` is of this step or None."""
        del pl_module, outputs, batch, batch_idx
        self.verdict = None
        learner = self._average.learner
        assert isinstance(learner, Learner)  # noqa: S101
        if not self._samples:
            if trainer.should_stop and trainer.is_global_zero:
                self._keep_best(learner, trainer.global_step, None)
            return
        due = int(self._course.share(trainer) * self._validations + 1e-9)
        if due <= self.done:
            return
        self.done = due
        self.verdict = self._validate(trainer, learner)
        if self.verdict.mean_iou > self.best:
            self.best, self.best_step, self.waited = self.verdict.mean_iou, trainer.global_step, 0
            if trainer.is_global_zero:
                self._keep_best(learner, trainer.global_step, self.verdict)
        else:
            self.waited += 1
            if self._patience is not None and self.waited >= self._patience:
                trainer.should_stop = True

    def _validate(self, trainer: Trainer, learner: Learner) -> Verdict:
        counts, self.guesses = judge(
            learner,
            self._samples[trainer.global_rank :: trainer.world_size],
            channels=len(self._class_names),
            boundaries=self._boundaries,
            device=learner.mean.device,
            context=trainer.precision_plugin.forward_context(),
            keep=_PICTURES if trainer.is_global_zero else 0,
        )
        summed = trainer.strategy.reduce(counts, reduce_op="sum")
        assert isinstance(summed, Tensor)  # noqa: S101
        return Verdict.of(self._class_names, [PixelCounts(*row) for row in summed.tolist()])

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited, "done": self.done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        for name, value in state_dict.items():
            setattr(self, name, value)


class Keeper(Callback):
    """Writes the log and the checkpoint; comes after the others.

    Args:
        directory: of the training.
        course: where the training stands.
        examiner: what validation says.
        record: the log, on one process only.
        samples: those of the examiner, for the pictures.
        identity: what a resumed training must have in common with this one.
        batch: samples of a step, over all devices.
        log_every: steps between rows of the log.
        checkpoint_every_s: seconds between checkpoints; one is also written after every validation.
        progress: called with every row of the log, on one process only.
    """

    def __init__(  # noqa: PLR0913 - the meeting point of all that is written
        self,
        directory: Path,
        course: Course,
        examiner: Examiner,
        record: Record | None,
        samples: Sequence[Sample],
        class_names: Sequence[str],
        *,
        identity: dict[str, Any],
        batch: int,
        log_every: int,
        checkpoint_every_s: float,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._directory = directory
        self._course = course
        self._examiner = examiner
        self._record = record
        self._samples = samples
        self._class_names = class_names
        self._identity = identity
        self._batch = batch
        self._log_every = log_every
        self._checkpoint_every_s = checkpoint_every_s
        self._progress = progress
        self._terms: list[dict[str, Any]] = []
        self._logged_s = self._saved_s = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count seconds from where the training goes on."""
        del trainer, pl_module
        self._logged_s = self._saved_s = self._course.elapsed_s

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log and save when it is time to."""
        del pl_module, batch, batch_idx
        self._terms.append(outputs)
        ends = self._examiner.verdict is not None or trainer.should_stop
        saves = ends or self._course.elapsed_s - self._saved_s >= self._checkpoint_every_s
        if saves or trainer.global_step % self._log_every == 0:
            self._log(trainer)
        if saves:
            self._saved_s = self._course.elapsed_s
            path = self._directory / CHECKPOINT
            if trainer.is_global_zero:
                with staged(path) as inside:
                    trainer.save_checkpoint(inside)
            else:
                trainer.save_checkpoint(path)  # takes part, and leaves the writing to the first

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what tells this training from others, and whether it is at its end."""
        del pl_module
        checkpoint["geoseg"] = {"identity": self._identity, "finished": trainer.should_stop}

    def _log(self, trainer: Trainer) -> None:
        terms, self._terms = self._terms, []
        # losses stay on the device until here: asking for each would make the GPU wait
        loss = float(torch.stack([term["loss"] for term in terms]).mean())
        if not np.isfinite(loss):
            raise ModelError(
                f"the loss is {loss} near step {trainer.global_step}; lower the learning rate "
                f"(the last checkpoint in {self._directory} is from before)"
            )
        if self._record is None:
            return
        step, elapsed_s, verdict = trainer.global_step, self._course.elapsed_s, self._examiner.verdict
        share = self._course.share(trainer)
        seconds, self._logged_s = elapsed_s - self._logged_s, elapsed_s
        values: dict[str, float | None] = {
            "step": step,
            "seconds": elapsed_s,
            "share": share,
            "learning_rate": self._course.rate,
            "samples_per_s": len(terms) * self._batch / max(seconds, 1e-9),
            "loss": loss,
        }
        for name in terms[0]["parts"]:
            means = torch.stack([term["parts"][name] for term in terms]).mean(0).tolist()
            values |= {f"{name} {entry}": value for entry, value in zip(self._class_names, means, strict=True)}
        if verdict is not None:
            values["mean_iou"] = verdict.mean_iou
            for entry, figures in verdict.classes.items():
                values |= {f"iou {entry}": figures.iou, f"f1 {entry}": figures.f1}
            guesses = self._examiner.guesses
            self._record.pictures(step, self._samples[:: trainer.world_size][: len(guesses)], guesses)
        self._record.row(values)
        if self._progress is not None:
            self._progress(Progress(step, share, elapsed_s, loss, verdict))


def columns_of(losses: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """Columns of the log."""
    plain = ["step", "seconds", "share", "learning_rate", "samples_per_s", "loss"]
    parts = [f"{name} {entry}" for name in losses for entry in class_names]
    return [*plain, *parts, "mean_iou", *(f"{kind} {entry}" for kind in ("iou", "f1") for entry in class_names)]

"""Training of one network, by Lightning: a budget in steps or minutes, averaged weights, checkpoints, a log.

A budget in minutes suits a machine that is shared: the learning rate follows the share of the time that has passed,
so the run always ends annealed. A budget in steps is repeatable bit for bit on one CPU with one number of threads,
also when the training is killed and goes on.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from geoseg.atomic import staged
from geoseg.errors import ModelError, OutputError, SettingsError
from geoseg.machine import count_cores
from geoseg.models.architectures import IMAGENET_MEAN, IMAGENET_STD
from geoseg.models.runtimes import resolve_device, resolve_precision
from geoseg.settings import Device, TrainingPrecision
from geoseg.training.augment import Augmenter, Strength
from geoseg.training.callbacks import CHECKPOINT, Course, Examiner, Keeper, MovingAverage, Progress, columns_of
from geoseg.training.feed import Draws, Feed
from geoseg.training.losses import check_losses
from geoseg.training.module import Learner
from geoseg.training.record import Record
from geoseg.training.sampler import Sample
from geoseg.training.validation import Figures, Verdict

__all__ = ["BEST", "FitResult", "FitSettings", "fit", "is_follower"]

BEST = "best.safetensors"
_MEAN, _STD = (tuple(255 * part for part in parts) for parts in (IMAGENET_MEAN, IMAGENET_STD))
_FREE = ("device", "precision", "devices", "workers", "log_every", "checkpoint_every_s")
"""Settings that a resumed training may change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How to train. Give `steps` or `minutes`, not both.

    Attributes:
        steps: number of optimiser steps.
        minutes: wall time, validation included.
        batch: samples of a step, over all devices.
        learning_rate: at its peak, for the decoder and head.
        encoder_share: the encoder learns at this share of the rate, since it starts pre-trained.
        weight_decay: of AdamW, on weights of two or more dimensions.
        warmup: share of the budget in which the rate rises.
        average: decay of the moving average of the weights, per step.
        clip: largest gradient norm.
        frozen: parameters whose name starts with one of these stay as they are; their batch norms use running
            statistics.
        losses: names and weights, see `geoseg.training.losses`.
        class_weight: relative weight of each channel in the loss; None for equal ones.
        augment: how much light and colour change.
        validations: over the budget, evenly; the last is at its end.
        patience: validations without a better mean IoU after which the training ends early; None never does.
        seed: of augmentation, and of what the network draws.
        device: to train on.
        devices: how many; None takes all GPUs, or one CPU.
        precision: "auto" is bf16 where the hardware multiplies it natively.
        workers: processes that draw samples; None fits them to the machine, 0 draws between the steps.
        log_every: steps between rows of the log.
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
    clip: float = 5.0
    frozen: tuple[str, ...] = ()
    losses: tuple[tuple[str, float], ...] = (("ce", 0.6), ("dice", 0.4))
    class_weight: tuple[float, ...] | None = None
    augment: Strength = "strong"
    validations: int = 10
    patience: int | None = None
    seed: int = 1
    device: Device = "auto"
    devices: int | None = None
    precision: TrainingPrecision = "auto"
    workers: int | None = None
    log_every: int = 10
    checkpoint_every_s: float = 120.0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise SettingsError(f"steps is {self.steps} and minutes is {self.minutes}; give exactly one of them")
        positive = {"steps": self.steps, "minutes": self.minutes, "patience": self.patience, "devices": self.devices}
        for name in ("batch", "learning_rate", "clip", "validations", "log_every", "checkpoint_every_s"):
            positive[name] = getattr(self, name)
        for name, value in positive.items():
            if value is not None and not 0 < value < math.inf:
                raise SettingsError(f"{name} is {value}; give a number above 0")
        for name in ("encoder_share", "weight_decay", "seed", "workers"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise SettingsError(f"{name} is {value}; give 0 or more")
        for name in ("average", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; give at least 0 and less than 1")
        check_losses(dict(self.losses))
        Augmenter(self.augment, seed=self.seed, bands=1)  # refuses strengths that there are not


@dataclass(frozen=True, slots=True, eq=False)
class FitResult:
    """What a training gives.

    Attributes:
        state: averaged weights of the best validation (of the last step without validation), float32, on the CPU.
        figures: of that validation by class; empty without one.
        mean_iou: of that validation, over the classes that occur in it; None without one.
        best_step: step of these weights.
        steps: done in all.
        seconds: of training in all, validation included.
    """

    state: dict[str, Tensor]
    figures: dict[str, Figures]
    mean_iou: float | None
    best_step: int
    steps: int
    seconds: float


def is_follower() -> bool:
    """Whether this process only helps another: Lightning starts the same command once per further device.

    A follower goes through all that comes before `fit`, which ends it; it should neither write nor print.
    """
    return os.environ.get("LOCAL_RANK", "0") != "0"


def fit(  # noqa: PLR0913 - the door to training, and the network's scaling
    network: nn.Module,
    sampler: Draws,
    validation: Sequence[Sample],
    settings: FitSettings,
    directory: Path,
    *,
    class_names: Sequence[str],
    boundaries: Sequence[tuple[int, int]] = (),
    mean: Sequence[float] = _MEAN,
    std: Sequence[float] = _STD,
    progress: Callable[[Progress], None] | None = None,
) -> FitResult:
    """Train a network, or go on with a training that was stopped.

    The directory receives ``last.ckpt``, ``best.safetensors``, ``log.csv``, ``predictions/`` and, where TensorBoard
    is installed, ``tensorboard/``. When it holds a checkpoint of the same settings the training goes on from there;
    one that is finished is read, not repeated.

    Args:
        network: from float32 (N, bands, H, W), normalised, to logits (N, C, H, W); it gets the result's weights.
        sampler: draws samples by their number.
        validation: samples to validate on, none to keep the last weights.
        settings: how.
        directory: for the files; made when missing.
        class_names: of the network's channels.
        boundaries: channels of each class that has a boundary, and of that.
        mean: per band, of images in 0-255.
        std: likewise.
        progress: called with every row of the log.

    Raises:
        SettingsError: settings that do not fit each other, the machine, the samples or the checkpoint.
        ModelError: the loss is no longer finite (the last checkpoint is kept), or files of another network.
        OutputError: the directory cannot be made.
    """
    _check_samples(network, sampler, validation, settings, class_names, (mean, std))
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {directory}: {error.strerror}; give another") from None
    identity = _identity(settings, class_names)
    start = _read_checkpoint(directory, identity)
    if not start.finished:
        device = resolve_device(settings.device)
        with _quiet(), _threads(device, settings.workers), torch.random.fork_rng(devices=[]):
            start = _train(
                Learner(
                    network,
                    mean=mean,
                    std=std,
                    losses=dict(settings.losses),
                    class_weight=settings.class_weight,
                    learning_rate=settings.learning_rate,
                    encoder_share=settings.encoder_share,
                    weight_decay=settings.weight_decay,
                    frozen=settings.frozen,
                ),
                Feed(
                    sampler,
                    Augmenter(settings.augment, seed=settings.seed, bands=len(mean)),
                    batch=settings.batch,
                    devices=_count_devices(settings, device),
                    start=start.step,
                    workers=_count_workers(device, settings.workers),
                    pinned=device == "cuda",
                ),
                validation,
                settings,
                directory,
                class_names,
                boundaries,
                identity,
                progress,
            )
        if is_follower():
            raise SystemExit(0)
    return _read_best(directory, network, class_names, start)


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a training stands by its checkpoint."""

    step: int = 0
    seconds: float = 0.0
    finished: bool = False


def _check_samples(
    network: nn.Module,
    sampler: Draws,
    validation: Sequence[Sample],
    settings: FitSettings,
    class_names: Sequence[str],
    scaling: tuple[Sequence[float], Sequence[float]],
) -> None:
    if not any(True for _ in network.parameters()):
        raise SettingsError("the network has no weights, so there is nothing to train; take another architecture")
    count = len(class_names)
    if settings.class_weight is not None and len(settings.class_weight) != count:
        raise SettingsError(f"class_weight has {len(settings.class_weight)} numbers for {count} classes; give as many")
    first = sampler.draw(0)
    bands, channels = len(first.image), len(first.target)
    if channels != count or any(len(sample.target) != count for sample in validation):
        raise SettingsError(f"samples have {channels} channels, but the names are {', '.join(class_names)}")
    if any(len(numbers) != bands for numbers in scaling):
        raise SettingsError(
            f"samples have {bands} bands, but mean and std have {', '.join(map(str, map(len, scaling)))}"
        )
    if validation and not any(((sample.target > 0) & (sample.weight > 0)).any() for sample in validation):
        raise SettingsError(
            f"none of {', '.join(class_names)} occurs in the {len(validation)} validation samples, so they judge "
            "nothing; validate on other images, or on none"
        )


def _identity(settings: FitSettings, class_names: Sequence[str]) -> dict[str, Any]:
    facts = {key: value for key, value in dataclasses.asdict(settings).items() if key not in _FREE}
    identity: dict[str, Any] = json.loads(json.dumps(facts | {"class_names": list(class_names)}))
    return identity


def _read_checkpoint(directory: Path, identity: dict[str, Any]) -> _Start:
    path = directory / CHECKPOINT
    if not path.exists():
        return _Start()
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        theirs, finished = found["geoseg"]["identity"], bool(found["geoseg"]["finished"])
        step, seconds = int(found["global_step"]), float(found["callbacks"]["Course"]["elapsed_s"])
    except (OSError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError):
        raise ModelError(f"{path} is no checkpoint of a training; remove it to start anew") from None
    for key in sorted(identity.keys() | theirs.keys()):
        if identity.get(key) != theirs.get(key):
            raise SettingsError(
                f"{directory} holds a training with {key} {theirs.get(key)}, and this one has {identity.get(key)}; "
                f"give another directory, or remove {CHECKPOINT}"
            )
    return _Start(step, seconds, finished)


def _train(  # noqa: PLR0913, PLR0917 - what `fit` was given
    learner: Learner,
    feed: Feed,
    validation: Sequence[Sample],
    settings: FitSettings,
    directory: Path,
    class_names: Sequence[str],
    boundaries: Sequence[tuple[int, int]],
    identity: dict[str, Any],
    progress: Callable[[Progress], None] | None,
) -> _Start:
    from pytorch_lightning import Trainer

    cuda = feed.pinned
    course = Course(steps=settings.steps, minutes=settings.minutes, warmup=settings.warmup, seed=settings.seed)
    average = MovingAverage(settings.average)

    def keep_best(best: Learner, step: int, verdict: Verdict | None) -> None:
        _write_best(directory / BEST, best.network, step, verdict)

    examiner = Examiner(
        course,
        average,
        validation,
        class_names,
        boundaries=boundaries,
        validations=settings.validations,
        patience=settings.patience,
        keep_best=keep_best,
    )
    names = [name for name, _ in settings.losses]
    record = None if is_follower() else Record(directory, columns_of(names, class_names), start=feed.start)
    keeper = Keeper(
        directory,
        course,
        examiner,
        record,
        validation,
        class_names,
        identity=identity,
        batch=settings.batch,
        log_every=settings.log_every,
        checkpoint_every_s=settings.checkpoint_every_s,
        progress=progress,
    )
    trainer = Trainer(
        accelerator="cuda" if cuda else "cpu",
        devices=feed.devices,
        strategy="auto" if feed.devices == 1 else "ddp",
        precision="bf16-mixed"
        if resolve_precision(settings.precision, "cuda" if cuda else "cpu") == "bf16"
        else "32-true",
        max_epochs=-1,  # one epoch without end: the course says when it is over
        gradient_clip_val=settings.clip,
        callbacks=[course, average, examiner, keeper],
        benchmark=cuda,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=directory,
    )
    try:
        trainer.fit(
            learner.train(),
            feed.loader(),
            ckpt_path=str(directory / CHECKPOINT) if feed.start else None,
            weights_only=True,
        )
    except SystemExit:
        if trainer.interrupted:  # Lightning turns Ctrl-C into an exit
            raise KeyboardInterrupt from None
        raise
    finally:
        if record is not None:
            record.close()
    return _Start(trainer.global_step, course.elapsed_s, finished=True)


def _write_best(path: Path, network: nn.Module, step: int, verdict: Verdict | None) -> None:
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    facts = {"step": step, "verdict": None if verdict is None else dataclasses.asdict(verdict)}
    with staged(path) as inside:
        save_file(state, inside, metadata={"geoseg": json.dumps(facts)})


def _read_best(directory: Path, network: nn.Module, class_names: Sequence[str], end: _Start) -> FitResult:
    path = directory / BEST
    try:
        state = load_file(path)
        network.load_state_dict(state)
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["geoseg"])
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} holds no weights of this training: {str(error).splitlines()[0]}; remove {CHECKPOINT} to start anew"
        ) from None
    verdict = facts["verdict"]
    return FitResult(
        state=state,
        figures={} if verdict is None else {name: Figures(**verdict["classes"][name]) for name in class_names},
        mean_iou=None if verdict is None else verdict["mean_iou"],
        best_step=facts["step"],
        steps=end.step,
        seconds=end.seconds,
    )


def _count_devices(settings: FitSettings, device: Literal["cpu", "cuda"]) -> int:
    there = torch.cuda.device_count() if device == "cuda" else None
    devices = settings.devices or there or 1
    if there is not None and devices > there:
        raise SettingsError(f"devices is {devices}, but there are {there}; give at most as many")
    if settings.batch % devices:
        raise SettingsError(f"batch {settings.batch} does not divide among {devices} devices; give a multiple")
    return devices


def _count_workers(device: Literal["cpu", "cuda"], workers: int | None) -> int:
    """Beside a CPU one process in eight cores draws; a GPU waits for samples unless all cores draw."""
    if workers is not None:
        return workers
    cores = count_cores()
    if device == "cpu":
        return max(1, cores // 8)
    return max(1, min(16, cores // max(1, torch.cuda.device_count()) - 1))


@contextmanager
def _threads(device: Literal["cpu", "cuda"], workers: int | None) -> Iterator[None]:
    """Leave cores to the processes that draw, where there are enough of them."""
    before, cores = torch.get_num_threads(), count_cores()
    if device == "cpu" and cores >= 4:
        torch.set_num_threads(max(1, min(before, cores - _count_workers(device, workers))))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's banners, and its advice about what is done here on purpose."""
    loggers = [
        logging.getLogger(f"{package}.utilities.rank_zero") for package in ("pytorch_lightning", "lightning_fabric")
    ]
    loggers += [
        logging.getLogger(package) for package in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch")
    ]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\b")
            # Python 3.12 warns of any fork beside threads; the drawing processes use no lock of theirs
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

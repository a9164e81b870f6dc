"""Training a model from a configuration: check everything, fit, write a card and weights that `geoseg run` takes.

A directory belongs to one configuration and one state of its data: the same again goes on from the last checkpoint,
another is refused.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoseg.atomic import staged
from geoseg.errors import OutputError
from geoseg.models.architectures import STRIDE
from geoseg.models.card import Card, CardClass, write_model
from geoseg.models.runtimes import resolve_device
from geoseg.remote import place_of
from geoseg.settings import Device, TrainingPrecision
from geoseg.training.callbacks import CHECKPOINT, Progress
from geoseg.training.classes import boundary_channels, channel_weights
from geoseg.training.config import read_config
from geoseg.training.fit import FitSettings, fit, is_follower
from geoseg.training.preparation import Found, Preparation, prepare
from geoseg.training.validation import Figures

__all__ = ["Trained", "train"]

RECORD = "training.json"
WORK = "fit"
"""Folder of checkpoints and logs within a training's directory."""


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What a training left.

    Attributes:
        card: of the model.
        steps: optimiser steps.
        best_step: step of the weights that were kept.
        seconds: of training, over all resumed parts.
        figures: of the validation by class; empty without one.
    """

    card: Card
    steps: int
    best_step: int
    seconds: float
    figures: dict[str, Figures]


def train(  # noqa: PLR0913 - a door has a handle for everything
    config: str | os.PathLike[str] | Mapping[str, Any],
    directory: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    device: Device = "auto",
    devices: int | None = None,
    precision: TrainingPrecision = "auto",
    workers: int | None = None,
    report: Callable[[Found], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a model.

    Args:
        config: path of a YAML or Python file, or the mapping itself; see `geoseg.training.config`.
        directory: where the card, the weights, checkpoints and logs go; it is made.
        overwrite: begin anew where another training was.
        device: where to train.
        devices: how many; None takes all GPUs, or one CPU.
        precision: of the arithmetic; "auto" is bf16 where the hardware multiplies it natively.
        workers: processes that draw samples; None fits them to the machine.
        report: told what was found, before the first step.
        progress: told how it goes, every few steps.

    Returns:
        The model's card, and how the training went. ``geoseg run SCENE --model CARD`` takes the card at once.

    Raises:
        InputError: something in the configuration, the images or the labels is wrong; nothing was written.
        OutputError: the directory holds another training.
    """
    wanted = read_config(config)
    folder, identity = place_of(directory), wanted.identity()
    if not isinstance(folder, Path):
        raise OutputError(f"{folder} is in an object store; a training goes to a folder, and its model from there")
    settings = FitSettings(
        steps=wanted.steps,
        minutes=wanted.minutes,
        batch=wanted.batch,
        learning_rate=wanted.learning_rate,
        encoder_share=wanted.encoder_share,
        losses=wanted.losses,
        class_weight=channel_weights(wanted.classes),
        augment=wanted.augment,
        validations=wanted.validations,
        patience=wanted.patience,
        frozen=wanted.frozen,
        seed=wanted.seed,
        device=resolve_device(device),
        devices=devices,
        precision=precision,
        workers=workers,
    )
    if not overwrite:
        _refuse_other(folder, identity)  # before images are read
    ready = prepare(wanted)
    if not is_follower():
        if overwrite:
            _clear(folder)
        _refuse_other(folder, identity, ready.digest)
        if report is not None:
            report(ready.found)
        _claim(folder, {"config": identity, "data": ready.digest})
    result = fit(
        ready.start.network,
        ready.sampler,
        ready.validation,
        settings,
        folder / WORK,
        class_names=wanted.channels,
        boundaries=boundary_channels(wanted.classes),
        mean=ready.start.mean,
        std=ready.start.std,
        progress=progress,
    )
    rows = tuple(_row(ready, name, figures) for name, figures in result.figures.items())
    card = write_model(folder, _make_card(folder, ready, rows), result.state)
    return Trained(card, result.steps, result.best_step, result.seconds, result.figures)


def _refuse_other(folder: Path, config: dict[str, Any], digest: str | None = None) -> None:
    """Refuse a directory of another training, unless that never came to a checkpoint: then it left nothing to lose.

    Raises:
        OutputError: it holds another training, or is no directory.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; give a directory for the training")
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        difference = _difference(record["config"], config)
        same_data = digest in {None, record["data"]}
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        raise OutputError(f"{folder / RECORD} is damaged; give another directory, or --overwrite") from None
    if (difference is None and same_data) or not (folder / WORK / CHECKPOINT).exists():
        return
    why = difference or "its images or labels have changed since"
    raise OutputError(f"{folder} holds another training: {why}; give another directory, or --overwrite")


def _clear(folder: Path) -> None:
    """Take away what another training left, so that nothing of it is resumed; its card stays until it is replaced."""
    if (folder / RECORD).is_file():
        shutil.rmtree(folder / WORK, ignore_errors=True)
        (folder / RECORD).unlink()


def _difference(old: Any, new: Any, key: str = "") -> str | None:
    """The first difference between two nested values, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            found = _difference(old.get(name), new.get(name), f"{key}.{name}" if key else name)
            if found:
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, pair in enumerate(zip(old, new, strict=True)):
            found = _difference(*pair, f"{key}[{place}]")
            if found:
                return found
        return None
    return None if old == new else f"{key} was {json.dumps(old)[:60]} and is {json.dumps(new)[:60]}"


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Make the directory, and write down whose it is."""
    try:
        (folder / WORK).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {folder}: {error.strerror}") from None
    with staged(folder / RECORD) as inside:
        inside.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")


def _make_card(folder: Path, ready: Preparation, figures: tuple[dict[str, Any], ...]) -> Card:
    config = ready.config
    classes = [CardClass(entry.code, entry.name, entry.colour) for entry in config.classes]
    classes += [
        CardClass(entry.boundary_code, f"{entry.name}_boundary", _darker(entry.colour), boundary_of=entry.name)
        for entry in config.classes
        if entry.boundary
    ]
    sets = ({"name": one.name, "licence": one.licence, "source": one.source} for one in config.data)
    return Card(
        path=folder / f"{config.name}.card.json",
        name=config.name,
        title=config.title,
        version=config.version,
        licence=config.licence,
        architecture=config.architecture,
        bands=config.bands,
        mean=ready.start.mean,
        std=ready.start.std,
        gsd_range_m=config.gsd_range_m,
        classes=tuple(classes),
        tile=config.tile,
        halo=config.halo,
        stride=STRIDE,
        weights=f"{config.name}.safetensors",
        training_data=(*sets, *ready.start.training_data),
        held_out=figures,
        halo_measured=(),
        intended_use=tuple(
            dict.fromkeys(
                f"trained on values {low:g}-{high:g}: run with --scale {low:g},{high:g}"
                for low, high in (one.scale for one in config.data if one.scale is not None)
            )
        ),
        datetime=dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )


def _row(ready: Preparation, name: str, figures: Figures) -> dict[str, Any]:
    """Figures of one class as a card has them; they chose the weights, so they flatter a little."""
    low = min(sample.gsd_m for sample in ready.validation)
    high = max(sample.gsd_m for sample in ready.validation)
    values = {key: None if value is None else round(value, 4) for key, value in dataclasses.asdict(figures).items()}
    where = f"{low:.2g}-{high:.2g}" if high > 1.05 * low else f"{low:.2g}"
    return {"set": "validation", "gsd_m": where, "class": name, "images": len(ready.validation), **values}


def _darker(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (part // 2 for part in colour)
    return red, green, blue

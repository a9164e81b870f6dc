"""Reads models in the format of segmentation_models_pytorch's hub: ``config.json`` beside ``model.safetensors``.

Such a folder says how its network is built, and nothing of bands, scaling, classes and GSD. So it can be run as it is
if it takes three bands, and then with assumptions that its card names; for anything else write a card.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from geoseg.errors import ModelError
from geoseg.models.card import Card, CardClass

__all__ = ["CONFIG", "card_of", "is_config"]

CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_NOT_OPTIONS = {"encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params"}
_COLOURS = ((38, 115, 217), (230, 76, 60), (241, 196, 15), (155, 89, 182), (46, 204, 113), (230, 126, 34))
_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_ANYWHERE_M = (0.0, 1e6)


def is_config(item: dict[str, Any]) -> bool:
    """Whether a JSON object is such a ``config.json``."""
    return "_model_class" in item


def card_of(path: Path, config: dict[str, Any]) -> Card:
    """The card of a model of the hub.

    Args:
        path: of its ``config.json``.
        config: what that holds.

    Raises:
        KeyError, TypeError, ValueError: something that every such file has is not there.
        ModelError: a model that cannot be run without a card.
    """
    bands, planes = int(config["in_channels"]), int(config["classes"])
    if bands != len(_IMAGENET[0]) or config.get("aux_params"):
        what = f"takes {bands} bands" if bands != len(_IMAGENET[0]) else "has a classifier beside its mask"
        raise ModelError(
            f"{path} {what} and does not say how they are to be used; write a card for {_WEIGHTS} "
            "(geoseg models NAME --json shows one)"
        )
    encoder = str(config["encoder_name"])
    prefix = "" if encoder.startswith("tu-") else "smp-"
    names = [f"class_{index}" for index in range(1, max(planes, 2))]
    return Card(
        path=path.absolute(),
        name=re.sub(r"[^\w-]+", "_", path.absolute().parent.name),
        title="a model of segmentation_models_pytorch's hub",
        version="unknown",
        licence="see the model's own page",
        architecture=f"{str(config['_model_class']).lower()}-{prefix}{encoder}",
        bands=("red", "green", "blue"),
        mean=_IMAGENET[0],
        std=_IMAGENET[1],
        gsd_range_m=_ANYWHERE_M,
        classes=tuple(
            CardClass(code, name, _COLOURS[code % len(_COLOURS)]) for code, name in enumerate(names, start=1)
        ),
        tile=1024,
        halo=128,
        stride=32,
        weights=_WEIGHTS,
        training_data=(),
        held_out=(),
        halo_measured=(),
        datetime="unknown",
        activation="sigmoid" if planes == 1 else "softmax",
        options=tuple(
            sorted((key, value) for key, value in config.items() if not key.startswith("_") and key not in _NOT_OPTIONS)
        ),
        automatic=False,
        known_failures=(
            "its config.json tells no bands, scaling and GSD: RGB by ImageNet's mean and deviation, at any GSD",
            "nor of classes: with several planes the first is taken for background",
        ),
    )

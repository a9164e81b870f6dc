"""What a network's weights are before the first step: random, an encoder's from ImageNet, or another model's."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geoseg.errors import ModelError
from geoseg.models import zoo
from geoseg.models.architectures import IMAGENET_MEAN, IMAGENET_STD, build
from geoseg.models.card import Card
from geoseg.training.config import TrainConfig

__all__ = ["Start", "take_card", "take_matching"]

_RARE = -3.0  # logit of a class about which nothing is known yet


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A network to train.

    Attributes:
        network: with its first weights.
        mean: of each band, subtracted before the network sees it, in units of 0-255.
        std: of each band, by which it is divided.
        notes: what was taken from where, and what was not, a line each.
        training_data: what its weights have learned from before, for the card: name, licence and source of each set.
    """

    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...]
    training_data: tuple[dict[str, str], ...]

    @classmethod
    def make(cls, config: TrainConfig) -> Start:
        """Build the network of a configuration, with the weights that it starts from.

        Raises:
            ModelError: there is no such network or card, weights cannot be fetched or read, or none of them fits.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = build(config.architecture, classes=len(config.channels), bands=len(config.bands))
        if config.card is not None:
            return _from_card(network, config, config.card)
        count = len(config.bands)
        mean, std = _spread(IMAGENET_MEAN, count), _spread(IMAGENET_STD, count)
        if config.encoder == "none":
            return cls(network, mean, std, ("all weights start at random",), ())
        encoder = getattr(network, "encoder", None)
        if not isinstance(encoder, nn.Module):
            raise ModelError(
                f"architecture {config.architecture} has no encoder to fill; say encoder: none, or card: NAME"
            )
        if config.encoder == "imagenet":
            given, mean, std = _fetch(network, config)
            source = "ImageNet"
        else:
            given, source = _read(config.folder / config.encoder), config.encoder
            own = [key for key in given if key.startswith("encoder.")]
            if own:  # weights of a whole network
                given = {key.removeprefix("encoder."): given[key] for key in own}
        taken, left = take_matching(encoder, given)
        if not taken:
            raise ModelError(f"encoder: no weight of {source} fits {config.architecture} by name and shape")
        notes = [f"{taken} tensors of the encoder start from {source}"]
        if left:
            notes.append(f"not in {source}, so random: {_listed(left)}")
        data = {"name": f"{source}, through the initial weights of the encoder", "licence": "see its source"}
        return cls(network, mean, std, tuple(notes), (data | {"source": config.encoder},))


def take_matching(network: nn.Module, given: Mapping[str, Tensor]) -> tuple[int, list[str]]:
    """Fill a network with tensors of the same name and shape.

    Args:
        network: changed in place.
        given: a state dict.

    Returns:
        How many were taken, and the names of the network's own that found none.
    """
    state = network.state_dict()
    same = [key for key in state if key in given and given[key].shape == state[key].shape]
    fitting = {key: given[key].to(state[key]) for key in same}
    network.load_state_dict(state | fitting)
    return len(fitting), [key for key in state if key not in fitting]


def take_card(network: nn.Module, card: Card, channels: Sequence[str]) -> list[str]:
    """Fill a network with a model's weights: by name and shape, and the last layer by the channels' names.

    Args:
        network: changed in place.
        card: of the model.
        channels: names of the network's channels. Those that the model does not know start as rare, so that they do
            not drown the others (Lin et al., 2017, https://arxiv.org/abs/1708.02002, section 4.1).

    Returns:
        What was taken and what was not, a line each.

    Raises:
        ModelError: the weights cannot be read, or none of them fits.
    """
    given = dict(_read(card.weights_path))
    names = [entry.name for entry in card.classes]
    state = network.state_dict()
    last = list(state)[-1].rpartition(".")[0]
    for kind in ("weight", "bias"):
        key = f"{last}.{kind}"
        old = given.pop(key, None)
        if old is not None and len(old) == len(names) and old.shape[1:] == state[key].shape[1:]:
            given[key] = rows = state[key].clone()
            for place, channel in enumerate(channels):
                if channel in names:
                    rows[place] = old[names.index(channel)].to(rows)
                elif kind == "bias":
                    rows[place] = _RARE
    taken, left = take_matching(network, given)
    if not taken:
        raise ModelError(f"no weight of model {card.name} ({card.architecture}) fits the network by name and shape")
    notes = [f"{taken} tensors start from model {card.name}"]
    if left:
        notes.append(f"not in model {card.name}, so random: {_listed(left)}")
    fresh = [channel for channel in channels if channel not in names]
    if fresh:
        notes.append(f"classes that model {card.name} does not know: {', '.join(fresh)}")
    return notes


def _from_card(network: nn.Module, config: TrainConfig, name: str) -> Start:
    path = config.folder / name
    card = zoo.load(str(path) if path.is_file() else name)
    if card.bands != config.bands:
        raise ModelError(f"model {card.name} takes {', '.join(card.bands)}; bands must be the same to start from it")
    notes = take_card(network, card, config.channels)
    return Start(network, card.mean, card.std, tuple(notes), card.training_data)


def _fetch(network: nn.Module, config: TrainConfig) -> tuple[dict[str, Tensor], tuple[float, ...], tuple[float, ...]]:
    """ImageNet's weights of a network's encoder from its hub, and the scaling that they expect."""
    from segmentation_models_pytorch.encoders import get_encoder, get_preprocessing_params

    name = str(getattr(network, "name", "")).partition("-")[2]
    count = len(config.bands)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scaling: dict[str, Any] = get_preprocessing_params(name, pretrained="imagenet")
            twin = get_encoder(name, in_channels=count, weights=True if name.startswith("tu-") else "imagenet")
    except Exception as error:  # noqa: BLE001 - hubs fail in many ways
        why = " ".join(f"{type(error).__name__} {error}".split())[:160]
        raise ModelError(
            f"encoder: the ImageNet weights of {config.architecture} cannot be had ({why}); "
            "say encoder: {card: NAME} to start from a shipped model, give a path of safetensors, or say encoder: none"
        ) from None
    return dict(twin.state_dict()), _spread(scaling["mean"], count), _spread(scaling["std"], count)


def _spread(shares: Sequence[float], count: int) -> tuple[float, ...]:
    """Scaling of three colours in units of 0-255, for so many bands: others get the mean."""
    values = [255 * share for share in shares]
    rest = [sum(values) / len(values)] * max(0, count - len(values))
    return tuple(round(value, 3) for value in [*values, *rest][:count])


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {' '.join(str(error).split())}") from None


def _listed(names: Sequence[str]) -> str:
    """Names of tensors in short."""
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"

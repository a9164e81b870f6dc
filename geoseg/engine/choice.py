"""Which model predicts which class of a scene, and how it reads the scene (floor 4)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from geoseg.errors import InputError, ModelError, SceneError, SettingsError
from geoseg.models import zoo
from geoseg.models.card import Card
from geoseg.scene import Scene
from geoseg.settings import RunSettings, require_layer_names

__all__ = ["Choice", "choose_models"]

_GSD_SLACK = 1.05
_SQUARE_SLACK = 0.01


@dataclass(frozen=True, slots=True)
class Choice:
    """A model, the classes it is to find, and what it reads.

    Attributes:
        card: of the model.
        codes: layer name to mask code, of its classes.
        bands: 1-based indexes of the scene's bands, in the card's order.
        grid: the scene, perhaps at another GSD.
    """

    card: Card
    codes: Mapping[str, int]
    bands: tuple[int, ...]
    grid: Scene


@dataclass(frozen=True, slots=True)
class _Reader:
    """A model that can read the scene.

    Attributes:
        card: of the model.
        bands: 1-based indexes of the scene's bands, in the card's order.
        gsd_m: at which it reads the scene.
        stretch: how far that is from the scene's GSD, as the logarithm of their ratio; 0 within the model's range.
    """

    card: Card
    bands: tuple[int, ...]
    gsd_m: float
    stretch: float


def choose_models(scene: Scene, settings: RunSettings) -> tuple[list[Choice], list[str]]:
    """Gives each class to one model.

    That is the first model which has the class and whose range holds the scene's GSD; else the one that can read the
    scene and whose range is nearest. A finer scene is read coarser, a coarser one upsampled as far as the card allows.

    Args:
        scene: as opened.
        settings: of the run; models in the order of preference, or ``None`` for the zoo's own choice.

    Returns:
        The models that have something to find, in the order of preference, and notes for people.

    Raises:
        InputError: a model that was named cannot read the scene, no model can, or none finds a class that was asked
            for.
    """
    models = settings.models
    cards = zoo.automatic() if models is None else [zoo.load(model) for model in models]
    _check_names(cards)
    wanted = _wanted(cards, settings.classes)
    readers, refusals = _readers(cards, wanted, scene, settings)
    best = _best(readers, wanted)
    if best:
        require_layer_names(tuple(best))  # layers of different models are files side by side
    missing = sorted(wanted - best.keys())
    if missing and (settings.classes is not None or not readers):
        raise SceneError(f"no model can find {', '.join(missing)} here: {refusals[missing[0]]}")
    notes = [f"no {name}: {refusals[name]}" for name in missing]
    choices = []
    for reader in readers:
        if found := tuple(name for name, chosen in best.items() if chosen is reader):
            grid, note = _grid(scene, reader)
            notes += note
            choices.append(Choice(reader.card, reader.card.class_codes(found), reader.bands, grid))
        elif models is not None:
            notes.append(
                f"model {reader.card.name} has nothing to find: its classes go to models that are nearer to the "
                "scene's GSD, or named before it"
            )
    _check_bands(choices, settings)
    return choices, notes


def _readers(
    cards: Sequence[Card], wanted: set[str], scene: Scene, settings: RunSettings
) -> tuple[list[_Reader], dict[str, InputError]]:
    """The models that can read the scene, and by class why the most preferred of the others cannot.

    Raises:
        InputError: one of the others was named.
    """
    readers: list[_Reader] = []
    refusals: dict[str, InputError] = {}
    for card in cards:
        if wanted.isdisjoint(card.class_codes(None)):
            continue
        try:
            readers.append(_read_by(card, scene, settings))
        except InputError as error:
            if settings.models is not None:
                raise
            for name in card.class_codes(None):
                refusals.setdefault(name, error)
    return readers, refusals


def _best(readers: Sequence[_Reader], wanted: set[str]) -> dict[str, _Reader]:
    """The model of each class that one can find; of equally near ones the most preferred."""
    best: dict[str, _Reader] = {}
    for reader in readers:
        for name in wanted.intersection(reader.card.class_codes(None)):
            if name not in best or reader.stretch < best[name].stretch:
                best[name] = reader
    return best


def _check_names(cards: Sequence[Card]) -> None:
    """Refuses models whose names cannot tell their files apart."""
    names = [card.name.lower() for card in cards]
    for card in cards:
        if names.count(card.name.lower()) > 1:
            raise ModelError(f"two models are called {card.name}, and so would be their masks; rename one in its card")
        if not re.fullmatch(r"\w[\w.-]*", card.name):
            raise ModelError(f"{card.path} names its model {card.name!r}; give a name of letters, digits, _, . and -")


def _wanted(cards: Sequence[Card], classes: tuple[str, ...] | None) -> set[str]:
    """Names of the layers to find, all that the models know unless told."""
    known = list(dict.fromkeys(name for card in cards for name in card.class_codes(None)))
    unknown = [name for name in classes or () if name not in known]
    if unknown:
        who = f"model {cards[0].name} has" if len(cards) == 1 else f"models {_names(cards)} have"
        raise ModelError(
            f"{who} no class {', '.join(unknown)}; {'it has' if len(cards) == 1 else 'they have'} {', '.join(known)}"
        )
    return set(known if classes is None else classes)


def _names(cards: Sequence[Card]) -> str:
    return ", ".join(card.name for card in cards)


def _read_by(card: Card, scene: Scene, settings: RunSettings) -> _Reader:
    """How a model reads the scene.

    Raises:
        InputError: it cannot, in one line.
    """
    bands = _bands(scene, card, settings)
    if card.dtype == "uint8" and settings.scale is None:
        _check_values(scene, card, bands)
    finest, coarsest = card.gsd_range_m
    gsd_m = scene.gsd_m
    if gsd_m > coarsest * card.upsampling * _GSD_SLACK:
        raise SceneError(
            f"{scene.shown} has a GSD of {gsd_m:.3g} m; model {card.name} was trained for {_range(card)} and "
            f"upsampling more than {card.upsampling:g}x shows nothing new: give a finer scene or another --model"
        )
    if finest / _GSD_SLACK <= gsd_m <= coarsest * _GSD_SLACK:
        return _Reader(card, bands, gsd_m, 0.0)
    nearest = finest if gsd_m < finest else coarsest
    return _Reader(card, bands, nearest, abs(math.log(nearest / gsd_m)))


def _bands(scene: Scene, card: Card, settings: RunSettings) -> tuple[int, ...]:
    needed = ", ".join(card.bands)
    if settings.bands is not None and len(settings.bands) != len(card.bands):
        raise SettingsError(
            f"--bands names {len(settings.bands)} bands; model {card.name} takes {len(card.bands)}, in this order: "
            f"{needed}"
        )
    try:
        return scene.select(settings.bands or card.bands)
    except SceneError as error:
        if settings.bands:
            raise
        if len(scene.bands) < len(card.bands):
            raise SceneError(
                f"{scene.shown} has too few bands, {len(scene.bands)}; model {card.name} takes {needed}: "
                "give a scene that has them, or another --model"
            ) from None
        example = ",".join(str(number) for number in range(1, len(card.bands) + 1))
        raise SceneError(f"{error}; say which bands are {needed} with --bands, e.g. --bands {example}") from None


def _check_values(scene: Scene, card: Card, bands: tuple[int, ...]) -> None:
    kinds = {band.dtype for band in scene.bands if band.index in bands}
    if kinds != {"uint8"}:
        raise SceneError(
            f"{scene.shown} has {', '.join(sorted(kinds))} values; model {card.name} takes uint8 0-255: "
            "say which values become 0 and 255 with --scale LOW,HIGH, e.g. --scale 0,3000"
        )


def _check_bands(choices: Sequence[Choice], settings: RunSettings) -> None:
    """One --bands cannot serve models that take other bands, or the same in another order."""
    orders = {choice.card.bands for choice in choices}
    if settings.bands is not None and len(orders) > 1:
        raise SettingsError(
            f"--bands stands for {' as well as '.join(', '.join(order) for order in sorted(orders))} of models "
            f"{_names([choice.card for choice in choices])}; run them one by one, each with its --model and --bands"
        )


def _grid(scene: Scene, reader: _Reader) -> tuple[Scene, list[str]]:
    """The scene as the model reads it, and what a user should know of that."""
    name = reader.card.name
    if reader.stretch:
        note = (
            f"the scene's GSD of {scene.gsd_m:.3g} m is outside the {_range(reader.card)} of model {name}: "
            f"read and mapped at {reader.gsd_m:g} m"
        )
        return scene.at_gsd(reader.gsd_m), [note]
    width_m, height_m = scene.pixel_m
    if abs(width_m / height_m - 1) <= _SQUARE_SLACK:
        return scene, []
    note = (
        f"the scene's pixels are {width_m:.3g} x {height_m:.3g} m: model {name} reads and maps squares of "
        f"{reader.gsd_m:.3g} m"
    )
    return scene.at_gsd(reader.gsd_m), [note]


def _range(card: Card) -> str:
    finest, coarsest = card.gsd_range_m
    return f"{finest:g} m" if finest == coarsest else f"{finest:g}-{coarsest:g} m"

"""The models at hand: those shipped in the package, those that users fetch themselves, and any by path (floor 3)."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from geoseg.errors import ModelError
from geoseg.models.card import CARD_SUFFIX, Card
from geoseg.models.download import cache_folder
from geoseg.models.smp_hub import CONFIG

__all__ = ["automatic", "available", "downloadable", "find", "is_architecture", "load", "names"]

_SHIPPED = ("weights", "cards")  # networks, segmenters without weights
_ENTRIES = "entries"  # cards of models whose weights are elsewhere


def _cards(*folders: str) -> dict[str, Path]:
    here = Path(str(files("geoseg.models")))
    found = [path for folder in folders for path in sorted((here / folder).glob(f"*{CARD_SUFFIX}"))]
    return {path.name.removesuffix(CARD_SUFFIX): path for path in found}


def available() -> list[Card]:
    """The cards of all shipped models, by name."""
    return [Card.read(path) for path in _cards(*_SHIPPED).values()]


def automatic() -> list[Card]:
    """The shipped cards that a run chooses from unless it is told, the most preferred first.

    A model whose range of GSDs ends sooner is preferred, then one whose range begins later: where ranges overlap, the
    model made for finer imagery sees more in it.
    """

    def order(card: Card) -> tuple[float, float]:
        finest, coarsest = card.gsd_range_m
        return coarsest, -finest

    return sorted((card for card in available() if card.automatic), key=order)


def downloadable() -> list[Card]:
    """The cards of all models that can be fetched, as they lie in the cache or would; ``Card.is_there`` tells."""
    cache = cache_folder()
    found = []
    for name, path in _cards(_ENTRIES).items():
        fetched = cache / path.name
        card = Card.from_item(fetched, json.loads(path.read_text(encoding="utf-8")))
        found.append(Card.read(fetched) if fetched.is_file() and (cache / f"{name}.safetensors").is_file() else card)
    return found


def names() -> tuple[str, ...]:
    """Of all models that have one."""
    return (*_cards(*_SHIPPED), *_cards(_ENTRIES))


def is_architecture(name: str) -> bool:
    """Whether a name is one of the grammar of architectures, and not that of a model or a file."""
    family, _, encoder = name.partition("-")
    if not encoder or name in names() or Path(name).exists():
        return False
    from geoseg.models.architectures import FAMILIES  # torch: seconds that the names above need not wait for

    return family in FAMILIES


def load(model: str) -> Card:
    """Finds the card of a model that is to run, see :func:`find`.

    Raises:
        ModelError: also a model that is not downloaded yet.
    """
    card = find(model)
    if not card.is_there:
        raise ModelError(f"model {model} is not downloaded yet; run: geoseg models {model} --download")
    return card


def find(model: str) -> Card:
    """Finds a model's card; its weights may still have to be fetched.

    Args:
        model: a name that :func:`available` or :func:`downloadable` lists, the path of a card (``*.json``), or that
            of a folder or ``config.json`` in the format of segmentation_models_pytorch's hub.

    Raises:
        ModelError: an unknown name, or a card that cannot be used.
    """
    shipped = _cards(*_SHIPPED)
    if model in shipped:
        return Card.read(shipped[model])
    if model in _cards(_ENTRIES):
        return next(card for card in downloadable() if card.name == model)
    path = Path(model)
    if (path / CONFIG).is_file():
        return Card.read(path / CONFIG)
    if path.suffix or path.exists():
        return Card.read(path)
    raise ModelError(f"no model {model!r}; there is {', '.join(names())}, or give the path of a card (.json)")

"""The models at hand: those shipped in the package, and cards by path (floor 3)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from geoseg.errors import ModelError
from geoseg.models.card import CARD_SUFFIX, Card

__all__ = ["available", "load"]

_FOLDERS = ("weights", "cards")  # networks, segmenters without weights


def _shipped() -> dict[str, Path]:
    here = Path(str(files("geoseg.models")))
    found = [path for folder in _FOLDERS for path in sorted((here / folder).glob(f"*{CARD_SUFFIX}"))]
    return {path.name.removesuffix(CARD_SUFFIX): path for path in found}


def available() -> list[Card]:
    """The cards of all shipped models, by name."""
    return [Card.read(path) for path in _shipped().values()]


def load(model: str) -> Card:
    """Finds a model's card.

    Args:
        model: a name that :func:`available` lists, or the path of a card (``*.json``).

    Raises:
        ModelError: an unknown name, or a card that cannot be used.
    """
    shipped = _shipped()
    if model in shipped:
        return Card.read(shipped[model])
    path = Path(model)
    if path.suffix or path.exists():
        return Card.read(path)
    raise ModelError(f"no model {model!r}; there is {', '.join(shipped)}, or give the path of a card (.json)")

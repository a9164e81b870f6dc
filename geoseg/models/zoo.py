"""The models at hand: those shipped in the package, and cards by path (floor 3)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from geoseg.errors import ModelError
from geoseg.models.card import Card

__all__ = ["available", "load"]

_CARD_SUFFIX = ".card.json"


def _shipped() -> dict[str, Path]:
    folder = Path(str(files("geoseg.models"))) / "weights"
    return {path.name.removesuffix(_CARD_SUFFIX): path for path in sorted(folder.glob(f"*{_CARD_SUFFIX}"))}


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

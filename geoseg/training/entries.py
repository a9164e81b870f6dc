"""Reading a configuration strictly: every key is asked for by name and kind, and others are refused."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from geoseg.errors import SettingsError

__all__ = ["REQUIRED", "Entries"]


class _Required:
    """Says that a key has no default."""


REQUIRED: Any = _Required()


class Entries:
    """The keys of one mapping of a configuration.

    Args:
        given: the mapping.
        where: what to call it in messages, such as "train.yaml" or "train.yaml: data[0]".

    Raises:
        SettingsError: it is no mapping with words for keys.
    """

    def __init__(self, given: object, where: str) -> None:
        if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
            raise SettingsError(f"{where}: {_short(given)} is no mapping of keys to values")
        self._given: dict[str, Any] = dict(given)
        self._asked: set[str] = set()
        self.where = where

    def take(self, key: str, default: Any = REQUIRED) -> Any:
        """Take a value as it is.

        Raises:
            SettingsError: it is not there, and has no default.
        """
        self._asked.add(key)
        if key in self._given and self._given[key] is not None:
            return self._given[key]
        if isinstance(default, _Required):
            near = difflib.get_close_matches(key, set(self._given) - self._asked, n=1)
            raise SettingsError(f"{self.where}: {key} is missing" + (f"; you wrote {near[0]}" if near else ""))
        return default

    def text(self, key: str, default: Any = REQUIRED) -> Any:
        """Take a text; a number is taken as it is written."""
        value = self.take(key, default)
        if value is default or (isinstance(value, str) and value.strip()):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        raise self.wrong(key, "a text")

    def number(self, key: str, default: Any = REQUIRED, *, least: float = -math.inf, most: float = math.inf) -> Any:
        """Take a number within limits."""
        value = self.take(key, default)
        if value is default:
            return value
        value = as_number(value)
        if value is None or not least <= value <= most:
            raise self.wrong(key, f"a number {_limits(least, most)}")
        return value

    def whole(self, key: str, default: Any = REQUIRED, *, least: int, most: int = 2**31) -> Any:
        """Take a whole number within limits."""
        value = self.number(key, default, least=least, most=most)
        if value is default or value == int(value):
            return value if value is default else int(value)
        raise self.wrong(key, "a whole number")

    def yes(self, key: str, *, default: bool = False) -> bool:
        """Take true or false."""
        value = self.take(key, default)
        if isinstance(value, bool):
            return value
        raise self.wrong(key, "true or false")

    def pair(self, key: str, default: Any = REQUIRED, *, above: float = -math.inf) -> Any:
        """Take two numbers, the lower first; both above a limit."""
        value = self.take(key, default)
        if value is default:
            return value
        numbers = [as_number(entry) for entry in value] if isinstance(value, list | tuple) else []
        if len(numbers) == 2 and numbers[0] is not None and numbers[1] is not None and above < numbers[0] <= numbers[1]:
            return numbers[0], numbers[1]
        raise self.wrong(key, "[low, high]" + (f" with numbers above {above:g}" if above > -math.inf else ""))

    def texts(self, key: str, default: Any = REQUIRED) -> Any:
        """Take a list of texts, or one."""
        value = self.take(key, default)
        if value is default:
            return value
        listed = value if isinstance(value, list | tuple) else [value]
        if listed and all(isinstance(entry, str | int) and not isinstance(entry, bool) for entry in listed):
            return tuple(str(entry) for entry in listed)
        raise self.wrong(key, "a text or a list of texts")

    def wholes(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Take a list of whole numbers, or one."""
        value = self.take(key, default)
        listed = value if isinstance(value, list | tuple) else [value]
        if all(isinstance(entry, int) and not isinstance(entry, bool) for entry in listed):
            return tuple(listed)
        raise self.wrong(key, "a whole number or a list of them")

    def one_of(self, key: str, default: Any, *words: str) -> Any:
        """Take one of some words."""
        value = self.take(key, default)
        if value in words or value is default:
            return value
        raise self.wrong(key, f"one of {', '.join(words)}")

    def wrong(self, key: str, expected: str) -> SettingsError:
        """Make the error for a value that is not what it should be."""
        return SettingsError(f"{self.where}: {key} is {_short(self._given.get(key))}; expected {expected}")

    def close(self) -> None:
        """Refuse keys that nobody asked for.

        Raises:
            SettingsError: there is one; the message names the nearest that is known.
        """
        for key in self._given:
            if key not in self._asked:
                near = difflib.get_close_matches(key, self._asked, n=1, cutoff=0.4)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(self._asked))}"
                raise SettingsError(f"{self.where}: unknown key {key}; {hint}")


def as_number(value: object) -> float | None:
    """Return a finite number, also from YAML 1.1's text for 1e-3, or None."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    return None


def _limits(least: float, most: float) -> str:
    if least == -math.inf and most == math.inf:
        return ""
    return f"from {least:g}" + (f" to {most:g}" if most < 2**31 else " on")


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."

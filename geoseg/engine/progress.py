"""How a run tells what it is doing (floor 4). The console's bars are in ``geoseg.console``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeAlias

__all__ = ["Advance", "Progress", "Silent"]

Advance: TypeAlias = Callable[[int], None]
"""Called with the number of pixels that were finished."""


class Progress(Protocol):
    """Sees a run go by."""

    def note(self, text: str) -> None:
        """One line worth knowing: a resampled scene, a dashboard's address, a resumed run."""
        ...

    def stage(self, name: str, pixels: int) -> AbstractContextManager[Advance]:
        """A stage begins; it will go over so many pixels (0: unknown) and ends with the context."""
        ...


class Silent:
    """Says nothing: for Python callers and tests."""

    def note(self, text: str) -> None:
        """See :meth:`Progress.note`."""

    @contextmanager
    def stage(self, name: str, pixels: int) -> Iterator[Advance]:  # noqa: ARG002
        """See :meth:`Progress.stage`."""
        yield lambda _: None

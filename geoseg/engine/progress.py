"""How a run tells what it is doing (floor 4). Bars are in ``geoseg.console``, lines of JSON in ``geoseg.events``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from geoseg.engine.result import ChunkCount

__all__ = ["Advance", "Progress", "Silent"]


class Advance(Protocol):
    """Called when something was finished: in a stage of chunks, with each of them."""

    def __call__(self, pixels: int, *, failed: bool = False) -> None:
        """So many pixels are behind; of a chunk that failed, too."""
        ...


class Progress(Protocol):
    """Sees a run go by."""

    def note(self, text: str) -> None:
        """One line worth knowing: a resampled scene, a dashboard's address, a resumed run."""
        ...

    def stage(self, name: str, pixels: int, chunks: ChunkCount | None = None) -> AbstractContextManager[Advance]:
        """A stage begins, and ends with the context.

        Args:
            name: of the stage.
            pixels: that it will go over; 0 where that is unknown.
            chunks: all, and those that an earlier run did; ``None`` where the stage does not go by chunks.
        """
        ...


class Silent:
    """Says nothing: for Python callers and tests."""

    def note(self, text: str) -> None:
        """See :meth:`Progress.note`."""

    @contextmanager
    def stage(self, name: str, pixels: int, chunks: ChunkCount | None = None) -> Iterator[Advance]:  # noqa: ARG002
        """See :meth:`Progress.stage`."""

        def advance(pixels: int, *, failed: bool = False) -> None:
            """Nobody looks."""

        yield advance

"""Times the stages of a run, and counts their chunks (floor 4)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from geoseg.engine.progress import Advance, Progress
from geoseg.engine.result import ChunkCount, StageTime
from geoseg.signals import stop_if_asked

__all__ = ["Watch"]


class Watch:
    """Times the stages and shows them; what a stage took is summed over the passes.

    Args:
        progress: sees them.
        of: the passes, in words; empty where there is one.
        times: of the stages so far.

    Attributes:
        chunks: of the stages that this very watch has seen, by their names.
    """

    def __init__(self, progress: Progress, of: str = "", times: dict[str, StageTime] | None = None) -> None:
        self._progress = progress
        self._of = of
        self._times: dict[str, StageTime] = {} if times is None else times
        self.chunks: dict[str, ChunkCount] = {}

    @property
    def stages(self) -> tuple[StageTime, ...]:
        """What each stage took, in order."""
        return tuple(self._times.values())

    def of(self, passes: str) -> Watch:
        """The same watch, for the stages of some passes."""
        return Watch(self._progress, passes, self._times)

    @contextmanager
    def stage(self, name: str, pixels: int = 0, chunks: ChunkCount | None = None) -> Iterator[Advance]:
        """A stage begins, see :meth:`Progress.stage`; ``pixels`` are those that are left to do."""
        start = time.perf_counter()
        shown, failures = f"{name} {self._of}".rstrip(), 0
        if chunks is not None and chunks.reused:
            self._progress.note(f"{shown}: {chunks.reused:,} of {chunks.total:,} chunks were done before")
        with self._progress.stage(shown, pixels, chunks) as advance:

            def count(pixels: int, *, failed: bool = False) -> None:
                nonlocal failures
                stop_if_asked()
                failures += failed
                advance(pixels, failed=failed)

            yield count
            stop_if_asked()
        before = self._times.get(name, StageTime(name, 0.0, 0))
        seconds = before.seconds + time.perf_counter() - start
        found = before.chunks
        if chunks is not None:
            self.chunks[name] = replace(chunks, failed=failures)
            found = self.chunks[name] if found is None else found + self.chunks[name]
        self._times[name] = StageTime(name, round(seconds, 3), before.pixels + pixels, found)

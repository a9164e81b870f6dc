"""Times the stages of a run (floor 4)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from geoseg.engine.progress import Advance, Progress
from geoseg.engine.result import StageTime

__all__ = ["Watch"]


class Watch:
    """Times the stages and shows them; what a stage took is summed over the passes.

    Args:
        progress: sees them.
        of: the passes, in words; empty where there is one.
        times: of the stages so far.
    """

    def __init__(self, progress: Progress, of: str = "", times: dict[str, StageTime] | None = None) -> None:
        self._progress = progress
        self._of = of
        self._times: dict[str, StageTime] = {} if times is None else times

    @property
    def stages(self) -> tuple[StageTime, ...]:
        """What each stage took, in order."""
        return tuple(self._times.values())

    def of(self, passes: str) -> Watch:
        """The same watch, for the stages of some passes."""
        return Watch(self._progress, passes, self._times)

    @contextmanager
    def stage(self, name: str, pixels: int = 0) -> Iterator[Advance]:
        """A stage begins; it will go over so many pixels (0: unknown) and ends with the context."""
        start = time.perf_counter()
        with self._progress.stage(f"{name} {self._of}".rstrip(), pixels) as advance:
            yield advance
        before = self._times.get(name, StageTime(name, 0.0, 0))
        seconds = before.seconds + time.perf_counter() - start
        self._times[name] = StageTime(name, round(seconds, 3), before.pixels + pixels)

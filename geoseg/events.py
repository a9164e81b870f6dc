"""A run told as lines of JSON on standard error, for schedulers and other programs (floor 5).

Every line is one object with ``event`` and ``time`` (ISO 8601, UTC), and these fields; later versions may have more:

========= ==========================================================================================================
event     fields
========= ==========================================================================================================
note      ``text``: one line worth knowing, such as ``dashboard: http://...``
begin     ``stage``; ``pixels`` that are to be done (0: unknown); ``chunks`` or null
advance   ``stage``; ``pixels`` that are done; ``of``: all that are to be done; ``chunks`` or null; ``seconds`` since
          the stage began; ``pixels_per_second``; ``seconds_left`` or null. At most five of these a second
end       ``stage``; ``pixels`` that were done; ``chunks`` or null; ``seconds``
result    the last line of a run that is complete: ``directory``; ``layers``: ``polygons`` and ``area_m2`` of each;
          ``files``
failure   the last line of one that is not: ``message``, in one line; ``exit_code``
========= ==========================================================================================================

``chunks`` is an object of ``total``, ``reused`` (an earlier run did them), ``done`` (by this one) and ``failed``. A
stage that is interrupted has no ``end``. Usage that cannot be understood is told in words, before there are any events.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from geoseg.engine.progress import Advance
from geoseg.engine.result import ChunkCount
from geoseg.signals import CODE

if TYPE_CHECKING:
    from geoseg.engine.result import Result

__all__ = ["Events", "line_of"]

_EVERY_S = 0.2


class Events:
    """Tells a run as lines of JSON, see above."""

    def note(self, text: str) -> None:
        """See ``geoseg.engine.progress.Progress.note``."""
        _tell("note", text=text)

    @contextmanager
    def stage(self, name: str, pixels: int, chunks: ChunkCount | None = None) -> Iterator[Advance]:
        """See ``geoseg.engine.progress.Progress.stage``."""
        done = calls = failures = 0
        todo = pixels
        begin = told = time.monotonic()

        def counted() -> dict[str, int] | None:
            if chunks is None:
                return None
            return {"total": chunks.total, "reused": chunks.reused, "done": calls - failures, "failed": failures}

        def advance(pixels: int, *, failed: bool = False) -> None:
            nonlocal done, calls, failures, told
            done, calls, failures = done + pixels, calls + 1, failures + failed
            now = time.monotonic()
            if now - told < _EVERY_S:
                return
            told, seconds = now, now - begin
            _tell(
                "advance",
                stage=name,
                pixels=done,
                of=todo,
                chunks=counted(),
                seconds=round(seconds, 3),
                pixels_per_second=round(done / seconds),
                seconds_left=round((todo - done) * seconds / done, 1) if done and todo else None,
            )

        _tell("begin", stage=name, pixels=pixels, chunks=counted())
        yield advance
        _tell("end", stage=name, pixels=done, chunks=counted(), seconds=round(time.monotonic() - begin, 3))

    def result(self, result: Result) -> None:
        """A run is complete."""
        layers = {name: {"polygons": layer.polygons, "area_m2": layer.area_m2} for name, layer in result.layers.items()}
        _tell("result", directory=str(result.directory), layers=layers, files=list(result.files))

    def failure(self, message: str, exit_code: int) -> None:
        """A run is not complete."""
        _tell("failure", message=message, exit_code=exit_code)


def line_of(text: str, *, last: bool) -> str:
    """What a signal does, as the line of an event."""
    return _line("failure", message=text, exit_code=CODE) if last else _line("note", text=text)


def _tell(event: str, **fields: Any) -> None:
    print(_line(event, **fields), file=sys.stderr, flush=True)  # noqa: T201


def _line(event: str, **fields: Any) -> str:
    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"event": event, "time": now, **fields}, ensure_ascii=False)

"""What a Dask worker does for a task: call the kernel for each of its items, time it and keep a log (floor 4)."""

from __future__ import annotations

import faulthandler
import logging
import pickle
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from geoseg.engine.faults import attempt, reason_of
from geoseg.lattice import Chunk

__all__ = ["Called", "begin_log", "call"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_log = logging.getLogger("geoseg.worker")
_log.addHandler(logging.NullHandler())  # else Python prints what fails before there is a file to write it down in


class Called(NamedTuple):
    """What became of an item.

    Attributes:
        seconds: that it took.
        result: of the kernel.
        error: that it raised instead.
    """

    seconds: float
    result: Any
    error: Exception | None


def call(stage: str, kernel: Callable[[Any, Item], Result], job: Any, items: Sequence[Item]) -> list[Called]:
    """Calls ``kernel(job, item)`` for one item after the other, see :func:`geoseg.engine.faults.attempt`.

    One that fails does not keep the others from being done.
    """
    return [_call(stage, kernel, job, item) for item in items]


def _call(stage: str, kernel: Callable[[Any, Item], Result], job: Any, item: Item) -> Called:
    name = _name_of(item)
    _log.info("%s %s begins", stage, name)
    start = time.perf_counter()
    try:
        result = attempt(kernel, job, item)
    except Exception as error:  # noqa: BLE001 - the leading process tells them apart
        _log.exception("%s %s failed", stage, name)
        return Called(time.perf_counter() - start, None, _portable(error))
    seconds = time.perf_counter() - start
    _log.info("%s %s done in %.3f s", stage, name, seconds)
    return Called(seconds, result, None)


def _portable(error: Exception) -> Exception:
    """An error that reaches the leading process whole: others would be lost with all that the task has done."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - what was written just now
    except Exception:  # noqa: BLE001 - whatever its class does when it is copied
        return RuntimeError(reason_of(error))
    return error


def _name_of(item: Any) -> str:
    """A chunk's key, or whatever an item is, shortly."""
    chunk = item[0] if isinstance(item, tuple) and item else item
    return chunk.key if isinstance(chunk, Chunk) else repr(chunk)[:40]


def begin_log(folder: Path | None, worker: str) -> Callable[[], None]:
    """Begins to write down what this process does, until the function that is returned is called.

    Also what Dask says, and where each thread was when the process crashed. The last line of a worker that died
    names the chunk that it was doing.

    Args:
        folder: where ``<worker>.log`` goes, behind what is there; ``None`` for nowhere.
        worker: the worker's name.
    """
    if folder is None:
        return _forget_networks
    folder.mkdir(exist_ok=True)
    file = (folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', worker)}.log").open("a", encoding="utf-8")
    handler = logging.StreamHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
    loggers = (_log, logging.getLogger("distributed"))
    _log.setLevel(logging.INFO)
    for logger in loggers:
        logger.addHandler(handler)
    watches = not faulthandler.is_enabled()
    if watches:
        faulthandler.enable(file)

    def end() -> None:
        if watches:
            faulthandler.disable()
        for logger in loggers:
            logger.removeHandler(handler)
        file.close()
        _forget_networks()

    return end


def _forget_networks() -> None:
    """The worker may go on after this run, for others; so may the memory that networks took."""
    if "geoseg.engine.prediction" in sys.modules:
        from geoseg.engine.prediction import forget_networks

        forget_networks()

"""What goes wrong while a run is under way, and what becomes of it (floor 4).

- A window that cannot be read is tried again, for a while if its source may come back. If that does not help its chunk
  fails, and the others go on.
- Where there is no room or no right to write, nothing more could be kept: the run stops at once.
- Bad input that shows late ends the run at once, too. Anything else fails its chunk.

Whatever is finished is kept, and the same command again does the rest.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from geoseg.errors import GeosegError, OutputError, ReadError, WriteError
from geoseg.remote import Place

__all__ = ["attempt", "keeping", "reason_of"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
_PATIENCE_S = 20.0  # with a source of which a process can read nothing at all
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} if hasattr(errno, "EDQUOT") else {errno.ENOSPC, errno.EFBIG}
_NO_RIGHT = {errno.EROFS, errno.EACCES, errno.EPERM}


class _Streak:
    """Failures to read in this process, one after the other, with nothing read between them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first = self._last = -2 * _PATIENCE_S

    def seconds(self) -> float:
        """How long it has lasted, now that there is another one."""
        now = time.monotonic()
        with self._lock:
            if now - self._last > _PATIENCE_S:  # of an earlier run
                self._first = now
            self._last = now
            return now - self._first

    def end(self) -> None:
        """Something was read."""
        with self._lock:
            self._last = -2 * _PATIENCE_S


_streak = _Streak()


def attempt(
    kernel: Callable[[Any, Item], Result], job: Any, item: Item, wait: Callable[[float], Any] = time.sleep
) -> Result:
    """Calls ``kernel(job, item)``, again where it cannot read this time.

    While the source is away, or on the network, pauses between the tries grow, up to 15 seconds in all; once nothing
    could be read in this process for 20 seconds, there are none. A source that is there as it was is tried once more.

    Args:
        kernel: see ``Executor.run``.
        job: see ``Executor.run``.
        item: see ``Executor.run``.
        wait: for so many seconds; true if there is no sense in trying again.

    Raises:
        WriteError: there is no room or no right to write.
    """
    pauses, again = iter(_PAUSES_S), True
    while True:
        try:
            result = kernel(job, item)
        except ReadError as error:
            lasted = _streak.seconds()
            pause = next(pauses, None) if error.passing and lasted < _PATIENCE_S else 0.0 if again else None
            again = False
            if pause is None or wait(pause):
                raise
        except Exception as error:
            if _failed_to_write(error) or (_lasting(error) and not isinstance(error, GeosegError)):
                raise WriteError(reason_of(error)) from error
            raise
        else:
            _streak.end()
            return result


def reason_of(error: BaseException) -> str:
    """Why something failed, in one line: of the disk the system's own words."""
    found = _lasting(error)
    if found:
        return os.strerror(found)
    text = " ".join(str(error).split())
    return text if isinstance(error, GeosegError) else f"{type(error).__name__}: {text}"


def _lasting(error: BaseException) -> int:
    """The number of a failure to write that stays until somebody does something; 0 for others.

    It may lie behind the error that a library made of it, or that closing the file made.
    """
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            break
        if isinstance(seen, OSError) and seen.errno in _NO_ROOM | _NO_RIGHT:
            return seen.errno or 0
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return 0


def _failed_to_write(error: BaseException) -> bool:
    """Whether a writer gave up, rather than found something wrong with what it was given."""
    cause = error.__cause__
    by_writer = cause is not None and type(cause).__module__.split(".")[0] != "pyproj"
    return isinstance(error, OutputError) and by_writer


@contextmanager
def keeping(directory: Place) -> Iterator[None]:
    """What a run cannot write any more ends it in one line, once there is something that is kept.

    Raises:
        WriteError: in place of every error that a failure to write made.
    """
    try:
        yield
    except Exception as error:
        lasting = _lasting(error)
        told = isinstance(error, GeosegError) and not isinstance(error, WriteError) and not _failed_to_write(error)
        if told or not (lasting or isinstance(error, (OSError, GeosegError))):
            raise
        remedy = "make room" if lasting in _NO_ROOM else "make it writable" if lasting in _NO_RIGHT else "look into it"
        why = reason_of(error)
        where = "" if str(directory) in why else f"cannot write to {directory}: "
        raise WriteError(
            f"{where}{why}; what was finished is kept: {remedy}, and run the same command again to resume"
        ) from error

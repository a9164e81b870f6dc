"""Ctrl-C, and a batch system's SIGTERM: what runs ends in good order, and at once when told twice (floor 0)."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, Protocol

__all__ = ["CODE", "STOPPED", "LineOf", "is_asked_to_stop", "stop_if_asked", "stoppable"]

CODE = 130
"""exit code of what was stopped, as shells have it"""

STOPPED = "stopped; what was finished is kept, the same command again resumes"

_STOPPING = "stopping as soon as what is under way is done; the same signal again stops at once"
_NUMBERS = (signal.SIGINT, signal.SIGTERM)

_stopped = threading.Event()  # ever
_asked = threading.Event()  # for what runs now
_running = threading.Event()  # something is stoppable


@atexit.register  # before anything that takes time to end, so this is what comes last
def _deafen() -> None:
    """The interpreter's last moments are without handlers: a second signal would change the exit code of the first."""
    if _stopped.is_set():
        for number in _NUMBERS:
            signal.signal(number, signal.SIG_IGN)


class LineOf(Protocol):
    """Makes a line of a text."""

    def __call__(self, text: str, *, last: bool) -> str:
        """Of the last text, or of another."""
        ...


@contextmanager
def stoppable(line_of: LineOf) -> Iterator[None]:
    """A signal raises ``KeyboardInterrupt`` here, a second one ends the process; both are told on standard error.

    May be nested: the inner one tells. In a thread other than the main one, nothing changes.

    Args:
        line_of: how a line is told.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop_at_once(*_: Any) -> NoReturn:
        try:
            _kill_children()
            _tell(line_of(STOPPED, last=True))
        finally:  # whatever the system lets this process see of others
            os._exit(CODE)

    def stop(*_: Any) -> NoReturn:
        for number in _NUMBERS:
            signal.signal(number, stop_at_once)
        _stopped.set()
        _asked.set()
        # which is no news of an event loop that is interrupted, and no line of an event
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        _tell(line_of(_STOPPING, last=False))
        raise KeyboardInterrupt

    outermost = not _running.is_set()
    _running.set()
    held = {number: signal.getsignal(number) for number in _NUMBERS}
    for number, handler in held.items():
        if number == signal.SIGTERM or handler != signal.SIG_IGN:  # which is how a shell starts what it runs beside it
            signal.signal(number, stop)
    try:
        yield
    finally:
        if outermost:
            _running.clear()
            _asked.clear()
        for number, handler in held.items():
            if signal.getsignal(number) is stop:  # once it is stopped, another signal ends it at once to the very end
                signal.signal(number, handler)


def is_asked_to_stop() -> bool:
    """Whether a signal asked what runs now to stop. Compiled code that it hits may raise another error in its place."""
    return _asked.is_set()


def stop_if_asked() -> None:
    """Raises ``KeyboardInterrupt`` once more: Python drops one that hits while it clears something away."""
    if is_asked_to_stop() and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def _kill_children() -> None:
    """Local workers would go on for a while."""
    import psutil

    children: list[psutil.Process] = []
    with suppress(psutil.Error, OSError):  # a system may hide processes
        children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.Error):  # one that has ended meanwhile, as many do that the same Ctrl-C reached
            child.kill()


def _tell(line: str) -> None:
    with suppress(OSError):  # nobody may be listening
        os.write(2, f"{line}\n".encode())  # whoever was writing may hold the stream's lock

"""What a bounded number of calls use at once: requests of an engine, streams of a device (floor 3)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

__all__ = ["NoRoomError", "Slots"]

Slot = TypeVar("Slot")


class NoRoomError(Exception):
    """The device has no memory for another slot."""


class Slots(Generic[Slot]):
    """Slots that are opened when they are first needed, and lent to one call at a time; others wait for them.

    Args:
        open_slot: opens one; where it raises :class:`NoRoomError` and another is open already, calls make do with
            those that there are from then on.
        most: of them.
    """

    def __init__(self, open_slot: Callable[[], Slot], most: int) -> None:
        self._open_slot = open_slot
        self._most = most
        self._opened = 0
        self._idle: list[Slot] = []
        self._changed = threading.Condition()

    @property
    def most(self) -> int:
        """How many calls can run at once, as far as is known."""
        return self._most

    @contextmanager
    def borrow(self) -> Iterator[Slot]:
        """Lends a slot, once there is one.

        Raises:
            NoRoomError: the device has no room for the first one.
        """
        slot = self._take()
        try:
            yield slot
        finally:
            with self._changed:
                self._idle.append(slot)
                self._changed.notify()

    def _take(self) -> Slot:
        while True:
            with self._changed:
                while not self._idle and self._opened >= self._most:
                    self._changed.wait()
                if self._idle:
                    return self._idle.pop()
                self._opened += 1
            if (slot := self._opened_slot()) is not None:
                return slot

    def _opened_slot(self) -> Slot | None:
        """Another slot; ``None`` where there is no room and others are there."""
        try:
            return self._open_slot()
        except BaseException as error:
            with self._changed:
                self._opened -= 1
                self._changed.notify_all()
                if not isinstance(error, NoRoomError) or not self._opened:
                    raise
                self._most = self._opened
            return None

"""Slots: as many calls at once as there are, and as there is room for."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from geoseg.models.slots import NoRoomError, Slots


def run_many(slots: Slots[int], calls: int = 24) -> tuple[list[int], int]:
    """The slots that calls got, and how many of them were in use at once."""
    used: list[int] = []
    busy: set[int] = set()
    most = 0
    lock = threading.Lock()

    def call(_):
        nonlocal most
        with slots.borrow() as slot:
            with lock:
                assert slot not in busy
                busy.add(slot)
                used.append(slot)
                most = max(most, len(busy))
            time.sleep(0.003)
            with lock:
                busy.remove(slot)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(calls)))
    return used, most


def test_no_more_at_once_than_there_are():
    numbers = count()
    used, most = run_many(Slots(lambda: next(numbers), 3))
    assert len(used) == 24
    assert set(used) == {0, 1, 2}
    assert most == 3


def test_none_is_opened_before_it_is_needed():
    numbers = count()
    slots = Slots(lambda: next(numbers), 5)
    for _ in range(4):
        with slots.borrow() as slot:
            assert slot == 0
    assert next(numbers) == 1


def test_without_room_calls_make_do_with_what_there_is():
    numbers = count()
    tries = []

    def open_slot():
        tries.append(1)
        number = next(numbers)
        if number >= 2:
            raise NoRoomError
        return number

    slots = Slots(open_slot, 6)
    used, most = run_many(slots)
    assert len(used) == 24  # nothing is lost
    assert (set(used), most, slots.most) == ({0, 1}, 2, 2)
    assert len(tries) <= 8  # and it is not tried again and again
    run_many(slots)
    assert len(tries) <= 8


def test_without_room_for_the_first_it_is_told():
    def open_slot():
        raise NoRoomError("full")

    slots = Slots(open_slot, 2)
    for _ in range(2):  # nor is anything left behind that others would wait for
        with pytest.raises(NoRoomError, match="full"), slots.borrow():
            pass


def test_an_error_is_the_calls_own_and_the_slot_goes_on():
    slots = Slots(lambda: 7, 1)
    with pytest.raises(ValueError, match="mine"), slots.borrow():
        raise ValueError("mine")
    with slots.borrow() as slot:
        assert slot == 7


def test_other_errors_of_opening_are_told():
    fails = iter([False, True, True])

    def open_slot():
        if next(fails):
            raise RuntimeError("broken")
        return 1

    slots = Slots(open_slot, 2)
    with slots.borrow(), pytest.raises(RuntimeError, match="broken"), slots.borrow():
        pass
    with slots.borrow() as slot:
        assert slot == 1

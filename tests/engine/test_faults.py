"""What is tried again, for how long, and what ends a run."""

from __future__ import annotations

import errno

import pytest

from geoseg.engine import faults
from geoseg.engine.faults import attempt, keeping
from geoseg.errors import OutputError, ReadError, SceneError, WriteError


@pytest.fixture(autouse=True)
def no_streak(monkeypatch):
    monkeypatch.setattr(faults, "_streak", faults._Streak())


def unreadable(times: int, *, passing: bool):
    """A kernel that cannot read so many times, and the items that it was called with."""
    calls = []

    def kernel(job, item):
        calls.append(item)
        if len(calls) <= times:
            error = ReadError("not now")
            error.passing = passing
            raise error
        return item

    return kernel, calls


def test_a_source_that_is_away_is_waited_for_with_growing_pauses():
    waited = []
    kernel, calls = unreadable(4, passing=True)
    assert attempt(kernel, None, 7, waited.append) == 7
    assert calls == [7] * 5
    assert waited == [0.5, 1, 2, 4]
    kernel, calls = unreadable(99, passing=True)
    with pytest.raises(ReadError):
        attempt(kernel, None, 7, waited.append)
    assert len(calls) == 6


def test_what_stays_is_tried_once_more_without_a_pause():
    waited = []
    kernel, calls = unreadable(99, passing=False)
    with pytest.raises(ReadError):
        attempt(kernel, None, 7, waited.append)
    assert (len(calls), waited) == (2, [0.0])


def test_patience_ends_while_nothing_can_be_read(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(faults.time, "monotonic", lambda: now)

    def wait(pause):
        nonlocal now
        now += pause

    for tries in (6, 5, 2, 2):  # 15.5 s, then up to 20 s, then there are no pauses
        kernel, calls = unreadable(99, passing=True)
        with pytest.raises(ReadError):
            attempt(kernel, None, 0, wait)
        assert len(calls) == tries
    assert attempt(unreadable(0, passing=True)[0], None, 0, wait) == 0
    kernel, calls = unreadable(99, passing=True)
    with pytest.raises(ReadError):
        attempt(kernel, None, 0, wait)
    assert len(calls) == 6


def test_nobody_waits_when_the_run_is_stopped():
    kernel, calls = unreadable(99, passing=True)
    with pytest.raises(ReadError):
        attempt(kernel, None, 0, lambda _: True)
    assert len(calls) == 1


def raising(*errors: Exception):
    """A kernel that raises errors, each while the one before is handled."""

    def kernel(job, item):
        first, *rest = errors
        if not rest:
            raise first
        try:
            raise first
        finally:
            raising(*rest)(job, item)

    return kernel


@pytest.mark.parametrize(
    "errors",
    [
        [OSError(errno.ENOSPC, "full")],
        [OSError(errno.EDQUOT, "full"), ValueError("cannot close the archive")],
        [PermissionError(errno.EACCES, "no")],
        [OSError(errno.EROFS, "no")],
    ],
    ids=str,
)
def test_a_disk_without_room_or_right_ends_the_run(errors):
    with pytest.raises(WriteError):
        attempt(raising(*errors), None, 0)


@pytest.mark.parametrize("error", [OSError("who knows"), OSError(errno.EIO, "io"), SceneError("bad"), ValueError("x")])
def test_other_errors_are_what_they_are(error, tmp_path):
    with pytest.raises(type(error)) as caught:
        attempt(raising(error), None, 0)
    assert caught.value is error


def test_writers_that_give_up_end_the_run_in_one_line(tmp_path):
    def write():
        raise OutputError(f"cannot write {tmp_path}/x: no room") from OSError(errno.ENOSPC, "full")

    line = "No space left on device; what was finished is kept: make room, and run the same command again to resume"
    with pytest.raises(WriteError, match=f"^cannot write to {tmp_path}: {line}$"), keeping(tmp_path):
        write()
    with pytest.raises(WriteError, match=f"^cannot write to {tmp_path}: {line}$"), keeping(tmp_path):
        attempt(lambda job, item: write(), None, 0)


@pytest.mark.parametrize("error", [SceneError("bad"), OutputError("a layer without a CRS"), ValueError("x")])
def test_other_errors_of_a_run_are_what_they_are(error, tmp_path):
    with pytest.raises(type(error)) as caught, keeping(tmp_path):
        raise error
    assert caught.value is error

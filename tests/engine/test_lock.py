"""One run writes a directory at a time, wherever the directory lies."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
import uuid

import pytest

from geoseg.engine import lock
from geoseg.errors import OutputError
from geoseg.remote import place_of


@pytest.fixture(params=["local", "memory", "s3"])
def directory(request, tmp_path):
    if request.param == "local":
        return tmp_path
    if request.param == "memory":
        return place_of(f"memory://{uuid.uuid4().hex}")
    return place_of(f"s3://{request.getfixturevalue('bucket')}/run")


@pytest.fixture
def remote(bucket):
    return place_of(f"s3://{bucket}/run")


def leave_lease(directory, **facts) -> None:
    """What another process would have left."""
    (directory / "lock").write_bytes(json.dumps({"host": "elsewhere", "pid": 7, "owner": "other"} | facts).encode())


def test_the_second_is_refused_and_told_of_the_first(directory):
    held = lock.take(directory / "lock", directory)
    with pytest.raises(OutputError, match=rf"another run is writing {directory} \(process {os.getpid()} on .*\)"):
        lock.take(directory / "lock", directory)
    held.require()
    held.release()
    lock.take(directory / "lock", directory).release()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def no_locks(_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock, "_lock_file", no_locks)
    with pytest.raises(OutputError, match=r"lies on a file system that gives no locks \(No locks available\); mount"):
        lock.take(tmp_path / "lock", tmp_path)


def test_the_next_takes_over_from_a_dead_process_at_once(directory):
    code = (
        "import sys, os, signal; from geoseg.engine import lock; from geoseg.remote import place_of;"
        "place = place_of(sys.argv[1]); lock.take(place / 'lock', place); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(directory)], check=False, timeout=60)
    begun = time.monotonic()
    lock.take(directory / "lock", directory).release()
    assert time.monotonic() - begun < 3


def test_a_lease_of_another_machine_holds_until_it_lapses(remote, monkeypatch):
    leave_lease(remote)
    with pytest.raises(
        OutputError, match=r"is writing .* \(process 7 on elsewhere\): .* sign of life \d s ago; .* 60 s after"
    ):
        lock.take(remote / "lock", remote)
    monkeypatch.setattr(lock, "LAPSE_S", 1.0)
    time.sleep(2)
    held = lock.take(remote / "lock", remote)
    held.require()
    held.release()
    assert not list(remote.iterdir())


def test_a_lease_is_renewed(remote, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    held = lock.take(remote / "lock", remote)
    before = (remote / "lock").modified()
    time.sleep(1.5)
    assert (remote / "lock").modified() > before
    held.release()


def test_who_lost_the_lease_is_told(remote, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    held = lock.take(remote / "lock", remote)
    leave_lease(remote)
    time.sleep(0.5)
    with pytest.raises(OutputError, match="that took its place"):
        held.require()
    held.release()
    assert (remote / "lock").exists(), "it is the other's"

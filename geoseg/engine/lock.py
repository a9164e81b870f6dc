"""Keeps other runs out of a directory while one writes it (floor 4).

On a file system the system holds the lock, and lets go of it when the process ends, however it ends. An object store
knows no locks: there an object says who writes, and is written again every few seconds. Once that has not happened for
a minute (by the store's own clock), or where the process is known to be dead, the next run takes its place.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import socket
import sys
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from geoseg.errors import OutputError
from geoseg.remote import Place, RemotePath

__all__ = ["BEAT_S", "LAPSE_S", "Lock", "take"]

BEAT_S = 10.0
LAPSE_S = 60.0
_TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_SETTLE_S = 1.0  # two that took over at once see by then whose object stayed
_LAST_BEAT_S = 5.0


class Lock(Protocol):
    """What keeps other runs out."""

    def require(self) -> None:
        """Makes sure that no other run has come in meanwhile.

        Raises:
            OutputError: one has.
        """
        ...

    def release(self) -> None:
        """Lets others in."""
        ...


def take(path: Place, directory: Place) -> Lock:
    """Takes a lock, at once or not at all.

    Args:
        path: of the lock's file or object.
        directory: what it keeps others out of, for messages.

    Raises:
        OutputError: another run holds it, or the file system knows no locks.
        OSError: its file or object cannot be written.
    """
    return _Lease(path, directory) if isinstance(path, RemotePath) else _FileLock(path, directory)


@functools.cache
def _me(pid: int) -> dict[str, Any]:
    """Who this process is: for people, and for a successor on the same machine to see whether it still lives."""
    import psutil

    facts: dict[str, Any] = {"host": socket.gethostname(), "pid": pid}
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # a process number means something within its boot and its container only
        facts["machine"] = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return facts | {"born": psutil.Process(pid).create_time()}


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether a process is known to have ended: one of this machine, so that this can be known."""
    import psutil

    machine = _me(os.getpid()).get("machine")
    if machine is None or holder.get("machine") != machine:
        return False
    try:
        return bool(psutil.Process(holder["pid"]).create_time() != holder["born"])
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _named(holder: dict[str, Any] | None) -> str:
    return f" (process {holder['pid']} on {holder['host']})" if holder and {"pid", "host"} <= holder.keys() else ""


def _holder(content: str | bytes) -> dict[str, Any] | None:
    """Who wrote a lock; ``None`` where it does not say."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


class _FileLock:
    """Held by the system for this process."""

    def __init__(self, path: Path, directory: Place) -> None:
        self._file = path.open("a+", encoding="utf-8")
        try:
            _lock_file(self._file)
        except OSError as error:
            holder = None
            with suppress(OSError):
                self._file.seek(0)
                holder = _holder(self._file.read())
            self._file.close()
            if error.errno not in _TAKEN:
                raise OutputError(
                    f"{directory} lies on a file system that gives no locks ({error.strerror}); mount it with them "
                    "(NFS: version 4, or lockd; Lustre: -o flock), or give another -o"
                ) from None
            raise OutputError(
                f"another run is writing {directory}{_named(holder)}; wait for its end, or give another -o"
            ) from None
        try:
            self._file.truncate(0)
            self._file.write(json.dumps(_me(os.getpid())))
            self._file.flush()
        except OSError:
            with suppress(OSError):  # what it could not write, it tries again on closing
                self._file.close()
            raise

    def require(self) -> None:
        """See :meth:`Lock.require`: the system keeps them out."""

    def release(self) -> None:
        """See :meth:`Lock.release`."""
        self._file.close()


def _lock_file(file: IO[str]) -> None:
    """Takes an exclusive lock or raises OSError at once."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class _Lease:
    """An object that says who writes, renewed by a thread."""

    def __init__(self, path: RemotePath, directory: Place) -> None:
        self._path = path
        self._directory = directory
        self._owner = uuid.uuid4().hex
        self._content = json.dumps(_me(os.getpid()) | {"owner": self._owner}).encode()
        self._take()
        self._lost: dict[str, Any] | None = None
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._renew, name="geoseg-lease", daemon=True)
        self._beats.start()

    def _take(self) -> None:
        holder = self._read()  # not every store heeds that an object is to be new
        if took_over := holder is not None:
            self._refuse_living(holder or {})
            self._path.unlink(missing_ok=True)
        with suppress(FileExistsError):  # another's, or this one's if the answer to a first request got lost
            self._path.create(self._content)
        if took_over:
            time.sleep(_SETTLE_S)
        holder = self._read()
        if holder is None or holder.get("owner") != self._owner:
            raise self._taken(holder, "it began at the same moment")

    def _read(self) -> dict[str, Any] | None:
        try:
            return _holder(self._path.read_bytes()) or {}
        except FileNotFoundError:
            return None

    def _refuse_living(self, holder: dict[str, Any]) -> None:
        """Raises OutputError unless a lease has lapsed."""
        if _is_dead(holder):
            return
        clock = self._path.with_name(f"{self._path.name}-{self._owner}")
        clock.touch()  # only the store's own clock tells how old the store's objects are
        now = clock.modified()
        clock.unlink(missing_ok=True)
        try:
            age = (now - self._path.modified()).total_seconds()
        except FileNotFoundError:
            return
        if age < LAPSE_S:
            raise self._taken(
                holder,
                f"it gave a sign of life {max(age, 0):.0f} s ago; if it was killed, the directory is free "
                f"{LAPSE_S:.0f} s after its last one",
            )

    def _taken(self, holder: dict[str, Any] | None, why: str) -> OutputError:
        return OutputError(
            f"another run is writing {self._directory}{_named(holder)}: {why}; wait for its end, or give another -o"
        )

    def _renew(self) -> None:
        while not self._over.wait(BEAT_S):
            with suppress(OSError):  # the next beat tries again
                holder = self._read()
                if holder is not None and holder.get("owner") != self._owner:
                    self._lost = holder
                    return
                if not self._over.is_set():
                    self._path.write_bytes(self._content)

    def require(self) -> None:
        """See :meth:`Lock.require`."""
        if self._lost is not None:
            raise self._taken(self._lost, f"this one gave no sign of life for {LAPSE_S:.0f} s, and that took its place")

    def release(self) -> None:
        """See :meth:`Lock.release`."""
        self._over.set()
        self._beats.join(_LAST_BEAT_S)
        if self._beats.is_alive():  # the store is not there: the lease lapses, and nobody need wait for that
            return
        with suppress(OSError):
            if (self._read() or {}).get("owner") == self._owner:
                self._path.unlink(missing_ok=True)

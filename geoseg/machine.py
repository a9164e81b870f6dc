"""What this machine lets the process have (floor 0). Imports nothing that takes time: a run asks before it begins."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import stat
from pathlib import Path

__all__ = ["count_cores", "cpu_has", "describe_cpu", "keep_memory", "memory_bytes", "place_kernels"]

_GROUPS = Path("/sys/fs/cgroup")
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of malloc.h


def count_cores() -> int:
    """Processor cores that this process may use: those that it may run on, and what a container leaves of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = _two_numbers("cpu.max") or (
        _number("cpu/cpu.cfs_quota_us"),
        _number("cpu/cpu.cfs_period_us"),
    )
    if quota and period and quota > 0:
        return max(1, min(cores, quota // period))
    return cores


def cpu_has(*flags: str) -> bool:
    """Whether this machine's CPU has one of some features, by Linux' names; elsewhere it is not known to."""
    found = _cpu_info()
    return any(re.search(rf"\b{flag}\b", found) for flag in flags)


def describe_cpu() -> str:
    """What stands for this machine's kind of CPU: its name and its features, as far as they are known."""
    lines = re.findall(r"^(?:model name|flags|Features)\s*:.*$", _cpu_info(), re.MULTILINE)
    return "\n".join(dict.fromkeys(lines)) or platform.processor()


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or what a container leaves of it."""
    import psutil

    total = int(psutil.virtual_memory().total)
    limit = _number("memory.max") or _number("memory/memory.limit_in_bytes")
    return min(total, limit) if limit and limit > 0 else total


def keep_memory() -> None:
    """Lets this process keep the memory of arrays below 32 MiB for those that come next, up to 256 MiB of it.

    glibc (elsewhere nothing is done) would give large ones back to the system and ask for others, of which every page
    costs time, the more on a virtual machine whose host has to find it. It learns not to, but for processes that are
    told when to give memory back, as Dask tells its workers. And each thread would keep what it had to itself: with as
    many heaps as cores a run takes a tenth less memory. Where threads have more heaps already they stay.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, 256 << 20)
    mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most it takes
    mallopt(_ARENA_MAX, count_cores())


def place_kernels() -> None:
    """Tells numba where to keep compiled kernels if it would find no place itself, and so refuse to compile any.

    It looks beside the modules and in the user's cache folder. In a container whose user has no home, neither may be
    there; then they go to ``GEOSEG_CACHE``, else to a folder of this user's among the temporary ones.
    """
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - fails without a home
    if _may_write(Path(__file__).parent / "__pycache__") or (Path(cache).is_absolute() and _may_write(Path(cache))):
        return
    named = os.environ.get("GEOSEG_CACHE")
    place = Path(named) / "kernels" if named and _may_write(Path(named)) else _own_folder()
    os.environ["NUMBA_CACHE_DIR"] = str(place)


def _own_folder() -> Path:
    """A temporary folder that nobody else may write, the same in all processes if that can be."""
    import tempfile

    folder = Path(tempfile.gettempdir()) / f"geoseg-kernels-{os.getuid() if hasattr(os, 'getuid') else ''}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077 and found.st_uid == os.getuid():
            return folder
    except (OSError, AttributeError):
        pass
    return Path(tempfile.mkdtemp(prefix="geoseg-kernels-"))


def _may_write(folder: Path) -> bool:
    """Whether files can be made in a folder, which may itself have to be made."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), None)
    return there is not None and there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _cpu_info() -> str:
    """Linux' words on its CPUs; elsewhere none."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return ""


def _number(name: str) -> int | None:
    """The number in a control group's file; None if there is no such file or no limit in it."""
    numbers = _numbers(name)
    return numbers[0] if len(numbers) == 1 else None


def _two_numbers(name: str) -> tuple[int, int] | None:
    numbers = _numbers(name)
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


def _numbers(name: str) -> list[int]:
    try:
        words = (_GROUPS / name).read_text(encoding="ascii").split()
        return [int(word) for word in words]
    except (OSError, ValueError):  # no such file, or "max"
        return []

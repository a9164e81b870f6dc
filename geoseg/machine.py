"""What this machine lets the process have (floor 0). Imports nothing that takes time: a run asks before it begins."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["count_cores", "memory_bytes"]

_GROUPS = Path("/sys/fs/cgroup")


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


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or what a container leaves of it."""
    import psutil

    total = int(psutil.virtual_memory().total)
    limit = _number("memory.max") or _number("memory/memory.limit_in_bytes")
    return min(total, limit) if limit and limit > 0 else total


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

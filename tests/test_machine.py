from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from geoseg import machine


@pytest.mark.parametrize(
    ("files", "cores", "limit"),
    [
        ({}, 8, None),
        ({"cpu.max": "max 100000", "memory.max": "max"}, 8, None),
        ({"cpu.max": "250000 100000", "memory.max": "1048576"}, 2, 1 << 20),
        ({"cpu.max": "50000 100000"}, 1, None),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8, None),
        ({"memory/memory.limit_in_bytes": "2097152"}, 8, 2 << 20),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, 8, None),
    ],
)
def test_a_container_leaves_less(tmp_path, monkeypatch, files, cores, limit):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{text}\n", encoding="ascii")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    whole = machine.memory_bytes()
    monkeypatch.setattr(machine, "_GROUPS", tmp_path)
    assert machine.count_cores() == cores
    assert machine.memory_bytes() == (limit or max(whole, machine.memory_bytes()))


_FAULTS = """
import resource, sys
import numpy as np
from geoseg.machine import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
np.ones(1 << 22, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    np.ones(1 << 22, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_the_memory_of_arrays_is_kept_for_the_next():
    def faults(how: str) -> int:
        # as Dask starts its workers; and no huge pages, of which few would be missed
        environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536", "NUMPY_MADVISE_HUGEPAGE": "0"}
        found = subprocess.run(
            [sys.executable, "-c", _FAULTS, how], env=environment, stdout=subprocess.PIPE, check=True
        )
        return int(found.stdout)

    assert faults("keep") < faults("as it is") / 20


def test_cpus_of_other_names_or_features_are_told_apart(monkeypatch):
    described = []
    for lines in (
        "processor : 0\nmodel name : One\nflags : avx2\nprocessor : 1\nmodel name : One\nflags : avx2\n",
        "processor : 0\nmodel name : One\nflags : avx2\n",
        "processor : 0\nmodel name : One\nflags : avx2 avx512f\n",
        "processor : 0\nmodel name : Two\nflags : avx2\n",
        "processor : 0\nFeatures : asimd\n",
    ):
        monkeypatch.setattr(Path, "read_text", lambda *_, lines=lines, **__: lines)
        described.append(machine.describe_cpu())
    assert described[0] == described[1]
    assert len(set(described)) == 4


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine on which only a temporary folder may be written."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.delenv("GEOSEG_CACHE", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(machine, "_may_write", lambda folder: tmp_path in folder.parents)
    yield tmp_path
    os.environ.pop("NUMBA_CACHE_DIR", None)


def test_kernels_stay_where_numba_keeps_them(monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    machine.place_kernels()
    assert "NUMBA_CACHE_DIR" not in os.environ
    monkeypatch.setenv("NUMBA_CACHE_DIR", "mine")
    machine.place_kernels()
    assert os.environ["NUMBA_CACHE_DIR"] == "mine"


def test_kernels_go_to_a_folder_of_ones_own(nowhere):
    machine.place_kernels()
    place = Path(os.environ.pop("NUMBA_CACHE_DIR"))
    assert place.parent == nowhere
    assert place.stat().st_mode & 0o777 == 0o700
    machine.place_kernels()
    assert os.environ["NUMBA_CACHE_DIR"] == str(place)


@pytest.mark.parametrize("link", [False, True])
def test_kernels_do_not_go_where_others_may_write(nowhere, link):
    machine.place_kernels()
    place = Path(os.environ.pop("NUMBA_CACHE_DIR"))
    if link:
        place.rename(nowhere / "elsewhere")
        place.symlink_to(nowhere / "elsewhere")
    else:
        place.chmod(0o777)
    machine.place_kernels()
    other = Path(os.environ["NUMBA_CACHE_DIR"])
    assert other.parent == nowhere
    assert other not in (place, nowhere / "elsewhere")


def test_kernels_go_to_the_named_cache(nowhere, monkeypatch):
    monkeypatch.setenv("GEOSEG_CACHE", str(nowhere / "cache"))
    machine.place_kernels()
    assert os.environ["NUMBA_CACHE_DIR"] == str(nowhere / "cache" / "kernels")


def test_what_may_be_written(tmp_path):
    (tmp_path / "file").touch()
    assert machine._may_write(tmp_path / "a" / "b")
    assert not machine._may_write(tmp_path / "file" / "b")

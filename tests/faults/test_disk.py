"""Disks that are full, or may not be written: one line, nothing half-written, and nothing lost when there is room."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyogrio
import pytest

import geoseg
from geoseg import Execution, VectorSettings
from geoseg.errors import OutputError, WriteError

RESUMES = (
    r"what was finished is kept: (make room|make it writable|look into it), and run the same command again to resume$"
)


def assert_sound(subject, home: Path) -> None:
    """Under final names there are whole files only, and no leftovers."""
    for path in home.iterdir() if home.exists() else ():
        if path.name in subject.whole:
            assert path.read_bytes() == subject.whole[path.name], path.name
        else:
            assert path.name in {".geoseg", "layers.gpkg"}
    assert not list(home.rglob(".partial-*"))
    deadline = time.monotonic() + 5  # where one of zarr's threads fails, another may be at it still
    while list(home.rglob("*.partial")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if (package := home / "layers.gpkg").exists():
        for name, _ in pyogrio.list_layers(package):
            features = len(json.loads(subject.whole[f"{name}.geojson"])["features"])
            assert len(pyogrio.read_dataframe(package, name)) == features


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process grows beyond some bytes, as under a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_files_that_may_not_grow(quick_subject, tmp_path):
    """Every kind of file is the first one that is too large, under some limit."""
    home, failed_in, codes = tmp_path / "layers", set(), []
    for step in range(60):
        told = None
        try:
            with files_of_at_most(int(400 * 1.25**step)):
                quick_subject.run(home)
        except (OutputError, WriteError) as error:
            told = error
        if told is None:
            break
        assert "File too large" in str(told) or "layers.gpkg" in str(told)
        assert "\n" not in str(told)
        assert told.exit_code == 2 or re.search(RESUMES, str(told))
        failed_in.add(quick_subject.seen.begun[-1] if quick_subject.seen.begun else "begin")
        codes.append(told.exit_code)
        assert_sound(quick_subject, home)
    assert codes == sorted(codes, reverse=True), "2 while nothing was kept, 1 from then on"
    assert failed_in >= {"begin", "predict", "trace", "export"}
    quick_subject.assert_whole(home)


class Disk:
    """A small disk of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def fill(self, leave: int) -> None:
        """Takes all room but for some bytes."""
        room = os.statvfs(self.place)
        with (self.place / "filler").open("wb") as file:
            file.write(b"\0" * max(room.f_bavail * room.f_frsize - leave, 0))

    def make_room(self) -> None:
        (self.place / "filler").unlink()


def mount(*arguments: str | Path) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this test mounts a small disk, which is not allowed here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    place = tmp_path / "disk"
    place.mkdir()
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("this test mounts a small disk, which takes root")
    mount("-t", "tmpfs", "-o", "size=24m", "geoseg-test", place)
    yield Disk(place)
    while os.path.ismount(place):
        subprocess.run(["umount", "--recursive", place], check=True)


@pytest.mark.parametrize(
    ("stage", "chunks", "leave"),
    [
        ("predict", 7, 4096),
        ("sieve", 0, 0),
        ("trace", 9, 8192),
        ("join", 0, 0),
        ("export", 0, 0),
        ("export", 0, 60_000),
        ("export", 0, 200_000),
        ("export", -1, 0),  # what is left is run.json
    ],
)
def test_a_disk_that_is_full(disk, quick_subject, stage, chunks, leave):
    home = disk.place / "layers"

    def fill(now, behind):
        if (now, behind) == (stage, chunks):
            disk.fill(leave)

    with pytest.raises(WriteError, match=rf"No space left on device; {RESUMES}"):
        quick_subject.run(home, fill)
    assert_sound(quick_subject, home)
    assert not (home / "run.json").exists()
    disk.make_room()
    result = quick_subject.run(home)
    quick_subject.assert_whole(home)
    assert result.stages[0].chunks.reused == (chunks if stage == "predict" else 30)


def test_a_disk_that_is_full_before_anything_is_there(disk, quick_subject, geoseg, quick_card):
    disk.fill(0)
    code, out, err = geoseg(
        "run", quick_subject.scene, "-o", disk.place / "layers", "--model", quick_card, "--threads=1", "--quiet"
    )
    assert (code, out) == (2, "")
    assert err == f"geoseg: {disk.place / 'layers'} cannot be written: No space left on device; give another -o\n"


def test_a_disk_that_becomes_full_for_workers(disk, quick_subject):
    home = disk.place / "layers"
    begun = []

    def fill(now, behind):
        if (now, behind) == ("predict", 6):
            disk.fill(0)
        begun.append(behind)

    with pytest.raises(WriteError, match=rf"No space left on device; {RESUMES}"):
        quick_subject.run(home, fill, Execution(workers=2, chunk=64))
    assert max(begun) < 20, "it stops at once"
    assert_sound(quick_subject, home)
    disk.make_room()
    quick_subject.run(home)
    quick_subject.assert_whole(home)


def test_a_disk_that_is_full_for_a_mask(disk, write_blocks, watcher, tmp_path):
    mask = np.kron(np.random.default_rng(2).integers(0, 4, (30, 30)), np.ones((8, 8))).astype(np.uint8)
    path = write_blocks(tmp_path / "mask.tif", mask[None])
    settings, execution = VectorSettings(min_area_m2=0, min_width_m=2), Execution(threads=1, chunk=64)
    whole = geoseg.vectorize(path, tmp_path / "whole", settings=settings, execution=execution)
    home = disk.place / "layers"
    for at in (("open", 3), ("trace", 5), ("join", 0), ("export", 0)):
        fill = watcher(lambda *now, at=at: disk.fill(0) if now == at else None)
        with pytest.raises(WriteError, match=RESUMES):
            geoseg.vectorize(path, home, settings=settings, execution=execution, progress=fill)
        assert [path.name for path in home.iterdir()] == [".geoseg"]
        disk.make_room()
    geoseg.vectorize(path, home, settings=settings, execution=execution)
    for name in whole.files:
        assert (home / name).read_bytes() == (whole.directory / name).read_bytes()


def test_a_directory_that_may_not_be_written(disk, quick_subject, geoseg, quick_card):
    home = disk.place / "layers"
    command = ("run", quick_subject.scene, "-o", home, "--model", quick_card, "--threads=1", "--quiet")
    mount("-o", "remount,ro", disk.place)
    code, _, err = geoseg(*command)
    assert (code, err) == (2, f"geoseg: {home} cannot be written: Read-only file system; give another -o\n")
    mount("-o", "remount,rw", disk.place)
    assert geoseg(*command)[0] == 0
    next(home.glob("*.geojson")).unlink()  # else there is nothing to do
    mount("-o", "remount,ro", disk.place)
    code, _, err = geoseg(*command)
    assert (code, err) == (2, f"geoseg: {home} cannot be written: Read-only file system; give another -o\n")
    mount("-o", "remount,rw", disk.place)
    assert geoseg(*command)[0] == 0
    assert len(list(home.glob("*.geojson"))) == 3


@pytest.mark.parametrize("stage", ["predict", "trace"])
def test_a_directory_that_becomes_read_only(disk, quick_subject, stage):
    home = disk.place / "layers"
    part = {"predict": "arrays.zarr/mask/c", "trace": "fragments"}[stage]
    folder = home / ".geoseg" / "masks" / "multi-otsu" / part

    def close(now, behind):
        if (now, behind) == (stage, 0):
            folder.mkdir(exist_ok=True)
            mount("-t", "tmpfs", "-o", "ro", "geoseg-test", folder)

    with pytest.raises(WriteError, match=rf"Read-only file system; {RESUMES}"):
        quick_subject.run(home, close)
    subprocess.run(["umount", folder], check=True)
    assert_sound(quick_subject, home)
    quick_subject.run(home)
    quick_subject.assert_whole(home)


@pytest.mark.parametrize("name", ["fgb", "gpkg"])
def test_the_last_bytes_that_gdal_writes_are_missed(write_blocks, tmp_path, name):
    """It writes them when it closes a file, and does not tell that it could not."""
    mask = np.kron(np.random.default_rng(2).integers(0, 2, (40, 40)), np.ones((4, 4))).astype(np.uint8)
    path, home = write_blocks(tmp_path / "mask.tif", mask[None]), tmp_path / "layers"
    settings, execution = VectorSettings(min_area_m2=0, formats=(name,)), Execution(threads=1, chunk=160)
    whole = geoseg.vectorize(path, tmp_path / "whole", settings=settings, execution=execution)
    (file,) = whole.files
    size = (whole.directory / file).stat().st_size
    with pytest.raises(WriteError, match="not all of it is on the disk"), files_of_at_most(size - 1):
        geoseg.vectorize(path, home, settings=settings, execution=execution)
    assert [path.name for path in home.iterdir()] == [".geoseg"]

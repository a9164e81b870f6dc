"""What is kept: the same bytes under the same facts, checked, and not for ever."""

from __future__ import annotations

import os

import pytest

from geoseg.models import kept
from geoseg.models.kept import find_kept, keep


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def grow_older(folder) -> None:
    """By a second, all that is kept."""
    for file in (folder / "graphs").iterdir():
        os.utime(file, ns=(file.stat().st_mtime_ns - 10**9,) * 2)


def test_what_was_kept_is_found_under_the_same_facts_alone():
    keep("graphs", ["a", 1], b"content")
    assert find_kept("graphs", ["a", 1]) == b"content"
    assert find_kept("graphs", ["a", 2]) is None
    assert find_kept("others", ["a", 1]) is None


def test_other_code_finds_nothing(monkeypatch):
    keep("graphs", ["a"], b"content")
    monkeypatch.setattr(kept, "_code", lambda: "changed")
    assert find_kept("graphs", ["a"]) is None


@pytest.mark.parametrize("spoil", [lambda _: b"", lambda whole: whole[:-1], lambda whole: whole[:-1] + b"x"])
def test_what_is_spoilt_is_not_found_and_kept_anew(folder, spoil):
    keep("graphs", ["a"], b"content")
    [file] = (folder / "graphs").iterdir()
    file.write_bytes(spoil(file.read_bytes()))
    assert find_kept("graphs", ["a"]) is None
    keep("graphs", ["a"], b"content")
    assert find_kept("graphs", ["a"]) == b"content"


def test_the_oldest_go(folder, monkeypatch):
    monkeypatch.setattr(kept, "_MOST", 2)
    for number in range(4):
        keep("graphs", [number], b"content")
        grow_older(folder)
    assert [find_kept("graphs", [number]) for number in range(4)] == [None, None, b"content", b"content"]


def test_what_is_large_goes_sooner(monkeypatch):
    monkeypatch.setattr(kept, "_MOST_BYTES", 100)
    keep("graphs", [1], b"content")
    keep("graphs", [2], b"content" * 100)
    assert find_kept("graphs", [1]) is None
    assert find_kept("graphs", [2]) == b"content" * 100


def test_what_is_used_stays(folder, monkeypatch):
    monkeypatch.setattr(kept, "_MOST", 2)
    for number in range(2):
        keep("graphs", [number], b"content")
        grow_older(folder)
    assert find_kept("graphs", [0])
    keep("graphs", [2], b"content")
    assert [find_kept("graphs", [number]) is not None for number in range(3)] == [True, False, True]


def test_a_folder_that_takes_nothing_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "file"))
    keep("graphs", ["a"], b"content")
    assert find_kept("graphs", ["a"]) is None

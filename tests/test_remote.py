"""Paths in an object store: as pathlib's, on fsspec's own memory and on a real S3 server."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from geoseg import remote
from geoseg.atomic import local_copies, remove_leftovers, remove_tree, staged
from geoseg.errors import OutputError
from geoseg.remote import RemotePath, place_of


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request, tmp_path):
    """A new folder of each kind."""
    if request.param == "local":
        return tmp_path
    if request.param == "memory":
        return place_of(f"memory://{uuid.uuid4().hex}")
    return place_of(f"s3://{request.getfixturevalue('bucket')}/some/where/")


@pytest.fixture
def s3(bucket):
    return place_of(f"s3://{bucket}/run")


def test_a_file_is_written_read_listed_and_removed(folder):
    path = folder / "a.bin"
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        path.read_bytes()
    path.write_bytes(b"one")
    path.write_bytes(b"two")
    assert path.exists()
    assert path.read_bytes() == b"two"
    assert path.read_text() == "two"
    with path.open("rb") as file:
        assert file.read() == b"two"
    (folder / "mark").touch()
    assert (folder / "mark").read_bytes() == b""
    assert {entry.name for entry in folder.iterdir()} == {"a.bin", "mark"}
    path.unlink()
    path.unlink(missing_ok=True)
    assert not path.exists()


def test_names_are_those_of_pathlib(folder):
    path = folder / "mask.tif"
    assert (path.name, path.stem, path.parent) == ("mask.tif", "mask", folder)
    assert path.with_name("other.tif") == folder / "other.tif"
    assert pickle.loads(pickle.dumps(path)) == path
    assert str(path) == f"{folder}/mask.tif"


def test_a_staged_file_and_its_side_file_appear_together(folder):
    with staged(folder / "mask.tif") as inside:
        inside.write_text("pixels")
        inside.with_name("mask.tif.aux.xml").write_text("names")
        assert not list(folder.glob("mask*") if isinstance(folder, Path) else folder.iterdir())
    assert sorted(entry.name for entry in folder.iterdir()) == ["mask.tif", "mask.tif.aux.xml"]
    assert (folder / "mask.tif").read_bytes() == b"pixels"
    assert remove_leftovers(folder) == []


def test_a_staged_file_that_fails_leaves_the_old_one(folder):
    (folder / "a").write_bytes(b"old")

    def fail():
        with staged(folder / "a") as inside:
            inside.write_text("new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    with pytest.raises(OutputError), staged(folder / "b"):
        pass  # nothing is written
    assert [entry.name for entry in folder.iterdir()] == ["a"]
    assert (folder / "a").read_bytes() == b"old"


def test_files_are_copied_where_they_are_not_local(folder, tmp_path):
    (folder / "a").write_bytes(b"a" * 100)
    (folder / "b").write_bytes(b"")
    with local_copies([folder / "b", folder / "a"]) as copies:
        assert [copy.read_bytes() for copy in copies] == [b"", b"a" * 100]
    assert copies[0].exists() == isinstance(folder, Path)


def test_a_tree_goes_and_its_neighbour_stays(folder):
    for name in ("tree", "tree-of-another"):
        if isinstance(folder, Path):
            (folder / name / "deep").mkdir(parents=True)
        for number in range(3):
            (folder / name / "deep" / str(number)).write_bytes(b"x")
    remove_tree(folder / "tree")
    remove_tree(folder / "tree")
    assert [entry.name for entry in folder.iterdir()] == ["tree-of-another"]
    assert len(list((folder / "tree-of-another" / "deep").iterdir())) == 3


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_what_is_created_must_be_new(request, kind):
    path = request.getfixturevalue("s3") if kind == "s3" else place_of(f"memory://{uuid.uuid4().hex}")
    (path / "lock").create(b"mine")
    with pytest.raises(FileExistsError):
        (path / "lock").create(b"theirs")
    assert (path / "lock").read_bytes() == b"mine"


def test_urls_and_paths_are_told_apart(tmp_path):
    assert place_of("layers") == Path("layers")
    assert place_of(tmp_path) == tmp_path
    assert place_of(f"file://{tmp_path}") == tmp_path
    assert place_of("memory://a/b/") == RemotePath("memory://a/b")
    assert place_of(RemotePath("memory://a")) == RemotePath("memory://a")
    assert RemotePath("s3://a/run").holds("s3://a/run/scene.tif")
    assert not RemotePath("s3://a/run").holds("s3://a/run-2/scene.tif")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("ftp://host/run", r"geoseg does not write to ftp://; give a folder, or a URL of s3://"),
        ("s3://", r"s3:// names no bucket; give one like s3://bucket/folder"),
        (Path("s3://bucket/run"), r"s3:/bucket/run was a URL before it became a Path; give s3://… as text"),
    ],
)
def test_places_that_cannot_be_are_one_line(given, told):
    with pytest.raises(OutputError, match=told):
        place_of(given)


def test_a_package_that_lacks_is_named():
    code = "import sys; sys.modules['gcsfs'] = None; from geoseg.remote import place_of; place_of('gs://bucket/run')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'gs://bucket/run needs the package gcsfs; install it with `pip install "geoseg[gs]"`' in ended.stderr


def test_what_may_pass_is_tried_again(s3, object_store):
    with object_store.troubled(failing=0.1, unheard=0.1, dropped=0.1):
        for number in range(12):
            (s3 / str(number)).write_bytes(b"%d" % number)
        assert sorted(int(entry.name) for entry in s3.iterdir()) == list(range(12))
        assert [(s3 / str(number)).read_bytes() for number in range(12)] == [b"%d" % number for number in range(12)]
        remove_tree(s3)
    assert not list(s3.iterdir())


def test_patience_ends(s3, object_store, monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE_S", 1.0)
    with object_store.troubled(failing=1.0), pytest.raises(OSError, match=r"s3://") as caught:
        (s3 / "a").write_bytes(b"a")
    assert "\n" not in str(caught.value)
    assert not (s3 / "a").exists()


def test_what_will_not_pass_is_told_at_once(s3, object_store):
    begun = time.monotonic()
    with object_store.troubled(refusing=("PUT",)), pytest.raises(PermissionError, match="Access Denied"):
        (s3 / "a").write_bytes(b"a")
    with pytest.raises(FileNotFoundError, match="bucket does not exist"):
        place_of("s3://there-is-no-such-bucket/a").write_bytes(b"a")
    assert time.monotonic() - begun < 1


def test_one_request_for_each_thing(s3, object_store):
    (s3 / "a").write_bytes(b"a")
    for do, requests in [
        ((s3 / "a").read_bytes, {"GET": 1}),
        (lambda: (s3 / "a").write_bytes(b"b"), {"PUT": 1}),
        ((s3 / "a").touch, {"PUT": 1}),
        (lambda: list(s3.iterdir()), {"LIST": 1}),
        ((s3 / "a").unlink, {"DELETE": 1}),
    ]:
        object_store.requests.clear()
        do()
        assert object_store.requests == requests

from __future__ import annotations

import pytest

from geoseg.atomic import remove_leftovers, staged
from geoseg.errors import OutputError


def test_file_and_side_file_appear_together(tmp_path):
    target = tmp_path / "mask.tif"
    with staged(target) as inside:
        inside.write_text("pixels")
        inside.with_name("mask.tif.aux.xml").write_text("names")
        assert not target.exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mask.tif", "mask.tif.aux.xml"]
    assert target.read_text() == "pixels"


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "water.geojson"
    target.write_text("old")

    def fail():
        with staged(target) as inside:
            inside.write_text("new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert [entry.name for entry in tmp_path.iterdir()] == ["water.geojson"]
    assert target.read_text() == "old"


def test_missing_folder_is_named(tmp_path):
    with (
        pytest.raises(OutputError, match=r"there is no folder .*nowhere; create it first"),
        staged(tmp_path / "nowhere/a"),
    ):
        pass


def test_target_that_is_a_folder_is_named(tmp_path):
    (tmp_path / "mask.tif").mkdir()

    def write():
        with staged(tmp_path / "mask.tif") as inside:
            inside.write_text("pixels")

    with pytest.raises(OutputError, match=r"cannot write .*mask\.tif: .*; is it a folder, or open elsewhere\?"):
        write()
    assert [entry.name for entry in tmp_path.iterdir()] == ["mask.tif"]


def test_nothing_written_is_an_error(tmp_path):
    with pytest.raises(OutputError), staged(tmp_path / "mask.tif"):
        pass


def test_leftovers_of_a_killed_process_go_and_other_folders_stay(tmp_path):
    context = staged(tmp_path / "mask.tif")
    inside = context.__enter__()
    inside.write_text("half")
    (tmp_path / ".geoseg").mkdir()
    assert remove_leftovers(tmp_path) == [inside.parent]
    assert [entry.name for entry in tmp_path.iterdir()] == [".geoseg"]
    with pytest.raises(OutputError):
        context.__exit__(None, None, None)

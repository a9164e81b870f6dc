"""The command line as a user meets it: words, exit codes, and nothing left behind by a refusal."""

from __future__ import annotations

import json

import numpy as np
import pytest


def test_run_ends_with_the_tables(geoseg, land, small_card, tmp_path):
    options = ["--model", small_card, "--threads=1", "--formats", "geojson,parquet,gpkg,fgb"]
    code, out, _ = geoseg("run", land, "-o", tmp_path / "layers", *options)
    assert code == 0
    for word in ("polygons", "area", "share", "water", "road", "field", "parking", "predict", "seconds", "layers.gpkg"):
        assert word in out
    code, out, _ = geoseg("info", tmp_path / "layers")
    assert code == 0
    assert "parking" in out
    code, out, _ = geoseg("info", tmp_path / "layers", "--json")
    assert json.loads(out)["kind"] == "run"
    code, out, err = geoseg("run", land, "-o", tmp_path / "layers", *options, "--quiet")
    assert (code, out, err) == (0, "", "")


def test_plan_tells_and_writes_nothing(geoseg, land, small_card, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = geoseg("plan", land, "--model", small_card, "--workers", "3")
    assert code == 0
    for word in ("330 x 211 px", "3 workers", "24 of 128 px", "memory", "disk", "time", "EPSG:32614"):
        assert word in out
    assert not list(tmp_path.iterdir())


def test_info_and_models(geoseg, land, small_card):
    code, out, _ = geoseg("info", land)
    assert code == 0
    assert "EPSG:32614" in out
    assert "red" in out
    code, out, _ = geoseg("info", land, "--json")
    facts = json.loads(out)
    assert (facts["kind"], facts["width"], facts["gsd_m"]) == ("scene", 330, 1.0)
    code, out, _ = geoseg("models")
    assert code == 0
    assert "town" in out
    code, out, _ = geoseg("models", "town")
    assert "held-out figures" in out
    code, out, _ = geoseg("info", small_card, "--json")
    assert json.loads(out)["properties"]["mlm:name"] == "small"


@pytest.fixture(scope="session")
def bad(write_scene, tmp_path_factory):
    """Scenes that no run can use, by what is wrong with them."""
    folder = tmp_path_factory.mktemp("bad")
    text = folder / "text.tif"
    text.write_text("this is no raster")
    pixels = np.full((3, 40, 40), 90, np.uint8)
    return {
        "no file": folder / "missing.tif",
        "text": text,
        "one band": write_scene(pixels[:1], "one"),
        "four bands": write_scene(np.full((4, 40, 40), 90, np.uint8), "unnamed", photometric="MINISBLACK", alpha="NO"),
        "uint16": write_scene(pixels.astype(np.uint16), "sixteen", photometric="RGB"),
        "no crs": write_scene(pixels, "nowhere", crs=None),
        "coarse": write_scene(pixels, "coarse30", gsd_m=30),
    }


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no file", "no such file"),
        ("text", "cannot be opened as a raster"),
        ("one band", "give a scene that has them"),
        ("four bands", "--bands 1,2,3"),
        ("uint16", "--scale LOW,HIGH"),
        ("no crs", "no CRS"),
        ("coarse", "GSD of 30 m"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "plan"])
def test_bad_scenes_end_with_one_line(geoseg, bad, tmp_path, verb, what, words):
    output = ["-o", tmp_path / "layers"] if verb == "run" else []
    code, out, err = geoseg(verb, bad[what], *output)
    assert code == 2
    assert out == ""
    assert err.startswith("geoseg: ")
    assert err.count("\n") == 1
    assert words in err
    assert not (tmp_path / "layers").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--bbox", "1,2,3"],
        ["--chunk", "0"],
        ["--chunk", "many"],
        ["--threads=1", "--workers", "2"],
        ["--scale", "9,3"],
        ["--formats", "shp"],
        ["--simplify", "-1"],
        ["--simplify-method", "best"],
        ["--min-area", "nan"],
        ["--fill-holes", "-1"],
        ["--min-width", "-1"],
        ["--growth", "0"],
        ["--device", "tpu"],
        ["--nonsense"],
        ["--model", "nonesuch"],
        ["--datetime", "2024-05-01/.."],
        ["--asset", "visual"],
        ["-o", ""],
    ],
    ids=" ".join,
)
def test_bad_usage_ends_with_one_line(geoseg, land, tmp_path, options):
    code, out, err = geoseg("run", land, "-o", tmp_path / "layers", *options)
    assert (code, out) == (2, "")
    assert err.startswith("geoseg: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "layers").exists()


def test_vectorize_takes_names_and_codes(geoseg, write_scene, tmp_path):
    mask = write_scene(np.kron([[0, 1], [2, 2]], np.ones((20, 20))).astype(np.uint8)[None], "codes", nodata=255)
    code, out, _ = geoseg("vectorize", mask, "-o", tmp_path / "layers", "--classes", "lake=1,wood=2", "--threads=1")
    assert code == 0
    assert "wood" in out
    assert (tmp_path / "layers" / "lake.geojson").exists()
    for option, value, words in (
        ("--classes", "lake", "name=code"),
        ("--boundaries", "3", "CODE=CODE"),
        ("--boundaries", "1=1", "none twice"),
        ("--boundaries", "1=255", "1-254"),
    ):
        code, _, err = geoseg("vectorize", mask, "-o", tmp_path / "other", option, value)
        assert code == 2
        assert words in err
        assert err.count("\n") == 1
    assert not (tmp_path / "other").exists()


def test_vectorize_keeps_touching_instances_apart(geoseg, write_scene, tmp_path):
    mask = write_scene(np.kron([[3, 5, 3]], np.ones((30, 10))).astype(np.uint8)[None], "fields", nodata=255)
    options = ["--boundaries", "3=5", "--growth", "6", "--smooth", "--simplify-method", "douglas-peucker"]
    code, _, _ = geoseg("vectorize", mask, "-o", tmp_path / "layers", *options, "--threads=1")
    assert code == 0
    features = json.loads((tmp_path / "layers" / "class_3.geojson").read_text())["features"]
    assert [round(feature["properties"]["area_m2"] / 450, 2) for feature in features] == [1, 1]


def test_help_names_every_verb(geoseg):
    code, out, _ = geoseg("--help")
    assert code == 0
    for verb in ("run", "plan", "vectorize", "info", "models", "halo"):
        assert f"  {verb} " in out

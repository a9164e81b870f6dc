"""What models are given beside pixels of 0-255: values as they are, thresholds of the whole scene, refined scores."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import rasterio

import geoseg
from geoseg import Execution, RunSettings, Scene, VectorSettings, make_plan
from geoseg.errors import OutputError, SettingsError
from geoseg.models import zoo

from .conftest import HALO, paint

CORE = 64


@pytest.fixture(scope="session")
def write_segmenter(tmp_path_factory):
    """Returns a function that writes the card of a shipped segmenter with small tiles, and gives its path."""
    folder = tmp_path_factory.mktemp("segmenters")

    def write(name: str) -> str:
        item = zoo.load(name).to_item()
        item["properties"]["mlm:input"][0]["input"]["shape"][-2:] = [CORE, CORE]
        path = folder / f"{name}.card.json"
        path.write_text(json.dumps(item), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(scope="session")
def reflectances(write_scene):
    """150 x 200 px of uint16 green and near infrared with a nodata corner, and where their NDWI is above 0."""
    pixels = paint(150, 200, seed=4)[:2].astype(np.uint16) * 40 + 1
    pixels[:, :20, :30] = 0
    water = (pixels[0] > pixels[1]) & (pixels[0] > 0)
    return write_scene(pixels, "reflectances", nodata=0, photometric="MINISBLACK"), water


def mask_of(result) -> np.ndarray:
    with rasterio.open(result.directory / "mask.tif") as raster:
        return raster.read(1)


def layers_of(result) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in result.directory.glob("*.parquet")}


def test_a_model_that_takes_any_values_needs_no_scale(reflectances, write_segmenter, tmp_path):
    path, water = reflectances
    settings = RunSettings(
        models=(write_segmenter("ndwi"),), bands=("1", "2"), vector=VectorSettings(min_area_m2=0, simplify_m=0)
    )
    first = geoseg.run(path, tmp_path / "1", settings=settings, execution=Execution(threads=1, chunk=CORE))
    mask = mask_of(first)
    np.testing.assert_array_equal(mask == 1, water)
    np.testing.assert_array_equal(mask == 255, np.pad(np.ones((20, 30), bool), ((0, 130), (0, 170))))
    again = geoseg.run(path, tmp_path / "2", settings=settings, execution=Execution(threads=1, chunk=3 * CORE))
    assert layers_of(again) == layers_of(first)
    assert make_plan(str(path), replace(settings, scale=(0, 9))).identity()["scale"] == {"ndwi": None}


def test_a_chunk_that_is_no_whole_number_of_tiles_is_told(land, write_card):
    settings = RunSettings(models=(str(write_card("small", tile=192)),))
    told = f"--chunk {CORE + 1} becomes {2 * CORE} px for small: chunks are whole tiles"
    assert told in make_plan(str(land), settings, Execution(chunk=CORE + 1)).notes
    assert not any("--chunk" in note for note in make_plan(str(land), settings, Execution(chunk=2 * CORE)).notes)


def test_thresholds_are_of_the_whole_scene(write_scene, write_segmenter, tmp_path):
    pixels = paint(150, 200, seed=6) // 2
    pixels[:, :, 150:] += 120  # the last chunks alone are bright
    path = write_scene(pixels, "two")
    settings = RunSettings(models=(write_segmenter("otsu"),), vector=VectorSettings(min_area_m2=0, simplify_m=0))
    first = geoseg.run(path, tmp_path / "1", settings=settings, execution=Execution(threads=1, chunk=CORE))
    bright = mask_of(first) == 2
    assert bright[:, 150:].mean() > 0.95
    assert bright[:, :150].mean() < 0.05
    again = geoseg.run(path, tmp_path / "2", settings=settings, execution=Execution(threads=1, chunk=4 * CORE))
    assert layers_of(again) == layers_of(first)
    whole = make_plan(str(path), settings)
    west, south, east, north = whole.scene.bounds_lonlat
    part = replace(settings, bounds=(west, south, (west + east) / 2, north))
    assert make_plan(str(path), part).identity()["thresholds"] == whole.identity()["thresholds"]
    assert len(whole.passes[0].thresholds) == 3


def test_a_large_scene_is_glanced_at_in_strips(write_scene, write_segmenter, monkeypatch):
    path = write_scene(np.tile(paint(64, 1500, seed=7), (1, 36, 1)), "large")
    settings = RunSettings(models=(write_segmenter("otsu"),))
    expected = make_plan(str(path), settings).passes[0].thresholds
    shapes, read = [], Scene.read

    def seen(self, window, indexes):
        pixels, valid = read(self, window, indexes)
        shapes.append(valid.shape)
        return pixels, valid

    monkeypatch.setattr(Scene, "read", seen)
    monkeypatch.setattr("geoseg.engine.plan._GLANCE_READ_PX", 1 << 20)
    assert make_plan(str(path), settings).passes[0].thresholds == expected
    assert len(shapes) > 2
    assert sum(rows for rows, _ in shapes) == 1024
    assert {cols for _, cols in shapes} == {667}


@pytest.mark.parametrize("method", ["crf", "guided"])
def test_refining_widens_the_halo_and_changes_nothing_else(land, write_card, tmp_path, method):
    card = str(write_card("small", tile=192))
    plain = RunSettings(models=(card,), vector=VectorSettings(min_area_m2=0))
    settings = replace(plain, refine=method)
    assert make_plan(str(land), plain).passes[0].lattice.halo == HALO
    [part] = make_plan(str(land), settings).passes
    assert (part.lattice.halo, part.lattice.core, part.lattice.tile_size) == (2 * HALO, CORE, 192)
    first = geoseg.run(land, tmp_path / "1", settings=settings, execution=Execution(threads=1, chunk=CORE))
    again = geoseg.run(land, tmp_path / "2", settings=settings, execution=Execution(threads=1, chunk=3 * CORE))
    assert layers_of(again) == layers_of(first)
    assert first.passes[0].refine == method
    unrefined = geoseg.run(land, tmp_path / "3", settings=plain, execution=Execution(threads=1))
    assert layers_of(unrefined) != layers_of(first)


def test_mapping_units_of_the_card_are_part_of_the_identity_and_of_the_sieve(land, small_card, tmp_path):
    item = json.loads(small_card.read_text(encoding="utf-8"))
    item["properties"]["mlm:output"][0]["classification:classes"][3]["geoseg:min_area_m2"] = 400.0  # field
    coarse = small_card.with_name("coarse.card.json")
    coarse.write_text(json.dumps(item), encoding="utf-8")
    plain, units = RunSettings(models=(str(small_card),)), RunSettings(models=(str(coarse),))
    stated = replace(units, vector=VectorSettings(min_area_m2=25))
    areas = [make_plan(str(land), settings).identity()["min_area_m2"] for settings in (plain, units, stated)]
    assert areas == [25.0, {"small": {"water": 25.0, "road": 25.0, "field": 400.0, "parking": 25.0}}, 25.0]
    result = geoseg.run(land, tmp_path / "units", settings=units, execution=Execution(threads=1))
    smallest = {name: result.layer(name).area_m2.min() for name, layer in result.layers.items() if layer.polygons}
    assert smallest["field"] >= 400 * 0.9  # simplified
    with pytest.raises(OutputError, match="min_area_m2"):
        geoseg.run(land, tmp_path / "units", settings=stated, execution=Execution(threads=1))


def test_a_tile_too_small_to_refine_is_refused(land, small_card):
    settings = RunSettings(models=(str(small_card),), refine="crf")
    with pytest.raises(SettingsError, match="--halo is 32 with another 32 for --refine crf; model small needs"):
        make_plan(str(land), settings)


def test_the_shipped_model_for_finer_imagery_is_preferred(monkeypatch, write_card):
    ranges = {"broad": (0.3, 5), "narrow": (1, 2), "any": (0, 5)}
    cards = [geoseg.Card.read(write_card(name, gsd_m=gsd_m)) for name, gsd_m in ranges.items()]
    monkeypatch.setattr(zoo, "available", lambda: [*cards, zoo.load("ndwi")])
    assert [card.name for card in zoo.automatic()] == ["narrow", "broad", "any"]

"""Many scenes in one run: what each leaves, what is merged, and what a bad one does."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.warp import Resampling, reproject, transform_bounds

from geoseg import Execution, RunSettings, VectorSettings, run, run_catalogue
from geoseg.engine.inspection import inspect
from geoseg.engine.progress import Silent
from geoseg.errors import ChangedError, InputError, OutputError

SIDE = 300
"""of the land, in pixels of 1 m"""

SETTINGS = RunSettings(models=("ndwi",), bands=("1", "2"), vector=VectorSettings(simplify_m=0))


def shapes() -> np.ndarray:
    """A land with a river from end to end, a lake with an island, and ponds: (rows, cols) bool."""
    rows, cols = np.indices((SIDE, SIDE))
    river = np.abs(rows - 150 - 60 * np.sin(cols / 40)) < 9
    lake = (rows - 60) ** 2 + (cols - 190) ** 2 < 45**2
    island = (rows - 60) ** 2 + (cols - 180) ** 2 < 14**2
    ponds = np.zeros((SIDE, SIDE), bool)
    for row, col in ((250, 40), (262, 110), (240, 200), (280, 262), (20, 20), (30, 280)):
        ponds |= (rows - row) ** 2 + (cols - col) ** 2 < 9**2
    return river | (lake & ~island) | ponds


def write(path: Path, water: np.ndarray, row: int = 0, col: int = 0, *, nodata: np.ndarray | None = None) -> Path:
    """Write a part of the land as a scene of green and near infrared."""
    pixels = np.stack([np.where(water, 90, 40), np.where(water, 30, 120)]).astype(np.uint8)
    if nodata is not None:
        pixels[:, nodata] = 0
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=2,
        height=water.shape[0],
        width=water.shape[1],
        dtype="uint8",
        nodata=0,
        crs="EPSG:32633",
        transform=Affine(1, 0, 456_000 + col, 0, -1, 5_402_000 - row),
    ) as raster:
        raster.write(pixels)
    return path


@pytest.fixture(scope="module")
def land(tmp_path_factory):
    """A folder of nine scenes of 120 px that overlap by 30, and the land uncut beside it."""
    folder = tmp_path_factory.mktemp("land")
    (folder / "scenes").mkdir()
    water = shapes()
    write(folder / "whole.tif", water)
    for row in (0, 90, 180):
        for col in (0, 90, 180):
            write(folder / "scenes" / f"r{row:03}c{col:03}.tif", water[row : row + 120, col : col + 120], row, col)
    return folder


@pytest.fixture(scope="module")
def uncut(land, tmp_path_factory):
    """The water of the uncut land."""
    return run(land / "whole.tif", tmp_path_factory.mktemp("uncut") / "run", settings=SETTINGS).layer("water")


@pytest.fixture(scope="module")
def merged(land, tmp_path_factory):
    """The run of the nine scenes."""
    return run_catalogue(land / "scenes", tmp_path_factory.mktemp("merged") / "run", settings=SETTINGS)


def assert_same_objects(found: gpd.GeoDataFrame, expected: gpd.GeoDataFrame, tolerance: float = 1e-9) -> None:
    """Every object is there, once, with its area."""
    assert len(found) == len(expected)
    expected = expected.to_crs(found.crs)
    places, objects = found.sindex.query(expected.geometry, predicate="intersects")
    pairs = {}
    for one, other in zip(places, objects, strict=True):
        shared = expected.geometry.iloc[one].intersection(found.geometry.iloc[other]).area
        if shared > expected.geometry.iloc[one].area / 2:
            pairs[one] = other
    assert len(set(pairs.values())) == len(expected)
    for one, other in pairs.items():
        difference = expected.geometry.iloc[one].symmetric_difference(found.geometry.iloc[other]).area
        assert difference <= max(tolerance * expected.geometry.iloc[one].area, 1e-6)
        assert found.area_m2.iloc[other] == pytest.approx(expected.area_m2.iloc[one], rel=max(tolerance, 1e-6))
        assert found.perimeter_m.iloc[other] == pytest.approx(expected.perimeter_m.iloc[one], rel=max(tolerance, 1e-6))


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in {".geojson", ".parquet"}}


def test_merged_layers_are_those_of_the_uncut_land(merged, uncut):
    water = merged.layer("water")
    assert_same_objects(water, uncut)
    assert water.id.is_unique
    assert water.is_valid.all()
    assert set(water.scenes) == {1, 7}  # the river is in seven of nine
    assert merged.layers["water"].polygons == len(uncut)
    assert merged.layers["water"].share == pytest.approx(shapes().mean(), abs=1e-3)
    # one that reached the edge of a scene alone does not reach that of the land
    assert sorted(water.touches_edge) == sorted(uncut.touches_edge)
    assert water.confidence.between(0, 1).all()


def test_what_is_left(merged, land):
    home = merged.directory
    names = sorted(path.stem for path in (land / "scenes").iterdir())
    assert sorted(path.name for path in (home / "scenes").iterdir()) == names
    for name in names:
        assert {"run.json", "water.geojson", "water.parquet"} <= {p.name for p in (home / "scenes" / name).iterdir()}
    record = json.loads((home / "run.json").read_text())
    assert [scene["name"] for scene in record["scenes"]] == names
    assert {scene["state"] for scene in record["scenes"]} == {"done"}
    assert record["scenes"][0]["polygons"]["water"] == merged.scene(names[0]).layers["water"].polygons
    assert not (home / ".geoseg" / "merge").exists()
    geojson = gpd.read_file(home / "water.geojson")
    assert geojson.crs.to_epsg() == 4326
    assert list(geojson.scene) == list(merged.layer("water").scene)
    untouched = merged.layer("water").query("scenes == 1")
    own = merged.scene(untouched.scene.iloc[0]).layer("water").set_index("id")
    assert own.geometry[untouched.scene_id.iloc[0]].equals_exact(untouched.geometry.iloc[0], 0)


def test_neither_order_nor_threads_nor_chunks_change_a_byte(merged, land, tmp_path):
    backwards = sorted((land / "scenes").iterdir())[::-1]
    for number, execution in enumerate((Execution(threads=1, chunk=64), Execution(threads=2))):
        again = run_catalogue(backwards, tmp_path / str(number), settings=SETTINGS, execution=execution)
        assert files(again.directory) == files(merged.directory)


def test_again_and_with_scenes_that_were_added(land, merged, uncut, tmp_path):
    paths = sorted((land / "scenes").iterdir())
    first = run_catalogue(paths[:5], tmp_path / "run", settings=SETTINGS)
    assert len(first.layer("water")) < len(uncut)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.parquet")}
    again = run_catalogue(paths[:5], tmp_path / "run", settings=SETTINGS)
    assert {scene.state for scene in again.scenes} == {"reused"}
    assert {path: path.stat().st_mtime_ns for path in times} == times, "what was there is there still"
    grown = run_catalogue(land / "scenes", tmp_path / "run", settings=SETTINGS)
    assert [scene.state for scene in grown.scenes] == ["reused"] * 5 + ["done"] * 4
    assert files(grown.directory) == files(merged.directory)
    with pytest.raises(OutputError, match="simplify_m is 0 there, 2"):
        run_catalogue(
            paths,
            tmp_path / "run",
            settings=RunSettings(models=("ndwi",), bands=("1", "2"), vector=VectorSettings(simplify_m=2)),
        )


def test_a_scene_that_changed_is_done_anew(land, merged, tmp_path):
    """And alone it is refused: nobody asked for what was found there to go."""
    scenes = tmp_path / "scenes"
    shutil.copytree(land / "scenes", scenes)
    changed = write(scenes / "r090c090.tif", np.zeros((120, 120), bool), 90, 90)
    run_catalogue(scenes, tmp_path / "run", settings=SETTINGS)
    without = files(tmp_path / "run")
    write(changed, shapes()[90:210, 90:210], 90, 90)
    os.utime(changed, (1, 1))
    result = run_catalogue(scenes, tmp_path / "run", settings=SETTINGS)
    assert {scene.name: scene.state for scene in result.scenes}["r090c090"] == "done"
    assert [scene.state for scene in result.scenes].count("reused") == 8
    assert files(tmp_path / "run") == files(merged.directory) != without
    assert inspect(str(tmp_path / "run")) == result
    os.utime(changed, (2, 2))
    with pytest.raises(ChangedError, match=r"r090c090\.tif is not the file.*--overwrite"):
        run(changed, tmp_path / "run" / "scenes" / "r090c090", settings=SETTINGS)


def test_scenes_of_an_earlier_list_are_told(land, tmp_path):
    told = []

    class Notes(Silent):
        def note(self, text):
            told.append(text)

    scenes = sorted((land / "scenes").iterdir())
    run_catalogue(scenes[:2], tmp_path / "run", settings=SETTINGS)
    run_catalogue(scenes[1:3], tmp_path / "run", settings=SETTINGS, progress=Notes())
    assert any("1 of the scenes" in text and scenes[0].stem in text for text in told)


def test_killed_while_merging(land, merged, tmp_path):
    home = tmp_path / "run"
    shutil.copytree(merged.directory, home)
    (home / "run.json").unlink()  # it is written last
    (home / "water.geojson").unlink()
    (home / ".geoseg" / "merge").mkdir()
    (home / ".geoseg" / "merge" / "water-0.arrow").write_bytes(b"half")
    again = run_catalogue(land / "scenes", home, settings=SETTINGS)
    assert {scene.state for scene in again.scenes} == {"reused"}
    assert files(home) == files(merged.directory)


class Notes(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_workers_are_started_once_and_notes_told_once(land, tmp_path):
    paths = sorted((land / "scenes").iterdir())[:3]
    notes = Notes()
    workers = run_catalogue(paths, tmp_path / "run", settings=SETTINGS, execution=Execution(workers=1), progress=notes)
    assert workers.executor == "1 Dask worker"
    titles = [note for note in notes.notes if note.startswith("scene ")]
    assert titles == [f"scene {n} of 3: {path.stem}" for n, path in enumerate(paths, 1)]
    assert len(set(notes.notes)) == len(notes.notes)
    started = [
        json.loads((workers.directory / "scenes" / path.stem / "run.json").read_text())["peak_memory_bytes"]["worker"]
        for path in paths
    ]
    assert started == sorted(started), "a peak that falls is that of another process"
    alone = run_catalogue(paths, tmp_path / "alone", settings=SETTINGS)
    assert files(workers.directory) == files(alone.directory)


def test_tiles_that_only_touch(land, uncut, tmp_path):
    """As orthophotos come: no overlap at all."""
    water = shapes()
    paths = [
        write(tmp_path / f"{row}-{col}.tif", water[row : row + 100, col : col + 100], row, col)
        for row in (0, 100, 200)
        for col in (0, 100, 200)
    ]
    settings = RunSettings(models=("ndwi",), bands=("1", "2"), vector=VectorSettings(simplify_m=0, min_area_m2=0))
    merged = run_catalogue(paths, tmp_path / "run", settings=settings)
    assert_same_objects(merged.layer("water"), uncut, tolerance=1e-3)


def test_scenes_of_several_crs_and_gsds(land, uncut, tmp_path):
    """The middle column lies in the next zone, the right one is twice as fine."""
    for path in sorted((land / "scenes").iterdir()):
        with rasterio.open(path) as source:
            crs, scale = source.crs, 1.0
            if path.stem.endswith("c090"):
                crs = "EPSG:32632"
            elif path.stem.endswith("c180"):
                scale = 0.5
            bounds = transform_bounds(source.crs, crs, *source.bounds)
            width, height = (math.ceil((bounds[n + 2] - bounds[n]) / scale) for n in (0, 1))
            place = Affine(scale, 0, bounds[0], 0, -scale, bounds[3])
            facts = source.profile | {"crs": crs, "transform": place, "width": width, "height": height}
            with rasterio.open(tmp_path / path.name, "w", **facts) as target:
                for band in (1, 2):
                    reproject(rasterio.band(source, band), rasterio.band(target, band), resampling=Resampling.nearest)
    merged = run_catalogue(tmp_path, tmp_path.parent / "several", settings=SETTINGS)
    water = merged.layer("water")
    assert water.crs.to_epsg() == 32633
    assert_same_objects(water, uncut, tolerance=0.08)  # of a pond of 9 px a row of pixels is as much


def test_ground_without_data_is_an_edge(land, uncut, tmp_path):
    """Strips as a satellite sees them: each scene is the whole rectangle, with data in a part of it."""
    water = shapes()
    rows, cols = np.indices(water.shape)
    for number, start in enumerate((-60, 60, 180)):
        lean = cols + rows // 3
        outside = (lean < start) | (lean > start + 160 + 100 * (number == 2))
        write(tmp_path / f"strip{number}.tif", water, nodata=outside)
    merged = run_catalogue(tmp_path, tmp_path.parent / "strips", settings=SETTINGS)
    assert_same_objects(merged.layer("water"), uncut, tolerance=1e-3)


@pytest.fixture
def some_bad(land, tmp_path):
    """Two good scenes, one that is no raster, and one of a single band."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for name in ("r000c000.tif", "r000c090.tif"):
        (folder / name).write_bytes((land / "scenes" / name).read_bytes())
    (folder / "bad.tif").write_bytes(b"no raster")
    with rasterio.open(land / "scenes" / "r000c000.tif") as source:
        pixels, profile = source.read(1), source.profile
    with rasterio.open(folder / "gray.tif", "w", **profile | {"count": 1}) as target:
        target.write(pixels, 1)
    return folder


def test_bad_scenes_do_not_stop_the_others(some_bad, land, tmp_path, geoseg):
    command = ["run", some_bad, "-o", tmp_path / "run", "--model", "ndwi", "--bands", "1,2", "--quiet"]
    code, _, message = geoseg(*command)
    assert code == 1
    assert message.startswith("geoseg: 2 of 4 scenes failed (bad: ")
    assert "cannot be opened as a raster" in message
    assert "gray: " in message
    assert message.count("\n") == 1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert {scene["name"]: scene["state"] for scene in record["scenes"]} == {
        "bad": "failed",
        "gray": "failed",
        "r000c000": "done",
        "r000c090": "done",
    }
    assert "\n" not in record["scenes"][0]["reason"]
    two = gpd.read_parquet(tmp_path / "run" / "water.parquet").area_m2.sum()
    for name, repaired in (("bad.tif", "r090c000.tif"), ("gray.tif", "r090c090.tif")):
        (some_bad / name).write_bytes((land / "scenes" / repaired).read_bytes())
    code, out, _ = geoseg(*[part for part in command if part != "--quiet"])
    assert code == 0
    assert "4 scenes: 2 done, 2 reused" in out
    assert gpd.read_parquet(tmp_path / "run" / "water.parquet").area_m2.sum() > two


def test_where_no_scene_can_be_run_nothing_is_written(some_bad, tmp_path, geoseg):
    for options in (["--model", "nonesuch"], ["--bands", "1,7", "--model", "ndwi"], ["--classes", "tea"]):
        code, _, message = geoseg("run", some_bad, "-o", tmp_path / "run", *options)
        assert code == 2, message
        assert message.count("\n") == 1
        assert not (tmp_path / "run").exists()
    with pytest.raises(OutputError, match="lies inside"):
        run_catalogue(some_bad, some_bad)
    with pytest.raises(InputError, match="holds no scene"):
        run_catalogue(tmp_path / "scenes" / "*.jp2", tmp_path / "run")


def test_one_scene_is_what_it_always_was(land, tmp_path, geoseg):
    options = ["--model", "ndwi", "--bands", "1,2", "--quiet"]
    assert geoseg("run", land / "whole.tif", "-o", tmp_path / "one", *options)[0] == 0
    assert not (tmp_path / "one" / "scenes").exists()
    assert "scene" not in gpd.read_parquet(tmp_path / "one" / "water.parquet").columns


def test_the_list_says_when_scenes_were_taken(land, tmp_path):
    lines = [
        f"{land / 'scenes' / name},{when}" for name, when in (("r000c000.tif", "2024-05-01"), ("r000c090.tif", ""))
    ]
    (tmp_path / "list.csv").write_text("\n".join(["path,datetime", *lines]))
    merged = run_catalogue(tmp_path / "list.csv", tmp_path / "run", settings=SETTINGS)
    water = merged.layer("water")
    of_first = water[(water.scene == "r000c000") & (water.scenes == 1)]
    assert of_first.datetime.dt.strftime("%Y-%m-%d").tolist() == ["2024-05-01"] * len(of_first)
    assert water[water.scenes > 1].datetime.isna().all()


def test_a_sure_pixel_within_what_another_scene_sees_is_not_found_twice(tmp_path):
    (tmp_path / "scenes").mkdir()
    pixel, lake = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    pixel[30, 30] = lake[30:33, 30:33] = True
    write(tmp_path / "scenes" / "a.tif", pixel)
    with rasterio.open(write(tmp_path / "scenes" / "b.tif", lake), "r+") as raster:
        raster.write(np.where(lake, 41, 40).astype(np.uint8), 1)
        raster.write(np.where(lake, 39, 120).astype(np.uint8), 2)
    settings = RunSettings(models=("ndwi",), bands=("1", "2"), vector=VectorSettings(simplify_m=0, min_area_m2=0))
    water = run_catalogue(tmp_path / "scenes", tmp_path / "run", settings=settings).layer("water")
    assert [round(one) for one in water.area] == [9]


def test_all_formats(land, tmp_path):
    settings = RunSettings(
        models=("ndwi",), bands=("1", "2"), vector=VectorSettings(formats=("gpkg", "fgb", "geojsonl"))
    )
    merged = run_catalogue(sorted((land / "scenes").iterdir())[:2], tmp_path / "run", settings=settings)
    assert merged.files == ("layers.gpkg", "water.fgb", "water.geojsonl")
    tables = [gpd.read_file(merged.directory / name) for name in merged.files]
    assert len({len(table) for table in tables}) == 1
    assert all({"scene", "scene_id", "scenes"} <= set(table.columns) for table in tables)
    assert shapely.union_all(tables[0].geometry).area == pytest.approx(merged.layers["water"].area_m2, rel=1e-3)

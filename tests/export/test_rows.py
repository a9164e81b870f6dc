"""Row files in any split give the same layers, and these the same files."""

from __future__ import annotations

import datetime as dt
import itertools
import sqlite3

import numpy as np
import pyarrow as pa
import pytest
import shapely
from affine import Affine
from rasterio.features import shapes as gdal_shapes

from geoseg.errors import SettingsError
from geoseg.export import rows
from geoseg.export.rows import LAYER_SCHEMA, Layer, read_layers, write_rows
from geoseg.export.vectors import FORMATS, write_layers
from geoseg.rings import Polygons, take_ragged
from geoseg.stages.polygons import Ground, hilbert_keys

SHAPE = (90, 120)
UTM = Affine(0.5, 0, 500_000.25, 0, -0.5, 5_300_000.75)
FACTS = {"crs": "EPSG:32633", "datetime": "2024-06-30T12:15:00+02:00", "model": "modèle-é 1.0"}
CLASSES = {"water": 1, "road": 7, "field": 3, "parking": 2}


@pytest.fixture(scope="module")
def ground() -> Ground:
    return Ground(UTM, "EPSG:32633", SHAPE)


@pytest.fixture(scope="module")
def polygons(as_polygons) -> Polygons:
    mask = np.random.default_rng(0).choice(np.array([0, 1, 2, 3], np.uint8), SHAPE, p=[0.3, 0.4, 0.2, 0.1])
    found = list(gdal_shapes(mask, mask=mask > 0, connectivity=4))
    codes = [int(code) for _, code in found]
    return as_polygons([shapely.geometry.shape(shape) for shape, _ in found], SHAPE[1], codes=codes)


def take(polygons: Polygons, chosen: np.ndarray) -> Polygons:
    """Some of the polygons."""
    rings, polygon_offsets = take_ragged(polygons.polygon_offsets, chosen)
    vertices, ring_offsets = take_ragged(polygons.ring_offsets, rings)
    columns = {name: values[chosen] for name, values in polygons.to_arrays().items() if len(values) == len(polygons)}
    places = {"coords": polygons.coords[vertices], "ring_offsets": ring_offsets, "polygon_offsets": polygon_offsets}
    return Polygons.from_arrays(columns | places)


@pytest.fixture
def write_parts(tmp_path, polygons, ground):
    """Write the polygons into this many files, at random, in a random order of the files."""

    def write(parts: int, seed: int = 0) -> list:
        random = np.random.default_rng(seed)
        owner = random.integers(0, parts, len(polygons))
        folder = tmp_path / f"rows-{parts}-{seed}"
        folder.mkdir()
        for part in range(parts):
            write_rows(folder / f"{part}.arrow", take(polygons, np.flatnonzero(owner == part)), ground, lonlat=True)
        return random.permutation(sorted(folder.iterdir())).tolist()

    return write


def table(layer: Layer, **given) -> pa.Table:
    return pa.Table.from_batches(layer.batches(**given), schema=layer.schema)


def test_a_layer_holds_what_was_measured(write_parts, polygons, ground, to_geometries):
    layers = read_layers(write_parts(3), CLASSES, **FACTS)
    assert list(layers) == list(CLASSES)
    area_m2, perimeter_m = ground.measure(polygons)
    geometries = to_geometries(polygons, UTM)
    keys = hilbert_keys(polygons, SHAPE)
    for name, layer in layers.items():
        members = np.flatnonzero(polygons.code == CLASSES[name])
        members = members[np.lexsort((polygons.id[members], keys[members]))]
        assert (len(layer), layer.name) == (len(members), name)
        assert layer.schema.names == [*LAYER_SCHEMA, "bbox"]
        assert [field.type for field in layer.schema][:-1] == [column.type for column in LAYER_SCHEMA.values()]
        got = table(layer)
        assert got["id"].to_pylist() == polygons.id[members].tolist()
        assert got["area_m2"].to_pylist() == area_m2[members].round(3).tolist()
        assert got["perimeter_m"].to_pylist() == perimeter_m[members].round(3).tolist()
        assert got["confidence"].to_pylist() == polygons.confidence[members].round(4).tolist()
        expected = [None if np.isnan(value) else value for value in polygons.confidence_p10[members].round(4)]
        assert got["confidence_p10"].to_pylist() == expected
        assert got["touches_edge"].to_pylist() == polygons.edge[members].tolist()
        assert got["geometry"].to_pylist() == shapely.to_wkb(geometries[members], byte_order=1).tolist()
        bounds = shapely.bounds(geometries[members]).reshape(-1, 4)
        assert [list(box.values()) for box in got["bbox"].to_pylist()] == bounds.tolist()
        moment = dt.datetime(2024, 6, 30, 10, 15, tzinfo=dt.UTC)
        constants = {"class": name, "datetime": moment, "model": "modèle-é 1.0"}
        for column, value in constants.items():
            assert set(got[column].to_pylist()) == ({value} if len(members) else set())
        assert layer.area_m2 == pytest.approx(area_m2[members].sum(), abs=0.0005 * len(members))
        if len(members):
            assert layer.bounds == tuple(shapely.total_bounds(geometries[members]).tolist())
            assert layer.geometry_types == ("Polygon",)
        else:
            assert (layer.bounds, layer.geometry_types, layer.area_m2) == (None, (), 0)
    assert len(layers["road"]) == 0


def content(path):
    """Everything in a GeoPackage but the times of writing."""
    with sqlite3.connect(path) as database:
        lines = [line for line in database.iterdump() if '"gpkg_contents"' not in line]
    database.close()
    return lines


@pytest.mark.parametrize("name", FORMATS)
def test_any_split_gives_the_same_bytes(tmp_path, write_parts, name):
    results = []
    for parts, seed in ((1, 0), (2, 1), (37, 2), (200, 3)):
        folder = tmp_path / f"{parts}"
        folder.mkdir()
        written = write_layers(folder, read_layers(write_parts(parts, seed), CLASSES, **FACTS), [name])
        results.append([content(path) if name == "gpkg" else path.read_bytes() for path in written])
    assert all(result == results[0] for result in results)


def test_batches_are_bounded_and_come_again(write_parts, monkeypatch):
    layer = read_layers(write_parts(5), CLASSES, **FACTS)["water"]
    whole = table(layer)
    assert table(layer, size=7).equals(whole)
    assert {len(batch) for batch in layer.batches(size=7)} == {7, len(layer) % 7}
    monkeypatch.setattr(rows, "BATCH_BYTES", 1000)
    batches = list(layer.batches())
    sizes = [[len(geometry) for geometry in batch["geometry"].to_pylist()] for batch in batches]
    assert all(sum(size) <= 1000 or len(size) == 1 for size in sizes)
    assert all(sum(size) + after[0] > 1000 for size, after in itertools.pairwise(sizes))
    assert table(layer).equals(whole)


def test_more_files_than_are_kept_open(write_parts, monkeypatch):
    files = write_parts(20)
    expected = table(read_layers(files, CLASSES, **FACTS)["water"])
    monkeypatch.setattr(rows, "_OPEN_FILES", 2)
    assert table(read_layers(files, CLASSES, **FACTS)["water"], size=10).equals(expected)


def test_without_names_every_code_found_is_a_class(write_parts):
    layers = read_layers(write_parts(4), None, **FACTS)
    assert list(layers) == ["class_1", "class_2", "class_3"]
    named = read_layers(write_parts(4, 1), CLASSES, **FACTS)
    assert table(layers["class_2"]).drop_columns(["class"]).equals(table(named["parking"]).drop_columns(["class"]))
    assert read_layers([], None, **FACTS) == {}
    assert [len(layer) for layer in read_layers([], CLASSES, **FACTS).values()] == [0, 0, 0, 0]


def test_a_polygon_in_two_files_is_an_error(write_parts):
    files = write_parts(2)
    with pytest.raises(ValueError, match="a polygon of layer water is given twice"):
        read_layers([*files, files[0]], CLASSES, **FACTS)


@pytest.mark.parametrize("given", ["2024-06-30T10:15:00Z", "2024-06-30T12:15:00.0004+02:00", "2024-06-30T10:15:00"])
def test_datetime_is_kept_in_utc(write_parts, given):
    layer = read_layers(write_parts(1), CLASSES, **FACTS | {"datetime": given})["water"]
    assert table(layer)["datetime"][0].as_py() == dt.datetime(2024, 6, 30, 10, 15, tzinfo=dt.UTC)


def test_datetime_that_is_no_date_is_named(write_parts):
    with pytest.raises(SettingsError, match=r"datetime '2024:06:30 10:15:00' is not ISO 8601; give one like"):
        read_layers(write_parts(1), CLASSES, **FACTS | {"datetime": "2024:06:30 10:15:00"})


def test_an_unknown_model_and_datetime_are_null(write_parts):
    layer = read_layers(write_parts(1), CLASSES, crs="EPSG:32633", datetime=None, model=None)["water"]
    assert table(layer)["datetime"].null_count == table(layer)["model"].null_count == len(layer)


def test_a_failure_leaves_no_file(tmp_path, polygons, ground):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, hard))  # as on a full disk
    try:
        with pytest.raises(OSError, match=r".+"):
            write_rows(tmp_path / "0.arrow", polygons, ground, lonlat=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []

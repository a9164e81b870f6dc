from __future__ import annotations

import itertools
import json
import re
import sqlite3
import threading
import time
from decimal import Decimal

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj
import pytest
import shapely
from affine import Affine
from rasterio.features import shapes as gdal_shapes

from geoseg.atomic import staged
from geoseg.errors import OutputError, SettingsError
from geoseg.export import rows, vectors
from geoseg.export.lonlat import pack_lonlat
from geoseg.export.rows import LAYER_SCHEMA, Layer
from geoseg.export.vectors import (
    FORMATS,
    write_flatgeobuf,
    write_geojson,
    write_geojsonseq,
    write_geoparquet,
    write_gpkg,
    write_layers,
)

UTM32 = "EPSG:32632"
ATTRIBUTES = [name for name in LAYER_SCHEMA if name != "geometry"]


def pixel_polygons(seed=0, *, rows=60, cols=60, gsd_m=0.3, fill=0.55):
    """Polygons along pixel edges, with holes and corners that touch, as GDAL traces them; exteriors clockwise."""
    mask = (np.random.default_rng(seed).random((rows, cols)) < fill).astype(np.uint8)
    grid = Affine(gsd_m, 0, 687_000.3, 0, -gsd_m, 5_334_000.9)
    traced = gdal_shapes(mask, mask=mask > 0, connectivity=4, transform=grid)
    return np.array([shapely.geometry.shape(geometry) for geometry, _ in traced], dtype=object)


def frame_of(geometries, crs=UTM32, **columns):
    """The columns of a layer as a GeoDataFrame, in no order."""
    n = len(geometries)
    rng = np.random.default_rng(n)
    given = {
        "id": 10_000_000_000 + np.arange(n)[::-1] * 7,  # beyond 32 bits, and not in order
        "class": pd.Series(["water"] * n, dtype="str"),
        "area_m2": rng.random(n).round(3) * 1e4,
        "perimeter_m": rng.random(n).round(3) * 1e3,
        "confidence": rng.random(n).round(4),
        "confidence_p10": np.where(np.arange(n) % 3, rng.random(n).round(4), np.nan),
        "touches_edge": rng.random(n) < 0.5,
        "datetime": pd.Series([pd.Timestamp("2024-06-30T10:15:00Z")] * n, dtype="datetime64[ms, UTC]"),
        "model": pd.Series(["modèle-é 1.0"] * n, dtype="str"),
    }
    return gpd.GeoDataFrame(given | columns, geometry=np.asarray(geometries, object), crs=crs)


def layer_of(name, frame):
    """A layer of a GeoDataFrame with an ``id`` column, any other columns and any polygons."""
    if len(frame):
        along = frame.hilbert_distance(total_bounds=frame.total_bounds)
        frame = frame.iloc[np.lexsort((frame["id"].to_numpy(), along.to_numpy()))]
    shapes = shapely.orient_polygons(frame.geometry.to_numpy())
    others = frame.drop(columns=frame.geometry.name)
    arrays = {str(column): plain(pa.Array.from_pandas(others[column])) for column in others}
    wkb = shapely.to_wkb(shapes, flavor="iso", include_srid=False)
    arrays["geometry"] = pa.array(wkb, type=pa.binary())
    bounds = shapely.bounds(shapes).reshape(-1, 4)
    corners = ("xmin", "ymin", "xmax", "ymax")
    arrays["bbox"] = pa.StructArray.from_arrays([pa.array(corner) for corner in bounds.T], names=corners)
    batch = pa.record_batch(arrays)
    rows = batch
    if frame.crs is not None:
        wkb_column = batch["geometry"].cast(pa.large_binary())
        rows = batch.append_column("lonlat", pack_lonlat(wkb_column, pyproj.CRS.from_user_input(frame.crs)))
    return Layer(
        name=name,
        crs=None if frame.crs is None else pyproj.CRS.from_user_input(frame.crs),
        schema=batch.schema,
        geometry_types=tuple(sorted(set(gpd.array.GeometryArray(shapes).geom_type.tolist()))),
        bounds=tuple(shapely.total_bounds(shapes).tolist()) if len(frame) else None,
        area_m2=round(float(frame["area_m2"].sum()), 3) if "area_m2" in frame else 0.0,
        sizes=np.array([len(shape) for shape in wkb], np.int64),
        read=lambda start, stop, columns: rows.select(columns).slice(start, stop - start),
    )


def plain(values):
    """A column in one piece, and with plain strings whatever pandas held them in."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.cast(pa.string()) if pa.types.is_large_string(values.type) else values


def layer(geometries, crs=UTM32, **columns):
    return layer_of("water", frame_of(geometries, crs, **columns))


def by_id(frame):
    return frame.sort_values("id", ignore_index=True)


def same_attributes(back, frame):
    pd.testing.assert_frame_equal(pd.DataFrame(by_id(back)[ATTRIBUTES]), pd.DataFrame(by_id(frame)[ATTRIBUTES]))


def same_shapes(back, frame):
    ours, given = (by_id(part).geometry.to_numpy() for part in (back, frame))
    return shapely.equals_exact(ours, shapely.orient_polygons(given)).all()


# --- RFC 7946, checked without any GIS library ------------------------------------------------------------------


def winding(ring):
    """Twice the signed area, exactly: positive is counter-clockwise."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in itertools.pairwise(ring))


def check_polygon(rings):
    assert rings
    for number, ring in enumerate(rings):
        assert len(ring) >= 4
        assert ring[0] == ring[-1]
        assert all(first != second for first, second in itertools.pairwise(ring))
        assert winding(ring) > 0 if number == 0 else winding(ring) < 0
        for lon, lat in ring:
            assert -180 <= lon <= 180
            assert -90 <= lat <= 90
            assert max(-lon.as_tuple().exponent, -lat.as_tuple().exponent) <= 7
        # no side crosses the antimeridian
        assert all(abs(x1 - x0) <= 180 for (x0, _), (x1, _) in itertools.pairwise(ring))


def check_rfc7946(text):
    def no_constant(name):
        raise AssertionError(f"{name} is not JSON")

    collection = json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=no_constant)
    assert collection["type"] == "FeatureCollection"
    # section 4 took `crs` away; section 7.1 keeps these members out of a collection
    assert set(collection) == {"type", "name", "features"}
    for feature in collection["features"]:
        assert feature["type"] == "Feature"
        assert set(feature) == {"type", "id", "properties", "geometry"}
        assert isinstance(feature["id"], Decimal | str)
        geometry = feature["geometry"]
        if geometry is None:
            continue
        assert set(geometry) == {"type", "coordinates"}
        assert geometry["type"] in {"Polygon", "MultiPolygon"}
        polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        for polygon in polygons:
            check_polygon(polygon)
    ids = [feature["id"] for feature in collection["features"]]
    assert len(set(ids)) == len(ids)
    return collection


# --- GeoJSON ----------------------------------------------------------------------------------------------------


def test_geojson_keeps_to_rfc7946_and_comes_back(tmp_path):
    frame = frame_of(pixel_polygons())
    write_geojson(tmp_path / "water.geojson", layer_of("water", frame))
    collection = check_rfc7946((tmp_path / "water.geojson").read_text(encoding="utf-8"))
    assert collection["name"] == "water"
    assert all(feature["id"] == feature["properties"]["id"] for feature in collection["features"])
    back = gpd.read_file(tmp_path / "water.geojson")
    assert back.crs.to_epsg() == 4326
    assert back.is_valid.all()
    same_attributes(back, frame)
    frame = by_id(frame)
    areas = by_id(back).to_crs(UTM32).area
    assert np.abs(areas - frame.area).max() < 0.02 * frame.length.max()  # 7 decimals are 11 mm
    assert areas.sum() == pytest.approx(frame.area.sum(), rel=1e-3)


def test_geojson_agrees_with_gdal(tmp_path):
    frame = frame_of(pixel_polygons(1))
    write_geojson(tmp_path / "ours.geojson", layer_of("water", frame))
    pyogrio.write_dataframe(frame, tmp_path / "gdal.geojson", driver="GeoJSON", RFC7946="YES")
    ours, theirs = by_id(gpd.read_file(tmp_path / "ours.geojson")), by_id(gpd.read_file(tmp_path / "gdal.geojson"))
    # two builds of PROJ may round the last decimal apart
    assert shapely.equals_exact(ours.normalize(), theirs.normalize(), 1.5e-7).all()
    same_attributes(ours, theirs)


@pytest.mark.parametrize("name", FORMATS)
def test_one_part_or_many_hold_the_same(tmp_path, monkeypatch, name):
    results = []
    for size in (1 << 26, 2_000):
        monkeypatch.setattr(rows, "BATCH_BYTES", size)
        given = layer(pixel_polygons())
        assert (len(list(given.batches())) > 10) == (size == 2_000)
        (path,) = write_layers(tmp_path, {"water": given}, [name])
        results.append(gpd.read_parquet(path) if name == "parquet" else path.read_bytes())
        if name == "gpkg":
            results[-1] = content(path)
    if name == "parquet":
        pd.testing.assert_frame_equal(*results)
    else:
        assert results[0] == results[1]


def test_geojson_without_features(tmp_path):
    write_geojson(tmp_path / "road.geojson", layer([]))
    assert check_rfc7946((tmp_path / "road.geojson").read_text(encoding="utf-8"))["features"] == []
    assert len(gpd.read_file(tmp_path / "road.geojson")) == 0


def test_geojsonseq_holds_the_features_of_geojson_one_a_line(tmp_path):
    given = layer(pixel_polygons())
    write_geojson(tmp_path / "water.geojson", given)
    write_geojsonseq(tmp_path / "water.geojsonl", given)
    lines = (tmp_path / "water.geojsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == json.loads((tmp_path / "water.geojson").read_text())["features"]
    back, collection = gpd.read_file(tmp_path / "water.geojsonl"), gpd.read_file(tmp_path / "water.geojson")
    pd.testing.assert_frame_equal(back, collection)
    write_geojsonseq(tmp_path / "road.geojsonl", layer([]))
    assert (tmp_path / "road.geojsonl").read_bytes() == b""


def test_geojson_writes_every_kind_of_value(tmp_path):
    frame = frame_of([shapely.box(0, 0, 1, 1)] * 3, crs="EPSG:4326", id=[1, 2, 3], confidence=[np.nan, 0.0, 1.0])
    frame["datetime"] = pd.NaT
    frame["note"] = ['a "quoted"\n\\ line', None, "道"]
    frame["free"] = [True, False, True]
    frame["stalls"] = pd.array([3, None, 5], dtype="Int32")
    frame["width_m"] = [np.inf, 1e-7, 3.0]
    frame["seen"] = pd.to_datetime(["2024-01-02T03:04:05.678", None, "2024-01-02T00:00:00.000"])
    write_geojson(tmp_path / "parking.geojson", layer_of("parking", frame))
    features = check_rfc7946((tmp_path / "parking.geojson").read_text(encoding="utf-8"))["features"]
    rows = [feature["properties"] for feature in features]
    assert [row["note"] for row in rows] == [*frame["note"].tolist()[:1], None, "道"]
    assert [row["free"] for row in rows] == [True, False, True]
    assert [row["stalls"] for row in rows] == [3, None, 5]
    assert [row["seen"] for row in rows] == ["2024-01-02T03:04:05.678000Z", None, "2024-01-02T00:00:00Z"]
    assert [row["datetime"] for row in rows] == [None] * 3
    assert [row["width_m"] for row in rows] == [None, Decimal("1e-7"), Decimal("3.0")]
    assert sorted(str(row["confidence"]) for row in rows) == ["0.0", "1.0", "None"]


def test_what_rounding_breaks_is_mended_and_what_it_wipes_out_is_null(tmp_path):
    shell = [(9, 45), (9.001, 45.0003), (9.001, 45.001), (9, 45.001)]
    nearly_touching = shapely.Polygon(shell, [[(9.0003337, 45.00010013), (9.0005, 45.0008), (9.0003, 45.0008)]])
    thin = shapely.box(9, 45, 9.001, 45.00000003)
    bow = shapely.Polygon(
        [(9, 45), (9.001, 45), (9.001, 45.001), (9.00050001, 45.00000003), (9.0005, 45.001), (9, 45.001)]
    )
    shapes = [nearly_touching, thin, bow]
    assert shapely.is_valid(shapes).all()
    naive = shapely.transform(shapes, lambda xy: np.round(xy, 7))
    assert not shapely.is_valid(naive).any()  # so the case is a case
    write_geojson(tmp_path / "field.geojson", layer(shapes, crs="EPSG:4326", id=[1, 2, 3]))
    features = check_rfc7946((tmp_path / "field.geojson").read_text(encoding="utf-8"))["features"]
    assert {feature["id"]: feature["geometry"] is None for feature in features} == {1: False, 2: True, 3: False}
    back = by_id(gpd.read_file(tmp_path / "field.geojson"))
    assert back.geometry[[0, 2]].is_valid.all()
    assert shapely.area(back.geometry[0]) == pytest.approx(nearly_touching.area, rel=1e-3)


@pytest.mark.parametrize("crs", ["EPSG:32660", "EPSG:32601"])
def test_polygons_are_split_at_the_antimeridian(tmp_path, crs):
    x, y = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(180, 10)
    across = shapely.box(x - 300, y, x + 300, y + 400).difference(shapely.box(x - 50, y + 50, x + 50, y + 100))
    beside = shapely.box(x + 400, y, x + 700, y + 400)
    write_geojson(tmp_path / "water.geojson", layer([across, beside], crs=crs, id=[1, 2]))
    check_rfc7946((tmp_path / "water.geojson").read_text(encoding="utf-8"))
    back = gpd.read_file(tmp_path / "water.geojson")
    assert back.is_valid.all()
    assert back.geom_type.tolist() == ["MultiPolygon", "Polygon"]
    assert back.geometry[0].bounds[0] == -180
    assert back.geometry[0].bounds[2] == 180
    areas = back.to_crs(crs).area  # each part of its own
    assert areas.to_numpy() == pytest.approx([across.area, beside.area], rel=1e-3)


# --- GeoParquet -------------------------------------------------------------------------------------------------


def test_geoparquet_says_what_it_holds(tmp_path):
    shapes = pixel_polygons()
    write_geoparquet(tmp_path / "water.parquet", layer([*shapes, shapely.MultiPolygon(list(shapes[:1]))]))
    file = pq.ParquetFile(tmp_path / "water.parquet")
    geo = json.loads(file.schema_arrow.metadata[b"geo"])
    column = geo["columns"]["geometry"]
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["MultiPolygon", "Polygon"]
    assert column["orientation"] == "counterclockwise"
    assert pyproj.CRS.from_json_dict(column["crs"]).to_epsg() == 32632
    assert column["covering"]["bbox"]["xmax"] == ["bbox", "xmax"]
    assert file.schema_arrow.names == [*LAYER_SCHEMA, "bbox"]
    group = file.metadata.row_group(0)
    chunks = {chunk.path_in_schema: chunk for chunk in map(group.column, range(group.num_columns))}
    assert {chunk.compression for chunk in chunks.values()} == {"ZSTD"}
    assert chunks["bbox.xmin"].statistics.min == pytest.approx(column["bbox"][0])

    table = file.read()
    stored = shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))
    parts = shapely.get_parts(stored)
    assert shapely.is_ccw(shapely.get_exterior_ring(parts)).all()
    holes = np.concatenate([shapely.get_rings(part)[1:] for part in parts])
    assert len(holes) > 10
    assert not shapely.is_ccw(holes).any()
    bounds = np.column_stack([table["bbox"].combine_chunks().field(name) for name in ("xmin", "ymin", "xmax", "ymax")])
    np.testing.assert_array_equal(bounds, shapely.bounds(stored))
    assert column["bbox"] == pytest.approx(shapely.total_bounds(stored).tolist())


def test_geoparquet_comes_back_whole_and_by_place(tmp_path):
    frame = by_id(frame_of(pixel_polygons()))
    write_geoparquet(tmp_path / "water.parquet", layer_of("water", frame))
    back = gpd.read_parquet(tmp_path / "water.parquet")
    assert back.crs == frame.crs
    assert same_shapes(back, frame)
    same_attributes(back, frame)
    west, south, east, north = frame.total_bounds
    window = (west, south, (west + east) / 2, (south + north) / 2)
    near = gpd.read_parquet(tmp_path / "water.parquet", bbox=window)
    assert sorted(near["id"]) == frame["id"][frame.intersects(shapely.box(*window)).to_numpy()].tolist()


def test_geoparquet_rows_follow_a_hilbert_curve_ties_by_id(tmp_path):
    cells = [shapely.box(x, y, x + 1, y + 1) for x in range(32) for y in range(32)]
    write_geoparquet(
        tmp_path / "field.parquet",
        layer([*cells, *cells], id=np.random.default_rng(0).permutation(2 * len(cells))),
    )
    back = gpd.read_parquet(tmp_path / "field.parquet")
    centres = shapely.get_coordinates(shapely.centroid(back.geometry.to_numpy()))
    steps = np.abs(np.diff(centres, axis=0)).sum(axis=1)
    assert (steps[0::2] == 0).all()  # equal places side by side
    assert steps[1::2].mean() < 1.2  # and a Hilbert curve goes from cell to neighbour
    assert (back["id"].to_numpy()[0::2] < back["id"].to_numpy()[1::2]).all()


def test_geoparquet_does_not_depend_on_the_order_of_the_rows(tmp_path):
    cells = [shapely.box(x // 8, 0, x // 8 + 1, 1) for x in range(64)]
    frame = frame_of(cells)
    write_geoparquet(tmp_path / "sorted.parquet", layer_of("water", frame))
    write_geoparquet(tmp_path / "shuffled.parquet", layer_of("water", frame.sample(frac=1, random_state=0)))
    assert (tmp_path / "sorted.parquet").read_bytes() == (tmp_path / "shuffled.parquet").read_bytes()


def test_geoparquet_without_features(tmp_path):
    write_geoparquet(tmp_path / "road.parquet", layer([]))
    back = gpd.read_parquet(tmp_path / "road.parquet")
    assert len(back) == 0
    assert back.crs.to_epsg() == 32632
    assert list(back)[: len(LAYER_SCHEMA)] == list(LAYER_SCHEMA)
    assert str(back["datetime"].dtype) == "datetime64[ms, UTC]"


# --- GeoPackage and FlatGeobuf ----------------------------------------------------------------------------------


def test_geopackage_holds_a_table_per_layer(tmp_path):
    frames = {"water": frame_of(pixel_polygons()), "road": frame_of([]), "field": frame_of([shapely.box(0, 0, 3, 3)])}
    write_gpkg(tmp_path / "layers.gpkg", {name: layer_of(name, frame) for name, frame in frames.items()})
    assert pyogrio.list_layers(tmp_path / "layers.gpkg").tolist() == [[name, "Polygon"] for name in frames]
    for name, frame in frames.items():
        back = gpd.read_file(tmp_path / "layers.gpkg", layer=name)
        assert back.crs == frame.crs
        assert same_shapes(back, frame)
        kinds = pyogrio.read_info(tmp_path / "layers.gpkg", layer=name)["ogr_types"]
        assert kinds == ["OFTInteger64", "OFTString", *["OFTReal"] * 4, "OFTInteger", "OFTDateTime", "OFTString"]
        if len(frame):
            same_attributes(back, frame)


def content(path):
    """Everything in a GeoPackage but the times of writing."""
    with sqlite3.connect(path) as database:
        lines = [line for line in database.iterdump() if '"gpkg_contents"' not in line]
        lines += [
            str(row)
            for row in database.execute("SELECT table_name, identifier, min_x, max_y, srs_id FROM gpkg_contents")
        ]
    database.close()
    return lines


def test_flatgeobuf_comes_back(tmp_path):
    for frame in (frame_of(pixel_polygons()), frame_of([])):
        write_flatgeobuf(tmp_path / "water.fgb", layer_of("water", frame))
        back = gpd.read_file(tmp_path / "water.fgb")
        assert back.crs == frame.crs
        assert pyogrio.read_info(tmp_path / "water.fgb")["geometry_type"] == "Polygon"
        if len(frame):
            assert same_shapes(back, frame)
            same_attributes(back, frame)


# --- all formats ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_layer_gives_the_same_bytes(tmp_path, name):
    results = []
    for attempt in ("first", "second"):
        (tmp_path / attempt).mkdir()
        (path,) = write_layers(tmp_path / attempt, {"water": layer(pixel_polygons())}, [name])
        results.append(content(path) if name == "gpkg" else path.read_bytes())
    assert results[0] == results[1]


@pytest.mark.parametrize("name", FORMATS)
def test_several_parts_and_other_columns_are_written_too(tmp_path, name):
    parts = shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(2, 0, 3, 1)])
    frame = frame_of([parts], crs="EPSG:4326", length_m=7.5)
    (path,) = write_layers(tmp_path, {"road": layer_of("road", frame)}, [name])
    back = gpd.read_parquet(path) if name == "parquet" else gpd.read_file(path)
    assert back["length_m"].tolist() == [7.5]
    assert shapely.equals(back.geometry[0], parts)


@pytest.mark.parametrize("name", FORMATS)
def test_unknown_datetime_and_confidence_are_null(tmp_path, name):
    given = layer(
        [shapely.box(0, 0, 1, 1)], datetime=pd.Series([pd.NaT], dtype="datetime64[ms, UTC]"), confidence=np.nan
    )
    (path,) = write_layers(tmp_path, {"road": given}, [name])
    back = gpd.read_parquet(path) if name == "parquet" else gpd.read_file(path)
    assert back[["datetime", "confidence", "confidence_p10"]].isna().all(axis=None)
    if name == "parquet":
        assert pq.read_table(path)["confidence"].null_count == 1


@pytest.mark.parametrize("name", FORMATS)
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, name):
    resource = pytest.importorskip("resource")
    given = layer(pixel_polygons())
    (path,) = write_layers(tmp_path, {"water": given}, [name])
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, hard))  # as on a full disk
    try:
        with pytest.raises(OutputError, match=f"cannot write {re.escape(str(path))}: .+"):
            write_layers(tmp_path, {"water": given}, [name])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("name", FORMATS)
def test_a_layer_without_crs_is_refused(tmp_path, name):
    with pytest.raises(OutputError, match="the layer has no CRS"):
        write_layers(tmp_path, {"road": layer([], crs=None)}, [name])
    assert list(tmp_path.iterdir()) == []


def test_what_fails_ends_the_writing_of_other_files(tmp_path, monkeypatch):
    begun, failed = threading.Event(), threading.Event()

    def fail(path, layer):
        begun.wait(30)
        failed.set()
        raise OutputError(f"cannot write {path}: no reason")

    def endless(path, layer):
        with staged(path) as inside:
            inside.write_bytes(b"half")
            begun.set()
            until = time.monotonic() + 30  # so that it would be there if nobody ended it
            while time.monotonic() < until:
                list(layer.batches())

    for name, write in (("parquet", fail), ("fgb", endless)):
        monkeypatch.setitem(FORMATS, name, FORMATS[name]._replace(write=write))
    monkeypatch.setattr(vectors, "count_cores", lambda: 2)
    with pytest.raises(OutputError, match="no reason"):
        write_layers(tmp_path, {"water": layer(pixel_polygons())}, ["fgb", "parquet"])
    assert failed.is_set()
    assert list(tmp_path.iterdir()) == []


def test_write_layers_names_the_files_and_writes_each_format_once(tmp_path):
    layers = {"water": layer(pixel_polygons()), "road": layer([])}
    written = write_layers(tmp_path, layers, ["geojson", "gpkg", "fgb", "parquet", "gpkg"])
    assert [path.name for path in written] == [
        *("water.geojson", "road.geojson", "layers.gpkg"),
        *("water.fgb", "road.fgb", "water.parquet", "road.parquet"),
    ]
    assert sorted(written) == sorted(tmp_path.iterdir())


def test_unknown_format_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(
        SettingsError, match="format 'shp' is not known; use some of geojson, geojsonl, parquet, gpkg, fgb"
    ):
        write_layers(tmp_path, {"water": layer([])}, ["geojson", "shp"])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="given no layer"):
        write_gpkg(tmp_path / "layers.gpkg", {})

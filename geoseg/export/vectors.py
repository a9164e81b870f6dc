"""Layers as GeoJSON, GeoParquet, GeoPackage and FlatGeobuf.

A layer is a GeoDataFrame in the scene's CRS with the columns of `LAYER_SCHEMA`, one row per polygon, sorted
by id; `make_layer` builds it and rounds the attributes once, so that every format holds the same figures.
Stages may add columns. Every writer makes its file whole or not at all, and the same bytes for the same layer
(a GeoPackage holds the same content, but notes when it was written).
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyogrio
import pyproj
import shapely
from numpy.typing import ArrayLike, NDArray
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError
from pyproj.exceptions import ProjError

from geoseg.atomic import staged
from geoseg.errors import OutputError, SettingsError

__all__ = [
    "FORMATS",
    "LAYER_SCHEMA",
    "Column",
    "Format",
    "make_layer",
    "to_lonlat",
    "write_flatgeobuf",
    "write_geojson",
    "write_geoparquet",
    "write_gpkg",
    "write_layers",
]


class Column(NamedTuple):
    """A column of every layer."""

    dtype: str
    meaning: str


LAYER_SCHEMA: Final[Mapping[str, Column]] = {
    "id": Column("int64", "the polygon's number: its first pixel in row-major order, plus 1; the same in every run"),
    "class": Column("str", "water, road, field or parking"),
    "area_m2": Column("float64", "geodesic area in square metres, to 0.001"),
    "perimeter_m": Column("float64", "geodesic length of all rings in metres, to 0.001"),
    "confidence": Column("float64", "mean confidence of the polygon's pixels, 0-1, to 0.0001; null if unknown"),
    "confidence_p10": Column("float64", "confidence that 90 % of the pixels reach, 0-1, to 0.0001; null if unknown"),
    "datetime": Column("datetime64[ms, UTC]", "when the scene was taken; null if unknown"),
    "model": Column("str", "the model that found the polygon; null if unknown"),
    "geometry": Column("geometry", "polygon in the scene's CRS, exterior ring counter-clockwise"),
}

# 7 decimals of a degree are 11 mm on the ground (RFC 7946, section 11.2, asks for no more than is meant).
_DECIMALS = 7
# A straight edge of the scene's CRS is no straight line in longitude and latitude. Half a kilometre strays by
# less than 10 mm up to 60 degrees of latitude (sagitta L^2 tan(lat) / 8R), which is what the decimals keep.
_MAX_EDGE_M = 500.0
_LONG_NUMBER = re.compile(r"-?\d+\.\d{8,}(?:e-?\d+)?")
_ROW_GROUP = 32_768


def make_layer(  # noqa: PLR0913
    geometries: ArrayLike,
    *,
    ids: ArrayLike,
    class_name: str,
    area_m2: ArrayLike,
    perimeter_m: ArrayLike,
    confidence: ArrayLike,
    confidence_p10: ArrayLike,
    datetime: str | dt.datetime | None,
    model: str | None,
    crs: Any,
) -> gpd.GeoDataFrame:
    """Make a layer: columns as in `LAYER_SCHEMA`, sorted by id, attributes rounded, exteriors counter-clockwise.

    Args:
        geometries: (n,) shapely polygons in `crs`.
        ids: (n,) int64, unique.
        class_name: the class of all polygons.
        area_m2: (n,) square metres.
        perimeter_m: (n,) metres.
        confidence: (n,) 0-1, NaN where unknown.
        confidence_p10: (n,) 0-1, NaN where unknown.
        datetime: when the scene was taken, ISO 8601; without an offset it is taken as UTC.
        model: name of the model; None where the mask came from elsewhere.
        crs: anything that `pyproj.CRS.from_user_input` takes.

    Returns:
        The layer, indexed 0 ... n-1.

    Raises:
        SettingsError: a datetime that is not ISO 8601.
        ValueError: arrays of different lengths, or an id given twice.
    """
    number = np.asarray(ids, dtype=np.int64)
    shapes = np.asarray(geometries, dtype=object)
    columns = {
        "area_m2": np.round(np.asarray(area_m2, dtype=np.float64), 3),
        "perimeter_m": np.round(np.asarray(perimeter_m, dtype=np.float64), 3),
        "confidence": np.round(np.asarray(confidence, dtype=np.float64), 4),
        "confidence_p10": np.round(np.asarray(confidence_p10, dtype=np.float64), 4),
    }
    for name, values in {"geometries": shapes, **columns}.items():
        if values.shape != number.shape:
            raise ValueError(f"{name} has shape {values.shape}, ids {number.shape}; one value per polygon is needed")
    order = np.argsort(number, kind="stable")
    if (np.diff(number[order]) == 0).any():
        raise ValueError(f"ids of layer {class_name} are not unique")
    length = len(number)
    taken = pd.Timestamp(_utc(datetime)).tz_convert("UTC") if datetime is not None else pd.NaT
    return gpd.GeoDataFrame(
        {
            "id": number[order],
            "class": pd.Series([class_name] * length, dtype="str"),
            **{name: values[order] for name, values in columns.items()},
            "datetime": pd.Series([taken] * length, dtype="datetime64[ms, UTC]"),
            "model": pd.Series([model] * length, dtype="str"),
        },
        geometry=shapely.orient_polygons(shapes[order]),
        crs=crs,
    )


def _utc(value: str | dt.datetime) -> dt.datetime:
    """Read an ISO 8601 time; one without an offset is UTC."""
    try:
        moment = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError as error:
        raise SettingsError(f"datetime {value!r} is not ISO 8601; give one like 2024-06-30T10:15:00Z") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)


def to_lonlat(geometries: ArrayLike, crs: Any) -> NDArray[np.object_]:
    """Carry geometries to what RFC 7946 asks for: WGS 84, 7 decimals, split at the antimeridian, rings oriented.

    Rounding to 7 decimals can make a slender polygon cross itself. Such a polygon is snapped to the same grid
    by GEOS, which keeps it valid (it may fall into parts). One thinner than the grid vanishes and becomes
    None, never a line.

    Args:
        geometries: (n,) shapely geometries in `crs`, two-dimensional.
        crs: anything that `pyproj.CRS.from_user_input` takes.

    Returns:
        (n,) geometries in longitude and latitude, or None.

    Raises:
        OutputError: coordinates outside of what the CRS can map to the globe.
    """
    source = pyproj.CRS.from_user_input(crs)
    shapes = np.asarray(geometries, dtype=object)
    if len(shapes) == 0:
        return shapes
    if not source.is_geographic:
        shapes = _densify(shapes, _MAX_EDGE_M / source.axis_info[0].unit_conversion_factor)
    try:
        transformer = pyproj.Transformer.from_crs(source, "OGC:CRS84", always_xy=True)
    except ProjError as error:
        raise OutputError(f"a layer in {source.name} cannot be carried to longitude and latitude: {error}") from error

    def project(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        lon, lat = transformer.transform(xy[:, 0], xy[:, 1])
        if source.is_geographic:
            # PROJ may bring longitudes beyond 180 degrees back by a turn, or may not; polygons must stay whole here.
            given = np.degrees(xy[:, 0] * source.axis_info[0].unit_conversion_factor)
            lon = lon + 360 * np.round((given - lon) / 360)
        return np.column_stack([lon, lat])

    shapes = shapely.transform(shapes, project)
    if not np.isfinite(shapely.total_bounds(shapes)).all() or not np.isfinite(shapely.get_coordinates(shapes)).all():
        raise OutputError(f"a layer in {source.name} has coordinates that lie nowhere on the globe; check the CRS")

    west, _, east, _ = shapely.bounds(shapes).T
    # Coordinates from a projection jump by 360 degrees at the antimeridian; geographic ones run on beyond it.
    crossing = (west < -180) | (east > 180) | ((east - west > 180) & (not source.is_geographic))
    for index in np.flatnonzero(crossing):
        shapes[index] = _split(shapes[index], jumps=not source.is_geographic)

    rounded = shapely.transform(shapes, lambda xy: np.round(xy, _DECIMALS))
    sound = shapely.is_valid(rounded) & ~shapely.is_empty(rounded)
    rounded[sound] = shapely.remove_repeated_points(rounded[sound])
    snapped = shapely.set_precision(shapes[~sound], 10.0**-_DECIMALS)
    snapped[shapely.is_empty(snapped)] = None
    rounded[~sound] = snapped
    return np.asarray(shapely.orient_polygons(rounded))


def _densify(shapes: NDArray[np.object_], max_edge: float) -> NDArray[np.object_]:
    """Add vertices to edges longer than `max_edge` (units of the CRS)."""
    west, south, east, north = shapely.bounds(shapes).T
    wide = np.hypot(east - west, north - south) > max_edge
    result = shapes.copy()
    result[wide] = shapely.segmentize(shapes[wide], max_edge)
    return result


def _split(shape: shapely.Geometry, *, jumps: bool) -> shapely.Geometry:
    """Cut one geometry in longitude and latitude at the antimeridian; all of it comes to lie in -180 ... 180.

    Each ring is laid out without jumps, cut into strips of 360 degrees and moved back; then holes are taken
    off.

    Args:
        shape: polygons or lines.
        jumps: whether a step of more than 180 degrees means that the antimeridian was crossed.
    """
    parts: list[shapely.Geometry] = []
    for part in shapely.get_parts(shape):
        if shapely.get_type_id(part) != shapely.GeometryType.POLYGON:
            parts.append(_unroll(part, jumps=jumps))
            continue
        shell, *holes = (_unroll(ring, jumps=jumps) for ring in shapely.get_rings(part))
        parts.append(shapely.difference(shell, shapely.union_all(holes)))
    return shapely.union_all(parts)


def _unroll(line: shapely.Geometry, *, jumps: bool) -> shapely.Geometry:
    """Bring a line, or what a ring encloses, between -180 and 180. A ring around a pole is closed at the pole."""
    lon, lat = shapely.get_coordinates(line).T
    ring = shapely.get_type_id(line) == shapely.GeometryType.LINEARRING
    if jumps:
        lon = np.unwrap(lon, period=360)
        if ring and abs(lon[-1] - lon[0]) > 180:
            pole = math.copysign(90, lat.mean())
            lon = np.concatenate([lon, [lon[-1], lon[0]]])
            lat = np.concatenate([lat, [pole, pole]])
    laid_out = (shapely.polygons if ring else shapely.linestrings)(np.column_stack([lon, lat]))
    pieces: list[shapely.Geometry] = []
    for strip in range(math.floor((lon.min() + 180) / 360), math.ceil((lon.max() + 180) / 360)):
        turn = 360.0 * strip
        cut = shapely.get_parts(shapely.intersection(laid_out, shapely.box(turn - 180, -90, turn + 180, 90)))
        whole = cut[shapely.get_dimensions(cut) == shapely.get_dimensions(laid_out)]
        pieces.extend(shapely.transform(whole, lambda xy, turn=turn: xy - [turn, 0.0]))
    return shapely.union_all(pieces)


def write_geojson(path: str | os.PathLike[str], frame: gpd.GeoDataFrame) -> None:
    """Write a layer as GeoJSON (RFC 7946): longitude and latitude, see `to_lonlat`.

    Every feature has its id twice, as the feature's `id` and as a property, because many readers show only
    the properties. The collection has one further member, `name`, the file's name without its suffix. The
    text is made here and not by GDAL, whose driver takes several times as long and may turn a slender polygon
    into a line.

    Raises:
        OutputError: a layer without a CRS, or a file that cannot be written.
    """
    geometries = to_lonlat(frame.geometry.to_numpy(), _crs(frame, path))
    attributes = frame.drop(columns=frame.geometry.name)
    members: list[Any] = ['{"type": "Feature", "id": ', _json_texts(frame["id"]), ', "properties": {']
    for number, name in enumerate(attributes):
        members += [f"{', ' if number else ''}{_json(str(name))}: ", _json_texts(attributes[name])]
    heads = pc.binary_join_element_wise(*members, '}, "geometry": ', "")
    with staged(Path(path)) as inside:
        try:
            with inside.open("w", encoding="utf-8", newline="\n") as file:
                file.write(f'{{"type": "FeatureCollection", "name": {_json(Path(path).stem)}, "features": [')
                for start in range(0, len(frame), _ROW_GROUP):
                    part = slice(start, start + _ROW_GROUP)
                    lines = zip(heads[part].to_pylist(), _geometry_texts(geometries[part]), strict=True)
                    file.write(",\n" if start else "\n")
                    file.write(",\n".join(f"{head}{shape}}}" for head, shape in lines))
                file.write("\n]}\n")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error}") from error


def _geometry_texts(geometries: NDArray[np.object_]) -> list[str]:
    """Return rounded geometries as JSON text."""
    texts = [text or "null" for text in shapely.to_geojson(geometries)]
    # GEOS mostly writes the shortest digits of a number, but one in a thousand comes out like 11.513493799999999.
    long = pc.match_substring_regex(pa.array(texts, type=pa.string()), r"\.\d{8}").to_numpy(zero_copy_only=False)
    for index in np.flatnonzero(long):
        texts[index] = _LONG_NUMBER.sub(lambda number: repr(round(float(number[0]), _DECIMALS)), texts[index])
    return texts


def _json(value: Any) -> str:
    """Return one value as JSON text; times in UTC as RFC 3339."""
    if isinstance(value, dt.datetime):
        value = _utc(value).isoformat().replace("+00:00", "Z")
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _json_texts(column: pd.Series) -> pa.Array:
    """Return each value of a column as JSON text. Values that are not numbers are few, so each is written once."""
    values = _arrow(column)
    if pa.types.is_integer(values.type):
        return values.cast(pa.string()).fill_null("null")
    if pa.types.is_floating(values.type):
        texts = pc.if_else(pc.is_finite(values), values, None).cast(pa.string())
        # "3.0", not "3": readers take a column whose numbers all look whole for integers.
        whole = pc.match_substring_regex(texts, r"^-?\d+$")
        return pc.if_else(whole, pc.binary_join_element_wise(texts, "0", "."), texts).fill_null("null")
    coded = values.dictionary_encode()
    texts = pa.array([_json(value) for value in coded.dictionary.to_pylist()], type=pa.string())
    return texts.take(coded.indices).fill_null("null")


def write_flatgeobuf(path: str | os.PathLike[str], frame: gpd.GeoDataFrame) -> None:
    """Write a layer as FlatGeobuf in the scene's CRS, with its spatial index (which sets the order of the features).

    Raises:
        OutputError: a layer without a CRS, or a file that cannot be written.
    """
    _write_with_gdal(Path(path), {Path(path).stem: frame}, driver="FlatGeobuf")


def write_gpkg(path: str | os.PathLike[str], frames: Mapping[str, gpd.GeoDataFrame]) -> None:
    """Write layers as one GeoPackage in the scene's CRS: a table with a spatial index per layer.

    The same layers give the same content; the file also notes when each table was written.

    Args:
        path: the file to write; its folder must exist.
        frames: table name -> layer, at least one.

    Raises:
        OutputError: no layer, a layer without a CRS, or a file that cannot be written.
    """
    if not frames:
        raise OutputError(f"cannot write {path}: given no layer, a GeoPackage needs at least one")
    _write_with_gdal(Path(path), frames, driver="GPKG")


def _write_with_gdal(path: Path, frames: Mapping[str, gpd.GeoDataFrame], *, driver: str) -> None:
    """Write layers with one of GDAL's drivers; the first one makes the file, the others join it."""
    for frame in frames.values():
        _crs(frame, path)
    with staged(path) as inside:
        for name, frame in frames.items():
            kind = "Polygon" if frame.empty else None  # else as the geometries are
            try:
                pyogrio.write_dataframe(frame, inside, layer=name, driver=driver, geometry_type=kind)
            except (DataSourceError, DataLayerError, FeatureError) as error:
                raise OutputError(f"cannot write {path}: {error}") from error


def write_geoparquet(path: str | os.PathLike[str], frame: gpd.GeoDataFrame) -> None:
    """Write a layer as GeoParquet 1.1 in the scene's CRS.

    WKB geometries, CRS as PROJJSON, exterior rings counter-clockwise (and stated to be), a `bbox` column that
    covers each geometry, rows along a Hilbert curve over the layer's bounds (ties by id), zstd. Readers can
    so skip row groups by place. See https://geoparquet.org/releases/v1.1.0/.

    Raises:
        OutputError: a layer without a CRS, or a file that cannot be written.
    """
    crs = _crs(frame, path)
    if len(frame):
        along = frame.hilbert_distance(total_bounds=frame.total_bounds)
        frame = frame.iloc[np.lexsort((frame["id"].to_numpy(), along.to_numpy()))]
    shapes = shapely.orient_polygons(frame.geometry.to_numpy())
    bounds = shapely.bounds(shapes).reshape(-1, 4)
    corners = ("xmin", "ymin", "xmax", "ymax")

    attributes = frame.drop(columns=frame.geometry.name)
    arrays = {name: _arrow(attributes[name]) for name in attributes}
    arrays["geometry"] = pa.array(shapely.to_wkb(shapes, flavor="iso", include_srid=False), type=pa.binary())
    arrays["bbox"] = pa.StructArray.from_arrays([pa.array(values) for values in bounds.T], names=list(corners))
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": sorted(set(gpd.array.GeometryArray(shapes).geom_type.tolist())),
        "crs": crs.to_json_dict(),
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": {"bbox": {corner: ["bbox", corner] for corner in corners}},
    }
    if len(frame):
        column["bbox"] = shapely.total_bounds(shapes).tolist()
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    table = pa.table(arrays).replace_schema_metadata({"geo": json.dumps(geo, ensure_ascii=False)})
    with staged(Path(path)) as inside:
        try:
            pq.write_table(
                table,
                inside,
                compression="zstd",
                row_group_size=_ROW_GROUP,
                use_dictionary=[name for name, values in arrays.items() if _repeats(values.type)],
                write_statistics=[*attributes, *(f"bbox.{corner}" for corner in corners)],
            )
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error}") from error


def _arrow(column: pd.Series) -> pa.Array:
    """Return a column with NaN and NaT as null, and with plain strings whatever pandas holds them in."""
    values = pa.Array.from_pandas(column)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.cast(pa.string()) if pa.types.is_large_string(values.type) else values


def _repeats(kind: pa.DataType) -> bool:
    """Tell whether a column of this type has few different values (geometries and measures do not)."""
    return bool(pa.types.is_string(kind) or pa.types.is_timestamp(kind))


def _crs(frame: gpd.GeoDataFrame, path: str | os.PathLike[str]) -> pyproj.CRS:
    """Return the layer's CRS."""
    if frame.crs is None:
        raise OutputError(f"cannot write {path}: the layer has no CRS; set the scene's")
    return pyproj.CRS.from_user_input(frame.crs)


class Format(NamedTuple):
    """A file format of layers: its suffix, its writer, and whether one file holds all layers."""

    suffix: str
    write: Callable[..., None]
    combined: bool


FORMATS: Final[Mapping[str, Format]] = {
    "geojson": Format(".geojson", write_geojson, combined=False),
    "parquet": Format(".parquet", write_geoparquet, combined=False),
    "gpkg": Format(".gpkg", write_gpkg, combined=True),
    "fgb": Format(".fgb", write_flatgeobuf, combined=False),
}


def write_layers(directory: Path, layers: Mapping[str, gpd.GeoDataFrame], formats: Sequence[str]) -> list[Path]:
    """Write layers in some formats: `<layer>.<suffix>` each, `layers.gpkg` for all together.

    Args:
        directory: an existing folder.
        layers: layer name -> layer; layers may be empty.
        formats: names from `FORMATS`.

    Returns:
        The files written, in the order of `formats` and `layers`.

    Raises:
        SettingsError: an unknown format; nothing was written.
        OutputError: a file that cannot be written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise SettingsError(f"format {unknown[0]!r} is not known; use some of {', '.join(FORMATS)}")
    written = []
    for name in dict.fromkeys(formats):
        suffix, write, combined = FORMATS[name]
        todo = layers if not combined else {"layers": layers} if layers else {}
        for stem, content in todo.items():
            path = directory / f"{stem}{suffix}"
            write(path, content)
            written.append(path)
    return written

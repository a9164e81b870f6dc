"""Layers as GeoJSON, GeoParquet, GeoPackage and FlatGeobuf.

Every writer goes through a layer batch by batch, so its memory does not grow with the layer. It makes its file whole or
not at all, and the same bytes for the same layer (a GeoPackage holds the same content, but notes when it was written).
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
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
from geoseg.export.rows import BATCH_ROWS, Layer, to_utc

__all__ = [
    "FORMATS",
    "Format",
    "to_lonlat",
    "write_flatgeobuf",
    "write_geojson",
    "write_geojsonseq",
    "write_geoparquet",
    "write_gpkg",
    "write_layers",
]

# 7 decimals of a degree are 11 mm on the ground (RFC 7946, section 11.2, asks for no more than is meant).
_DECIMALS = 7
# A straight edge of the scene's CRS is no straight line in longitude and latitude. Half a kilometre strays by
# less than 10 mm up to 60 degrees of latitude (sagitta L^2 tan(lat) / 8R), which is what the decimals keep.
_MAX_EDGE_M = 500.0
_LONG_NUMBER = re.compile(r"-?\d+\.\d{8,}(?:e-?\d+)?")


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
    transformer = _to_crs84(source)

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


@lru_cache(maxsize=8)
def _to_crs84(source: pyproj.CRS) -> pyproj.Transformer:
    try:
        return pyproj.Transformer.from_crs(source, "OGC:CRS84", always_xy=True)
    except ProjError as error:
        raise OutputError(f"a layer in {source.name} cannot be carried to longitude and latitude: {error}") from error


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


def write_geojson(path: str | os.PathLike[str], layer: Layer) -> None:
    """Write a layer as GeoJSON (RFC 7946): longitude and latitude, see `to_lonlat`.

    Every feature has its id twice, as the feature's `id` and as a property, because many readers show only
    the properties. The collection has one further member, `name`, the file's name without its suffix. The
    text is made here and not by GDAL, whose driver takes several times as long and may turn a slender polygon
    into a line.

    Raises:
        OutputError: a layer without a CRS, or a file that cannot be written.
    """
    before = f'{{"type": "FeatureCollection", "name": {_json(Path(path).stem)}, "features": [\n'
    _write_features(Path(path), layer, before, ",\n", "\n]}\n" if len(layer) else "]}\n")


def write_geojsonseq(path: str | os.PathLike[str], layer: Layer) -> None:
    """Write a layer as a sequence of GeoJSON features, one a line, as in :func:`write_geojson`.

    This is RFC 8142 without its record separators: GDAL reads both, but tools for lines of JSON (jq, DuckDB,
    tippecanoe, BigQuery) stumble over the separators, and lines can be cut, joined and read in parallel.

    Raises:
        OutputError: a layer without a CRS, or a file that cannot be written.
    """
    _write_features(Path(path), layer, "", "\n", "\n" if len(layer) else "")


def _write_features(path: Path, layer: Layer, before: str, between: str, after: str) -> None:
    """Write the text of features one after the other."""
    crs = _crs(layer, path)
    with staged(path) as inside:
        try:
            with inside.open("w", encoding="utf-8", newline="\n") as file:
                file.write(before)
                gap = ""
                for batch in layer.batches():
                    file.write(gap)
                    file.write(between.join(_feature_texts(batch, crs)))
                    gap = between
                file.write(after)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error}") from error


def _feature_texts(batch: pa.RecordBatch, crs: pyproj.CRS) -> Iterator[str]:
    """Return features as JSON text."""
    members: list[Any] = ['{"type": "Feature", "id": ', _json_texts(batch["id"]), ', "properties": {']
    for number, name in enumerate(_attributes(batch.schema)):
        members += [f"{', ' if number else ''}{_json(name)}: ", _json_texts(batch[name])]
    heads = pc.binary_join_element_wise(*members, '}, "geometry": ', "").to_pylist()
    geometries = to_lonlat(shapely.from_wkb(batch["geometry"].to_numpy(zero_copy_only=False)), crs)
    return (f"{head}{shape}}}" for head, shape in zip(heads, _geometry_texts(geometries), strict=True))


def _attributes(schema: pa.Schema) -> list[str]:
    """Return the names of a layer's columns without those that hold where its features are."""
    return [name for name in schema.names if name not in ("geometry", "bbox")]


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
        value = to_utc(value).isoformat().replace("+00:00", "Z")
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _json_texts(values: pa.Array) -> pa.Array:
    """Return each value of a column as JSON text. Values that are not numbers are few, so each is written once."""
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


def write_flatgeobuf(path: str | os.PathLike[str], layer: Layer) -> None:
    """Write a layer as FlatGeobuf in the scene's CRS, with its spatial index (which sets the order of the features).

    Raises:
        OutputError: a layer without a CRS, or a file that cannot be written.
    """
    _write_with_gdal(Path(path), {Path(path).stem: layer}, driver="FlatGeobuf")


def write_gpkg(path: str | os.PathLike[str], layers: Mapping[str, Layer]) -> None:
    """Write layers as one GeoPackage in the scene's CRS: a table with a spatial index per layer.

    The same layers give the same content; the file also notes when each table was written.

    Args:
        path: the file to write; its folder must exist.
        layers: table name -> layer, at least one.

    Raises:
        OutputError: no layer, a layer without a CRS, or a file that cannot be written.
    """
    if not layers:
        raise OutputError(f"cannot write {path}: given no layer, a GeoPackage needs at least one")
    _write_with_gdal(Path(path), layers, driver="GPKG")


def _write_with_gdal(path: Path, layers: Mapping[str, Layer], *, driver: str) -> None:
    """Write layers with one of GDAL's drivers; the first one makes the file, the others join it."""
    places = {name: _crs(layer, path) for name, layer in layers.items()}
    with staged(path) as inside:
        for name, layer in layers.items():
            schema = layer.schema.remove(layer.schema.get_field_index("bbox"))
            batches = (batch.drop_columns(["bbox"]) for batch in layer.batches())
            kinds = layer.geometry_types or ("Polygon",)
            epsg = places[name].to_epsg()
            try:
                pyogrio.write_arrow(
                    pa.RecordBatchReader.from_batches(schema, batches),
                    inside,
                    layer=name,
                    driver=driver,
                    geometry_name="geometry",
                    geometry_type=kinds[0] if len(kinds) == 1 else "Unknown",
                    crs=f"EPSG:{epsg}" if epsg else places[name].to_wkt("WKT1_GDAL"),
                )
            except (DataSourceError, DataLayerError, FeatureError) as error:
                raise OutputError(f"cannot write {path}: {error}") from error


def write_geoparquet(path: str | os.PathLike[str], layer: Layer) -> None:
    """Write a layer as GeoParquet 1.1 in the scene's CRS.

    WKB geometries, CRS as PROJJSON, exterior rings counter-clockwise (and stated to be), a `bbox` column that
    covers each geometry, rows along a Hilbert curve, zstd. Readers can so skip row groups by place. See
    https://geoparquet.org/releases/v1.1.0/.

    Raises:
        OutputError: a layer without a CRS, or a file that cannot be written.
    """
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": list(layer.geometry_types),
        "crs": _crs(layer, path).to_json_dict(),
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": {"bbox": {field.name: ["bbox", field.name] for field in layer.schema.field("bbox").type}},
    }
    if layer.bounds is not None:
        column["bbox"] = list(layer.bounds)
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    schema = layer.schema.with_metadata({"geo": json.dumps(geo, ensure_ascii=False)})
    with staged(Path(path)) as inside:
        try:
            with pq.ParquetWriter(
                inside,
                schema,
                compression="zstd",
                use_dictionary=[field.name for field in schema if _repeats(field.type)],
                write_statistics=[*_attributes(schema), *(f"bbox.{field.name}" for field in schema.field("bbox").type)],
            ) as writer:
                for batch in layer.batches():
                    writer.write_batch(batch, row_group_size=BATCH_ROWS)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error}") from error


def _repeats(kind: pa.DataType) -> bool:
    """Tell whether a column of this type has few different values (geometries and measures do not)."""
    return bool(pa.types.is_string(kind) or pa.types.is_timestamp(kind))


def _crs(layer: Layer, path: str | os.PathLike[str]) -> pyproj.CRS:
    """Return the layer's CRS."""
    if layer.crs is None:
        raise OutputError(f"cannot write {path}: the layer has no CRS; set the scene's")
    return layer.crs


class Format(NamedTuple):
    """A file format of layers: its suffix, its writer, and whether one file holds all layers."""

    suffix: str
    write: Callable[..., None]
    combined: bool


FORMATS: Final[Mapping[str, Format]] = {
    "geojson": Format(".geojson", write_geojson, combined=False),
    "geojsonl": Format(".geojsonl", write_geojsonseq, combined=False),
    "parquet": Format(".parquet", write_geoparquet, combined=False),
    "gpkg": Format(".gpkg", write_gpkg, combined=True),
    "fgb": Format(".fgb", write_flatgeobuf, combined=False),
}


def write_layers(directory: Path, layers: Mapping[str, Layer], formats: Sequence[str]) -> list[Path]:
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

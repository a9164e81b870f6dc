"""GeoJSON text of features: carried to longitude and latitude as RFC 7946 has it, and written down.

The text is made here and not by GDAL, whose driver takes several times as long and may turn a slender polygon into a
line.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyproj
import shapely
from numpy.typing import ArrayLike, NDArray
from pyproj.exceptions import ProjError

from geoseg.errors import OutputError
from geoseg.export.rows import attributes, to_utc

__all__ = ["features_text", "json_text", "to_lonlat"]

# 7 decimals of a degree are 11 mm on the ground (RFC 7946, section 11.2, asks for no more than is meant).
_DECIMALS = 7
# A straight edge of the scene's CRS is no straight line in longitude and latitude. Half a kilometre strays by
# less than 10 mm up to 60 degrees of latitude (sagitta L^2 tan(lat) / 8R), which is what the decimals keep.
_MAX_EDGE_M = 500.0
_LONG_NUMBER = re.compile(r"-?\d+\.\d{8,}(?:e-?\d+)?")
_UNIT = 10**_DECIMALS
_JSON_OF_POLYGON = tuple(np.frombuffer(text, np.uint8) for text in (b'{"type":"Polygon","coordinates":[', b"]}"))
_OPEN, _CLOSE, _COMMA, _MINUS, _POINT, _ZERO = b"[],-.0"


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
    xy, owner = shapely.get_coordinates(shapes, return_index=True)
    lonlat = _project(xy, source)
    crossing = _crossing(lonlat[:, 0], owner, len(shapes), jumps=not source.is_geographic)
    digits = np.round(lonlat, _DECIMALS)
    rounded = shapely.set_coordinates(shapes.copy(), digits)
    sound = shapely.is_valid(rounded) & ~shapely.is_empty(rounded) & ~crossing
    repeating = np.zeros(len(shapes), np.bool_)
    repeating[owner[1:][(digits[1:, 0] == digits[:-1, 0]) & (digits[1:, 1] == digits[:-1, 1])]] = True
    repeating &= sound
    rounded[repeating] = shapely.remove_repeated_points(rounded[repeating])

    exact = shapely.set_coordinates(shapes[~sound], lonlat[~sound[owner]])
    for place in np.flatnonzero(crossing[~sound]):
        exact[place] = _split(exact[place], jumps=not source.is_geographic)
    rounded[~sound] = _mended(exact)
    return np.asarray(shapely.orient_polygons(rounded))


def _project(xy: NDArray[np.float64], source: pyproj.CRS) -> NDArray[np.float64]:
    """Carry map coordinates (n, 2) to longitude and latitude on WGS 84; those of a geographic CRS keep their turn."""
    lon, lat = _to_crs84(source).transform(xy[:, 0], xy[:, 1])
    if source.is_geographic:
        # PROJ may bring longitudes beyond 180 degrees back by a turn, or may not; polygons must stay whole here.
        given = np.degrees(xy[:, 0] * source.axis_info[0].unit_conversion_factor)
        lon = lon + 360 * np.round((given - lon) / 360)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        raise OutputError(f"a layer in {source.name} has coordinates that lie nowhere on the globe; check the CRS")
    return np.column_stack([lon, lat])


def _crossing(lon: NDArray[np.float64], owner: NDArray[np.int64], count: int, *, jumps: bool) -> NDArray[np.bool_]:
    """Tell which geometries lie across the antimeridian.

    Coordinates from a projection jump by 360 degrees there; geographic ones run on beyond it.
    """
    west, east = np.full(count, np.inf), np.full(count, -np.inf)
    if lon.size and (lon.min() < -180 or lon.max() > 180 or lon.max() - lon.min() > 180):
        np.minimum.at(west, owner, lon)
        np.maximum.at(east, owner, lon)
    crossing: NDArray[np.bool_] = (west < -180) | (east > 180) | ((east - west > 180) & jumps)
    return crossing


def _mended(exact: NDArray[np.object_]) -> NDArray[np.object_]:
    """Round geometries; snap those that rounding breaks; None for those that it wipes out."""
    rounded = np.asarray(shapely.transform(exact, lambda xy: np.round(xy, _DECIMALS)))
    sound = shapely.is_valid(rounded) & ~shapely.is_empty(rounded)
    rounded[sound] = shapely.remove_repeated_points(rounded[sound])
    snapped = shapely.set_precision(exact[~sound], 10.0**-_DECIMALS)
    snapped[shapely.is_empty(snapped)] = None
    rounded[~sound] = snapped
    return rounded


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


def features_text(batch: pa.RecordBatch, crs: pyproj.CRS, between: str) -> pa.Buffer:
    """Return the features of a layer's batch as GeoJSON text.

    Args:
        batch: of a layer; its ``id`` stands in each feature twice, as its `id` and as a property.
        crs: of its geometries.
        between: what parts the features.

    Raises:
        OutputError: coordinates outside of what the CRS can map to the globe.
    """
    geometries = to_lonlat(shapely.from_wkb(batch["geometry"].to_numpy(zero_copy_only=False)), crs)
    members: list[Any] = ['{"type": "Feature", "id": ', _json_texts(batch["id"]), ', "properties": {']
    for number, name in enumerate(attributes(batch.schema)):
        members += [f"{', ' if number else ''}{json_text(name)}: ", _json_texts(batch[name])]
    members += ['}, "geometry": ', _geometry_texts(geometries), "}", ""]
    # a country's coast alone may have more text than 32-bit offsets reach
    large = [
        member.cast(pa.large_string()) if isinstance(member, pa.Array) else pa.scalar(member, pa.large_string())
        for member in members
    ]
    texts = pc.binary_join_element_wise(*large)
    whole = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
    return pc.binary_join(whole, pa.scalar(between, pa.large_string()))[0].as_buffer()


def _geometry_texts(geometries: NDArray[np.object_]) -> pa.Array:
    """Return rounded geometries as JSON text, large_string."""
    simple = shapely.get_type_id(geometries) == shapely.GeometryType.POLYGON
    others = pa.array([_other_text(geometry) for geometry in geometries[~simple]], pa.large_string())
    if not simple.any():
        return others
    _, coords, offsets = shapely.to_ragged_array(geometries[simple], include_z=False)
    ring_offsets, polygon_offsets = (np.asarray(part, np.int64) for part in offsets)
    units = np.rint(coords * 10.0**_DECIMALS).astype(np.int64)
    data, ends = _polygon_texts(units, ring_offsets, polygon_offsets, *_JSON_OF_POLYGON)
    texts = pa.LargeStringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(data))
    if simple.all():
        return texts
    place = np.empty(len(simple), np.int64)
    place[simple] = np.arange(len(texts))
    place[~simple] = len(texts) + np.arange(len(others))
    return pa.concat_arrays([texts, others]).take(pa.array(place))


def _other_text(geometry: shapely.Geometry | None) -> str:
    """Return a rounded geometry of any kind as JSON text."""
    # GEOS mostly writes the shortest digits of a number, but one in a thousand comes out like 11.513493799999999
    text = shapely.to_geojson(geometry) or "null"
    return _LONG_NUMBER.sub(lambda number: repr(round(float(number[0]), _DECIMALS)), text)


@numba.njit(cache=True, nogil=True)
def _polygon_texts(
    units: NDArray[np.int64],
    ring_offsets: NDArray[np.int64],
    polygon_offsets: NDArray[np.int64],
    head: NDArray[np.uint8],
    tail: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Write polygons whose coordinates are whole multiples of the last decimal; returns the text and its offsets."""
    polygons = polygon_offsets.size - 1
    # "[-180.1234567,-90.1234567]," is the longest vertex
    data = np.empty(28 * len(units) + 3 * ring_offsets.size + (head.size + tail.size) * polygons, np.uint8)
    offsets = np.zeros(polygons + 1, np.int64)
    at = 0
    for polygon in range(polygons):
        at = _copy(head, data, at)
        for ring in range(polygon_offsets[polygon], polygon_offsets[polygon + 1]):
            data[at] = _OPEN
            at += 1
            for vertex in range(ring_offsets[ring], ring_offsets[ring + 1]):
                data[at] = _OPEN
                at = _write_decimal(units[vertex, 0], data, at + 1)
                data[at] = _COMMA
                at = _write_decimal(units[vertex, 1], data, at + 1)
                data[at], data[at + 1] = _CLOSE, _COMMA
                at += 2
            data[at - 1], data[at] = _CLOSE, _COMMA
            at += 1
        at = _copy(tail, data, at - 1)
        offsets[polygon + 1] = at
    return data[:at], offsets


@numba.njit(cache=True, nogil=True, inline="always")
def _copy(text: NDArray[np.uint8], data: NDArray[np.uint8], at: int) -> int:
    data[at : at + text.size] = text
    return at + text.size


@numba.njit(cache=True, nogil=True)
def _write_decimal(units: int, data: NDArray[np.uint8], at: int) -> int:
    """Write a number of `_DECIMALS` decimals without idle zeros, but for one: 9.0."""
    if units < 0:
        data[at] = _MINUS
        at += 1
        units = -units
    whole, part = units // _UNIT, units % _UNIT
    if whole >= 100:
        data[at] = _ZERO + whole // 100
        at += 1
    if whole >= 10:
        data[at] = _ZERO + whole // 10 % 10
        at += 1
    data[at], data[at + 1] = _ZERO + whole % 10, _POINT
    end = at + 2
    for digit in range(_DECIMALS - 1, -1, -1):
        data[at + 2 + digit] = _ZERO + part % 10
        if end == at + 2 and (part % 10 != 0 or digit == 0):
            end = at + 3 + digit
        part //= 10
    return end


def json_text(value: Any) -> str:
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
    texts = pa.array([json_text(value) for value in coded.dictionary.to_pylist()], type=pa.string())
    return texts.take(coded.indices).fill_null("null")

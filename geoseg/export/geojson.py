"""GeoJSON text of features: carried to longitude and latitude as RFC 7946 has it, and written down.

The text is made here and not by GDAL, whose driver takes several times as long and may turn a slender polygon into a
line.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyproj
import shapely
from numpy.typing import NDArray

from geoseg.export.lonlat import DECIMALS, round_polygons, to_lonlat
from geoseg.export.rows import attributes, to_utc

__all__ = ["features_text", "json_text"]

_LONG_NUMBER = re.compile(r"-?\d+\.\d{8,}(?:e-?\d+)?")
_UNIT = 10**DECIMALS
_JSON_OF_POLYGON = tuple(np.frombuffer(text, np.uint8) for text in (b'{"type":"Polygon","coordinates":[', b"]}"))
_OPEN, _CLOSE, _COMMA, _MINUS, _POINT, _ZERO = b"[],-.0"


def features_text(batch: pa.RecordBatch, crs: pyproj.CRS, between: str) -> pa.Buffer:
    """Return the features of a layer's batch as GeoJSON text.

    Args:
        batch: of a layer; its ``id`` stands in each feature twice, as its `id` and as a property.
        crs: of its geometries.
        between: what parts the features.

    Raises:
        OutputError: coordinates outside of what the CRS can map to the globe.
    """
    members: list[Any] = ['{"type": "Feature", "id": ', _json_texts(batch["id"]), ', "properties": {']
    for number, name in enumerate(attributes(batch.schema)):
        members += [f"{', ' if number else ''}{json_text(name)}: ", _json_texts(batch[name])]
    members += ['}, "geometry": ', _geometry_texts(batch["geometry"], crs), "}", ""]
    # a country's coast alone may have more text than 32-bit offsets reach
    large = [
        member.cast(pa.large_string()) if isinstance(member, pa.Array) else pa.scalar(member, pa.large_string())
        for member in members
    ]
    texts = pc.binary_join_element_wise(*large)
    whole = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
    return pc.binary_join(whole, pa.scalar(between, pa.large_string()))[0].as_buffer()


def _geometry_texts(wkb: pa.Array, crs: pyproj.CRS) -> pa.Array:
    """Return geometries as JSON text, large_string."""
    units, ring_offsets, polygon_offsets, sure = round_polygons(wkb, crs)
    data, ends = _polygon_texts(units, ring_offsets, polygon_offsets, sure, *_JSON_OF_POLYGON)
    texts = pa.LargeStringArray.from_buffers(len(wkb), pa.py_buffer(ends), pa.py_buffer(data))
    if sure.all():
        return texts
    others = to_lonlat(shapely.from_wkb(wkb.filter(pa.array(~sure)).to_numpy(zero_copy_only=False)), crs)
    return pc.replace_with_mask(texts, pa.array(~sure), pa.array(_slow_texts(others), pa.large_string()))


def _slow_texts(geometries: NDArray[np.object_]) -> list[str]:
    """Return rounded geometries of any kind as JSON text."""
    # GEOS mostly writes the shortest digits of a number, but one in a thousand comes out like 11.513493799999999
    return [
        _LONG_NUMBER.sub(lambda number: repr(round(float(number[0]), DECIMALS)), text or "null")
        for text in shapely.to_geojson(geometries)
    ]


@numba.njit(cache=True, nogil=True)
def _polygon_texts(
    units: NDArray[np.int64],
    ring_offsets: NDArray[np.int64],
    polygon_offsets: NDArray[np.int64],
    sure: NDArray[np.bool_],
    head: NDArray[np.uint8],
    tail: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Write polygons as of :func:`round_polygons`; returns the text and its offsets, nothing for those not sure."""
    polygons = polygon_offsets.size - 1
    # "[-180.1234567,-90.1234567]," is the longest vertex
    data = np.empty(28 * len(units) + 3 * ring_offsets.size + (head.size + tail.size) * polygons, np.uint8)
    offsets = np.zeros(polygons + 1, np.int64)
    at = 0
    for polygon in range(polygons):
        offsets[polygon + 1] = at
        if not sure[polygon]:
            continue
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
    """Write a number of `DECIMALS` decimals without idle zeros, but for one: 9.0."""
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
    for digit in range(DECIMALS - 1, -1, -1):
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

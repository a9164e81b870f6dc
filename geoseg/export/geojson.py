"""GeoJSON text of features, whose geometries were carried to longitude and latitude as RFC 7946 has it.

The text is made here and not by GDAL, whose driver takes several times as long and may turn a slender polygon into a
line.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from geoseg.export.columns import objects_of, of_texts, text
from geoseg.export.lonlat import DECIMALS
from geoseg.export.rows import attributes, to_utc
from geoseg.export.twkb import Parts, unpack

__all__ = ["features_text", "json_text"]

_UNIT = 10**DECIMALS
_DIGITS = np.array([list(f"{number:04}".encode()) for number in range(10_000)], np.uint8)
_TEXTS = tuple(
    np.frombuffer(text, np.uint8)
    for text in (b'{"type":"Polygon","coordinates":', b'{"type":"MultiPolygon","coordinates":[', b"null")
)
_OPEN, _CLOSE, _COMMA, _MINUS, _POINT, _ZERO, _END = b"[],-.0}"


def features_text(batch: pa.RecordBatch, between: str) -> NDArray[np.uint8]:
    """Return the features of a layer's batch as GeoJSON text, in UTF-8.

    Args:
        batch: attributes of :meth:`geoseg.export.rows.Layer.batches`, and ``lonlat``; its ``id`` stands in each feature
            twice, as its `id` and as a property.
        between: what parts the features.
    """
    members = [text('{"type": "Feature", "id": '), _json_texts(batch["id"]), text(', "properties": {')]
    for number, name in enumerate(attributes(batch.schema)):
        members += [text(f"{', ' if number else ''}{json_text(name)}: "), _json_texts(batch[name])]
    heads = pc.binary_join_element_wise(*members, text('}, "geometry": '), text(""))
    data, end = _write_features(
        np.frombuffer(heads.buffers()[2], np.uint8),
        np.frombuffer(heads.buffers()[1], np.int32),
        unpack(batch["lonlat"]),
        (*_TEXTS, np.frombuffer(f"}}{between}".encode(), np.uint8)),
    )
    return data[: end - len(between)]


@numba.njit(cache=True, nogil=True)
def _write_features(
    heads: NDArray[np.uint8],
    head_offsets: NDArray[np.int32],
    parts: Parts,
    texts: tuple[NDArray[np.uint8], ...],
) -> tuple[NDArray[np.uint8], int]:
    """Write what comes before each geometry, the geometry, and what comes after it."""
    units, ring_offsets, part_offsets, geometry_offsets = parts
    polygon, multipolygon, null, tail = texts
    count = geometry_offsets.size - 1
    # "[-180.1234567,-90.1234567]," is the longest vertex
    most = 28 * len(units) + 3 * (ring_offsets.size + part_offsets.size)
    data = np.empty(heads.size + most + (multipolygon.size + 3 + tail.size) * count, np.uint8)
    at = 0
    for geometry in range(count):
        at = _copy(heads[head_offsets[geometry] : head_offsets[geometry + 1]], data, at)
        first, last = geometry_offsets[geometry], geometry_offsets[geometry + 1]
        if first == last:
            at = _copy(null, data, at)
        else:
            at = _copy(polygon if last - first == 1 else multipolygon, data, at)
            for part in range(first, last):
                data[at] = _OPEN
                at += 1
                for ring in range(part_offsets[part], part_offsets[part + 1]):
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
                data[at - 1], data[at] = _CLOSE, _COMMA
                at += 1
            if last - first > 1:
                data[at - 1], data[at] = _CLOSE, _COMMA
                at += 1
            data[at - 1] = _END
        at = _copy(tail, data, at)
    return data, at


@numba.njit(cache=True, nogil=True, inline="always")
def _copy(text: NDArray[np.uint8], data: NDArray[np.uint8], at: int) -> int:
    data[at : at + text.size] = text
    return at + text.size


@numba.njit(cache=True, nogil=True)
def _write_decimal(units: int, data: NDArray[np.uint8], at: int) -> int:
    """Write a number of 7 decimals without idle zeros, but for one: 9.0."""
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
    at += 1
    for digit in range(1, 4):
        data[at + digit] = _DIGITS[part // 10_000, digit]
    for digit in range(4):
        data[at + 4 + digit] = _DIGITS[part % 10_000, digit]
    end = at + DECIMALS
    while end > at + 1 and data[end] == _ZERO:
        end -= 1
    return end + 1


def json_text(value: Any) -> str:
    """Return one value as JSON text; times in UTC as RFC 3339."""
    if isinstance(value, dt.datetime):
        value = to_utc(value).isoformat().replace("+00:00", "Z")
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _json_texts(values: pa.Array) -> pa.Array:
    """Return each value of a column as JSON text. Values that are not numbers are few, so each is written once."""
    if pa.types.is_integer(values.type):
        return values.cast(pa.string()).fill_null(text("null"))
    if pa.types.is_floating(values.type):
        texts = pc.if_else(pc.is_finite(values), values, pa.nulls(len(values), values.type)).cast(pa.string())
        # "3.0", not "3": readers take a column whose numbers all look whole for integers.
        whole = pc.match_substring_regex(texts, r"^-?\d+$")
        return pc.if_else(whole, pc.binary_join_element_wise(texts, text("0"), text(".")), texts).fill_null(
            text("null")
        )
    coded = values.dictionary_encode()
    texts = of_texts([json_text(value) for value in objects_of(coded.dictionary)])
    return texts.take(coded.indices).fill_null(text("null"))

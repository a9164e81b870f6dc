"""Tiny well-known binary: polygons whose coordinates are whole numbers, in few bytes (floor 3).

Vertices are written as differences to the ones before, each in as many bytes as it needs
(https://github.com/TWKB/Specification/blob/master/twkb.md). Of that format this room knows polygons and multipolygons,
without bounds or lists of ids; what has no geometry has no bytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["Parts", "pack", "unpack"]

Integers = NDArray[np.int64]

_POLYGON, _MULTIPOLYGON = 3, 6
_LONGEST = 10  # bytes of a number of 64 bits


class Parts(NamedTuple):
    """Polygons and multipolygons, each a run of parts.

    Attributes:
        units: vertices, int64 ``(v, 2)``; rings are closed.
        ring_offsets: of rings in vertices, int64 ``(rings + 1,)``.
        part_offsets: of parts in rings, int64 ``(parts + 1,)``.
        offsets: of geometries in parts, int64 ``(n + 1,)``; a geometry without parts is none.
    """

    units: Integers
    ring_offsets: Integers
    part_offsets: Integers
    offsets: Integers


def pack(parts: Parts, decimals: int) -> pa.LargeBinaryArray:
    """Write geometries.

    Args:
        parts: of them; one of several parts is a multipolygon.
        decimals: of the coordinates whose units these are, 0 to 7.

    Returns:
        (n,) large_binary.
    """
    vertices = 2 * _LONGEST * len(parts.units)
    counts = _LONGEST * (parts.ring_offsets.size + parts.part_offsets.size + parts.offsets.size)
    data, offsets = np.empty(vertices + counts + 2 * parts.offsets.size, np.uint8), np.zeros_like(parts.offsets)
    size = _pack(*parts, _zigzag(decimals) << 4, data, offsets)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data[:size].copy())]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), offsets.size - 1, buffers)


def unpack(packed: pa.LargeBinaryArray) -> Parts:
    """Read what :func:`pack` wrote.

    Args:
        packed: (n,) large_binary; null reads as no geometry.
    """
    starts = np.frombuffer(packed.buffers()[1], np.int64)[packed.offset : packed.offset + len(packed) + 1]
    data = np.frombuffer(packed.buffers()[2] or b"", np.uint8)
    offsets = np.zeros(len(packed) + 1, np.int64)
    rings, vertices = _count(data, starts, offsets)
    units, ring_offsets = np.empty((vertices, 2), np.int64), np.zeros(rings + 1, np.int64)
    part_offsets = np.zeros(offsets[-1] + 1, np.int64)
    _unpack(data, starts, units, ring_offsets, part_offsets)
    return Parts(units, ring_offsets, part_offsets, offsets)


def _zigzag(number: int) -> int:
    return 2 * number if number >= 0 else -2 * number - 1


@numba.njit(cache=True, nogil=True, inline="always")
def _write(number: int, data: NDArray[np.uint8], at: int) -> int:
    """Write a number >= 0, seven bits to a byte."""
    while number > 127:
        data[at] = number & 127 | 128
        number >>= 7
        at += 1
    data[at] = number
    return at + 1


@numba.njit(cache=True, nogil=True, inline="always")
def _read(data: NDArray[np.uint8], at: int) -> tuple[Any, int]:
    """Read a number >= 0; and where the next one is."""
    number: Any = 0
    shift = 0
    while data[at] > 127:
        number |= (np.int64(data[at]) & 127) << shift
        shift += 7
        at += 1
    return number | np.int64(data[at]) << shift, at + 1


@numba.njit(cache=True, nogil=True)
def _pack(
    units: Integers,
    ring_offsets: Integers,
    part_offsets: Integers,
    offsets: Integers,
    precision: int,
    data: NDArray[np.uint8],
    ends: Integers,
) -> int:
    at = 0
    for geometry in range(offsets.size - 1):
        first, last = offsets[geometry], offsets[geometry + 1]
        if first < last:
            data[at], data[at + 1] = precision | (_POLYGON if last - first == 1 else _MULTIPOLYGON), 0
            at += 2
            if last - first > 1:
                at = _write(last - first, data, at)
            x = y = np.int64(0)
            for part in range(first, last):
                at = _write(part_offsets[part + 1] - part_offsets[part], data, at)
                for ring in range(part_offsets[part], part_offsets[part + 1]):
                    at = _write(ring_offsets[ring + 1] - ring_offsets[ring], data, at)
                    for vertex in range(ring_offsets[ring], ring_offsets[ring + 1]):
                        right, up = units[vertex, 0] - x, units[vertex, 1] - y
                        x, y = units[vertex, 0], units[vertex, 1]
                        at = _write(right << 1 ^ right >> 63, data, at)
                        at = _write(up << 1 ^ up >> 63, data, at)
        ends[geometry + 1] = at
    return at


@numba.njit(cache=True, nogil=True)
def _count(data: NDArray[np.uint8], starts: Integers, offsets: Integers) -> tuple[int, int]:
    """Set the offsets of geometries in parts; count rings and vertices."""
    all_rings = all_vertices = 0
    for geometry in range(starts.size - 1):
        parts, at = 0, starts[geometry]
        if at < starts[geometry + 1]:
            parts, at = _read(data, at + 2) if data[at] & 15 == _MULTIPOLYGON else (1, at + 2)
        for _ in range(parts):
            rings, at = _read(data, at)
            all_rings += rings
            for _ in range(rings):
                vertices, at = _read(data, at)
                all_vertices += vertices
                left = 2 * vertices
                while left:
                    left -= data[at] < 128
                    at += 1
        offsets[geometry + 1] = offsets[geometry] + parts
    return all_rings, all_vertices


@numba.njit(cache=True, nogil=True)
def _unpack(
    data: NDArray[np.uint8], starts: Integers, units: Integers, ring_offsets: Integers, part_offsets: Integers
) -> None:
    part = ring = vertex = 0
    for geometry in range(starts.size - 1):
        parts, at = 0, starts[geometry]
        if at < starts[geometry + 1]:
            parts, at = _read(data, at + 2) if data[at] & 15 == _MULTIPOLYGON else (1, at + 2)
        x = y = np.int64(0)
        for _ in range(parts):
            rings, at = _read(data, at)
            for _ in range(rings):
                vertices, at = _read(data, at)
                for _ in range(vertices):
                    right, at = _read(data, at)
                    up, at = _read(data, at)
                    x += right >> 1 ^ -(right & 1)
                    y += up >> 1 ^ -(up & 1)
                    units[vertex, 0], units[vertex, 1] = x, y
                    vertex += 1
                ring += 1
                ring_offsets[ring] = vertex
            part += 1
            part_offsets[part] = ring

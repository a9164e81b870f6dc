"""Tiny well-known binary: what was written comes back, in the bytes of the specification."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from geoseg.export.twkb import Parts, pack, unpack

UNITS = st.integers(-1_800_000_000, 1_800_000_000)
RINGS = st.lists(st.tuples(UNITS, UNITS), min_size=1, max_size=5)
GEOMETRIES = st.lists(st.lists(st.lists(RINGS, min_size=1, max_size=3), max_size=3), max_size=5)


def parts_of(geometries) -> Parts:
    """Geometries are lists of parts, those of rings, those of vertices."""
    parts = [part for geometry in geometries for part in geometry]
    rings = [ring for part in parts for ring in part]
    offsets = [np.cumsum([0, *map(len, groups)], dtype=np.int64) for groups in (rings, parts, geometries)]
    units = np.array([vertex for ring in rings for vertex in ring], np.int64).reshape(-1, 2)
    return Parts(units, *offsets)


def test_the_bytes_are_those_of_the_specification():
    square = [(0, 0), (2, 0), (2, -70), (0, 0)]
    [polygon, none, two] = pack(
        parts_of([[[square]], [], [[square], [[(1, 1), (1, 2), (0, 0), (1, 1)]]]]), 7
    ).to_pylist()
    # type 3 with 7 decimals (14 as a zigzag), no metadata, 1 ring, 4 vertices, differences as zigzags; 140 in two bytes
    ring = bytes([4, 0, 0, 4, 0, 0, 0x8B, 1, 3, 0x8C, 1])
    assert polygon == bytes([0xE3, 0, 1, *ring])
    assert none == b""
    assert two == bytes([0xE6, 0, 2, 1, *ring, 1, 4, 2, 2, 0, 2, 1, 3, 2, 2])


@given(GEOMETRIES)
def test_what_was_written_comes_back(geometries):
    given_parts = parts_of(geometries)
    packed = pack(given_parts, 7)
    assert len(packed) == len(geometries)
    for found, expected in zip(unpack(packed), given_parts, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_slices_and_nulls_are_read():
    squares = [[[[(n, n), (n + 1, n), (n, n + 1), (n, n)]]] for n in range(4)]
    packed = pack(parts_of(squares), 0)
    assert unpack(packed[1:3]).units.tolist() == [list(vertex) for [[ring]] in squares[1:3] for vertex in ring]
    holes = pa.array([None, packed[3].as_py(), None], pa.large_binary())
    assert unpack(holes).offsets.tolist() == [0, 0, 1, 1]

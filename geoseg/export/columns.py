"""Arrow's arrays of what NumPy and Python hold, and back (floor 3).

Where Arrow is given anything but its own, or is asked for NumPy's, it sees whether that is a series of pandas, and so
loads pandas: a tenth of the time that a small mask takes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["numbers_of", "objects_of", "of_numbers", "of_texts", "repeated", "text"]

_KINDS = {pa.from_numpy_dtype(kind): kind for kind in map(np.dtype, ("u1", "i4", "i8", "f4", "f8"))}
_TIME = pa.timestamp("ms", tz="UTC")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def of_numbers(values: NDArray[Any]) -> pa.Array:
    """Numbers or truths, (n,), as an array of their type; NaN becomes null. The memory is shared where it can be."""
    known = None
    if values.dtype.kind == "f" and (unknown := np.isnan(values)).any():
        known = _bits(~unknown)
    kind = values.dtype.newbyteorder("=")
    data = _bits(values) if kind.kind == "b" else pa.py_buffer(np.ascontiguousarray(values, kind))
    return pa.Array.from_buffers(pa.from_numpy_dtype(kind), len(values), [known, data])


def numbers_of(column: pa.Array) -> NDArray[Any]:
    """The inverse for bytes and for numbers of 32 and 64 bits, read-only and in the same memory.

    Raises:
        KeyError: it holds others.
        ValueError: one is null.
    """
    if column.null_count:
        raise ValueError(f"{column.null_count} of {len(column)} numbers are null")
    kind, end = _KINDS[column.type], column.offset + len(column)
    if not end:  # it may lack its memory
        return np.zeros(0, kind)
    return np.frombuffer(column.buffers()[1], kind, end)[column.offset :]


def of_texts(values: Sequence[str]) -> pa.StringArray:
    """Texts, of less than 2 GiB together."""
    encoded = [value.encode() for value in values]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))


def text(value: str) -> pa.StringScalar:
    """One text, for Arrow's functions."""
    return of_texts([value])[0]


def objects_of(column: pa.Array) -> list[Any]:
    """What an array holds as Python has it; without pandas but for times in other than milliseconds of UTC."""
    if column.type != _TIME:
        return list(column.to_pylist())
    times = column.view(pa.int64()).to_pylist()
    return [None if time is None else _EPOCH + dt.timedelta(milliseconds=time) for time in times]


def repeated(value: str | dt.datetime | None, count: int, kind: pa.DataType) -> pa.Array:
    """The same value in all rows.

    Args:
        value: a text, a time with an offset, or null.
        count: of rows.
        kind: string, or timestamp in milliseconds of UTC.
    """
    if value is None:
        return pa.nulls(count, kind)
    if isinstance(value, str):
        return pa.repeat(text(value), count)
    return of_numbers(np.full(count, (value - _EPOCH) // dt.timedelta(milliseconds=1), np.int64)).view(kind)


def _bits(truths: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(truths, bitorder="little"))

"""The parts of a Cloud Optimized GeoTIFF, put together by hand.

GDAL compresses blocks (which TIFF calls tiles) and knows how to write a CRS, a colour table or a description as tags.
What is left is the order of the pieces in the file: header, directories, then the blocks of the smallest overview and
so on up to the raster itself. It is done here, so that no block is compressed twice and every byte is written by
Python, which tells when a disk is full.

The layout is that of GDAL's COG driver (https://gdal.org/drivers/raster/cog.html): a note behind the header promises
readers the order of the blocks, and that each has its size before it and its last four bytes once more behind it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FRAME_BYTES", "Level", "Value", "frame", "holds_crs", "make_head", "read_blocks", "read_directory"]

FRAME_BYTES = 8

_CLASSIC_LIMIT = 2**32
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # of the types of classic TIFF
_LONG, _LONG8 = 4, 16
_NUMBERS = {3: "<u2", _LONG: "<u4", _LONG8: "<u8"}

_SUBFILE, _WIDTH, _HEIGHT = 254, 256, 257
_BLOCK_WIDTH, _BLOCK_HEIGHT, _BLOCK_OFFSETS, _BLOCK_SIZES = 322, 323, 324, 325
_GEO_KEYS = 34735
# How pixels are stored and shown; all other tags describe the raster as a whole.
_OF_PIXELS = {258, 259, 262, 277, 284, 317, 320, 338, 339, 42113}

_PROMISES = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
_NOTE = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(_PROMISES) + _PROMISES


@dataclass(frozen=True, slots=True)
class Value:
    """What a tag holds: TIFF's number of its type, how many of them, and their bytes (little-endian)."""

    kind: int
    count: int
    raw: bytes

    @classmethod
    def of(cls, numbers: int | NDArray[np.int64], kind: int = _LONG) -> Value:
        """One whole number or several."""
        array = np.atleast_1d(np.asarray(numbers, _NUMBERS[kind]))
        return cls(kind, array.size, array.tobytes())

    def numbers(self) -> NDArray[np.int64]:
        """Whole numbers as an array."""
        return np.frombuffer(self.raw, _NUMBERS[self.kind]).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """The raster itself or an overview.

    Attributes:
        shape: (rows, cols), pixels.
        sizes: (blocks down, blocks across) bytes of each compressed block.
    """

    shape: tuple[int, int]
    sizes: NDArray[np.int64]


def read_directory(tiff: bytes) -> dict[int, Value]:
    """Return the tags of the first directory of a classic little-endian TIFF."""
    (start,) = struct.unpack_from("<I", tiff, 4)
    (entries,) = struct.unpack_from("<H", tiff, start)
    found = {}
    for place in range(start + 2, start + 2 + 12 * entries, 12):
        tag, kind, count, pointer = struct.unpack_from("<HHII", tiff, place)
        size = count * _BYTES[kind]
        begin = place + 8 if size <= 4 else pointer
        found[tag] = Value(kind, count, tiff[begin : begin + size])
    return found


def holds_crs(tags: Mapping[int, Value]) -> bool:
    """Tell whether there are GeoTIFF's keys of a CRS."""
    return _GEO_KEYS in tags


def read_blocks(tiff: bytes, count: int) -> list[bytes]:
    """Return the compressed blocks of a TIFF in row-major order.

    Args:
        tiff: a whole file, classic and little-endian.
        count: how many blocks it has.

    Raises:
        OSError: a block is missing, or lies beyond the end of the file.
    """
    directory = read_directory(tiff)
    begins, sizes = directory[_BLOCK_OFFSETS].numbers(), directory[_BLOCK_SIZES].numbers()
    sound = (begins > 0) & (sizes >= 4) & (begins + sizes <= len(tiff))
    if sound.sum() != count:
        raise OSError(f"GDAL compressed {sound.sum()} blocks of {count}")
    return [tiff[begin : begin + size] for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True)]


def frame(block: bytes) -> bytes:
    """Return a compressed block as it lies in the file: its size, itself, its last four bytes once more."""
    return struct.pack("<I", len(block)) + block + block[-4:]


def make_head(tags: Mapping[int, Value], levels: Sequence[Level], *, block: int) -> bytes:
    """Return all that a COG holds before its blocks. These follow in their frames, the last level first.

    The file is a BigTIFF only if it would not fit into a classic one.

    Args:
        tags: of the raster itself; overviews get those that they need.
        levels: the raster itself, then its overviews, each smaller than the one before.
        block: side of a block, pixels.
    """
    blocks = sum(int(level.sizes.sum()) + level.sizes.size * FRAME_BYTES for level in levels)
    unplaced = [np.zeros_like(level.sizes) for level in levels]
    big = len(_join(tags, levels, unplaced, block=block, big=False)) + blocks > _CLASSIC_LIMIT
    end = len(_join(tags, levels, unplaced, block=block, big=big)) + blocks
    offsets = []
    for level in levels:  # the first lies last
        framed = level.sizes.ravel() + FRAME_BYTES
        ends = end - framed.sum() + np.cumsum(framed)
        offsets.append(ends - framed + 4)
        end = int(ends[0] - framed[0])
    return _join(tags, levels, offsets, block=block, big=big)


def _join(
    tags: Mapping[int, Value], levels: Sequence[Level], offsets: Sequence[NDArray[np.int64]], *, block: int, big: bool
) -> bytes:
    """Header, note and directories, for blocks at the given offsets."""
    head = 16 if big else 8
    first = math.ceil((head + len(_NOTE)) / 8) * 8
    joined = struct.pack("<2sHHHQ", b"II", 43, 8, 0, first) if big else struct.pack("<2sHI", b"II", 42, first)
    joined = (joined + _NOTE).ljust(first, b"\0")
    for number, (level, places) in enumerate(zip(levels, offsets, strict=True)):
        own = {
            _WIDTH: Value.of(level.shape[1]),
            _HEIGHT: Value.of(level.shape[0]),
            _BLOCK_WIDTH: Value.of(block),
            _BLOCK_HEIGHT: Value.of(block),
            _BLOCK_OFFSETS: Value.of(places, _LONG8 if big else _LONG),
            _BLOCK_SIZES: Value.of(level.sizes.ravel()),
        }
        if number == 0:
            own = {**tags, **own}
        else:
            own = {tag: value for tag, value in tags.items() if tag in _OF_PIXELS} | own | {_SUBFILE: Value.of(1)}
        joined += _directory(own, at=len(joined), last=number == len(levels) - 1, big=big)
    return joined


def _directory(tags: Mapping[int, Value], *, at: int, last: bool, big: bool) -> bytes:
    """One directory and the values of its tags, which point to where they are in the file."""
    count, entry, pointer = ("<Q", "<HHQ", "<Q") if big else ("<H", "<HHI", "<I")
    room = struct.calcsize(pointer)  # a value that fits there takes the place of the pointer to it
    start = at + struct.calcsize(count) + len(tags) * (struct.calcsize(entry) + room) + room
    entries, values = b"", b""
    for tag, value in sorted(tags.items()):
        entries += struct.pack(entry, tag, value.kind, value.count)
        if len(value.raw) <= room:
            entries += value.raw.ljust(room, b"\0")
        else:
            entries += struct.pack(pointer, start + len(values))
            values += value.raw.ljust(math.ceil(len(value.raw) / 8) * 8, b"\0")
    following = 0 if last else start + len(values)
    return struct.pack(count, len(tags)) + entries + struct.pack(pointer, following) + values

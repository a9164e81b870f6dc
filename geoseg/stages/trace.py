"""Follow the cracks between pixels: the boundaries of one chunk as arcs, each of them once.

**Cracks.** A crack is the unit edge between two 4-neighbouring pixels of different labels; a corner is where cracks
meet (A. Rosenfeld, *Connectivity in digital pictures*, J. ACM 17, 1970; V. Kovalevsky, *Finite topology as applied to
image analysis*, CVGIP 46, 1989). A crack belongs to the chunk of the pixel below it, or to its right; those on the
lower and right edge of the scene belong to the last chunks. So every crack is walked once, by one chunk.

**Arcs.** Cracks are followed from stop to stop. A stop is a corner where three or four cracks meet: other boundaries
end there, and the edge of the scene and of nodata counts as a boundary. About every 4096th other turning corner, picked
by a hash of its place in the scene, is a stop too; this bounds the length of arcs, and with it the memory that a
coastline needs. A boundary without stops is a loop from its topmost-leftmost corner eastwards. Where an arc leaves the
chunk it is cut, and continued by the next chunk.

**Darts.** An arc can be walked either way: forwards (dart ``2 * arc``) or backwards (``2 * arc + 1``), always as a
boundary of the instance on the right hand. What follows a dart is found at the corner where it ends:

====================  ====================  =============
left ahead is ours    right ahead is ours   the walk
====================  ====================  =============
yes                   any                   turns left
no                    yes                   goes straight
no                    no                    turns right
====================  ====================  =============

Turning left whenever possible keeps to the *wide* side where two of the instance's pixels touch by a corner only, so
that every ring is simple and every polygon valid as it is. These are the polygons of GDAL's 4-connected polygonizer
(``GDALPolygonize``), to the last bit.

Darts name what follows by the key of its first crack, a fact of the scene: so rings close across chunks without any
arithmetic on coordinates, and are the same for any cut.
"""

from __future__ import annotations

from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

from geoseg.errors import InputError
from geoseg.lattice import Window
from geoseg.rings import Boundaries

__all__ = ["has_compiled", "trace_chunk"]

# Directions. Four pixels and four cracks meet at a corner; seen from it, crack d leads in direction d.
EAST, SOUTH, WEST, NORTH = 0, 1, 2, 3

# One byte per corner: the code of its cracks; whether the crack to its east, or to its south, has been walked; whether
# arcs stop there; whether it lies on the outline of the chunk.
CODE, WALKED_EAST, WALKED_SOUTH, STOP, OUTLINE = 15, 16, 32, 64, 128
ALL_CRACKS = 15
# Codes for all four cracks where diagonal pixels are one instance: (north-east with south-west, north-west with
# south-east). No corner has a single crack, so these codes are free.
SADDLES = {1: (True, False), 2: (False, True), 4: (True, True)}

_STOP_EVERY = 4096


def trace_chunk(labels: NDArray[np.int32], window: Window, scene_shape: tuple[int, int]) -> Boundaries:
    """Trace all boundaries of one chunk.

    Whole arcs run in the direction that they would have in any other chunk: from the lesser of their ends in row-major
    order, or first in the order east, south, west, north where both ends are the same corner.

    Args:
        labels: int32 ``(height + 2, width + 2)``, the chunk's pixels and the ring around them: above 0 equal labels
            mean the same instance; 0 is background, -1 nodata or outside of the scene.
        window: where the chunk lies in the scene.
        scene_shape: ``(rows, cols)`` of the scene.

    Raises:
        InputError: labels of another type or shape.
    """
    shape = (window.height + 2, window.width + 2)
    if labels.dtype != np.int32 or labels.shape != shape:
        raise InputError(f"labels are {labels.dtype} {labels.shape}; expected int32 {shape}")
    corners, turns = _corner_bytes(
        labels,
        _hash(np.arange(window.row_off - 1, window.row_stop + 1), 0x9E3779B97F4A7C15),
        _hash(np.arange(window.col_off - 1, window.col_stop + 1), 0xC2B2AE3D27D4EB4F),
    )
    outline = _outline(shape)
    corners.ravel()[outline] |= OUTLINE
    coords, offsets, hands, stops, start, following = _walk_all(
        labels,
        corners,
        _find_bytes(corners.ravel(), STOP, STOP, turns),
        outline,
        _find_bytes(corners.ravel(), CODE | STOP, 1 << EAST | 1 << SOUTH, turns),
        turns,
        (window.row_stop == scene_shape[0], window.col_stop == scene_shape[1]),
        (window.row_off - 1, window.col_off - 1),
    )
    return Boundaries(
        coords=coords,
        offsets=offsets,
        hands=hands,
        stops=stops,
        start=_scene_keys(start, shape[1], window, scene_shape),
        following=_scene_keys(following, shape[1], window, scene_shape),
    )


def has_compiled() -> bool:
    """Whether the kernels of this module lie compiled on this machine's disk, from this run or an earlier one."""
    folder = Path(_walk_all.stats.cache_path or "")
    return any(folder.glob(f"{__name__.rpartition('.')[2]}._walk_all-*.nbi"))


def _make_turns() -> NDArray[np.uint8]:
    """The rule of the walk as a table: ``[code of the corner, heading]`` to turn: 0 straight on, 1 right, 3 left.

    It holds for a walk that comes in over a crack; entries without a crack behind are never read.
    """
    turns = np.zeros((16, 4), np.uint8)
    for code in range(16):
        joined = SADDLES.get(code, (False, False))
        cracks = ALL_CRACKS if code in SADDLES else code
        for heading in range(4):
            ahead, right = (bool(cracks >> ((heading + turn) & 3) & 1) for turn in range(2))
            left_ahead_is_ours = joined[heading & 1] if right else not ahead
            turns[code, heading] = 3 if left_ahead_is_ours else int(right)
    return turns


TURNS = _make_turns()
CRACKS = np.array([ALL_CRACKS if code in SADDLES else code for code in range(16)], np.uint8)
ROW_STEP, COL_STEP = np.array([0, 1, 0, -1]), np.array([1, 0, -1, 0])


def _hash(places: NDArray[np.int64], factor: int) -> NDArray[np.uint16]:
    """Sixteen well mixed bits of row or column numbers (multiplication, then shift: the finalizer of splitmix64)."""
    mixed = places.astype(np.uint64) * np.uint64(factor)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(40)).astype(np.uint16)


def _outline(shape: tuple[int, int]) -> NDArray[np.int64]:
    """Flat indices of the corners on the outline of a chunk whose padded labels have this shape."""
    rows, cols = shape
    on_outline = np.zeros(shape, np.bool_)
    on_outline[[1, rows - 1], 1:] = True
    on_outline[1:, [1, cols - 1]] = True
    return np.flatnonzero(on_outline)


# A corner, like a pixel, is named by a flat index into the padded labels: that of the pixel to its south-east.


@numba.njit(cache=True, nogil=True)
def _corner_bytes(
    labels: NDArray[np.int32], row_hash: NDArray[np.uint16], col_hash: NDArray[np.uint16]
) -> tuple[NDArray[np.uint8], int]:
    """What the walk must know of every corner, and the number of corners where a boundary turns.

    Bit d of the byte: there is a crack in direction d. Codes with a single bit, which no corner has, say that all four
    are there and which of the diagonal pixels belong to one instance: see SADDLES.
    """
    corners = np.zeros(labels.shape, np.uint8)
    turns = 0
    for row in range(1, labels.shape[0]):
        for col in range(1, labels.shape[1]):  # without branches: this compiles to vector instructions
            north_east, south_east = labels[row - 1, col], labels[row, col]
            north_west, south_west = labels[row - 1, col - 1], labels[row, col - 1]
            east, south = np.uint8(north_east != south_east), np.uint8(south_east != south_west)
            west, north = np.uint8(south_west != north_west), np.uint8(north_west != north_east)
            saddle = east & south & west & north
            rising = saddle & np.uint8(north_east == south_west)
            falling = saddle & np.uint8(north_west == south_east)
            cracks = east | south << 1 | west << 2 | north << 3
            code = cracks - 14 * rising - 13 * falling + 16 * (rising & falling)
            turning = (east | west) & (south | north)
            picked = np.uint8(((row_hash[row] ^ col_hash[col]) & (_STOP_EVERY - 1)) == 0)
            branching = (east & west & (south | north)) | (south & north & (east | west))
            corners[row, col] = code | STOP * (branching | (turning & picked))
            turns += int(turning)
    return corners, turns


@numba.njit(cache=True, nogil=True)
def _find_bytes(data: NDArray[np.uint8], bits: int, value: int, most: int) -> NDArray[np.int64]:
    """Places of the bytes of which these bits have this value; ``most``: there are no more."""
    places = np.empty(most + 1, np.int64)
    count = 0
    words = data[: data.size // 8 * 8].view(np.uint64)
    ones, highs = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
    all_bits, all_values = ones * np.uint64(bits), ones * np.uint64(value)
    for word in range(words.size):
        differ = (words[word] & all_bits) ^ all_values
        if (differ - ones) & ~differ & highs:  # a byte of zeros
            for place in range(8 * word, 8 * word + 8):  # without branches: they would be guessed badly
                places[count] = place
                count += (data[place] & bits) == value
    for place in range(8 * words.size, data.size):
        places[count] = place
        count += (data[place] & bits) == value
    return places[:count].copy()


@numba.njit(cache=True, nogil=True)
def _walk_all(
    labels: NDArray[np.int32],
    corners: NDArray[np.uint8],
    stop_corners: NDArray[np.int64],
    outline: NDArray[np.int64],
    loop_corners: NDArray[np.int64],
    turns: int,
    at_end: tuple[bool, bool],
    offset: tuple[int, int],
) -> tuple[
    NDArray[np.int32],
    NDArray[np.int64],
    NDArray[np.int32],
    NDArray[np.uint8],
    NDArray[np.int64],
    NDArray[np.int64],
]:
    """Walk from the stops, then from where the outline cuts arcs, then what is left: loops.

    Args:
        labels: padded.
        corners: bytes of :func:`_corner_bytes`; walked cracks are marked there.
        stop_corners: flat indices, ascending; so are the following.
        outline: corners on the chunk's outline.
        loop_corners: corners with just a crack to the east and one to the south: the least one of a loop is one.
        turns: number of turning corners.
        at_end: whether the chunk ends at the scene's last row, and at its last column.
        offset: row and column of the scene of the padded labels' first pixel.

    Returns:
        coords, offsets, labels on both hands, stops, and by dart its start and what follows.
    """
    rows, stride = labels.shape
    flat = labels.ravel()
    ours = (rows - 2 + at_end[0], stride - 2 + at_end[1])
    most = 2 * stop_corners.size + outline.size + turns // 4 + 1
    coords = np.empty((turns + 2 * most, 2), np.int32)
    offsets = np.zeros(most + 1, np.int64)
    hands = np.empty((most, 2), np.int32)
    stops = np.empty(most, np.uint8)
    start, following = np.empty(2 * most, np.int64), np.empty(2 * most, np.int64)
    count = 0
    for phase, firsts in enumerate((stop_corners, outline, loop_corners)):
        for first in firsts:
            byte = corners.flat[first]
            for heading in range(4 if phase < 2 else 1):
                if not _starts_here(corners, first, heading, phase, ours):
                    continue
                home = first if phase == 2 else -1
                corner, ahead, used = _follow(corners, first, heading, home, ours, offset, coords, offsets[count])
                hands[count, 0] = flat[_right_ahead(first, heading, stride)]
                hands[count, 1] = flat[_right_ahead(first, (heading + 3) & 3, stride)]
                if hands[count, 0] <= 0 and hands[count, 1] <= 0:
                    continue
                end = corners.flat[corner]
                back, from_back = (ahead + 2) & 3, (heading + 2) & 3
                start[2 * count], start[2 * count + 1] = 4 * first + heading, 4 * corner + back
                following[2 * count] = 4 * corner + ((ahead + TURNS[end & CODE, ahead]) & 3)
                following[2 * count + 1] = 4 * first + ((from_back + TURNS[byte & CODE, from_back]) & 3)
                stops[count] = (phase != 1) | 2 * (phase == 2 or end & STOP != 0)
                count += 1
                offsets[count] = used
    return (
        coords[: offsets[count]].copy(),
        offsets[: count + 1].copy(),
        hands[:count].copy(),
        stops[:count].copy(),
        start[: 2 * count].copy(),
        following[: 2 * count].copy(),
    )


@numba.njit(cache=True, nogil=True)
def _starts_here(corners: NDArray[np.uint8], first: int, heading: int, phase: int, ours: tuple[int, int]) -> bool:
    """Whether an arc that nobody walked yet leaves a corner in a direction."""
    rows, stride = corners.shape
    byte = corners.flat[first]
    if not CRACKS[byte & CODE] >> heading & 1 or (phase == 1 and byte & STOP):
        return False
    row, col = first // stride, first % stride
    if not _is_ours(row, col, heading, ours, (rows, stride)):
        return False
    # a corner on the outline cuts an arc only where its other crack belongs to another chunk
    if phase == 1 and _is_ours(row, col, _other(int(byte), heading), ours, (rows, stride)):
        return False
    crack = first - (heading == WEST) - stride * (heading == NORTH)
    return not corners.flat[crack] & (WALKED_SOUTH if heading & 1 else WALKED_EAST)


@numba.njit(cache=True, nogil=True)
def _follow(
    corners: NDArray[np.uint8],
    first: int,
    heading: int,
    home: int,
    ours: tuple[int, int],
    offset: tuple[int, int],
    coords: NDArray[np.int32],
    used: int,
) -> tuple[int, int, int]:
    """Follow cracks to the next stop, out of the chunk, or home; write vertices and mark cracks.

    Returns:
        the corner reached, the heading there, and the number of vertices used.
    """
    shape = corners.shape
    moves = (1, shape[1], -1, -shape[1])
    row, col = first // shape[1], first % shape[1]
    corner = first
    coords[used, 0], coords[used, 1] = 2 * (col + offset[1]), 2 * (row + offset[0])
    used += 1
    while True:
        crack = corner if heading < 2 else corner + moves[heading]
        corners.flat[crack] |= np.uint8(WALKED_SOUTH if heading & 1 else WALKED_EAST)
        corner += moves[heading]
        row += ROW_STEP[heading]
        col += COL_STEP[heading]
        byte = corners.flat[corner]
        if byte & STOP or corner == home:
            break
        turn = TURNS[byte & CODE, heading]
        if byte & OUTLINE and not _is_ours(row, col, (heading + turn) & 3, ours, shape):
            break
        if turn:
            coords[used, 0], coords[used, 1] = 2 * (col + offset[1]), 2 * (row + offset[0])
            used += 1
            heading = (heading + turn) & 3
    coords[used, 0], coords[used, 1] = 2 * (col + offset[1]), 2 * (row + offset[0])
    return corner, heading, used + 1


@numba.njit(cache=True, nogil=True)
def _is_ours(row: int, col: int, heading: int, ours: tuple[int, int], shape: tuple[int, int]) -> bool:
    """Whether the crack that leaves a corner belongs to this chunk; ``ours``: last row and column of its cracks."""
    row -= heading == NORTH
    col -= heading == WEST
    if heading & 1:  # the crack south of corner (row, col)
        return 1 <= row <= shape[0] - 2 and 1 <= col <= ours[1]
    return 1 <= row <= ours[0] and 1 <= col <= shape[1] - 2


@numba.njit(cache=True, nogil=True)
def _other(byte: int, heading: int) -> int:
    """Of a corner with two cracks the direction of the other one."""
    others = CRACKS[byte & CODE] & ~(1 << heading)
    return 0 if others == 1 else 1 if others == 2 else 2 if others == 4 else 3


@numba.njit(cache=True, nogil=True)
def _right_ahead(corner: int, heading: int, stride: int) -> int:
    """The pixel on the right hand of the crack that leaves a corner."""
    if heading < 2:
        return corner - heading
    return corner - stride - 3 + heading


def _scene_keys(
    cracks: NDArray[np.int64], stride: int, window: Window, scene_shape: tuple[int, int]
) -> NDArray[np.int64]:
    """Cracks ``4 * corner + direction`` of a chunk as keys of the scene."""
    corners, directions = np.divmod(cracks, 4)
    rows, cols = np.divmod(corners, stride)
    scene_corners = (rows + window.row_off - 1) * (scene_shape[1] + 1) + cols + window.col_off - 1
    return 4 * scene_corners + directions

"""From a class mask to exact polygons, chunk by chunk: follow the cracks between pixels, then join what was cut.

**Cracks.** A crack is the unit edge between two 4-neighbouring pixels; a corner is where cracks meet. The boundary of
an instance is walked crack by crack with the instance on the right hand (A. Rosenfeld, *Connectivity in digital
pictures*, J. ACM 17, 1970; V. Kovalevsky, *Finite topology as applied to image analysis*, CVGIP 46, 1989). At each
corner the walk looks at the two pixels ahead:

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

**Junctions.** Where a boundary runs straight on but the instance on its left hand changes, neighbouring polygons have a
corner. Such vertices are kept and flagged: with them the polygons are a valid coverage, in which shared edges can be
simplified together; without them they are GDAL's.

**Chunks.** A chunk is traced with the ids of the one-pixel ring around it. Boundaries of instances that end inside are
closed and finished on the spot. The others leave the chunk as *arcs*, each with the key of its first crack and of the
crack that would follow its last; equal keys are joined later, without any arithmetic on coordinates, so the result is
the same for any cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import cc3d
import numba
import numpy as np
from numpy.typing import NDArray

from geoseg.codes import NODATA
from geoseg.errors import InputError
from geoseg.lattice import Window
from geoseg.rings import (
    Columns,
    Curves,
    Polygons,
    concatenate_curves,
    merge_by_id,
    offsets_of,
    run_offsets,
    take_curves,
    take_ragged,
)

__all__ = ["ChunkBorder", "Ends", "Fragment", "Histograms", "Instances", "Polygons", "join_fragments", "trace_chunk"]

FULL_CONFIDENCE = 254

# Directions. Four pixels and four cracks meet at a corner; seen from it, crack d leads in direction d.
EAST, SOUTH, WEST, NORTH = 0, 1, 2, 3

# One byte per corner: the code of its cracks; whether the crack to its east has been walked eastwards, or westwards;
# whether the corner lies on the outline of the chunk; whether a ring may start there, with cracks to east and south.
CODE, WALKED_EAST, WALKED_WEST, OUTLINE, STARTS = 15, 16, 32, 64, 128
ALL_CRACKS = 15
# Codes for all four cracks where diagonal pixels are one instance: (north-east with south-west, north-west with
# south-east).
SADDLES = {1: (True, False), 2: (False, True), 4: (True, True)}

# What a step of the walk says besides its turn.
VERTEX = 4


class ChunkBorder(Protocol):
    """What tracing needs to know of the world around a chunk: ``instances.Border`` has it."""

    @property
    def ids(self) -> NDArray[np.int64]:
        """Distinct instance ids on either side of the chunk's edges."""

    @property
    def inside(self) -> NDArray[np.int32]:
        """Position in ``ids`` plus one (0: none) along top row, bottom row, left column, right column."""

    @property
    def outside(self) -> NDArray[np.int32]:
        """The same for the pixels above, below, left, right, top-left, top-right, bottom-left, bottom-right."""


@dataclass(frozen=True, slots=True, eq=False)
class Ends(Columns):
    """Keys of arcs: ``4 * corner + direction`` of the first crack, and of the crack that follows the last one.

    ``corner`` is ``row * (scene width + 1) + col``. A directed crack has one pixel on its right hand, so it belongs to
    one instance and one chunk: keys are unique in the scene.
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Instances(Columns):
    """One chunk's share of instances that reach into other chunks, sorted by id; columns as in :class:`Polygons`."""

    id: NDArray[np.int64]
    code: NDArray[np.uint8]
    area_px: NDArray[np.int64]
    edge: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Histograms(Columns):
    """Sparse histograms of uint8 confidences: group ``g`` has the entries ``offsets[g]:offsets[g + 1]``.

    Within a group values ascend. Counts are exact integers, so sums over chunks do not depend on their order.
    """

    offsets: NDArray[np.int64]
    value: NDArray[np.uint8]
    count: NDArray[np.int64]

    def take(self, groups: NDArray[np.integer[Any]]) -> Histograms:
        """The histograms of the given groups, in that order."""
        entries, offsets = take_ragged(self.offsets, groups)
        return Histograms(offsets=offsets, value=self.value[entries], count=self.count[entries])

    @staticmethod
    def merge(parts: Iterable[Histograms], group: NDArray[np.int64], groups: int) -> Histograms:
        """Sum histograms.

        Args:
            parts: histograms whose groups, one part after the other, belong to the groups in ``group``.
            group: the new group of each of them, 0 to ``groups - 1``.
            groups: how many new groups there are.
        """
        parts = [Histograms(np.zeros(1, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.int64)), *parts]
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        keys = np.repeat(group, lengths) * 256 + np.concatenate([part.value for part in parts])
        distinct, place = np.unique(keys, return_inverse=True)
        count = np.zeros(distinct.size, np.int64)
        np.add.at(count, place, np.concatenate([part.count for part in parts]))
        return Histograms(
            offsets=np.searchsorted(distinct, np.arange(groups + 1) * 256),
            value=(distinct % 256).astype(np.uint8),
            count=count,
        )

    def summary(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and 10th percentile of each group on the scale 0-1; NaN for an empty one.

        The percentile is the smallest value ``v`` such that at least ``ceil(n / 10)`` of the ``n`` pixels are <= v.
        """
        counts, sums = offsets_of(self.count), offsets_of(self.count * self.value)
        before, pixels = counts[self.offsets[:-1]], np.diff(counts[self.offsets])
        filled = pixels > 0
        mean = np.full(pixels.size, np.nan)
        p10 = np.full(pixels.size, np.nan)
        mean[filled] = np.diff(sums[self.offsets])[filled] / (pixels[filled] * FULL_CONFIDENCE)
        entry = np.searchsorted(counts[1:], (before + -(-pixels // 10))[filled])
        p10[filled] = self.value[entry] / FULL_CONFIDENCE
        return mean, p10


@dataclass(frozen=True, slots=True, eq=False)
class Fragment:
    """What tracing one chunk yields.

    Attributes:
        closed: the finished polygons of instances that lie in this chunk alone.
        open: the share of the instances that go on in another chunk.
        histograms: their confidences in this chunk.
        holes: their holes that lie in this chunk alone.
        arcs: their boundaries that leave it.
        ends: the arcs' keys.
    """

    closed: Polygons
    open: Instances
    histograms: Histograms
    holes: Curves
    arcs: Curves
    ends: Ends

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by name, ``part.column``: ``np.savez(path, **fragment.to_arrays())`` stores a fragment."""
        arrays: dict[str, NDArray[Any]] = {}
        for field in fields(self):
            arrays.update(getattr(self, field.name).to_arrays(f"{field.name}."))
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Fragment:
        """The inverse of :meth:`to_arrays`; also takes what ``np.load`` returns for an ``.npz``."""
        return cls(
            closed=Polygons.from_arrays(arrays, "closed."),
            open=Instances.from_arrays(arrays, "open."),
            histograms=Histograms.from_arrays(arrays, "histograms."),
            holes=Curves.from_arrays(arrays, "holes."),
            arcs=Curves.from_arrays(arrays, "arcs."),
            ends=Ends.from_arrays(arrays, "ends."),
        )


def trace_chunk(
    mask: NDArray[np.uint8],
    confidence: NDArray[np.uint8] | None,
    border: ChunkBorder,
    window: Window,
    scene_shape: tuple[int, int],
) -> Fragment:
    """Trace every instance of one chunk.

    Args:
        mask: uint8 ``(height, width)`` class codes of the chunk. 1-254 are traced; 0 and 255 are not.
        confidence: uint8 ``(height, width)``, 0-254; 255 is unknown and left out of the statistics. None: no
            statistics (NaN).
        border: this chunk's, from ``Merge.border``.
        window: where the chunk lies in the scene.
        scene_shape: ``(rows, cols)`` of the scene.

    Raises:
        InputError: an array of another type or shape than the window's, or a border that is not this mask's.
    """
    _check_chunk(mask, confidence, border, window)
    labels, ids, is_open = _label_globally(mask, border)
    vertices, offsets, label, start, end = _trace(labels)
    coords, junction = _decode(vertices, labels.shape[1], window.row_off - 1, window.col_off - 1)
    arcs, rings = np.split(np.arange(label.size), [start.size])

    # an instance of this chunk alone is named by its shell: the first of its rings met, which starts at its first pixel
    own = rings[~is_open[label[rings]]]
    closed, shells = np.unique(label[own], return_index=True)
    cols, rows = coords[offsets[own[shells]]].T.astype(np.int64)
    ids[closed] = rows * scene_shape[1] + cols + 1
    codes = np.zeros(ids.size, np.uint8)
    codes[_rim(labels[1:-1, 1:-1])] = _rim(mask)  # label 0 gets some code too, which nothing reads
    codes[closed] = mask[rows - window.row_off, cols - window.col_off]
    area = _areas(labels, ids.size)
    edge = _on_scene_edge(labels, ids.size, window, scene_shape)
    histograms = _histograms_by_label(labels, confidence, area)

    def curves(chosen: NDArray[np.int64]) -> Curves:
        """The chosen arcs or rings under their global ids, sorted by those."""
        chosen = chosen[np.argsort(ids[label[chosen]], kind="stable")]
        return Curves(*take_curves(coords, junction, offsets, chosen), id=ids[label[chosen]])

    closed = closed[np.argsort(ids[closed])]
    shared = np.flatnonzero(is_open)
    shared = shared[np.argsort(ids[shared])]
    finished = curves(own)
    mean, p10 = histograms.take(closed).summary()
    order = arcs[np.argsort(ids[label[arcs]], kind="stable")]
    return Fragment(
        closed=Polygons(
            coords=finished.coords,
            junction=finished.junction,
            ring_offsets=finished.offsets,
            polygon_offsets=run_offsets(finished.id),
            id=ids[closed],
            code=codes[closed],
            area_px=area[closed],
            confidence=mean,
            confidence_p10=p10,
            edge=edge[closed],
        ),
        open=Instances(id=ids[shared], code=codes[shared], area_px=area[shared], edge=edge[shared]),
        histograms=histograms.take(shared),
        holes=curves(rings[is_open[label[rings]]]),
        arcs=curves(arcs),
        ends=Ends(
            start=_scene_keys(start[order], labels.shape[1], window, scene_shape),
            end=_scene_keys(end[order], labels.shape[1], window, scene_shape),
        ),
    )


def join_fragments(fragments: Iterable[Fragment]) -> Polygons:
    """Join the fragments of all chunks of a scene.

    Args:
        fragments: one per chunk, in any order; may be a generator.

    Returns:
        Every instance of the scene, sorted by id; the same arrays for any way of cutting the scene into chunks.

    Raises:
        InputError: an arc ends where none starts: a chunk that it runs into is missing, or one is given twice.
    """
    parts = list(fragments)
    rings = concatenate_curves([part.holes for part in parts] + [_join_arcs(parts)])
    # the first vertex of a shell is the least of all its polygon's: sorting by it puts shells first
    order = np.lexsort((*rings.coords[rings.offsets[:-1]].T, rings.id))
    coords, junction, ring_offsets = take_curves(rings.coords, rings.junction, rings.offsets, order)
    instances, confidence, confidence_p10 = _add_up(parts)
    joined = Polygons(
        coords=coords,
        junction=junction,
        ring_offsets=ring_offsets,
        polygon_offsets=run_offsets(rings.id[order]),
        id=instances.id,
        code=instances.code,
        area_px=instances.area_px,
        confidence=confidence,
        confidence_p10=confidence_p10,
        edge=instances.edge,
    )
    return merge_by_id([joined, *(part.closed for part in parts)])


# --- labels --------------------------------------------------------------------------------------------------------


def _label_globally(
    mask: NDArray[np.uint8], border: ChunkBorder
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:
    """Label a chunk and the ring around it so that equal labels mean the same instance of the scene.

    Returns:
        labels int32 ``(height + 2, width + 2)``, 0 where nothing is traced; by label: the global id (0 where it is not
        known yet: instances away from the chunk's edges), and whether the instance goes on outside the chunk.
    """
    height, width = mask.shape
    padded = np.zeros((height + 2, width + 2), np.uint8)
    np.copyto(padded[1:-1, 1:-1], mask, where=mask != NODATA)
    components, count = cc3d.connected_components(padded, connectivity=4, return_N=True, out_dtype=np.uint32)
    labels: NDArray[np.int32] = components.view(np.int32)
    rim = _rim(labels[1:-1, 1:-1])
    if border.inside.size != rim.size or not np.array_equal(border.inside > 0, rim > 0):
        raise InputError("the border is not this mask's; merge the faces of the same mask that is traced")

    # one label per id of the border: one of its components here, else a new one
    label_of_id = np.arange(count, count + border.ids.size + 1, dtype=np.int32)
    label_of_id[0] = 0
    label_of_id[border.inside] = rim
    relabelled = np.arange(count + 1, dtype=np.int32)
    relabelled[rim] = label_of_id[border.inside]
    if not np.array_equal(relabelled[rim], rim):
        _relabel(labels, relabelled)
    around = label_of_id[border.outside]
    above, below, left, right, corners = np.split(around, np.cumsum([width, width, height, height]))
    labels[0, 1:-1], labels[-1, 1:-1], labels[1:-1, 0], labels[1:-1, -1] = above, below, left, right
    labels[0, 0], labels[0, -1], labels[-1, 0], labels[-1, -1] = corners

    ids = np.zeros(count + border.ids.size + 1, np.int64)
    ids[label_of_id[1:]] = border.ids
    is_open = np.zeros(ids.size, np.bool_)
    is_open[label_of_id[border.inside[border.inside == border.outside[:-4]]]] = True
    is_open[0] = False
    return labels, ids, is_open


@numba.njit(cache=True, nogil=True)
def _relabel(labels: NDArray[np.int32], new: NDArray[np.int32]) -> None:
    """Replace every label by ``new[label]``, in place."""
    flat = labels.ravel()
    for pixel in range(flat.size):
        flat[pixel] = new[flat[pixel]]


def _rim(pixels: NDArray[Any]) -> NDArray[Any]:
    """The edge pixels of a chunk: top row, bottom row, left column, right column."""
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _on_scene_edge(
    labels: NDArray[np.int32], size: int, window: Window, scene_shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """By label: whether the instance has a pixel here on the edge of the scene."""
    touching = np.zeros(size, np.bool_)
    inner = labels[1:-1, 1:-1]
    touching[inner[0]] |= window.row_off == 0
    touching[inner[-1]] |= window.row_stop == scene_shape[0]
    touching[inner[:, 0]] |= window.col_off == 0
    touching[inner[:, -1]] |= window.col_stop == scene_shape[1]
    return touching


# --- crack following -----------------------------------------------------------------------------------------------
# A corner, like a pixel, is named by a flat index into the padded labels: that of the pixel to its south-east.


def _make_steps() -> NDArray[np.uint8]:
    """The rule of the walk as a table: ``[cracks at the corner, heading]`` to turn and vertex.

    An entry is the turn (0 straight on, 1 right, 3 left), plus VERTEX, plus its kind of junction times 8. It holds for
    a walk that comes in over a crack, so entries without a crack behind are never read.
    """
    steps = np.zeros((16, 4), np.uint8)
    for code in range(16):
        joined = SADDLES.get(code, (False, False))
        cracks = ALL_CRACKS if code in SADDLES else code
        for heading in range(4):
            ahead, right, _, left = (bool(cracks >> ((heading + turn) & 3) & 1) for turn in range(4))
            left_ahead_is_ours = joined[heading & 1] if right else not ahead
            turn = 3 if left_ahead_is_ours else int(right)
            is_junction = cracks.bit_count() > 2
            if turn:
                steps[code, heading] = turn | VERTEX | is_junction * 8
            elif left:
                steps[code, heading] = VERTEX | 2 * 8
    return steps


STEPS = _make_steps()


def _trace(
    labels: NDArray[np.int32],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Walk all cracks that have a pixel of the chunk on their right hand.

    Args:
        labels: int32 ``(height + 2, width + 2)``, the chunk's pixels and the ring around them.

    Returns:
        vertices as ``4 * corner + junction``; offsets of arcs, then rings; their labels; and of the arcs the starts
        and ends as ``4 * corner + direction``.
    """
    corners, vertex_corners = _find_cracks(labels)
    outline = _outline(*labels.shape)
    corners.ravel()[outline] |= OUTLINE
    corners[-1] &= STARTS - 1  # no ring of this chunk starts here: the pixel to the south-east is outside
    corners[:, -1] &= STARTS - 1
    starts = np.flatnonzero(corners >= STARTS)
    # at most four walks pass a corner
    vertices = np.empty(4 * vertex_corners + 2 * starts.size + 1, np.int64)
    return _walk_all(labels, corners, outline, starts, vertices)


def _outline(rows: int, stride: int) -> NDArray[np.int64]:
    """Every corner on the outline of the chunk, once, in ascending order."""
    across, down = np.arange(1, stride), np.arange(1, rows) * stride
    return np.unique(np.concatenate([stride + across, (rows - 1) * stride + across, down + 1, down + stride - 1]))


@numba.njit(cache=True, nogil=True)
def _find_cracks(labels: NDArray[np.int32]) -> tuple[NDArray[np.uint8], int]:
    """What the walk must know of every corner, in one byte, and the number of corners where it may leave a vertex.

    Bit d of the byte: there is a crack in direction d. Codes with a single bit, which no corner has, say that all four
    are there and which of the diagonal pixels belong to one instance: see SADDLES.
    """
    corners = np.zeros(labels.shape, np.uint8)
    vertex_corners = 0
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
            corners[row, col] = code | STARTS * (east & south)
            vertex_corners += int((east | west) & (south | north))
    return corners, vertex_corners


@numba.njit(cache=True, nogil=True)
def _walk_all(
    labels: NDArray[np.int32],
    corner_bytes: NDArray[np.uint8],
    outline: NDArray[np.int64],
    starts: NDArray[np.int64],
    vertices: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Walk the arcs, then the rings.

    Arcs start on the outline of the chunk. What they leave unwalked is closed: in row-major order each ring is met
    first at its topmost-leftmost crack, which runs east on a shell and west on a hole. So rings start at their least
    vertex, shells come by first pixel, holes by first vertex, and a shell before its holes.
    """
    stride = labels.shape[1]
    flat, corners = labels.ravel(), corner_bytes.ravel()
    max_arcs = 4 * outline.size
    offsets = np.zeros(max_arcs + 2 * starts.size + 1, np.int64)
    label = np.empty(max_arcs + 2 * starts.size, np.int32)
    arc_start, arc_end = np.empty(max_arcs, np.int64), np.empty(max_arcs, np.int64)
    count = 0
    used = 0
    for corner in outline:
        for incoming in range(4):
            heading = _entry(flat, corners, labels.shape, corner, incoming)
            if heading >= 0:
                arc_start[count] = 4 * corner + heading
                label[count] = flat[_right_ahead(corner, heading, stride)]
                used, arc_end[count] = _follow(corners, labels.shape, corner, heading, vertices, used)
                count += 1
                offsets[count] = used
    arcs = count
    for corner in starts:
        for pixel, mark, heading in ((corner, WALKED_EAST, EAST), (corner - stride, WALKED_WEST, SOUTH)):
            if flat[pixel] and not corners[corner] & mark and pixel >= stride:
                label[count] = flat[pixel]
                first = used
                used, _ = _follow(corners, labels.shape, corner, heading, vertices, used + 1)
                vertices[first] = vertices[used - 1]  # it ends where it began
                count += 1
                offsets[count] = used
    return (
        vertices[:used].copy(),
        offsets[: count + 1].copy(),
        label[:count].copy(),
        arc_start[:arcs].copy(),
        arc_end[:arcs].copy(),
    )


@numba.njit(cache=True, nogil=True)
def _right_ahead(corner: int, heading: int, stride: int) -> int:
    """The pixel on the right hand of the crack that leaves a corner."""
    if heading < 2:
        return corner - heading
    return corner - stride - 3 + heading


@numba.njit(cache=True, nogil=True)
def _is_outside(pixel: int, shape: tuple[int, int]) -> bool:
    """Whether a pixel of the padded labels lies in the ring around the chunk."""
    row, col = divmod(pixel, shape[1])
    return row == 0 or col == 0 or row == shape[0] - 1 or col == shape[1] - 1


@numba.njit(cache=True, nogil=True)
def _entry(
    labels: NDArray[np.int32], corners: NDArray[np.uint8], shape: tuple[int, int], corner: int, incoming: int
) -> int:
    """Where a walk that comes to a corner from outside the chunk enters it: its new heading, or -1."""
    right_behind = _right_ahead(corner, (incoming + 1) & 3, shape[1])
    left_behind = _right_ahead(corner, (incoming + 2) & 3, shape[1])
    is_boundary = labels[right_behind] != 0 and labels[right_behind] != labels[left_behind]
    if not is_boundary or not _is_outside(right_behind, shape):
        return -1
    heading = (incoming + STEPS[corners[corner] & CODE, incoming]) & 3
    return -1 if _is_outside(_right_ahead(corner, heading, shape[1]), shape) else heading


@numba.njit(cache=True, nogil=True)
def _follow(
    corners: NDArray[np.uint8],
    shape: tuple[int, int],
    corner: int,
    heading: int,
    vertices: NDArray[np.int64],
    used: int,
) -> tuple[int, int]:
    """Follow cracks until they close or leave the chunk, and mark them as walked.

    Returns:
        the number of vertices used, and the crack reached, as ``4 * corner + direction``.
    """
    moves = (1, shape[1], -1, -shape[1])
    marks = (WALKED_EAST, 0, WALKED_WEST, 0)
    first_corner, first_heading = corner, heading
    while True:
        corners[corner - (heading == WEST)] |= marks[heading]
        corner += moves[heading]
        code = corners[corner]
        step = STEPS[code & CODE, heading]
        vertices[used] = 4 * corner + (step >> 3)
        used += (step & VERTEX) != 0
        heading = (heading + step) & 3
        if corner == first_corner and heading == first_heading:
            break
        if code & OUTLINE and _is_outside(_right_ahead(corner, heading, shape[1]), shape):
            break
    return used, 4 * corner + heading


@numba.njit(cache=True, nogil=True)
def _decode(
    vertices: NDArray[np.int64], stride: int, row_off: int, col_off: int
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Vertices of :func:`_trace` as (col, row) in the scene, and their kinds of junction."""
    coords = np.empty((vertices.size, 2), np.int32)
    junction = np.empty(vertices.size, np.uint8)
    for vertex in range(vertices.size):
        corner = vertices[vertex] >> 2
        row = corner // stride
        coords[vertex, 0] = corner - row * stride + col_off
        coords[vertex, 1] = row + row_off
        junction[vertex] = vertices[vertex] & 3
    return coords, junction


def _scene_keys(
    cracks: NDArray[np.int64], stride: int, window: Window, scene_shape: tuple[int, int]
) -> NDArray[np.int64]:
    """Cracks ``4 * corner + direction`` of a chunk as keys of the scene (see :class:`Ends`)."""
    corners, directions = np.divmod(cracks, 4)
    rows, cols = np.divmod(corners, stride)
    scene_corners = (rows + window.row_off - 1) * (scene_shape[1] + 1) + cols + window.col_off - 1
    return 4 * scene_corners + directions


# --- confidence ----------------------------------------------------------------------------------------------------


def _histograms_by_label(
    labels: NDArray[np.int32], confidence: NDArray[np.uint8] | None, area: NDArray[np.int64]
) -> Histograms:
    """The histogram of every label's confidences; all empty without confidence."""
    if confidence is None:
        return Histograms(np.zeros(area.size + 1, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.int64))
    offsets = offsets_of(area)
    # contiguous, so that the kernel is compiled for one layout only
    grouped = _group_by_label(labels, np.ascontiguousarray(confidence), offsets[:-1].copy(), int(offsets[-1]))
    return Histograms(*_count_values(grouped, offsets))


@numba.njit(cache=True, nogil=True)
def _areas(labels: NDArray[np.int32], size: int) -> NDArray[np.int64]:
    """Pixels of the chunk by label; label 0 counts as empty."""
    area = np.zeros(size, np.int64)
    for row in range(1, labels.shape[0] - 1):
        run = labels[row, 1]
        since = 1
        for col in range(2, labels.shape[1] - 1):
            if labels[row, col] != run:
                area[run] += col - since
                run, since = labels[row, col], col
        area[run] += labels.shape[1] - 1 - since
    area[0] = 0
    return area


@numba.njit(cache=True, nogil=True)
def _group_by_label(
    labels: NDArray[np.int32], confidence: NDArray[np.uint8], cursors: NDArray[np.int64], total: int
) -> NDArray[np.uint8]:
    """Counting sort of the chunk's confidences by label; ``cursors`` says where each label begins, and is used up."""
    grouped = np.empty(total, np.uint8)
    height, width = confidence.shape
    for row in range(height):
        col = 0
        while col < width:
            label = labels[row + 1, col + 1]
            at = cursors[label]
            since = col
            while col < width and labels[row + 1, col + 1] == label:
                if label:
                    grouped[at + col - since] = confidence[row, col]
                col += 1
            cursors[label] = at + col - since
    return grouped


@numba.njit(cache=True, nogil=True)
def _count_values(
    grouped: NDArray[np.uint8], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """Sparse histograms of the groups of bytes between offsets; 255 (unknown) is left out."""
    room = 0
    for group in range(offsets.size - 1):
        room += min(offsets[group + 1] - offsets[group], NODATA)
    entry_offsets = np.zeros(offsets.size, np.int64)
    value = np.empty(room, np.uint8)
    count = np.empty(room, np.int64)
    entries = 0
    bins = np.zeros(256, np.int64)
    for group in range(offsets.size - 1):
        low, high = NODATA, -1
        for at in range(offsets[group], offsets[group + 1]):
            byte = grouped[at]
            bins[byte] += 1
            low, high = min(low, byte), max(high, byte)
        for byte in range(low, min(high + 1, NODATA)):
            if bins[byte]:
                value[entries] = byte
                count[entries] = bins[byte]
                entries += 1
        bins[low : high + 1] = 0
        entry_offsets[group + 1] = entries
    return entry_offsets, value[:entries].copy(), count[:entries].copy()


# --- joining -------------------------------------------------------------------------------------------------------


def _join_arcs(fragments: list[Fragment]) -> Curves:
    """Chain all arcs into closed rings, each starting at its least vertex."""
    arcs = concatenate_curves([fragment.arcs for fragment in fragments])
    start = np.concatenate([fragment.ends.start for fragment in fragments] + [np.zeros(0, np.int64)])
    end = np.concatenate([fragment.ends.end for fragment in fragments] + [np.zeros(0, np.int64)])
    order = np.argsort(start)
    if not np.array_equal(start[order], np.sort(end)):
        raise InputError("arcs do not meet across the chunks; give the fragment of every chunk once")
    following = order[np.searchsorted(start[order], end)]
    chained, ring_starts = _chain(following)
    coords, junction, offsets = take_curves(arcs.coords, arcs.junction, arcs.offsets, chained)
    closed = _close_rings(coords, junction, offsets[ring_starts])
    return Curves(*closed, id=arcs.id[chained[ring_starts[:-1]]])


@numba.njit(cache=True, nogil=True)
def _chain(following: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cycles of a permutation: its elements cycle after cycle, and the offsets of the cycles."""
    chained = np.empty(following.size, np.int64)
    offsets = np.zeros(following.size + 1, np.int64)
    seen = np.zeros(following.size, np.bool_)
    at = 0
    cycles = 0
    for first in range(following.size):
        element = first
        while not seen[element]:
            seen[element] = True
            chained[at] = element
            at += 1
            element = following[element]
        if at > offsets[cycles]:
            cycles += 1
            offsets[cycles] = at
    return chained, offsets[: cycles + 1].copy()


@numba.njit(cache=True, nogil=True)
def _close_rings(
    coords: NDArray[np.int32], junction: NDArray[np.uint8], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int64]]:
    """Turn each ring to start at its topmost-leftmost vertex, and repeat that at its end."""
    rings = offsets.size - 1
    closed = np.empty((coords.shape[0] + rings, 2), np.int32)
    flags = np.empty(coords.shape[0] + rings, np.uint8)
    closed_offsets = offsets + np.arange(rings + 1)
    for ring in range(rings):
        begin, length = offsets[ring], offsets[ring + 1] - offsets[ring]
        least = begin
        for at in range(begin, begin + length):
            if (coords[at, 1], coords[at, 0]) < (coords[least, 1], coords[least, 0]):
                least = at
        for step in range(length + 1):
            at = begin + (least - begin + step) % length
            to = closed_offsets[ring] + step
            closed[to, 0], closed[to, 1], flags[to] = coords[at, 0], coords[at, 1], junction[at]
    return closed, flags, closed_offsets


def _add_up(fragments: list[Fragment]) -> tuple[Instances, NDArray[np.float64], NDArray[np.float64]]:
    """Instances that lie in several chunks, sorted by id: their shares summed, and confidence mean and percentile."""
    parts = [fragment.open for fragment in fragments]
    ids, first, group = np.unique(
        np.concatenate([part.id for part in parts] + [np.zeros(0, np.int64)]), return_index=True, return_inverse=True
    )
    area = np.zeros(ids.size, np.int64)
    edge = np.zeros(ids.size, np.bool_)
    code = np.concatenate([part.code for part in parts] + [np.zeros(0, np.uint8)])[first]
    np.add.at(area, group, np.concatenate([part.area_px for part in parts] + [np.zeros(0, np.int64)]))
    np.logical_or.at(edge, group, np.concatenate([part.edge for part in parts] + [np.zeros(0, np.bool_)]))
    mean, p10 = Histograms.merge([fragment.histograms for fragment in fragments], group, ids.size).summary()
    return Instances(id=ids, code=code, area_px=area, edge=edge), mean, p10


def _check_chunk(
    mask: NDArray[np.uint8], confidence: NDArray[np.uint8] | None, border: ChunkBorder, window: Window
) -> None:
    """Refuse arrays that are not the window's."""
    shape = (window.height, window.width)
    for name, array in (("mask", mask), ("confidence", confidence)):
        if array is not None and (array.dtype != np.uint8 or array.shape != shape):
            raise InputError(f"{name} is {array.dtype} {array.shape}; expected uint8 {shape}")
    if border.outside.size != border.inside.size + 4:
        raise InputError(f"a border of {border.inside.size} + {border.outside.size} pixels; use Merge.border(window)")

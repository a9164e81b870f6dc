"""Instances across chunks: label each chunk alone, then merge what meets at the seams.

An *instance* is a 4-connected component of one class in the mask of the whole scene. Its id is the flat row-major index
of its first pixel in the scene, plus one: a fact of the scene, so no chunk size, worker or order of work can change it.
Where touching instances of one class must stay apart (fields), the mask comes with the *parents* of the pixels that
growth gave to them (:func:`geoseg.stages.cores.grow_cores`): two neighbours of one class then belong together if
neither has a parent, or if one is the parent of the other.

Four steps, of which only the first and the last see pixels:

1. :func:`find_faces`, per chunk: find its components and keep what shows on its four edges.
2. :func:`merge_faces`, once: union-find over the seams, from the faces alone.
3. :meth:`Merge.border`, per chunk: the global ids on and just outside its edges, all that tracing needs to know of the
   world around it.
4. :func:`label_chunk`, per chunk: labels of its pixels and of those just around it, and what they stand for.

Everything that moves between processes is bounded by the perimeter of a chunk, never by its area. The scheme is the
usual one for labelling in blocks: block-wise labelling, then equivalences over block faces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geoseg.components import DOWN, LEFT, RIGHT, UP, check_chunk, find_components, grid_of, join, side_of
from geoseg.errors import InputError
from geoseg.lattice import Window
from geoseg.rings import Columns

__all__ = ["Border", "Faces", "Labels", "Merge", "find_faces", "label_chunk", "merge_faces"]

# How an edge pixel hangs together with what lies beyond the edge.
ORDINARY, GROWN_FROM_BEYOND, GROWN_FROM_ELSEWHERE = 0, 1, 2

NO_DATA = -1
"""Among labels and their like, where instances count from 1 and 0 is background. As an index it means the last entry,
which arrays by label keep free for it."""


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """What one chunk shows to its neighbours.

    Attributes:
        window: the chunk's window in the scene.
        edges: int32 ``(2 * width + 2 * height,)``, the component at every edge pixel: top row, bottom row, left column,
            right column. Components are numbered 1..k among those that touch an edge; 0 is background, -1 nodata.
        grown: uint8, as long: 0 is a pixel without parent, 1 one whose parent lies beyond this edge, 2 any other.
        code: uint8 ``(k,)``, class code of each component.
        first: int64 ``(k,)``, flat row-major index in the scene of each component's first pixel in this chunk.
    """

    window: Window
    edges: NDArray[np.int32]
    grown: NDArray[np.uint8]
    code: NDArray[np.uint8]
    first: NDArray[np.int64]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All but the window, by name, as ``np.savez`` wants it."""
        return {column.name: getattr(self, column.name) for column in fields(self) if column.name != "window"}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], window: Window) -> Self:
        """The inverse of :meth:`to_arrays`."""
        return cls(window=window, **{name: arrays[name] for name in ("edges", "grown", "code", "first")})


@dataclass(frozen=True, slots=True, eq=False)
class Border:
    """Global ids on both sides of a chunk's edges.

    Attributes:
        window: the chunk's window in the scene.
        ids: int64 ``(n,)``, the distinct instance ids that occur here.
        code: uint8 ``(n,)``, their class codes.
        inside: int32 ``(2 * width + 2 * height,)``, one entry per edge pixel of the chunk: top row, bottom row, left
            column, right column. An entry is a position in ``ids`` plus one; 0 is background, -1 nodata.
        outside: int32 ``(2 * width + 2 * height + 4,)``, the same for the ring of pixels around the chunk: above,
            below, left, right, then the corners top-left, top-right, bottom-left, bottom-right. Outside the scene: -1.
    """

    window: Window
    ids: NDArray[np.int64]
    code: NDArray[np.uint8]
    inside: NDArray[np.int32]
    outside: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Labels(Columns):
    """One chunk's pixels by instance, and the pixels around it. Made by :func:`label_chunk`.

    Attributes:
        labels: int32 ``(height + 2, width + 2)``, the chunk and the ring of pixels around it. Equal labels are the same
            instance of the scene; 0 is background, -1 nodata or outside the scene.
        id: int64, by label: the instance's id in the scene; 0 for label 0 and for labels that occur nowhere. All arrays
            by label end with an entry that no label counts up to, so that label -1 finds 0 there.
        code: uint8, by label: its class code.
        area_px: int64, by label: its pixels in this chunk; 0 if it lies in the ring alone.
        edge: bool, by label: whether one of its pixels in this chunk lies on the edge of the scene.
    """

    labels: NDArray[np.int32]
    id: NDArray[np.int64]
    code: NDArray[np.uint8]
    area_px: NDArray[np.int64]
    edge: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Merge:
    """All chunks' faces under global ids. Made by :func:`merge_faces`."""

    _faces: Mapping[tuple[int, int], Faces]  # by place in the grid of chunks: row, column
    _places: Mapping[Window, tuple[int, int]]
    _instances: Mapping[tuple[int, int], NDArray[np.int64]]  # id * 256 + code of each chunk's components, by edge entry

    def border(self, window: Window) -> Border:
        """The global ids that the chunk at ``window`` needs for labelling.

        Args:
            window: a chunk's window, as given to :func:`find_faces`.

        Raises:
            InputError: no chunk has this window.
        """
        if window not in self._places:
            raise InputError(f"no chunk lies at {window}; ask for a window that was merged")
        row, col = self._places[window]
        around = np.concatenate(
            [
                np.array([NO_DATA, 0]),  # always there, so that the positions below are -1 and 0 for them
                *(self._edge(row, col, side) for side in ("top", "bottom", "left", "right")),
                self._edge(row - 1, col, "bottom", window.width),
                self._edge(row + 1, col, "top", window.width),
                self._edge(row, col - 1, "right", window.height),
                self._edge(row, col + 1, "left", window.height),
                self._edge(row - 1, col - 1, "bottom")[-1:],
                self._edge(row - 1, col + 1, "bottom")[:1],
                self._edge(row + 1, col - 1, "top")[-1:],
                self._edge(row + 1, col + 1, "top")[:1],
            ]
        )
        instances, entries = np.unique(around, return_inverse=True)
        places: NDArray[np.int32] = entries.astype(np.int32) - 1
        edges = 2 * (window.width + window.height)
        return Border(
            window=window,
            ids=instances[2:] // 256,
            code=(instances[2:] % 256).astype(np.uint8),
            inside=places[2 : edges + 2],
            outside=places[edges + 2 :],
        )

    def _edge(self, row: int, col: int, side: str, length: int = 1) -> NDArray[np.int64]:
        """Ids * 256 + codes along one side of a chunk; nodata of ``length`` beyond the scene."""
        faces = self._faces.get((row, col))
        if faces is None:
            return np.full(length, NO_DATA)
        return self._instances[row, col][faces.edges[side_of(faces.window, side)]]


def find_faces(
    codes: NDArray[np.uint8], parent: NDArray[np.uint8] | None, window: Window, scene_shape: tuple[int, int]
) -> Faces:
    """Find one chunk's components and keep what touches its edges.

    Args:
        codes: uint8 ``(height, width)`` class codes of the chunk. 0 and 255 are never instances.
        parent: uint8 ``(height, width)``, where each pixel's parent lies (0: it has none), from
            :func:`geoseg.stages.cores.grow_cores`; None if no pixel of the scene has one.
        window: where the chunk lies in the scene.
        scene_shape: ``(rows, cols)`` of the scene.

    Raises:
        InputError: an array is not uint8 of the window's shape, or the window leaves the scene.
    """
    _check(codes, parent, window, scene_shape)
    found = find_components(codes, parent)
    rim = found.rim()
    touching = np.unique(rim[rim > 0])
    number = np.zeros(len(found) + 2, np.int32)
    number[-1] = NO_DATA
    number[touching] = np.arange(1, touching.size + 1)
    rows, cols = np.divmod(found.first[touching], window.width)
    return Faces(
        window=window,
        edges=number[rim],
        grown=np.zeros(rim.size, np.uint8) if parent is None else _grown(parent),
        code=found.code[touching],
        first=(rows + window.row_off) * scene_shape[1] + cols + window.col_off,
    )


def merge_faces(faces: Iterable[Faces], scene_shape: tuple[int, int]) -> Merge:
    """Give every component that touches a chunk edge its global id.

    Components that are connected over a seam are one instance; its id is one more than the smallest first pixel among
    its parts.

    Args:
        faces: one per chunk, in any order. The windows must be the cells of one grid over the whole scene.
        scene_shape: ``(rows, cols)`` of the scene.

    Raises:
        InputError: the windows do not tile the scene.
    """
    grid = grid_of(faces, scene_shape)
    counts = np.array([len(face.code) for face in grid.values()], np.int64)
    starts = dict(zip(grid, np.cumsum(counts) - counts, strict=True))

    pairs = [np.zeros((2, 0), np.int64)]
    for (row, col), face in grid.items():
        for neighbour, side, opposite in (((row + 1, col), "bottom", "top"), ((row, col + 1), "right", "left")):
            if neighbour in grid:
                met = _meetings(face, side, grid[neighbour], opposite)
                pairs.append(met + np.array([[starts[row, col]], [starts[neighbour]]]))
    groups, group = join(np.concatenate(pairs, axis=1), int(counts.sum()))
    smallest = np.full(groups, np.iinfo(np.int64).max)
    np.minimum.at(smallest, group, np.concatenate([face.first for face in grid.values()]))
    ids = smallest[group] + 1
    return Merge(
        _faces=grid,
        _places={face.window: place for place, face in grid.items()},
        _instances={
            place: np.concatenate([[0], ids[starts[place] :][: len(face.code)] * 256 + face.code, [NO_DATA]])
            for place, face in grid.items()
        },
    )


def label_chunk(
    codes: NDArray[np.uint8],
    parent: NDArray[np.uint8] | None,
    border: Border,
    window: Window,
    scene_shape: tuple[int, int],
) -> Labels:
    """Label a chunk and the ring of pixels around it so that equal labels mean the same instance of the scene.

    Args:
        codes: uint8 ``(height, width)``, as given to :func:`find_faces`.
        parent: the same.
        border: this chunk's, from :meth:`Merge.border`.
        window: where the chunk lies in the scene.
        scene_shape: ``(rows, cols)`` of the scene.

    Raises:
        InputError: an array is not uint8 of the window's shape, the window leaves the scene, or the border is not this
            chunk's.
    """
    _check(codes, parent, window, scene_shape)
    found = find_components(codes, parent)
    rim = found.rim()
    if border.window != window or not np.array_equal(np.minimum(border.inside, 1), np.minimum(rim, 1)):
        raise InputError(f"the border is of {border.window} or of another mask; give Merge.border({window})")

    # one label per id of the border: one of its components here, else a new one; nodata last
    count = len(found)
    label_of_id = np.arange(count, count + border.ids.size + 2, dtype=np.int32)
    label_of_id[border.inside] = rim
    label_of_id[0], label_of_id[-1] = 0, NO_DATA
    relabelled = np.arange(count + 2, dtype=np.int32)
    relabelled[rim] = label_of_id[border.inside]
    relabelled[0], relabelled[-1] = 0, NO_DATA
    labels = found.paint(relabelled[:-1])
    width, height = window.width, window.height
    above, below, left, right, corners = np.split(
        label_of_id[border.outside], np.cumsum([width, width, height, height])
    )
    labels[0, 1:-1], labels[-1, 1:-1], labels[1:-1, 0], labels[1:-1, -1] = above, below, left, right
    labels[0, 0], labels[0, -1], labels[-1, 0], labels[-1, -1] = corners

    size = count + border.ids.size + 2
    ids, code, area = np.zeros(size, np.int64), np.zeros(size, np.uint8), np.zeros(size, np.int64)
    rows, cols = np.divmod(found.first, width)
    # an instance of this chunk alone is named by its first pixel here; the border knows the others
    own = relabelled[:-1] == np.arange(count + 1)
    ids[: count + 1] = np.where(own, (rows + window.row_off) * scene_shape[1] + cols + window.col_off + 1, 0)
    code[: count + 1] = np.where(own, found.code, 0)
    ids[label_of_id[1:-1]], code[label_of_id[1:-1]] = border.ids, border.code
    ids[0] = 0
    np.add.at(area, relabelled[:-1], found.area_px)
    edge = np.zeros(size, np.bool_)
    inner = labels[1:-1, 1:-1]
    edge[inner[0]] |= window.row_off == 0
    edge[inner[-1]] |= window.row_stop == scene_shape[0]
    edge[inner[:, 0]] |= window.col_off == 0
    edge[inner[:, -1]] |= window.col_stop == scene_shape[1]
    edge[[0, NO_DATA]] = False
    return Labels(labels=labels, id=ids, code=code, area_px=area, edge=edge)


def _meetings(face: Faces, side: str, other: Faces, opposite: str) -> NDArray[np.int64]:
    """Pairs (2, n) of components, counted from 0, that are connected over one seam."""
    ours, theirs = side_of(face.window, side), side_of(other.window, opposite)
    here, there = face.edges[ours], other.edges[theirs]
    grown, grown_there = face.grown[ours], other.grown[theirs]
    connected = (grown | grown_there) == ORDINARY
    connected |= (grown == GROWN_FROM_BEYOND) | (grown_there == GROWN_FROM_BEYOND)
    at = np.flatnonzero(connected & (here > 0) & (there > 0))
    pairs = np.stack([here[at], there[at]]).astype(np.int64) - 1
    # a long contact repeats one pair pixel after pixel: keep the first
    fresh = np.ones(at.size, bool)
    fresh[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)
    pairs = pairs[:, fresh]
    return pairs[:, face.code[pairs[0]] == other.code[pairs[1]]]


def _grown(parent: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How the edge pixels hang together with what lies beyond the edges (see :attr:`Faces.grown`)."""
    sides = ((parent[0], UP), (parent[-1], DOWN), (parent[:, 0], LEFT), (parent[:, -1], RIGHT))
    return np.concatenate(
        [
            np.where(edge == beyond, GROWN_FROM_BEYOND, np.where(edge == 0, ORDINARY, GROWN_FROM_ELSEWHERE))
            for edge, beyond in sides
        ]
    ).astype(np.uint8)


def _check(
    codes: NDArray[np.uint8], parent: NDArray[np.uint8] | None, window: Window, scene_shape: tuple[int, int]
) -> None:
    """Refuse arrays that are not the window's, or a window that is not the scene's."""
    check_chunk(codes, window, scene_shape, "mask")
    if parent is not None:
        check_chunk(parent, window, scene_shape, "parent")

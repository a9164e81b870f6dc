"""Instances across chunks: label each chunk alone, then merge what meets at the seams.

An *instance* is a 4-connected component of one class in the mask of the whole scene. Its id is the flat row-major index
of its first pixel in the scene, plus one: a fact of the scene, so no chunk size, worker or order of work can change it.

Three steps, of which only the first sees pixels:

1. :func:`find_faces`, per chunk: label it and keep what shows on its four edges.
2. :func:`merge_faces`, once: union-find over the seams, from the faces alone.
3. :meth:`Merge.border`, per chunk: the global ids on and just outside its edges, all that tracing needs to know of the
   world around it.

Everything that moves between processes is bounded by the perimeter of a chunk, never by its area. The scheme is the
usual one for labelling in blocks (block-wise labelling, then equivalences over block faces), with the labels from cc3d
(W. Silversmith, connected-components-3d) and the union by ``scipy.sparse.csgraph``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import cc3d
import numba
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geoseg.codes import NODATA
from geoseg.errors import InputError
from geoseg.lattice import Window

__all__ = ["Border", "Faces", "Merge", "find_faces", "merge_faces"]


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """What one chunk shows to its neighbours.

    Attributes:
        window: the chunk's window in the scene.
        edges: int32 ``(2 * width + 2 * height,)``, the component at every edge pixel: top row, bottom row, left column,
            right column. Components are numbered 1..k among those that touch an edge; 0 is background or nodata.
        code: uint8 ``(k,)``, class code of each component.
        first: int64 ``(k,)``, flat row-major index in the scene of each component's first pixel in this chunk.
    """

    window: Window
    edges: NDArray[np.int32]
    code: NDArray[np.uint8]
    first: NDArray[np.int64]

    @classmethod
    def empty(cls, window: Window) -> Faces:
        """Faces of a chunk that holds no instance at all."""
        return cls(
            window=window,
            edges=np.zeros(2 * (window.width + window.height), np.int32),
            code=np.zeros(0, np.uint8),
            first=np.zeros(0, np.int64),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Border:
    """Global ids on both sides of a chunk's edges.

    Attributes:
        window: the chunk's window in the scene.
        ids: int64 ``(n,)``, the distinct instance ids that occur here.
        inside: int32 ``(2 * width + 2 * height,)``, one entry per edge pixel of the chunk: top row, bottom row, left
            column, right column. An entry is a position in ``ids`` plus one; 0 is background or nodata.
        outside: int32 ``(2 * width + 2 * height + 4,)``, the same for the ring of pixels around the chunk: above,
            below, left, right, then the corners top-left, top-right, bottom-left, bottom-right. Outside the scene: 0.
    """

    window: Window
    ids: NDArray[np.int64]
    inside: NDArray[np.int32]
    outside: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Merge:
    """All chunks' faces under global ids. Made by :func:`merge_faces`."""

    _faces: Mapping[tuple[int, int], Faces]  # by place in the grid of chunks: row, column
    _places: Mapping[Window, tuple[int, int]]
    _ids: Mapping[tuple[int, int], NDArray[np.int64]]  # global id of each chunk's components; [0] is 0

    def border(self, window: Window) -> Border:
        """The global ids that the chunk at ``window`` needs for tracing.

        Args:
            window: a chunk's window, as given to :func:`find_faces`.

        Raises:
            InputError: no chunk has this window.
        """
        if window not in self._places:
            raise InputError(f"no chunk lies at {window}; ask for a window that was merged")
        row, col = self._places[window]
        faces = self._faces[row, col]
        inside = self._ids[row, col][faces.edges]
        outside = np.concatenate(
            [
                self._edge(row - 1, col, "bottom", window.width),
                self._edge(row + 1, col, "top", window.width),
                self._edge(row, col - 1, "right", window.height),
                self._edge(row, col + 1, "left", window.height),
                self._edge(row - 1, col - 1, "bottom", 1)[-1:],
                self._edge(row - 1, col + 1, "bottom", 1)[:1],
                self._edge(row + 1, col - 1, "top", 1)[-1:],
                self._edge(row + 1, col + 1, "top", 1)[:1],
            ]
        )
        # id 0 is put first by force, so that position 0 always means "no instance"
        ids, entries = np.unique(np.concatenate([[0], inside, outside]), return_inverse=True)
        places: NDArray[np.int32] = entries.astype(np.int32)
        return Border(window=window, ids=ids[1:], inside=places[1 : inside.size + 1], outside=places[inside.size + 1 :])

    def _edge(self, row: int, col: int, side: str, length: int) -> NDArray[np.int64]:
        """Global ids along one side of a chunk; zeros of ``length`` beyond the scene."""
        faces = self._faces.get((row, col))
        if faces is None:
            return np.zeros(length, np.int64)
        return self._ids[row, col][_side(faces, side)]


def find_faces(mask: NDArray[np.uint8], window: Window, scene_shape: tuple[int, int]) -> Faces:
    """Label one chunk and keep what touches its edges.

    Args:
        mask: uint8 ``(height, width)`` class codes of the chunk. 0 and 255 are never instances.
        window: where the chunk lies in the scene.
        scene_shape: ``(rows, cols)`` of the scene.

    Raises:
        InputError: the mask is not uint8 of the window's shape, or the window leaves the scene.
    """
    _check_chunk(mask, window, scene_shape)
    traced = np.where(mask == NODATA, np.uint8(0), mask)
    components, count = cc3d.connected_components(traced, connectivity=4, return_N=True, out_dtype=np.uint32)
    labels: NDArray[np.int32] = components.view(np.int32)
    edge_labels = _rim(labels)
    touching = np.unique(edge_labels[edge_labels > 0])
    first = _first_pixels(labels, count)[touching]
    rows, cols = np.divmod(first, window.width)
    return Faces(
        window=window,
        edges=np.searchsorted(np.concatenate([[0], touching]), edge_labels).astype(np.int32),
        code=traced[rows, cols],
        first=(rows + window.row_off) * scene_shape[1] + cols + window.col_off,
    )


def merge_faces(faces: Iterable[Faces], scene_shape: tuple[int, int]) -> Merge:
    """Give every component that touches a chunk edge its global id.

    Components of one class that meet over a seam are one instance; its id is one more than the smallest first pixel
    among its parts.

    Args:
        faces: one per chunk, in any order. The windows must be the cells of one grid over the whole scene.
        scene_shape: ``(rows, cols)`` of the scene.

    Raises:
        InputError: the windows do not tile the scene.
    """
    grid = _grid(list(faces), scene_shape)
    counts = np.array([len(face.code) for face in grid.values()], np.int64)
    starts = dict(zip(grid, np.cumsum(counts) - counts, strict=True))

    pairs = [np.zeros((2, 0), np.int64)]
    for (row, col), face in grid.items():
        for neighbour, side, opposite in (((row + 1, col), "bottom", "top"), ((row, col + 1), "right", "left")):
            if neighbour in grid:
                met = _meetings(face, side, grid[neighbour], opposite)
                pairs.append(met + np.array([[starts[row, col]], [starts[neighbour]]]))
    joined = np.concatenate(pairs, axis=1)

    total = int(counts.sum())
    graph = coo_array((np.ones(joined.shape[1], np.int8), (joined[0], joined[1])), shape=(total, total))
    groups, group = connected_components(graph, directed=False) if total else (0, np.zeros(0, np.int32))
    smallest = np.full(groups, np.iinfo(np.int64).max)
    np.minimum.at(smallest, group, np.concatenate([face.first for face in grid.values()]))
    ids = smallest[group] + 1
    return Merge(
        _faces=grid,
        _places={face.window: place for place, face in grid.items()},
        _ids={
            place: np.concatenate([[0], ids[starts[place] : starts[place] + len(face.code)]])
            for place, face in grid.items()
        },
    )


def _meetings(face: Faces, side: str, other: Faces, opposite: str) -> NDArray[np.int64]:
    """Pairs (2, n) of components, counted from 0, that meet over one seam and have the same class."""
    here, there = _side(face, side), _side(other, opposite)
    # a long contact repeats one pair pixel after pixel: keep its first pixel only
    fresh = np.ones(here.size, bool)
    fresh[1:] = (here[1:] != here[:-1]) | (there[1:] != there[:-1])
    fresh &= (here > 0) & (there > 0)
    pairs = np.stack([here[fresh], there[fresh]]).astype(np.int64) - 1
    return pairs[:, face.code[pairs[0]] == other.code[pairs[1]]]


def _grid(faces: list[Faces], scene_shape: tuple[int, int]) -> dict[tuple[int, int], Faces]:
    """Faces by their place in the grid of chunks, row-major; refuses windows that do not tile the scene."""
    by_window = {face.window: face for face in faces}
    rows = sorted({(window.row_off, window.height) for window in by_window})
    cols = sorted({(window.col_off, window.width) for window in by_window})
    grid = {}
    for row, (row_off, height) in enumerate(rows):
        for col, (col_off, width) in enumerate(cols):
            face = by_window.get(Window(col_off=col_off, row_off=row_off, width=width, height=height))
            if face is not None:
                grid[row, col] = face
    covers = _partitions(rows, scene_shape[0]) and _partitions(cols, scene_shape[1])
    if not covers or len(grid) != len(rows) * len(cols) or len(grid) != len(faces):
        raise InputError(
            f"{len(faces)} chunks do not tile a scene of {scene_shape[0]} x {scene_shape[1]} px; "
            "give the faces of every chunk once, Faces.empty(window) for a skipped one"
        )
    return grid


def _partitions(spans: list[tuple[int, int]], length: int) -> bool:
    """Whether sorted (start, length) spans follow one another from 0 to ``length``."""
    stop = 0
    for start, span in spans:
        if start != stop:
            return False
        stop = start + span
    return stop == length


def _side(faces: Faces, side: str) -> NDArray[np.int32]:
    """The entries of one side of ``faces.edges``."""
    width, height = faces.window.width, faces.window.height
    starts = {"top": 0, "bottom": width, "left": 2 * width, "right": 2 * width + height}
    length = width if side in {"top", "bottom"} else height
    return faces.edges[starts[side] : starts[side] + length]


def _rim(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """The edge pixels of a chunk: top row, bottom row, left column, right column."""
    return np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])


@numba.njit(cache=True, nogil=True)
def _first_pixels(labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Flat index of the first pixel of each label 0..count (-1 where it does not occur)."""
    first = np.full(count + 1, -1, np.int64)
    flat = labels.ravel()
    last = 0
    for pixel in range(flat.size):
        label = flat[pixel]
        if label != last:
            last = label
            if first[label] < 0:
                first[label] = pixel
    return first


def _check_chunk(mask: NDArray[np.uint8], window: Window, scene_shape: tuple[int, int]) -> None:
    """Refuse a mask that is not the window's, or a window that is not the scene's."""
    if mask.dtype != np.uint8 or mask.shape != (window.height, window.width):
        raise InputError(f"mask is {mask.dtype} {mask.shape}; expected uint8 {(window.height, window.width)}")
    scene = Window(col_off=0, row_off=0, width=scene_shape[1], height=scene_shape[0])
    if window.area == 0 or not scene.contains(window):
        raise InputError(f"chunk {window} is empty or leaves the scene of {scene_shape[0]} x {scene_shape[1]} px")

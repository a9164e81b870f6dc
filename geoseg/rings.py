"""Rings of pixel corners in ragged arrays: what tracing yields, simplification thins, and geometries are made from.

Millions of small rings as arrays of their own would cost more than their vertices. Here all vertices stand in one
array, and offsets say where each ring begins, and with which ring each polygon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Columns",
    "Curves",
    "Polygons",
    "concatenate_curves",
    "merge_by_id",
    "offsets_of",
    "run_offsets",
    "take_curves",
    "take_ragged",
]


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """A dataclass whose fields are all arrays, to and from one flat dict, as ``np.savez`` wants it."""

    def to_arrays(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """All arrays by field name, after ``prefix``."""
        return {prefix + field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> Self:
        """The inverse of :meth:`to_arrays`; also takes what ``np.load`` returns for an ``.npz``."""
        return cls(**{field.name: arrays[prefix + field.name] for field in fields(cls)})


@dataclass(frozen=True, slots=True, eq=False)
class Polygons(Columns):
    """Instances as ragged polygons in pixel corners, sorted by id.

    Polygon ``p`` has the rings ``polygon_offsets[p]:polygon_offsets[p + 1]``, the shell first, then its holes by their
    first vertex; ring ``r`` has the vertices ``ring_offsets[r]:ring_offsets[r + 1]``. A ring starts at its topmost,
    among those its leftmost vertex, and repeats it at the end. The instance lies on the right hand: seen with rows
    going down, shells run clockwise and holes counter-clockwise.

    Attributes:
        coords: int32 ``(vertices, 2)``, (col, row) of pixel corners in the scene.
        junction: uint8 ``(vertices,)``: 1 where three or four cracks meet, so that other boundaries end here; 2 where
            they do on a straight stretch of this one, and the vertex is needed for a valid coverage only; else 0.
        ring_offsets: int64 ``(rings + 1,)``.
        polygon_offsets: int64 ``(polygons + 1,)``.
        id: int64, flat index of the instance's first pixel in the scene, plus one.
        code: uint8, class code, 1-254.
        area_px: int64, pixels.
        confidence: float64, mean over the instance's pixels, 0-1; NaN without confidence.
        confidence_p10: float64, 10th percentile: the smallest value that at least a tenth of the pixels do not exceed.
        edge: bool, whether the instance touches the edge of the scene (and so is perhaps cut by it).
    """

    coords: NDArray[np.int32]
    junction: NDArray[np.uint8]
    ring_offsets: NDArray[np.int64]
    polygon_offsets: NDArray[np.int64]
    id: NDArray[np.int64]
    code: NDArray[np.uint8]
    area_px: NDArray[np.int64]
    confidence: NDArray[np.float64]
    confidence_p10: NDArray[np.float64]
    edge: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.id)


# the columns of Polygons that hold one value per polygon
_ATTRIBUTES = ("id", "code", "area_px", "confidence", "confidence_p10", "edge")


@dataclass(frozen=True, slots=True, eq=False)
class Curves(Columns):
    """Ragged curves: arcs, or closed rings, in the conventions of :class:`Polygons`; ``id`` is the instance's."""

    coords: NDArray[np.int32]
    junction: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    id: NDArray[np.int64]


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Offsets of groups that follow one another: 0, then the running sum."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def run_offsets(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Offsets of the runs of equal values."""
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    return np.concatenate([[0], changes, [values.size]]) if values.size else np.zeros(1, np.int64)


def take_ragged(
    offsets: NDArray[np.int64], chosen: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of all elements of the chosen groups, and the offsets of these groups among them."""
    lengths = np.diff(offsets)[chosen]
    taken = offsets_of(lengths)
    return np.arange(taken[-1]) + np.repeat(offsets[chosen] - taken[:-1], lengths), taken


@numba.njit(cache=True, nogil=True)
def take_curves(
    coords: NDArray[np.int32], junction: NDArray[np.uint8], offsets: NDArray[np.int64], chosen: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int64]]:
    """Copy the chosen curves, in that order: coordinates, flags and offsets."""
    taken = np.zeros(chosen.size + 1, np.int64)
    for i in range(chosen.size):
        taken[i + 1] = taken[i] + offsets[chosen[i] + 1] - offsets[chosen[i]]
    new_coords = np.empty((taken[-1], 2), np.int32)
    new_junction = np.empty(taken[-1], np.uint8)
    for i in range(chosen.size):
        shift = offsets[chosen[i]] - taken[i]
        for to in range(taken[i], taken[i + 1]):
            new_coords[to, 0] = coords[to + shift, 0]
            new_coords[to, 1] = coords[to + shift, 1]
            new_junction[to] = junction[to + shift]
    return new_coords, new_junction, taken


def _concatenate_offsets(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Offsets of ragged arrays put one after the other."""
    return offsets_of(np.concatenate([np.diff(part) for part in parts] + [np.zeros(0, np.int64)]))


def concatenate_curves(parts: Sequence[Curves]) -> Curves:
    """Curves of several chunks, one after the other."""
    return Curves(
        coords=np.concatenate([part.coords for part in parts] + [np.zeros((0, 2), np.int32)]),
        junction=np.concatenate([part.junction for part in parts] + [np.zeros(0, np.uint8)]),
        offsets=_concatenate_offsets([part.offsets for part in parts]),
        id=np.concatenate([part.id for part in parts] + [np.zeros(0, np.int64)]),
    )


def merge_by_id(parts: Sequence[Polygons]) -> Polygons:
    """All polygons of one or more parts, sorted by id; each part is copied straight to its place."""
    order = np.argsort(np.concatenate([part.id for part in parts]))
    places = np.argsort(order)
    rings = np.concatenate([np.diff(part.polygon_offsets) for part in parts])
    vertices = np.concatenate([np.diff(part.ring_offsets[part.polygon_offsets]) for part in parts])
    polygon_offsets, vertex_offsets = offsets_of(rings[order]), offsets_of(vertices[order])
    coords = np.empty((vertex_offsets[-1], 2), np.int32)
    junction = np.empty(vertex_offsets[-1], np.uint8)
    ring_offsets = np.full(polygon_offsets[-1] + 1, vertex_offsets[-1])
    for part, place in zip(parts, np.split(places, np.cumsum([len(part) for part in parts])[:-1]), strict=True):
        _place_polygons(
            (part.coords, part.junction, part.ring_offsets, part.polygon_offsets),
            (coords, junction, ring_offsets),
            polygon_offsets[place],
            vertex_offsets[place],
        )
    return Polygons(
        coords=coords,
        junction=junction,
        ring_offsets=ring_offsets,
        polygon_offsets=polygon_offsets,
        **{name: np.concatenate([getattr(part, name) for part in parts])[order] for name in _ATTRIBUTES},
    )


@numba.njit(cache=True, nogil=True)
def _place_polygons(
    part: tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]],
    whole: tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int64]],
    first_ring: NDArray[np.int64],
    first_vertex: NDArray[np.int64],
) -> None:
    """Copy polygons, each to its first ring and vertex in the whole."""
    coords, junction, ring_offsets, polygon_offsets = part
    for polygon in range(first_ring.size):
        shell = polygon_offsets[polygon]
        shift = first_vertex[polygon] - ring_offsets[shell]
        for ring in range(shell, polygon_offsets[polygon + 1]):
            whole[2][first_ring[polygon] + ring - shell] = ring_offsets[ring] + shift
            for vertex in range(ring_offsets[ring], ring_offsets[ring + 1]):
                whole[0][vertex + shift, 0], whole[0][vertex + shift, 1] = coords[vertex, 0], coords[vertex, 1]
                whole[1][vertex + shift] = junction[vertex]

"""Arcs and polygons in ragged arrays: what tracing yields, simplification thins, and geometries are made from.

Millions of small rings as arrays of their own would cost more than their vertices. Here all vertices stand in one
array, and offsets say where each ring begins, and with which ring each polygon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["WHOLE", "Arcs", "Boundaries", "Columns", "Polygons", "offsets_of", "run_offsets", "take_ragged"]

WHOLE = 3
"""Stops of an arc that has both its ends."""


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
class Arcs(Columns):
    """Pieces of boundary, each once: arc ``a`` has the vertices ``offsets[a]:offsets[a + 1]``, its two ends included.

    An arc runs between two stops (corners where three or four boundaries meet, and some more to bound its length); a
    boundary without stops is a loop that ends where it begins.

    Attributes:
        coords: int32 ``(vertices, 2)``, (col, row) in half pixels.
        offsets: int64 ``(arcs + 1,)``.
    """

    coords: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return self.offsets.size - 1


@dataclass(frozen=True, slots=True, eq=False)
class Boundaries(Columns):
    """The arcs of one chunk that have an instance on at least one hand. Made by ``stages.trace``.

    An arc can be walked either way: forwards (*dart* ``2 * arc``) or backwards (``2 * arc + 1``), always as a boundary
    of the instance on the right hand.

    Attributes:
        coords: int32 ``(vertices, 2)``, see :class:`Arcs`: the arc's ends and turning corners.
        offsets: int64 ``(arcs + 1,)``.
        hands: int32 ``(arcs, 2)``, labels on the right and on the left hand when walked forwards; no instance where
            they are not above 0. So, flattened, the label on the right hand by dart.
        stops: uint8 ``(arcs,)``: 1 if the arc starts at a stop, plus 2 if it ends at one; 3 for a loop. Elsewhere it is
            cut by the chunk's outline.
        start: int64 ``(2 * arcs,)``, by dart the key of its first crack: ``4 * corner + direction``, with corner =
            ``row * (scene width + 1) + col``.
        following: int64 ``(2 * arcs,)``, by dart the key of the crack that follows its last one.
    """

    coords: NDArray[np.int32]
    offsets: NDArray[np.int64]
    hands: NDArray[np.int32]
    stops: NDArray[np.uint8]
    start: NDArray[np.int64]
    following: NDArray[np.int64]

    @property
    def arcs(self) -> Arcs:
        """The arcs alone."""
        return Arcs(self.coords, self.offsets)

    @property
    def whole(self) -> NDArray[np.bool_]:
        """Which arcs are not cut by the chunk's outline."""
        whole: NDArray[np.bool_] = self.stops == WHOLE
        return whole


@dataclass(frozen=True, slots=True, eq=False)
class Polygons(Columns):
    """Instances as ragged polygons, sorted by id.

    Polygon ``p`` has the rings ``polygon_offsets[p]:polygon_offsets[p + 1]``, the shell first, then its holes by their
    first vertex; ring ``r`` has the vertices ``ring_offsets[r]:ring_offsets[r + 1]``. A ring starts at its topmost,
    among those its leftmost vertex, and repeats it at the end. The instance lies on the right hand: seen with rows
    going down, shells run clockwise and holes counter-clockwise.

    Attributes:
        coords: int32 ``(vertices, 2)``, (col, row) in half pixels of the scene: pixel corners are even.
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

"""What overlapping scenes saw of the same ground, brought to one: pairs of polygons, a decision on each, new outlines.

A polygon that its scene's edge cuts, and of which another scene saw all and what lies around it, is left out at once
(:func:`overruled`): the other scene has more of the object, or knows that there is none. The rest, of one class, are
taken in an order of preference, and each meets those of other scenes that were kept before:

- Where nothing was kept that it overlaps, it is kept as it is.
- Where the scenes of these saw all of it, it is another view of the same, and dropped, if it and one of them cover half
  of each other or more, or if all together cover four fifths of it.
- Else they are parts of one object and joined, because neither scene saw all of it: a river that runs on. Of a class
  whose touching instances are kept apart, only those are joined that each cover more than half of what the other shows
  on the ground that both scenes saw, so at most one of each scene; what it shares with the rest is cut off it.

The order of preference (whole polygons first, by confidence; then cut ones, the largest first) is total and knows
nothing of the order in which scenes were read, so neither does the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.rings import Columns, offsets_of

__all__ = [
    "DROPPED",
    "Candidates",
    "Decision",
    "Pairs",
    "View",
    "decide",
    "find_pairs",
    "join",
    "overruled",
    "trim",
]

Geometries: TypeAlias = NDArray[np.object_]
Floats: TypeAlias = NDArray[np.float64]

DROPPED: Final = -1
_HALF = 0.5
_MOST = 0.8
_WHOLE = 0.99  # of an area: simplified outlines stick out of a scene by less
_TOUCH_PX = 0.1  # scenes this close have a common edge
_LEAST_PX2 = 0.99  # less than a pixel's overlap is what rounding and simplification do
_LEAST_CUT_PX2 = 0.01
_CRUMB_PX2 = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The ground of a scene.

    Attributes:
        frame: of the raster.
        seen: where it has data; inside the frame, and rather too small than too large.
        px: side of a pixel, in the units of both.
    """

    frame: shapely.Geometry
    seen: shapely.Geometry
    px: float

    def __post_init__(self) -> None:
        shapely.prepare([self.frame, self.seen])


def overruled(polygons: Geometries, cut: NDArray[np.bool_], there: View) -> NDArray[np.bool_]:
    """Which polygons count for nothing beside what another scene saw.

    If there is an object, the other scene's polygon is larger, and may in turn be overruled by a larger one alone; so
    of all views of an object the largest remains.

    Args:
        polygons: of one scene, ``(n,)``.
        cut: whether each reaches the edge of what its own scene saw.
        there: the other scene.
    """
    result = np.zeros(len(polygons), np.bool_)
    at = np.flatnonzero(cut)
    at = at[shapely.intersects(there.frame, polygons[at])]
    if at.size:
        inner = shapely.buffer(there.seen, -there.px, quad_segs=1)
        shapely.prepare(inner)
        result[at] = shapely.contains_properly(inner, polygons[at])
    return result


@dataclass(frozen=True, slots=True, eq=False)
class Pairs(Columns):
    """Polygons of two scenes that overlap, or touch where their scenes do.

    Attributes:
        ours: int64 ``(n,)``, index among one scene's polygons.
        theirs: int64, among the other's.
        shared: float64, area of the overlap; where scenes only touch, length of the common edge times a pixel.
        ours_there: float64, area of ours on the ground that the other scene saw; where scenes only touch, the length
            of its edge there, times a pixel.
        theirs_here: the same the other way round.
        touching: bool, whether the scenes only touch.
        px: float64, side of the larger pixel of the two.
    """

    ours: NDArray[np.int64]
    theirs: NDArray[np.int64]
    shared: Floats
    ours_there: Floats
    theirs_here: Floats
    touching: NDArray[np.bool_]
    px: Floats


def find_pairs(ours: Geometries, theirs: Geometries, here: View, there: View) -> Pairs:
    """Finds the polygons of one class that two scenes may both have seen.

    Args:
        ours: valid polygons of one scene, ``(n,)``.
        theirs: of the other, in the same CRS.
        here: the one scene.
        there: the other.
    """
    px = max(here.px, there.px)
    near = _TOUCH_PX * px
    ours_at, theirs_at = _within(ours, there.frame, near), _within(theirs, here.frame, near)
    zone = shapely.intersection(here.frame, there.frame)
    touching = shapely.area(zone) <= px / 2 * shapely.length(zone) / 2  # thinner than half a pixel
    tree = shapely.STRtree(theirs[theirs_at])
    if touching:
        i, j = tree.query(ours[ours_at], predicate="dwithin", distance=near)
    else:
        i, j = tree.query(ours[ours_at], predicate="intersects")
    first, second = ours[ours_at[i]], theirs[theirs_at[j]]
    measure = _shared_edges if touching else _shared_areas
    shared, ours_there, theirs_here = measure(first, second, here, there)
    keep = np.flatnonzero(shared > _LEAST_CUT_PX2 * px**2)
    return Pairs(
        ours=ours_at[i][keep],
        theirs=theirs_at[j][keep],
        shared=shared[keep],
        ours_there=ours_there[keep],
        theirs_here=theirs_here[keep],
        touching=np.full(keep.size, touching),
        px=np.full(keep.size, px),
    )


def _within(polygons: Geometries, frame: shapely.Geometry, distance: float) -> NDArray[np.int64]:
    """Indices of polygons near a frame."""
    left, bottom, right, top = shapely.bounds(shapely.buffer(frame, distance, quad_segs=1))
    xmin, ymin, xmax, ymax = shapely.bounds(polygons).T
    boxed = np.flatnonzero((xmin <= right) & (xmax >= left) & (ymin <= top) & (ymax >= bottom))
    near: NDArray[np.int64] = boxed[shapely.dwithin(frame, polygons[boxed], distance)]
    return near


def _shared_areas(ours: Geometries, theirs: Geometries, here: View, there: View) -> tuple[Floats, Floats, Floats]:
    shared = shapely.area(shapely.intersection(ours, theirs))
    return shared, _area_within(ours, there.seen), _area_within(theirs, here.seen)


def _area_within(polygons: Geometries, ground: shapely.Geometry) -> Floats:
    """Area of each polygon inside some ground."""
    area: Floats = shapely.area(polygons)
    outside = np.flatnonzero(~shapely.covers(ground, polygons))
    # a large polygon is in many pairs: each is cut once
    unique, back = np.unique(np.array([id(polygon) for polygon in polygons[outside]], np.int64), return_inverse=True)
    first = np.zeros(unique.size, np.int64)
    first[back] = outside
    area[outside] = shapely.area(shapely.intersection(polygons[first], ground))[back]
    return area


def _shared_edges(ours: Geometries, theirs: Geometries, here: View, there: View) -> tuple[Floats, Floats, Floats]:
    """The same along the common edge of two scenes: lengths times a pixel."""
    px = max(here.px, there.px)
    half = px / 2
    edge = shapely.intersection(shapely.boundary(here.frame), shapely.buffer(there.frame, half, join_style="mitre"))
    strip = shapely.buffer(edge, 2 * px, cap_style="square")

    def runs(polygons: Geometries) -> Geometries:
        along = shapely.buffer(shapely.intersection(polygons, strip), half / 2, cap_style="square", join_style="mitre")
        lines: Geometries = shapely.intersection(along, edge)
        return lines

    first, second = runs(ours), runs(theirs)
    lengths = [shapely.length(lines) for lines in (shapely.intersection(first, second), first, second)]
    shared, ours_there, theirs_here = (np.maximum(length - half, 0) * px for length in lengths)
    return shared, ours_there, theirs_here


@dataclass(frozen=True, slots=True, eq=False)
class Candidates(Columns):
    """Polygons of one class that are in a pair.

    Attributes:
        scene: int64 ``(n,)``, number of the scene, by its name in order.
        id: int64, of the polygon in its scene.
        area: float64, in the unit of the pairs' areas.
        cut: bool, whether it reaches the edge of what its scene saw.
        confidence: float64; NaN is unknown.
        gsd_m: float64, of its scene's mask.
    """

    scene: NDArray[np.int64]
    id: NDArray[np.int64]
    area: Floats
    cut: NDArray[np.bool_]
    confidence: Floats
    gsd_m: Floats

    def __len__(self) -> int:
        return self.id.size

    def by_preference(self) -> NDArray[np.int64]:
        """Whole ones first, by confidence; then cut ones, by area; then the finer, then by scene and id."""
        confidence = np.nan_to_num(self.confidence, nan=-1.0)
        return np.lexsort((self.id, self.scene, self.gsd_m, -confidence, np.where(self.cut, -self.area, 0.0), self.cut))


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What becomes of each candidate.

    Attributes:
        group: int64 ``(n,)``, number of the object that it belongs to, which is the preferred candidate of the object;
            `DROPPED` where it is another view of what was kept.
        cuts: (candidate, others) that are to be cut off it.
    """

    group: NDArray[np.int64]
    cuts: tuple[tuple[int, tuple[int, ...]], ...]


def decide(
    candidates: Candidates,
    pairs: Pairs,
    *,
    apart: bool,
    views: Sequence[View],
    geometry: Callable[[int], shapely.Geometry],
) -> Decision:
    """Decides which polygons are kept, joined, cut or dropped, see the module.

    Args:
        candidates: polygons of one class.
        pairs: of them; `ours` and `theirs` are indices of candidates.
        apart: whether the class's touching instances are kept apart.
        views: of the scenes, by number.
        geometry: of a candidate; asked for few.
    """
    count = len(candidates)
    ends = np.concatenate([pairs.ours, pairs.theirs])
    by_end = np.argsort(ends, kind="stable")
    offsets = offsets_of(np.bincount(ends, minlength=count))
    other = np.concatenate([pairs.theirs, pairs.ours])[by_end]
    shared = np.tile(pairs.shared, 2)[by_end]
    own_there = np.concatenate([pairs.ours_there, pairs.theirs_here])[by_end]
    other_here = np.concatenate([pairs.theirs_here, pairs.ours_there])[by_end]
    touching, px = np.tile(pairs.touching, 2)[by_end], np.tile(pairs.px, 2)[by_end]
    overlaps = np.where(touching, 0.0, shared)
    seen = np.where(touching, 0.0, own_there)
    least = np.where(touching, _HALF, _LEAST_PX2) * px**2
    mutual = shared > _HALF * np.maximum(own_there, other_here)
    matches = mutual if apart else shared > least

    parent = np.full(count, DROPPED)
    cuts = []
    for node in candidates.by_preference().tolist():
        around = np.arange(offsets[node], offsets[node + 1])
        around = around[parent[other[around]] != DROPPED]
        if around.size:
            share = _HALF if (mutual[around] & ~touching[around]).any() else _MOST
            known = _Known(candidates, views, geometry)
            if known.cover(node, share, other[around], overlaps[around], seen[around]):
                continue
        parent[node] = node
        for place in around[matches[around]].tolist():
            _unite(parent, int(other[place]), node)
        if apart and (rest := other[around[~matches[around] & ~touching[around]]]).size:
            cuts.append((node, tuple(sorted(rest.tolist()))))
    preference = np.empty(count, np.int64)
    preference[candidates.by_preference()] = np.arange(count)
    group = np.array([_root(parent, node) if parent[node] != DROPPED else DROPPED for node in range(count)], np.int64)
    kept = np.flatnonzero(group != DROPPED)
    best: dict[int, int] = {}
    for node in kept[np.argsort(preference[kept])].tolist():
        best.setdefault(int(group[node]), node)
    group[kept] = [best[int(root)] for root in group[kept]]
    return Decision(group, tuple(cuts))


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """What other scenes know of a candidate."""

    candidates: Candidates
    views: Sequence[View]
    geometry: Callable[[int], shapely.Geometry]

    def cover(self, node: int, share: float, others: NDArray[np.int64], overlaps: Floats, seen: Floats) -> bool:
        """Whether their scenes saw all of it, and they cover a share of it.

        Geometries are asked for only where sums over scenes do not tell.
        """
        area = self.candidates.area[node]
        scenes, of_scene = np.unique(self.candidates.scene[others], return_inverse=True)
        by_scene = np.zeros(scenes.size)
        np.maximum.at(by_scene, of_scene, seen)
        covered = np.bincount(of_scene, overlaps)  # polygons of one scene never overlap
        if by_scene.sum() < _WHOLE * area or covered.sum() < share * area:
            return False
        if by_scene.max() < _WHOLE * area:
            ground = shapely.union_all([self.views[scene].seen for scene in scenes.tolist()])
            if shapely.area(shapely.intersection(self.geometry(node), ground)) < _WHOLE * area:
                return False
        if covered.max() < share * area:
            ground = shapely.union_all([self.geometry(other) for other in others.tolist()])
            return bool(shapely.area(shapely.intersection(self.geometry(node), ground)) >= share * area)
        return True


def _root(parent: NDArray[np.int64], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = int(parent[node])
    return node


def _unite(parent: NDArray[np.int64], one: int, other: int) -> None:
    one, other = _root(parent, one), _root(parent, other)
    if one != other:
        parent[max(one, other)] = min(one, other)


def join(parts: Sequence[shapely.Geometry], px: float) -> list[shapely.Polygon]:
    """One outline of the parts of an object, in any order; vertices move by less than a hundredth of a pixel.

    Args:
        parts: polygons that overlap or touch.
        px: side of a pixel.

    Returns:
        One polygon; several where parts do not reach each other.
    """
    return _polygons(shapely.union_all(shapely.normalize(np.asarray(parts, object)), grid_size=_step(px)), 0.0)


def trim(polygon: shapely.Geometry, others: Sequence[shapely.Geometry], px: float) -> list[shapely.Polygon]:
    """What is left of a polygon beside others; crumbs of less than a few pixels are left out.

    Args:
        polygon: to be cut.
        others: what is cut off.
        px: side of a pixel.
    """
    step = _step(px)
    rest = shapely.difference(polygon, shapely.union_all(others, grid_size=step), grid_size=step)
    return _polygons(rest, _CRUMB_PX2 * px**2)


def _step(px: float) -> float:
    """The grid on which outlines are put together: exact in binary, so that it is the same grid everywhere."""
    return float(2.0 ** np.floor(np.log2(px / 100)))


def _polygons(geometry: shapely.Geometry, least: float) -> list[shapely.Polygon]:
    """The polygons of a geometry, in an order and with first vertices of their own."""
    parts: Any = shapely.get_parts(geometry)
    parts = parts[(shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & (shapely.area(parts) > least)]
    parts = shapely.normalize(parts)
    order = np.argsort(shapely.to_wkb(parts)) if parts.size > 1 else slice(None)
    return list(shapely.orient_polygons(parts[order]))

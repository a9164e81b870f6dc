"""Join what chunks could not finish alone, sweeping over the rows of chunks from top to bottom.

A chunk finishes the instances whose boundaries lie wholly inside it. The rest leaves it as a :class:`Fragment`: arcs,
some of them cut by the chunk's outline, and the darts of unfinished instances. :class:`Joiner` links cut arcs at the
corners where they were cut, simplifies each once it is whole and all corners near it are known, and closes an instance
as soon as each of its darts is followed by another. So memory holds what is open above the sweep line, not the scene.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from geoseg.errors import InputError
from geoseg.histograms import Histograms
from geoseg.lattice import Window
from geoseg.rings import WHOLE, Arcs, Boundaries, Columns, Polygons, offsets_of, take_ragged

__all__ = ["Darts", "Domain", "Fragment", "Instances", "Joiner", "Share", "finished_arcs", "share_out"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Coords = NDArray[np.int32]
Simplify = Callable[[Arcs, Bools, Coords], Arcs]
Assemble = Callable[[Arcs, Ints, Ints, Ints], tuple[Coords, Ints, Ints, Ints]]

_NOT_HERE, _AT_STOP = -1, -2  # instead of the end that a part was cut from


@dataclass(frozen=True, slots=True, eq=False)
class Darts(Columns):
    """Arcs as boundaries of the instance on the right hand.

    Attributes:
        dart: int64, ``2 * arc``, plus 1 if the arc is walked backwards; -1 for one whose arc another dart brings.
        owner: int64, id of the instance.
        start: int64, key of the first crack, see :class:`geoseg.rings.Boundaries`.
        following: int64, key of the crack that follows.
    """

    dart: Ints
    owner: Ints
    start: Ints
    following: Ints

    def __len__(self) -> int:
        return len(self.dart)

    def take(self, chosen: NDArray[Any]) -> Darts:
        """Some of them."""
        return Darts(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class Instances(Columns):
    """Shares of instances in chunks; columns as in :class:`Polygons`."""

    id: Ints
    code: NDArray[np.uint8]
    area_px: Ints
    edge: Bools

    def take(self, chosen: NDArray[Any]) -> Instances:
        """Some of them."""
        return Instances(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class Fragment:
    """What one chunk could not finish alone.

    Attributes:
        arcs: all arcs of unfinished instances.
        finished: bool ``(arcs,)``, simplified already; the others are raw.
        stops: uint8 ``(arcs,)``, see :class:`geoseg.rings.Boundaries`.
        darts: of unfinished instances.
        instances: their shares of this chunk.
        histograms: of the same.
        obstacles: int32 ``(n, 2)``, corners that arcs simplified later must not cross, half pixels.
    """

    arcs: Arcs
    finished: Bools
    stops: NDArray[np.uint8]
    darts: Darts
    instances: Instances
    histograms: Histograms
    obstacles: Coords

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by name, ``part.column``: ``np.savez(path, **fragment.to_arrays())`` stores a fragment."""
        arrays: dict[str, NDArray[Any]] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Columns):
                arrays.update(value.to_arrays(f"{field.name}."))
            else:
                arrays[field.name] = value
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Fragment:
        """The inverse of :meth:`to_arrays`; also takes what ``np.load`` returns for an ``.npz``."""
        return cls(
            arcs=Arcs.from_arrays(arrays, "arcs."),
            finished=arrays["finished"],
            stops=arrays["stops"],
            darts=Darts.from_arrays(arrays, "darts."),
            instances=Instances.from_arrays(arrays, "instances."),
            histograms=Histograms.from_arrays(arrays, "histograms."),
            obstacles=arrays["obstacles"],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """A chunk's arcs and instances, shared out between this chunk and the sweep.

    Attributes:
        closed: int64, labels of the instances that are finished here, ascending.
        darts: int64, their darts, and for each of them
        following: int64, the place of the next one, and
        owner: int64, its instance's id.
        fragment: the rest.
    """

    closed: Ints
    darts: Ints
    following: Ints
    owner: Ints
    fragment: Fragment


class Domain(NamedTuple):
    """A chunk among its neighbours.

    Attributes:
        window: of the chunk.
        scene_shape: (rows, cols) of the scene, beyond whose edge there is nothing.
        reach_px: how far from an arc corners matter to it.
    """

    window: Window
    scene_shape: tuple[int, int]
    reach_px: int


def finished_arcs(traced: Boundaries, domain: Domain) -> Bools:
    """Which arcs of a chunk can be simplified there: the whole ones that keep away from the neighbouring chunks."""
    if traced.stops.size == 0:
        return traced.whole
    low, high = _inner(domain)
    least = np.minimum.reduceat(traced.coords, traced.offsets[:-1], axis=0)
    greatest = np.maximum.reduceat(traced.coords, traced.offsets[:-1], axis=0)
    inside: Bools = traced.whole & (least >= low).all(axis=1) & (greatest <= high).all(axis=1)
    return inside


def _inner(domain: Domain) -> tuple[Ints, Ints]:
    """Least and greatest (col, row), half pixels, out of reach of the neighbouring chunks."""
    window, scene_shape, reach_px = domain
    far = np.iinfo(np.int32).max
    low = [-far if off == 0 else 2 * (off + reach_px) for off in (window.col_off, window.row_off)]
    stops = zip((window.col_stop, window.row_stop), scene_shape[::-1], strict=True)
    high = [far if stop == end else 2 * (stop - reach_px) for stop, end in stops]
    return np.array(low), np.array(high)


def share_out(
    traced: Boundaries,
    simplified: Arcs,
    finished: Bools,
    labels: NDArray[np.int32],
    instances: Instances,
    histograms: Histograms,
    domain: Domain,
) -> Share:
    """Share out a chunk's boundaries between what is closed here and what goes on.

    Args:
        traced: boundaries of the chunk.
        simplified: their arcs, the finished ones simplified.
        finished: bool ``(arcs,)``, see :func:`finished_arcs`.
        labels: int32 ``(height + 2, width + 2)``, as traced.
        instances: by label; area 0 for those only in the ring around the chunk.
        histograms: by label.
        domain: the chunk.
    """
    goes_on = np.zeros(instances.id.size, np.bool_)
    goes_on[np.maximum(traced.hands[~finished], 0)] = True
    for ring in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        goes_on[np.maximum(ring, 0)] = True
    # the cracks below and to the right of these belong to the next chunks
    if domain.window.row_stop < domain.scene_shape[0]:
        goes_on[np.maximum(labels[-2], 0)] = True
    if domain.window.col_stop < domain.scene_shape[1]:
        goes_on[np.maximum(labels[:, -2], 0)] = True
    goes_on[0] = False

    owners = np.maximum(traced.hands.ravel(), 0)
    going_on = np.flatnonzero(goes_on[owners])
    closed = np.flatnonzero((owners > 0) & ~goes_on[owners])
    kept = np.zeros(len(simplified), np.bool_)
    kept[going_on >> 1] = True
    place = np.cumsum(kept) - 1
    chosen = np.flatnonzero(kept)
    vertices, offsets = take_ragged(simplified.offsets, chosen)
    shared = np.flatnonzero(goes_on & (instances.area_px > 0))
    fragment = Fragment(
        arcs=Arcs(simplified.coords[vertices], offsets),
        finished=finished[chosen],
        stops=traced.stops[chosen],
        darts=Darts(
            dart=2 * place[going_on >> 1] + (going_on & 1),
            owner=instances.id[owners[going_on]],
            start=traced.start[going_on],
            following=traced.following[going_on],
        ),
        instances=instances.take(shared),
        histograms=histograms.take(shared),
        obstacles=_obstacles(traced.arcs, finished, domain),
    )
    order = np.argsort(traced.start[closed])
    following = order[np.searchsorted(traced.start[closed], traced.following[closed], sorter=order)]
    return Share(
        closed=np.unique(owners[closed]).astype(np.int64),
        darts=closed,
        following=following,
        owner=instances.id[owners[closed]],
        fragment=fragment,
    )


def _obstacles(arcs: Arcs, finished: Bools, domain: Domain) -> Coords:
    """Corners of finished arcs that are near the outline, or near an unfinished arc."""
    if domain.reach_px == 0 or len(arcs) == 0:
        return np.zeros((0, 2), np.int32)
    low, high = _inner(domain)
    window = domain.window
    shape, offset = (window.height, window.width), (window.row_off, window.col_off)
    near = _near_unfinished(arcs.coords, arcs.offsets, finished, shape, offset, domain.reach_px)
    corners = arcs.coords[np.repeat(finished, np.diff(arcs.offsets))]
    near |= ((corners <= low) | (corners >= high)).any(axis=1)
    return corners[near]


@numba.njit(cache=True, nogil=True)
def _near_unfinished(
    coords: Coords, offsets: Ints, finished: Bools, shape: tuple[int, int], offset: tuple[int, int], reach_px: int
) -> Bools:
    """For each corner of the finished arcs, whether an unfinished one comes near: by square cells, so roughly."""
    cell = 2 * max(reach_px, 8)
    top, left = 2 * offset[0], 2 * offset[1]
    rows, cols = 2 * shape[0] // cell + 3, 2 * shape[1] // cell + 3
    marked = np.zeros((rows, cols), np.bool_)
    finished_corners = 0
    for arc in range(finished.size):
        if finished[arc]:
            finished_corners += offsets[arc + 1] - offsets[arc]
            continue
        for vertex in range(offsets[arc], offsets[arc + 1] - 1):
            row, col = (coords[vertex, 1] - top) // cell + 1, (coords[vertex, 0] - left) // cell + 1
            row_end, col_end = (coords[vertex + 1, 1] - top) // cell + 1, (coords[vertex + 1, 0] - left) // cell + 1
            for r in range(min(row, row_end), max(row, row_end) + 1):
                for c in range(min(col, col_end), max(col, col_end) + 1):
                    marked[r - 1 : r + 2, c - 1 : c + 2] = True
    near = np.empty(finished_corners, np.bool_)
    at = 0
    for arc in range(finished.size):
        if finished[arc]:
            for vertex in range(offsets[arc], offsets[arc + 1]):
                near[at] = marked[(coords[vertex, 1] - top) // cell + 1, (coords[vertex, 0] - left) // cell + 1]
                at += 1
    return near


class Joiner:
    """Joins the fragments of a scene, chunk row after chunk row.

    Args:
        simplify: takes arcs, which of them to simplify, and obstacles; returns all arcs.
        assemble: takes arcs, darts, following and owner; see ``assemble.assemble``.
        reach_px: how far from an arc corners matter to it.
        scene_width: columns of the scene.
    """

    def __init__(self, simplify: Simplify, assemble: Assemble, reach_px: int, scene_width: int) -> None:
        self._simplify, self._assemble, self._reach_px, self._width = simplify, assemble, reach_px, scene_width
        self._arcs = Arcs(np.zeros((0, 2), np.int32), np.zeros(1, np.int64))
        self._ready, self._stops = np.zeros(0, np.bool_), np.zeros(0, np.uint8)
        self._darts = Darts(*np.zeros((4, 0), np.int64))
        none = np.zeros(0, np.int64)
        self._instances = Instances(none, none.astype(np.uint8), none, none.astype(np.bool_))
        self._histograms = Histograms.empty(0)
        self._obstacles = np.zeros((0, 2), np.int32)

    def add(self, fragments: Sequence[Fragment], row_stop: int, *, last: bool) -> Polygons:
        """Takes in a row of chunks.

        Args:
            fragments: of all chunks of the row.
            row_stop: the scene's row below them.
            last: whether there is no further one.

        Returns:
            The instances that are complete now, sorted by id.

        Raises:
            InputError: ``last``, and still something is open: a chunk is missing, or was given twice.
        """
        self._take_in(fragments)
        self._finish_arcs(np.iinfo(np.int32).max if last else 2 * (row_stop - self._reach_px))
        polygons = self._close()
        if last and len(self._darts):
            raise InputError("boundaries do not meet across the chunks; give the fragment of every chunk once")
        self._forget(2 * (row_stop - self._reach_px))
        return polygons

    def _take_in(self, fragments: Sequence[Fragment]) -> None:
        """Puts the fragments behind what is open."""
        arcs = [self._arcs, *(fragment.arcs for fragment in fragments)]
        first = np.cumsum([0, *(len(part) for part in arcs)])[1:-1]
        darts = [self._darts]
        for fragment, shift in zip(fragments, first, strict=True):
            here = fragment.darts
            darts.append(Darts(here.dart + 2 * shift, here.owner, here.start, here.following))
        self._arcs = _concatenate(arcs)
        self._ready = np.concatenate([self._ready, *(fragment.finished for fragment in fragments)])
        self._stops = np.concatenate([self._stops, *(fragment.stops for fragment in fragments)])
        self._darts = _stack(darts)
        groups = [self._instances, *(fragment.instances for fragment in fragments)]
        ids, place, group = np.unique(
            np.concatenate([part.id for part in groups]), return_index=True, return_inverse=True
        )
        area, edge = np.zeros(ids.size, np.int64), np.zeros(ids.size, np.bool_)
        np.add.at(area, group, np.concatenate([part.area_px for part in groups]))
        np.logical_or.at(edge, group, np.concatenate([part.edge for part in groups]))
        self._instances = Instances(ids, np.concatenate([part.code for part in groups])[place], area, edge)
        counts = [self._histograms, *(fragment.histograms for fragment in fragments)]
        self._histograms = Histograms.merge(counts, group, ids.size)
        self._obstacles = np.concatenate([self._obstacles, *(fragment.obstacles for fragment in fragments)])

    def _finish_arcs(self, row_limit: int) -> None:
        """Links the cut arcs, and simplifies those that became whole and lie above a row (half pixels)."""
        parts = np.flatnonzero(~self._ready)
        if parts.size == 0:
            return
        vertices, offsets = take_ragged(self._arcs.offsets, parts)
        coords = self._arcs.coords[vertices]
        partner = _partners(coords, offsets, self._stops[parts], self._width)
        lowest = np.maximum.reduceat(coords[:, 1], offsets[:-1])
        chain, chain_offsets = _link(partner, lowest, row_limit)
        if chain.size == 0:
            return
        is_loop = partner[chain[chain_offsets[:-1]]] != _AT_STOP
        lines, line_offsets, flipped = _join_lines(coords, offsets, chain, chain_offsets, is_loop)
        waiting = np.ones(parts.size, np.bool_)
        waiting[chain >> 1] = False
        left_vertices, left_offsets = take_ragged(offsets, np.flatnonzero(waiting))
        whole, left = Arcs(lines, line_offsets), Arcs(coords[left_vertices], left_offsets)
        together = _concatenate([whole, left])
        chosen = np.arange(len(together)) < len(whole)
        simplified = self._simplify(together, chosen, self._obstacles)
        self._obstacles = np.concatenate([self._obstacles, lines])

        first_new = len(self._arcs)
        new = Arcs(simplified.coords[: simplified.offsets[len(whole)]], simplified.offsets[: len(whole) + 1])
        self._arcs = _concatenate([self._arcs, new])
        self._ready = np.concatenate([self._ready, np.ones(len(whole), np.bool_)])
        self._stops = np.concatenate([self._stops, np.full(len(whole), WHOLE, np.uint8)])
        # a joined arc is brought by the dart of its first part in the dart's direction; the other parts add nothing
        new_dart = np.full(2 * first_new, -2, np.int64)
        whose = np.repeat(np.arange(len(whole)), np.diff(chain_offsets))
        heads, tails = chain_offsets[:-1], chain_offsets[1:] - 1
        along, against = 2 * parts[chain >> 1] + (chain & 1), 2 * parts[chain >> 1] + 1 - (chain & 1)
        new_dart[along] = new_dart[against] = -1
        new_dart[along[heads]] = 2 * (first_new + whose[heads]) + flipped
        new_dart[against[tails]] = 2 * (first_new + whose[tails]) + 1 - flipped
        darts = self._darts
        mapped = np.where(darts.dart >= 0, new_dart[np.maximum(darts.dart, 0)], -2)
        self._darts = Darts(np.where(mapped > -2, mapped, darts.dart), darts.owner, darts.start, darts.following)

    def _close(self) -> Polygons:
        """Takes out the instances all of whose darts are there and finished."""
        darts = self._darts
        order = np.argsort(darts.start)
        starts = darts.start[order]
        place = np.minimum(np.searchsorted(starts, darts.following), max(starts.size - 1, 0))
        is_open = (darts.dart >= 0) & ~self._ready[np.maximum(darts.dart, 0) >> 1] if len(darts) else np.zeros(0, bool)
        is_open |= starts[place] != darts.following if len(darts) else is_open
        complete = ~np.isin(darts.owner, darts.owner[is_open])
        chosen = np.flatnonzero(complete)
        renumbered = np.cumsum(complete) - 1
        coords, ring_offsets, polygon_offsets, ids = self._assemble(
            self._arcs, darts.dart[chosen], renumbered[order[place[chosen]]], darts.owner[chosen]
        )
        self._darts = darts.take(~complete)
        members = np.searchsorted(self._instances.id, ids)
        if not np.array_equal(self._instances.id[np.minimum(members, self._instances.id.size - 1)], ids):
            raise InputError("an instance has boundaries but no pixels; give the fragment of every chunk once")
        done = self._instances.take(members)
        mean, p10 = self._histograms.take(members).summary()
        rest = np.setdiff1d(np.arange(self._instances.id.size), members)
        self._instances, self._histograms = self._instances.take(rest), self._histograms.take(rest)
        return Polygons(
            coords=coords,
            ring_offsets=ring_offsets,
            polygon_offsets=polygon_offsets,
            id=ids,
            code=done.code,
            area_px=done.area_px,
            confidence=mean,
            confidence_p10=p10,
            edge=done.edge,
        )

    def _forget(self, row_limit: int) -> None:
        """Drops arcs that no open instance needs, and obstacles that no arc can meet any more."""
        darts = self._darts
        kept = np.zeros(len(self._arcs), np.bool_)
        kept[darts.dart[darts.dart >= 0] >> 1] = True
        place = np.cumsum(kept) - 1
        self._darts = Darts(
            np.where(darts.dart >= 0, 2 * place[darts.dart >> 1] + (darts.dart & 1), -1),
            darts.owner,
            darts.start,
            darts.following,
        )
        chosen = np.flatnonzero(kept)
        vertices, offsets = take_ragged(self._arcs.offsets, chosen)
        self._arcs = Arcs(self._arcs.coords[vertices], offsets)
        self._ready, self._stops = self._ready[chosen], self._stops[chosen]
        waiting = self._arcs.coords[np.repeat(~self._ready, np.diff(offsets)), 1]
        highest = min(row_limit, int(waiting.min()) - 2 * self._reach_px) if waiting.size else row_limit
        self._obstacles = self._obstacles[self._obstacles[:, 1] >= highest]


def _concatenate(parts: Sequence[Arcs]) -> Arcs:
    """Arcs of several chunks, one after the other."""
    return Arcs(
        np.concatenate([part.coords for part in parts]),
        offsets_of(np.concatenate([np.diff(part.offsets) for part in parts])),
    )


def _stack(parts: Sequence[Darts]) -> Darts:
    """Darts of several chunks, one after the other."""
    return Darts(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Darts)))


def _partners(coords: Coords, offsets: Ints, stops: NDArray[np.uint8], scene_width: int) -> NDArray[np.int64]:
    """For both ends of each part, ``2 * part + end`` of the end it was cut from; -1 if that is not here, -2 at a stop.

    A cut corner has two cracks, so two ends at most meet there.
    """
    ends = coords[np.stack([offsets[:-1], offsets[1:] - 1], axis=1).ravel()].astype(np.int64)
    corner = ends[:, 1] * (2 * scene_width + 1) + ends[:, 0]
    at_stop = ((stops[:, None] >> np.arange(2, dtype=np.uint8)) & 1).astype(bool).ravel()
    partner = np.where(at_stop, _AT_STOP, _NOT_HERE)
    cut = np.flatnonzero(~at_stop)
    cut = cut[np.argsort(corner[cut], kind="stable")]
    meets = np.flatnonzero(corner[cut[1:]] == corner[cut[:-1]])
    if (np.diff(meets) == 1).any():
        raise InputError("more than two cut boundaries meet in one place; give the fragment of every chunk once")
    partner[cut[meets]], partner[cut[meets + 1]] = cut[meets + 1], cut[meets]
    return partner


@numba.njit(cache=True, nogil=True)
def _link(partner: Ints, lowest: Ints, row_limit: int) -> tuple[Ints, Ints]:
    """Chains of parts that are whole, from stop to stop or closed, and reach no row below the limit.

    Returns:
        ``2 * part + reversed``, chain after chain, and the chains' offsets.
    """
    parts = lowest.size
    chain = np.empty(parts, np.int64)
    offsets = np.zeros(parts + 1, np.int64)
    seen = np.zeros(parts, np.bool_)
    chains = 0
    used = 0
    for phase in range(2):  # from the stops first; what is left then and has no open end is a loop
        for part in range(parts):
            for end in range(2 if phase == 0 else 1):
                if seen[part] or (phase == 0 and partner[2 * part + end] != _AT_STOP):
                    continue
                at = 2 * part + end
                size = 0
                while True:
                    seen[at >> 1] = True
                    chain[used + size] = at
                    size += 1
                    following = partner[at ^ 1]
                    if following < 0 or seen[following >> 1]:
                        break
                    at = following
                whole = following == (_AT_STOP if phase == 0 else 2 * part)
                for step in range(size):
                    whole &= lowest[chain[used + step] >> 1] <= row_limit
                if whole:
                    used += size
                    chains += 1
                    offsets[chains] = used
    return chain[:used].copy(), offsets[: chains + 1].copy()


@numba.njit(cache=True, nogil=True)
def _join_lines(
    coords: Coords, offsets: Ints, chain: Ints, chain_offsets: Ints, is_loop: Bools
) -> tuple[Coords, Ints, Ints]:
    """Join the parts of each chain to one arc, in the direction that it would have in a single chunk.

    Returns:
        coords, offsets, and for each chain 1 if its arc runs against it.
    """
    room = 0
    for link in chain:
        room += offsets[(link >> 1) + 1] - offsets[link >> 1]
    lines = np.empty((room, 2), np.int32)
    line_offsets = np.zeros(chain_offsets.size, np.int64)
    flipped = np.zeros(chain_offsets.size - 1, np.int64)
    for number in range(chain_offsets.size - 1):
        first = line_offsets[number]
        used = first
        for link in chain[chain_offsets[number] : chain_offsets[number + 1]]:
            begin, end = offsets[link >> 1], offsets[(link >> 1) + 1]
            for step in range(end - begin):
                vertex = begin + step if link & 1 == 0 else end - 1 - step
                col, row = coords[vertex, 0], coords[vertex, 1]
                if step == 0 and used > first:
                    continue  # where it was cut: the last vertex of the part before
                if used > first + 1:  # nor is it a vertex on a straight stretch
                    before, last = lines[used - 2], lines[used - 1]
                    used -= (before[0] == last[0] == col) or (before[1] == last[1] == row)
                lines[used, 0], lines[used, 1] = col, row
                used += 1
        if is_loop[number]:
            used = first + _start_at_least(lines[first:used])
        line = lines[first:used]
        if _runs_backwards(line):
            flipped[number] = 1
            line[:] = line[::-1].copy()
        line_offsets[number + 1] = used
    return lines[: line_offsets[-1]].copy(), line_offsets, flipped


@numba.njit(cache=True, nogil=True)
def _start_at_least(loop: Coords) -> int:
    """Turn a closed line to start and end at its least vertex, in place; the vertex where it was cut may go."""
    size = loop.shape[0] - 1
    first = 0
    for axis in range(2):
        if loop[size - 1, axis] == loop[0, axis] == loop[1, axis]:
            first = 1  # a straight stretch goes through it
    distinct = loop[first:size].copy()
    size -= first
    least = 0
    for here in range(size):
        if (distinct[here, 1], distinct[here, 0]) < (distinct[least, 1], distinct[least, 0]):
            least = here
    for step in range(size + 1):
        here = (least + step) % size
        loop[step, 0], loop[step, 1] = distinct[here, 0], distinct[here, 1]
    return size + 1


@numba.njit(cache=True, nogil=True)
def _runs_backwards(line: Coords) -> bool:
    """Whether an arc starts at the greater of its ends, or in the later direction where both are one corner."""
    if line[0, 1] != line[-1, 1]:
        return bool(line[0, 1] > line[-1, 1])
    if line[0, 0] != line[-1, 0]:
        return bool(line[0, 0] > line[-1, 0])
    return bool(_direction(line[0], line[1]) > _direction(line[-1], line[-2]))


@numba.njit(cache=True, nogil=True)
def _direction(here: Coords, there: Coords) -> int:
    """East 0, south 1, west 2, north 3."""
    if here[1] == there[1]:
        return 0 if there[0] > here[0] else 2
    return 1 if there[1] > here[1] else 3

"""Join what chunks could not finish alone, sweeping over the rows of chunks from top to bottom.

A chunk finishes the instances whose boundaries lie wholly inside it. The rest leaves it as a :class:`Fragment`: arcs,
some of them cut by the chunk's outline, and the darts of unfinished instances. :class:`Joiner` links cut arcs at the
corners where they were cut, simplifies each once it is whole and all corners near it are known, and closes an instance
as soon as each of its darts is followed by another. So memory holds what is open above the sweep line, not the scene.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
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
        dart: int64, ``2 * arc``, plus 1 if the arc is walked backwards.
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
        place: int64 ``(4,)``, the chunk: its first column and row, and the column and the row after its last ones.
        arcs: all arcs of unfinished instances.
        finished: bool ``(arcs,)``, simplified already; the others are raw.
        stops: uint8 ``(arcs,)``, see :class:`geoseg.rings.Boundaries`.
        darts: of unfinished instances.
        instances: their shares of this chunk.
        histograms: of the same.
        obstacles: int32 ``(n, 2)``, corners that arcs simplified later must not cross, half pixels.
    """

    place: Ints
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
            place=arrays["place"],
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
    return _lies_within(traced.coords, traced.offsets, traced.whole, *_inner(domain))


@numba.njit(cache=True, nogil=True)
def _lies_within(coords: Coords, offsets: Ints, whole: Bools, low: Ints, high: Ints) -> Bools:
    """Which of the whole arcs lie within bounds, each with all its vertices."""
    inside = whole.copy()
    for arc in range(whole.size):
        if whole[arc]:
            for vertex in range(offsets[arc], offsets[arc + 1]):
                inside[arc] &= (low[0] <= coords[vertex, 0] <= high[0]) & (low[1] <= coords[vertex, 1] <= high[1])
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
    window = domain.window
    if window.row_stop < domain.scene_shape[0]:
        goes_on[np.maximum(labels[-2], 0)] = True
    if window.col_stop < domain.scene_shape[1]:
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
        place=np.array([window.col_off, window.row_off, window.col_stop, window.row_stop]),
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
    window = domain.window
    shape, offset = (window.height, window.width), (window.row_off, window.col_off)
    cell_bits = _cell_bits(domain.reach_px)
    marked = _mark_unfinished(arcs.coords, arcs.offsets, finished, shape, offset, cell_bits)
    return _take_near(arcs.coords, arcs.offsets, finished, *_inner(domain), marked, offset, cell_bits)


def _cell_bits(reach_px: int) -> int:
    """The side of square cells is two to this power, half pixels: no less than the reach."""
    return (2 * max(reach_px, 8) - 1).bit_length()


@numba.njit(cache=True, nogil=True)
def _mark_unfinished(
    coords: Coords, offsets: Ints, finished: Bools, shape: tuple[int, int], offset: tuple[int, int], cell_bits: int
) -> Bools:
    """The cells of a chunk through which unfinished arcs run, and those around them, in a frame of one cell.

    A cell's side is ``1 << cell_bits`` half pixels, no less than the reach.
    """
    top, left = 2 * offset[0], 2 * offset[1]
    marked = np.zeros(((2 * shape[0] >> cell_bits) + 3, (2 * shape[1] >> cell_bits) + 3), np.bool_)
    for arc in np.flatnonzero(~finished):
        for vertex in range(offsets[arc], offsets[arc + 1] - 1):
            row, col = (coords[vertex, 1] - top) >> cell_bits, (coords[vertex, 0] - left) >> cell_bits
            row_end, col_end = (coords[vertex + 1, 1] - top) >> cell_bits, (coords[vertex + 1, 0] - left) >> cell_bits
            for r in range(min(row, row_end), max(row, row_end) + 3):
                for c in range(min(col, col_end), max(col, col_end) + 3):
                    marked[r, c] = True
    return marked


@numba.njit(cache=True, nogil=True)
def _take_near(
    coords: Coords,
    offsets: Ints,
    finished: Bools,
    low: Ints,
    high: Ints,
    marked: Bools,
    offset: tuple[int, int],
    cell_bits: int,
) -> Coords:
    """The corners of finished arcs that lie in a marked cell, or not strictly within bounds."""
    taken = np.empty_like(coords)
    size = 0
    for arc in range(finished.size):
        if not finished[arc]:
            continue
        for vertex in range(offsets[arc], offsets[arc + 1]):
            col, row = coords[vertex, 0], coords[vertex, 1]
            near = marked[((row - 2 * offset[0]) >> cell_bits) + 1, ((col - 2 * offset[1]) >> cell_bits) + 1]
            inner = (low[0] < col < high[0]) & (low[1] < row < high[1])
            taken[size, 0], taken[size, 1] = col, row
            size += near | (not inner)
    return taken[:size].copy()


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
        self._row = 0

    def add(self, fragments: Sequence[Fragment], row_stop: int, *, last: bool) -> Polygons:
        """Takes in a row of chunks.

        Args:
            fragments: of all chunks of the row.
            row_stop: the scene's row below them.
            last: whether there is no further one.

        Returns:
            The instances that are complete now, sorted by id.

        Raises:
            InputError: the chunks do not fill the rows between those above and ``row_stop``, each once; or what they
                bring does not fit together.
        """
        self._check_places(fragments, row_stop)
        self._take_in(fragments)
        self._link_parts()
        self._finish_arcs(np.iinfo(np.int32).max if last else 2 * (row_stop - self._reach_px))
        polygons = self._close()
        if last and len(self._darts):
            raise InputError("boundaries do not meet across the chunks; give the fragment of every chunk once")
        self._forget(2 * (row_stop - self._reach_px))
        return polygons

    def _check_places(self, fragments: Sequence[Fragment], row_stop: int) -> None:
        """Refuses anything but one row of chunks, right below the last one."""
        places = np.array(sorted(fragment.place.tolist() for fragment in fragments)).reshape(-1, 4)
        edges = np.concatenate([[0], places[:, 2]])
        in_row = (places[:, 1] == self._row) & (places[:, 3] == row_stop)
        if not (in_row.all() and np.array_equal(edges[:-1], places[:, 0]) and edges[-1] == self._width):
            raise InputError(
                f"{len(fragments)} chunks do not fill the rows {self._row} to {row_stop} of the scene; "
                "row after row, give the fragment of every chunk once"
            )
        self._row = row_stop

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

    def _link_parts(self) -> None:
        """Puts cut arcs together where they meet, so that what waits is as short as it would be in larger chunks."""
        parts = np.flatnonzero(~self._ready)
        if parts.size == 0:
            return
        vertices, offsets = take_ragged(self._arcs.offsets, parts)
        coords = self._arcs.coords[vertices]
        partner = _partners(coords, offsets, self._stops[parts], self._width)
        chain, chain_offsets = _link(partner)
        if chain.size == 0:
            return
        heads, tails = chain[chain_offsets[:-1]], chain[chain_offsets[1:] - 1]
        is_loop = partner[heads] >= 0
        lines, line_offsets, flipped = _join_lines(coords, offsets, chain, chain_offsets, is_loop)
        at_stop = np.stack([partner[heads] == _AT_STOP, partner[tails ^ 1] == _AT_STOP]) | is_loop
        at_stop = np.where(flipped, at_stop[::-1], at_stop)

        # one dart each way: it starts where the first part's did and leads to where the last one's did
        new = 2 * (len(self._arcs) + np.arange(is_loop.size)) + flipped
        along = 2 * parts[chain >> 1] + (chain & 1)
        first, last = along[chain_offsets[:-1]], along[chain_offsets[1:] - 1]
        darts = self._darts
        place = np.full(2 * len(self._arcs), -1, np.int64)
        place[darts.dart] = np.arange(len(darts))
        starts, ends = place[np.concatenate([first, last ^ 1])], place[np.concatenate([last, first ^ 1])]
        owned = starts >= 0
        dart, following, kept = darts.dart.copy(), darts.following.copy(), np.ones(len(darts), np.bool_)
        old = place[np.concatenate([along, along ^ 1])]
        kept[old[old >= 0]] = False
        kept[starts[owned]] = True
        dart[starts[owned]] = np.concatenate([new, new ^ 1])[owned]
        following[starts[owned]] = darts.following[ends[owned]]
        self._add_arcs(Arcs(lines, line_offsets), ready=False, stops=(at_stop[0] + 2 * at_stop[1]).astype(np.uint8))
        self._darts = Darts(dart, darts.owner, darts.start, following).take(kept)
        self._ready[parts[chain >> 1]] = True  # nothing more to do: no dart walks along them

    def _finish_arcs(self, row_limit: int) -> None:
        """Simplifies the arcs that became whole and lie above a row (half pixels)."""
        raw = np.flatnonzero(~self._ready)
        if raw.size == 0:
            return
        vertices, offsets = take_ragged(self._arcs.offsets, raw)
        coords = self._arcs.coords[vertices]
        chosen = (self._stops[raw] == WHOLE) & (np.maximum.reduceat(coords[:, 1], offsets[:-1]) <= row_limit)
        if not chosen.any():
            return
        simplified = self._simplify(Arcs(coords, offsets), chosen, self._obstacles)
        if self._reach_px:
            self._obstacles = np.concatenate([self._obstacles, coords[np.repeat(chosen, np.diff(offsets))]])
        new = np.arange(len(self._arcs))
        new[raw[chosen]] = len(self._arcs) + np.arange(np.count_nonzero(chosen))
        vertices, offsets = take_ragged(simplified.offsets, np.flatnonzero(chosen))
        self._add_arcs(
            Arcs(simplified.coords[vertices], offsets), ready=True, stops=np.full(offsets.size - 1, WHOLE, np.uint8)
        )
        self._darts = replace(self._darts, dart=2 * new[self._darts.dart >> 1] + (self._darts.dart & 1))

    def _add_arcs(self, arcs: Arcs, *, ready: bool, stops: NDArray[np.uint8]) -> None:
        """Puts arcs behind the others."""
        self._arcs = _concatenate([self._arcs, arcs])
        self._ready = np.concatenate([self._ready, np.full(len(arcs), ready)])
        self._stops = np.concatenate([self._stops, stops])

    def _close(self) -> Polygons:
        """Takes out the instances all of whose darts are there and finished."""
        darts = self._darts
        order = np.argsort(darts.start)
        starts = darts.start[order]
        place = np.minimum(np.searchsorted(starts, darts.following), max(starts.size - 1, 0))
        is_open = ~self._ready[darts.dart >> 1]
        is_open[starts[place] != darts.following] = True
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
        kept = np.zeros(len(self._arcs), np.bool_)
        kept[self._darts.dart >> 1] = True
        new = np.cumsum(kept) - 1
        self._darts = replace(self._darts, dart=2 * new[self._darts.dart >> 1] + (self._darts.dart & 1))
        vertices, offsets = take_ragged(self._arcs.offsets, np.flatnonzero(kept))
        self._arcs = Arcs(self._arcs.coords[vertices], offsets)
        self._ready, self._stops = self._ready[kept], self._stops[kept]

        col, row = self._obstacles.T
        needed = row >= row_limit
        if not needed.all():
            vertices, offsets = take_ragged(self._arcs.offsets, np.flatnonzero(~self._ready))
            cell_bits = _cell_bits(self._reach_px)
            stride = (2 * self._width >> cell_bits) + 3
            cells = np.unique(_cells_along(self._arcs.coords[vertices], offsets, cell_bits, stride))
            around = np.add.outer([-stride, 0, stride], [-1, 0, 1]).ravel()
            cell = (row >> cell_bits).astype(np.int64) * stride + (col >> cell_bits) + 1
            self._obstacles = self._obstacles[needed | np.isin(cell, np.add.outer(cells, around))]


@numba.njit(cache=True, nogil=True)
def _cells_along(coords: Coords, offsets: Ints, cell_bits: int, stride: int) -> Ints:
    """Numbers of the cells that axis-parallel lines run through: ``row * stride + col + 1``."""
    cells = np.empty(0, np.int64)
    for fill in (False, True):
        count = 0
        for line in range(offsets.size - 1):
            for vertex in range(offsets[line], offsets[line + 1] - 1):
                col, row = coords[vertex, 0] >> cell_bits, coords[vertex, 1] >> cell_bits
                col_end, row_end = coords[vertex + 1, 0] >> cell_bits, coords[vertex + 1, 1] >> cell_bits
                for r in range(min(row, row_end), max(row, row_end) + 1):
                    for c in range(min(col, col_end), max(col, col_end) + 1):
                        if fill:
                            cells[count] = r * stride + c + 1
                        count += 1
        if not fill:
            cells = np.empty(count, np.int64)
    return cells


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
def _link(partner: Ints) -> tuple[Ints, Ints]:
    """Chains of parts that meet, from end to end or closed; a part that meets none is no chain.

    Returns:
        ``2 * part + reversed``, chain after chain, and the chains' offsets.
    """
    parts = partner.size // 2
    chain = np.empty(parts, np.int64)
    offsets = np.zeros(parts + 1, np.int64)
    seen = np.zeros(parts, np.bool_)
    chains = 0
    used = 0
    for phase in range(2):  # from the ends first; what is left then are loops
        for end in range(2 * parts):
            starts = partner[end] < 0 <= partner[end ^ 1] if phase == 0 else partner[end] >= 0
            if seen[end >> 1] or not starts:
                continue
            at = end
            while not seen[at >> 1]:
                seen[at >> 1] = True
                chain[used] = at
                used += 1
                if partner[at ^ 1] >= 0:
                    at = partner[at ^ 1]
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
    return int(size + 1)


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

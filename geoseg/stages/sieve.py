"""Small components taken over by what surrounds them, in any cut of the scene.

A component of a class below its least area, or a patch of background below its own that touches neither nodata nor the
scene's edge, is *small*. The others are *survivors*. A small component goes to the class, background included, with
which it shares the longest boundary, counting survivors only; of equally long ones, to the smaller code. Nodata takes
nothing over. Where all neighbours are small as well it waits for them: they may be taken over in this *turn*, and are
then survivors in the next. What still waits after the last turn, far from all survivors, is noise and becomes
background. So the coverage never gets a gap.

A turn over all chunks:

1. :func:`find_small`, per chunk: find the components, and what is known of those that touch the chunk's edges.
2. :func:`merge_small`, once: add up the parts of components that lie in several chunks, and decide about these.
3. :func:`sieve_chunk`, per chunk that has anything small: decide about the components inside, and rewrite the mask.

Small components that wait for each other inside a chunk get all their turns at once. So another turn over the chunks is
needed only where one that touches a chunk's edge waits. Only what waits is judged again: noise that became background
in one chunk must not be a hole to fill in a later turn, since that turn may not come in another cut::

    faces = {window: find_small(masks[window], window, rules) for window in windows}
    turn, waiting = 1, None
    while todo := (sieve := merge_small(faces.values(), rules, turn, waiting)).todo:
        results = {window: sieve_chunk(masks[window], sieve.decision(window), rules) for window in todo}
        masks |= {window: result.mask for window, result in results.items()}
        if not sieve.waiting.size and not any(result.waiting.size for result in results.values()):
            break
        moved = any(result.changed_px for result in results.values())
        turn, waiting = turn + 1 if moved else rules.turns, sieve.waiting  # if not, the last turn comes now
        faces |= {window: find_small(masks[window], window, rules, results[window].waiting) for window in todo}

A component that lies in one chunk alone is decided there; what moves between processes is bounded by the perimeter of a
chunk. That is why boundaries count by class and not by neighbour: a small component of several chunks may have any
number of neighbours, but few classes around it.

Cores of split classes (:mod:`geoseg.stages.cores`) are measured without the boundary around them. A small one becomes
boundary, from which its neighbours then grow; boundaries themselves are never small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self

import numba
import numpy as np
from numpy.typing import NDArray

from geoseg.codes import BACKGROUND, NODATA
from geoseg.components import Components, check_chunk, find_components, grid_of, join, side_of
from geoseg.errors import InputError
from geoseg.lattice import Window

__all__ = ["Sieve", "SieveDecision", "SieveFaces", "SieveRules", "Sieved", "find_small", "merge_small", "sieve_chunk"]

PixelArea = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]

# Columns of contact tables: a survivor's class code, or this plus the number of a component.
NUMBERED = 256

# Pixel areas are sampled at so many rows and columns of the scene, its first and last among them, for a lower bound.
# They vary smoothly, so that none is below half of the least sample.
AREA_SAMPLES = 17


@dataclass(frozen=True, slots=True)
class SieveRules:
    """What is small in a scene. Picklable if ``pixel_area_m2`` is.

    Attributes:
        scene_shape: ``(rows, cols)`` of the scene.
        least_m2: class codes, or 0 for background, to the area below which a component is small. Codes that are missing
            are never small.
        pixel_area_m2: ground area of the pixels at the given rows and columns. A component's area is its number of
            pixels times the area of its first one.
        boundaries: the code of each split class, to the code of its boundary.
        turns: how many turns small components get before what still waits becomes background.
        most_px: float64 ``(256,)``, by code: no component with more pixels is small.
    """

    scene_shape: tuple[int, int]
    least_m2: Mapping[int, float]
    pixel_area_m2: PixelArea
    boundaries: Mapping[int, int] = field(default_factory=dict)
    turns: int = 4
    most_px: NDArray[np.float64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if NODATA in self.least_m2 or set(self.least_m2) & set(self.boundaries.values()):
            raise InputError(
                f"least areas for the codes {sorted(self.least_m2)}; nodata and boundaries have none, leave them out"
            )
        object.__setattr__(self, "most_px", self._bound())

    def _bound(self) -> NDArray[np.float64]:
        """By code, a number of pixels that is too many to be small anywhere in the scene."""
        least = self._least()
        rows, cols = (np.unique(np.linspace(0, side - 1, AREA_SAMPLES).astype(np.int64)) for side in self.scene_shape)
        try:
            area_m2 = self.pixel_area_m2(np.repeat(rows, cols.size), np.tile(cols, rows.size)).min()
        except InputError:  # the scene's corners may lie off the earth
            return np.where(least > 0, np.inf, 0)
        most_px: NDArray[np.float64] = 2 * least / area_m2
        return most_px

    def _least(self) -> NDArray[np.float64]:
        """By code, the area below which a component is small."""
        least = np.zeros(256)
        least[list(self.least_m2)] = list(self.least_m2.values())
        return least

    def are_small(
        self,
        code: NDArray[np.uint8],
        area_px: NDArray[np.int64],
        first: NDArray[np.int64],
        pinned: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Which components are small.

        Args:
            code: uint8 ``(n,)``.
            area_px: int64 ``(n,)``.
            first: int64 ``(n,)``, flat index of each component's first pixel in the scene.
            pinned: bool ``(n,)``, whether it touches nodata or the scene's edge.
        """
        least = self._least()
        perhaps = np.flatnonzero((area_px <= self.most_px[code]) & ~(pinned & (code == BACKGROUND)))
        area_m2 = area_px[perhaps] * self.pixel_area_m2(*np.divmod(first[perhaps], self.scene_shape[1]))
        small = np.zeros(code.size, np.bool_)
        small[perhaps] = area_m2 < least[code[perhaps]]
        return small

    def own_boundary(self) -> NDArray[np.uint8]:
        """By code: the boundary code of a split class; 0 for others."""
        boundary = np.zeros(256, np.uint8)
        boundary[list(self.boundaries)] = list(self.boundaries.values())
        return boundary


@dataclass(frozen=True, slots=True, eq=False)
class SieveFaces:
    """What one chunk tells of the components that touch its edges, numbered from 0 by their first pixels.

    Attributes:
        window: the chunk's window in the scene.
        edges: int32 ``(2 * width + 2 * height,)``, the component at every edge pixel: top row, bottom row, left column,
            right column; -1 is nodata.
        code: uint8 ``(k,)``, class code of each component, or background.
        first: int64 ``(k,)``, flat row-major index in the scene of its first pixel in this chunk.
        area_px: int64 ``(k,)``, its pixels in this chunk.
        pinned: bool ``(k,)``, whether it touches nodata in this chunk, or the scene's edge.
        contacts: int64 ``(3, n)``: a component that may be small; neighbour; length in pixels of their shared boundary.
            A neighbour is the class code of survivors inside the chunk, or 256 plus the number of a component that
            touches the edges.
        has_small: whether there is a small component inside the chunk.
        waiting: as given to :func:`find_small`.
    """

    window: Window
    edges: NDArray[np.int32]
    code: NDArray[np.uint8]
    first: NDArray[np.int64]
    area_px: NDArray[np.int64]
    pinned: NDArray[np.bool_]
    contacts: NDArray[np.int64]
    has_small: bool
    waiting: NDArray[np.int64] | None

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All but the window, by name, as ``np.savez`` wants it."""
        values = {column.name: getattr(self, column.name) for column in fields(self) if column.name != "window"}
        return {name: np.asarray(value) for name, value in values.items() if value is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], window: Window) -> Self:
        """The inverse of :meth:`to_arrays`."""
        return cls(
            window=window,
            edges=arrays["edges"],
            code=arrays["code"],
            first=arrays["first"],
            area_px=arrays["area_px"],
            pinned=arrays["pinned"],
            contacts=arrays["contacts"],
            has_small=bool(arrays["has_small"]),
            waiting=arrays.get("waiting"),
        )


@dataclass(frozen=True, slots=True, eq=False)
class SieveDecision:
    """What becomes of the components that touch one chunk's edges, numbered as in :class:`SieveFaces`.

    Attributes:
        window: the chunk's window in the scene.
        code: uint8 ``(k,)``, their new class codes.
        small: bool ``(k,)``, which of them are small.
        waits: bool ``(k,)``, which of them have no survivor around them yet.
        turns: how many turns are left, this one included.
        waiting: see :class:`SieveFaces`.
    """

    window: Window
    code: NDArray[np.uint8]
    small: NDArray[np.bool_]
    waits: NDArray[np.bool_]
    turns: int
    waiting: NDArray[np.int64] | None


class Sieved(NamedTuple):
    """One chunk after a turn.

    Attributes:
        mask: uint8 ``(height, width)``, the new mask.
        changed_px: how many of its pixels are new.
        waiting: int64 ``(n,)``, first pixels in the scene of the small components inside that wait for the next turn.
    """

    mask: NDArray[np.uint8]
    changed_px: int
    waiting: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Sieve:
    """The decisions of one turn. Made by :func:`merge_small`.

    Attributes:
        todo: windows of the chunks that have a small component.
        waiting: int64 ``(n,)``, first pixels of the small components on chunk edges that wait for the next turn.
    """

    todo: tuple[Window, ...]
    waiting: NDArray[np.int64]
    _decisions: Mapping[Window, SieveDecision]

    def decision(self, window: Window) -> SieveDecision:
        """What :func:`sieve_chunk` needs to know of the chunk at ``window``.

        Raises:
            InputError: no chunk has this window.
        """
        if window not in self._decisions:
            raise InputError(f"no chunk lies at {window}; ask for a window that was merged")
        return self._decisions[window]


def find_small(
    mask: NDArray[np.uint8], window: Window, rules: SieveRules, waiting: NDArray[np.int64] | None = None
) -> SieveFaces:
    """Find one chunk's components, and keep what its neighbours must know.

    Args:
        mask: uint8 ``(height, width)`` class codes of the chunk.
        window: where the chunk lies in the scene.
        rules: what is small.
        waiting: what waits inside the chunk since the turn before (:attr:`Sieved.waiting`); None in the first turn.

    Raises:
        InputError: the mask is not uint8 of the window's shape, or the window leaves the scene.
    """
    check_chunk(mask, window, rules.scene_shape)
    found = find_components(mask, background=True)
    rim = found.rim()
    on_edge = _on_edge(rim)
    first, pinned, small = _judge(found, on_edge, window, rules, waiting)
    number = np.full(len(found) + 2, -1, np.int32)
    number[on_edge] = np.arange(on_edge.size)

    row_of, col_of = np.full((2, len(found) + 2), -1, np.int64)
    row_of[on_edge] = np.where(
        found.area_px[on_edge] <= rules.most_px[found.code[on_edge]], np.arange(on_edge.size), -1
    )
    col_of[1:-1] = np.where(small[1:], -1, found.code[1:].astype(np.int64))
    col_of[on_edge] = NUMBERED + np.arange(on_edge.size)
    return SieveFaces(
        window=window,
        edges=number[rim],
        code=found.code[on_edge],
        first=first[on_edge],
        area_px=found.area_px[on_edge],
        pinned=pinned[on_edge],
        contacts=_contacts(found, row_of, col_of, NUMBERED + on_edge.size),
        has_small=bool(small.any()),
        waiting=waiting,
    )


def merge_small(
    faces: Iterable[SieveFaces], rules: SieveRules, turn: int, waiting: NDArray[np.int64] | None = None
) -> Sieve:
    """Decide about all components that touch a chunk's edges.

    Args:
        faces: one per chunk, in any order. The windows must be the cells of one grid over the whole scene.
        rules: the same as for :func:`find_small`.
        turn: 1 to ``rules.turns``.
        waiting: what waits on chunk edges since the turn before (:attr:`Sieve.waiting`); None in the first turn.

    Raises:
        InputError: the windows do not tile the scene.
    """
    grid = grid_of(faces, rules.scene_shape)
    counts = np.array([len(face.code) for face in grid.values()], np.int64)
    starts = dict(zip(grid, (np.cumsum(counts) - counts).tolist(), strict=True))
    code, first, area, pinned = (
        np.concatenate([getattr(face, name) for face in grid.values()])
        for name in ("code", "first", "area_px", "pinned")
    )
    met = _seams(grid, starts)
    both = met[:, (met >= 0).all(axis=0)]
    pinned[met[0, met[1] < 0]] = True
    pinned[met[1, met[0] < 0]] = True
    groups, group = join(both[:, code[both[0]] == code[both[1]]], code.size)
    group_area, group_first = np.zeros(groups, np.int64), np.full(groups, np.iinfo(np.int64).max)
    group_code, group_pinned = np.zeros(groups, np.uint8), np.zeros(groups, np.bool_)
    np.add.at(group_area, group, area)
    np.minimum.at(group_first, group, first)
    np.logical_or.at(group_pinned, group, pinned)
    group_code[group] = code
    small = rules.are_small(group_code, group_area, group_first, group_pinned)
    if waiting is not None:
        small &= np.isin(group_first, waiting)

    # contacts of small groups with survivors, as (group, code, length)
    meeting = [np.concatenate([both, both[::-1]], axis=1)]
    found = [np.stack([group[meeting[0][0]], group[meeting[0][1]] + NUMBERED, np.ones(meeting[0].shape[1], np.int64)])]
    for place, face in grid.items():
        component, neighbour, length = face.contacts
        elsewhere = neighbour >= NUMBERED
        named = neighbour.copy()
        named[elsewhere] = group[neighbour[elsewhere] - NUMBERED + starts[place]] + NUMBERED
        found.append(np.stack([group[component + starts[place]], named, length]))
    contacts = np.concatenate(found, axis=1)
    is_group = contacts[1] >= NUMBERED
    survives = ~is_group
    survives[is_group] = ~small[contacts[1, is_group] - NUMBERED]
    contacts[1, is_group] = group_code[contacts[1, is_group] - NUMBERED]
    new, decided = _take_over(contacts[:, survives], group_code, small, rules)

    decisions = {}
    for place, face in grid.items():
        here = group[starts[place] : starts[place] + len(face.code)]
        decisions[face.window] = SieveDecision(
            window=face.window,
            code=new[here],
            small=small[here],
            waits=(small & ~decided)[here],
            turns=rules.turns + 1 - turn,
            waiting=face.waiting,
        )
    todo = tuple(face.window for face in grid.values() if face.has_small or decisions[face.window].small.any())
    waits = small & ~decided if turn < rules.turns else np.zeros(groups, np.bool_)
    return Sieve(todo=todo, waiting=group_first[waits], _decisions=decisions)


def sieve_chunk(mask: NDArray[np.uint8], decision: SieveDecision, rules: SieveRules) -> Sieved:
    """Rewrite the small components of one chunk.

    Args:
        mask: uint8 ``(height, width)``, as given to :func:`find_small`.
        decision: this chunk's, from :meth:`Sieve.decision`.
        rules: the same as for :func:`find_small`.

    Raises:
        InputError: the mask is not uint8 of the decision's window, or not the one that was merged.
    """
    check_chunk(mask, decision.window, rules.scene_shape)
    found = find_components(mask, background=True)
    on_edge = _on_edge(found.rim())
    if on_edge.size != decision.code.size:
        raise InputError(f"the decision is for another mask at {decision.window}; merge the faces of this mask first")
    first, _, small = _judge(found, on_edge, decision.window, rules, decision.waiting)
    inside = np.flatnonzero(small)
    edge_small = on_edge[decision.small]
    numbered = np.concatenate([inside, edge_small])
    row_of, col_of = np.full((2, len(found) + 2), -1, np.int64)
    row_of[inside] = np.arange(inside.size)
    col_of[1:-1] = found.code[1:]
    col_of[numbered] = NUMBERED + np.arange(numbered.size)
    contacts = _contacts(found, row_of, col_of, NUMBERED + numbered.size)
    code, waits = _take_turns(contacts, found.code[inside], found.code[edge_small], decision, rules)
    new = found.code.copy()
    new[on_edge] = decision.code
    new[inside] = code
    if decision.turns == 1:
        new[inside[waits]] = new[on_edge[decision.waits]] = BACKGROUND
        waits[:] = False
    return Sieved(found.repaint(mask, new), int(found.area_px[new != found.code].sum()), first[inside[waits]])


def _on_edge(rim: NDArray[np.int32]) -> NDArray[np.int64]:
    """Ascending labels of the components that touch the chunk's edges."""
    labels = np.unique(rim)
    return labels[labels > 0].astype(np.int64)


def _judge(
    found: Components,
    on_edge: NDArray[np.int64],
    window: Window,
    rules: SieveRules,
    waiting: NDArray[np.int64] | None,
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """By label: first pixel in the scene; whether it is pinned; whether it lies inside the chunk and is small."""
    rows, cols = np.divmod(found.first, window.width)
    first = (rows + window.row_off) * rules.scene_shape[1] + cols + window.col_off
    pinned = _touches_nodata(found.row_offsets, found.start, found.label, window.width, len(found))
    at_scene_edge = (
        window.row_off == 0,
        window.row_stop == rules.scene_shape[0],
        window.col_off == 0,
        window.col_stop == rules.scene_shape[1],
    )
    rim = found.rim()
    for side, at_end in zip(("top", "bottom", "left", "right"), at_scene_edge, strict=True):
        if at_end:
            labels = rim[side_of(window, side)]
            pinned[labels[labels > 0]] = True
    inside = np.ones(len(found) + 1, np.bool_)
    inside[0] = False
    inside[on_edge] = False
    places = np.flatnonzero(inside)
    small = np.zeros(len(found) + 1, np.bool_)
    small[places] = rules.are_small(found.code[places], found.area_px[places], first[places], pinned[places])
    if waiting is not None:
        small &= np.isin(first, waiting)
    return first, pinned, small


def _seams(grid: Mapping[tuple[int, int], SieveFaces], starts: Mapping[tuple[int, int], int]) -> NDArray[np.int64]:
    """The components (2, n) that face each other over the seams, pixel by pixel; -1 is nodata."""
    met = [np.zeros((2, 0), np.int64)]
    for (row, col), face in grid.items():
        for neighbour, side, opposite in (((row + 1, col), "bottom", "top"), ((row, col + 1), "right", "left")):
            if neighbour in grid:
                other = grid[neighbour]
                here = face.edges[side_of(face.window, side)].astype(np.int64)
                there = other.edges[side_of(other.window, opposite)].astype(np.int64)
                here[here >= 0] += starts[row, col]
                there[there >= 0] += starts[neighbour]
                met.append(np.stack([here, there]))
    pairs = np.concatenate(met, axis=1)
    return pairs[:, (pairs >= 0).any(axis=0)]


def _take_turns(
    contacts: NDArray[np.int64],
    code: NDArray[np.uint8],
    edge_code: NDArray[np.uint8],
    decision: SieveDecision,
    rules: SieveRules,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Decide about the small components inside a chunk: one turn, or all where none that waits on the edge interferes.

    Args:
        contacts: int64 ``(3, n)``: component; class code of survivors around it, or NUMBERED plus the number of a small
            component, those on the edge counted after those inside; length.
        code: uint8 ``(k,)``, codes of the small components inside.
        edge_code: uint8 ``(m,)``, codes of those on the edge.
        decision: about these.
        rules: for the boundaries.

    Returns:
        new codes of those inside, and which of them wait for the next turn over the chunks.
    """
    inside = code.size
    old, now = np.concatenate([code, edge_code]), np.concatenate([code, decision.code[decision.small]])
    edge_waits = decision.waits[decision.small]
    component, neighbour, length = contacts
    is_small = neighbour >= NUMBERED
    other = np.where(is_small, neighbour - NUMBERED, 0)
    now[:inside], decided = _take_over(contacts[:, ~is_small], code, np.ones(inside, np.bool_), rules)
    settled = np.concatenate([decided, ~edge_waits])

    # waiting ones that hang together with one that waits on the edge cannot be decided here
    linked = is_small & ~settled[component] & ~settled[other]
    groups, group = join(np.stack([component[linked], other[linked]]), old.size)
    blocked = np.zeros(groups, np.bool_)
    blocked[group[inside:][edge_waits]] = True
    waits = blocked[group[:inside]] & ~settled[:inside]
    free = ~settled[:inside] & ~waits
    for _ in range(decision.turns - 1):
        if not free.any():
            break
        # what has become part of a survivor meanwhile stays as it is
        beside = free[component] & (~is_small | settled[other])
        taker = np.where(is_small, now[other], neighbour)
        joined = component[beside & (taker == old[component])]
        settled[joined], free[joined] = True, False
        votes = free[component] & (~is_small | settled[other])
        taken, decided = _take_over(np.stack([component[votes], taker[votes], length[votes]]), code, free, rules)
        now[:inside][decided], settled[:inside][decided] = taken[decided], True
        free &= ~decided
    now[:inside][free] = BACKGROUND
    return now[:inside], waits


def _take_over(
    contacts: NDArray[np.int64], code: NDArray[np.uint8], small: NDArray[np.bool_], rules: SieveRules
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """New codes of components, and which of them are decided.

    Args:
        contacts: int64 ``(3, n)``: component, class code of survivors around it, length. Repeats add up.
        code: by component, its code.
        small: by component, whether it is to be decided.
        rules: for the boundaries.
    """
    taker = _elect(contacts[0], contacts[1], contacts[2], code.size)
    boundary = rules.own_boundary()[code]
    taker = np.where(boundary > 0, boundary, taker)
    decided = small & (taker >= 0)
    return np.where(decided, taker, code).astype(np.uint8), decided


def _contacts(found: Components, row_of: NDArray[np.int64], col_of: NDArray[np.int64], cols: int) -> NDArray[np.int64]:
    """Lengths of shared boundaries, int64 ``(3, n)``: row, column, length.

    Args:
        found: the components.
        row_of: by label, and in the end for nodata: the row under which its contacts are summed; -1: they are not.
        col_of: the same: the column under which contacts with it are summed; -1: they are not.
        cols: number of columns.
    """
    keys, lengths = _sum_contacts(found.row_offsets, found.start, found.label, found.shape[1], row_of, col_of, cols)
    return np.stack([*np.divmod(keys, cols), lengths])


@numba.njit(cache=True, nogil=True)
def _elect(
    component: NDArray[np.int64], taker: NDArray[np.int64], length: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """By component: the code with the largest sum of lengths, of equal ones the smallest; -1 without any."""
    cursors = np.zeros(count + 1, np.int64)
    for at in range(component.size):
        cursors[component[at] + 1] += 1
    cursors = np.cumsum(cursors)
    order = np.empty(component.size, np.int64)
    for at in range(component.size):
        order[cursors[component[at]]] = at
        cursors[component[at]] += 1
    elected = np.full(count, -1, np.int64)
    votes = np.zeros(256, np.int64)
    for number in range(count):
        first = cursors[number - 1] if number else 0
        for at in order[first : cursors[number]]:
            votes[taker[at]] += length[at]
        best = -1
        for at in order[first : cursors[number]]:
            code = taker[at]
            if best < 0 or votes[code] > votes[best] or (votes[code] == votes[best] and code < best):
                best = code
        elected[number] = best
        for at in order[first : cursors[number]]:
            votes[taker[at]] = 0
    return elected


@numba.njit(cache=True, nogil=True)
def _touches_nodata(
    row_offsets: NDArray[np.int64], start: NDArray[np.int32], label: NDArray[np.int32], width: int, count: int
) -> NDArray[np.bool_]:
    """By label: whether one of its pixels is a 4-neighbour of nodata."""
    touches = np.zeros(count + 1, np.bool_)
    for row in range(row_offsets.size - 1):
        stop = row_offsets[row + 1]
        for run in range(row_offsets[row], stop):
            if label[run] >= 0:
                continue
            if run > row_offsets[row] and label[run - 1] > 0:
                touches[label[run - 1]] = True
            if run + 1 < stop and label[run + 1] > 0:
                touches[label[run + 1]] = True
            end = start[run + 1] if run + 1 < stop else width
            for other in (row - 1, row + 1):
                if 0 <= other < row_offsets.size - 1:
                    # the runs of that row which overlap this one
                    begin, other_stop = row_offsets[other], row_offsets[other + 1]
                    at = begin + np.searchsorted(start[begin:other_stop], start[run], "right") - 1
                    while at < other_stop and start[at] < end:
                        if label[at] > 0:
                            touches[label[at]] = True
                        at += 1
    return touches


@numba.njit(cache=True, nogil=True)
def _sum_contacts(
    row_offsets: NDArray[np.int64],
    start: NDArray[np.int32],
    label: NDArray[np.int32],
    width: int,
    row_of: NDArray[np.int64],
    col_of: NDArray[np.int64],
    cols: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keys ``row * cols + col`` of all contacts, and the sums of their lengths; in no order."""
    table, sums = np.full(1024, -1, np.int64), np.zeros(1024, np.int64)
    used = 0
    for row in range(row_offsets.size - 1):
        here, stop = row_offsets[row], row_offsets[row + 1]
        above, above_stop = row_offsets[max(row - 1, 0)], here
        while table.size < 4 * (used + stop - here + stop - above):  # so that adding never fills it
            table, sums = _widen(table, sums)
        for run in range(here, stop - 1):
            used += _add(table, sums, row_of[label[run]], col_of[label[run + 1]], cols, 1)
            used += _add(table, sums, row_of[label[run + 1]], col_of[label[run]], cols, 1)
        while above < above_stop and here < stop:
            here_end = start[here + 1] if here + 1 < stop else width
            above_end = start[above + 1] if above + 1 < above_stop else width
            if label[here] != label[above]:
                length = min(here_end, above_end) - max(start[here], start[above])
                used += _add(table, sums, row_of[label[here]], col_of[label[above]], cols, length)
                used += _add(table, sums, row_of[label[above]], col_of[label[here]], cols, length)
            if here_end <= above_end:
                here += 1
            if above_end <= here_end:
                above += 1
    filled = table >= 0
    return table[filled], sums[filled]


@numba.njit(cache=True, nogil=True)
def _add(table: NDArray[np.int64], sums: NDArray[np.int64], row: int, col: int, cols: int, length: int) -> int:
    """Add to an entry of a hash table (open addressing, linear probing; -1 is free); returns the entries gained."""
    if row < 0 or col < 0:
        return 0
    key = row * cols + col
    at = ((key * -7046029254386353131) >> 32) & (table.size - 1)  # Fibonacci hashing: 2**64 by the golden ratio
    while table[at] != key and table[at] >= 0:
        at = (at + 1) & (table.size - 1)
    gained = int(table[at] < 0)
    table[at] = key
    sums[at] += length
    return gained


@numba.njit(cache=True, nogil=True)
def _widen(table: NDArray[np.int64], sums: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same entries in a table of twice the size."""
    wide, wide_sums = np.full(2 * table.size, -1, np.int64), np.zeros(2 * table.size, np.int64)
    for at in range(table.size):
        if table[at] >= 0:
            _add(wide, wide_sums, 0, table[at], 0, sums[at])
    return wide, wide_sums

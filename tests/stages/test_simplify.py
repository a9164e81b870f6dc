"""Simplified arcs: nothing crosses or vanishes, each depends on its surroundings alone, and the rules are kept."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from geoseg.errors import InputError
from geoseg.rings import Arcs, offsets_of
from geoseg.settings import SimplifyMethod
from geoseg.stages.simplify import reach_px, simplify_arcs

METHODS: tuple[SimplifyMethod, ...] = ("visvalingam", "douglas-peucker")
SIDES = ((0, 1), (1, 0), (0, -1), (-1, 0))  # (row, col)
NOTHING = np.zeros((0, 2), np.int32)
ROWS, COLS = np.indices((40, 40))

MASKS = {
    "landscape": None,
    "noise": np.random.default_rng(0).integers(0, 3, (40, 40)),
    "noise of one class": np.random.default_rng(1).integers(0, 2, (40, 40)),
    "discs": sum(
        ((ROWS - row) ** 2 + (COLS - col) ** 2) < radius**2
        for row, col, radius in ((20, 20, 19), (20, 20, 14), (18, 23, 9), (16, 25, 4))
    ),
    "narrow diagonals": (ROWS - 2 * COLS) // 3 % 3,
    "stairs beside stairs": (ROWS - COLS) // 2 % 3,
    "sectors that meet in one point": (np.arctan2(ROWS - 20, COLS - 20) * 2 + 7).astype(int),
    "holes that touch": (ROWS % 7 == COLS % 7) & (ROWS // 7 == COLS // 7),
    "comb": (COLS % 2 == 0) | (ROWS < 3),
    "spiral": (np.hypot(ROWS - 20, COLS - 20) / 3 + np.arctan2(ROWS - 20, COLS - 20) / np.pi) % 2 < 1,
    "single pixels": (ROWS % 2 == 0) & (COLS % 2 == 0),
}


def make_arcs(mask: np.ndarray, stop_every: int = 0) -> Arcs:
    """Arcs of a small mask, by walking its cracks; with ``stop_every`` some turning corners are stops too."""
    padded = np.pad(np.asarray(mask, np.int64), 1, constant_values=-1)
    between = {
        (0, 1): padded[:-1, 1:] != padded[1:, 1:],  # from corner (r, c) to (r, c + 1): pixels above and below differ
        (1, 0): padded[1:, :-1] != padded[1:, 1:],
    }
    ways: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for (down, right), cracks in between.items():
        for row, col in np.argwhere(cracks[: mask.shape[0] + (right > 0), : mask.shape[1] + (down > 0)]).tolist():
            ways[row, col].append((down, right))
            ways[row + down, col + right].append((-down, -right))

    def turns(corner: tuple[int, int]) -> bool:
        return len(ways[corner]) == 2 and sum(way[0] for way in ways[corner]) != 0

    stops = {
        corner
        for corner in ways
        if len(ways[corner]) > 2 or (stop_every and turns(corner) and (corner[0] * 7 + corner[1] * 3) % stop_every == 0)
    }
    used: set[tuple[tuple[int, int], tuple[int, int]]] = set()
    arcs: list[list[tuple[int, int]]] = []
    for begin in [*sorted(stops), *sorted(set(ways) - stops)]:
        for way in SIDES:
            if (
                way not in ways[begin]
                or (begin, way) in used
                or (begin not in stops and any((begin, side) in used for side in SIDES))
            ):
                continue
            arc, here, ahead = [begin], begin, way
            while True:
                used.add((here, ahead))
                here = (here[0] + ahead[0], here[1] + ahead[1])
                back = (-ahead[0], -ahead[1])
                used.add((here, back))
                if here == begin or here in stops:
                    break
                (following,) = set(ways[here]) - {back}
                if following != ahead:
                    arc.append(here)
                ahead = following
            arcs.append([*arc, here])
    coords = np.array([(2 * col, 2 * row) for arc in arcs for row, col in arc], np.int32).reshape(-1, 2)
    return Arcs(coords, offsets_of(np.array([len(arc) for arc in arcs], np.int64)))


def lines(arcs: Arcs) -> list[np.ndarray]:
    return np.split(arcs.coords, arcs.offsets[1:-1])


def simplify(
    arcs: Arcs,
    tolerance: float,
    method: SimplifyMethod = "visvalingam",
    *,
    smooth: bool = False,
    chosen: np.ndarray | None = None,
    obstacles: np.ndarray = NOTHING,
) -> Arcs:
    chosen = np.ones(len(arcs), np.bool_) if chosen is None else chosen
    return simplify_arcs(arcs, chosen, obstacles, tolerance_px=tolerance, method=method, smooth=smooth)


def same(one: Arcs, other: Arcs) -> bool:
    return np.array_equal(one.coords, other.coords) and np.array_equal(one.offsets, other.offsets)


def around_stops(arcs: Arcs) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Of every stop the ends of arcs, (arc, end), in their order around it."""
    ends = defaultdict(list)
    for i, line in enumerate(lines(arcs)):
        for end, (here, there) in enumerate(((line[0], line[1]), (line[-1], line[-2]))):
            ends[tuple(here.tolist())].append((np.arctan2(*(there - here)[::-1]), (i, end)))
    orders = {}
    for stop, found in ends.items():
        order = [end for _, end in sorted(found)]
        first = order.index(min(order))
        orders[stop] = order[first:] + order[:first]
    return orders


def require_sound(arcs: Arcs, simple: Arcs) -> None:
    """No edge meets another but in a shared vertex, only stops are shared, and all faces are there, in their places."""
    assert len(simple) == len(arcs)
    inner: Counter[tuple[int, int]] = Counter()
    ends: set[tuple[int, int]] = set()
    edges = []
    for before, after in zip(lines(arcs), lines(simple), strict=True):
        assert np.array_equal(before[[0, -1]], after[[0, -1]])
        assert len(after) <= len(before)
        assert len(after) >= (5 if np.array_equal(after[0], after[-1]) else 2)
        inner.update(map(tuple, after[1:-1].tolist()))
        ends.update(map(tuple, after[[0, -1]].tolist()))
        edges.append(np.stack([after[:-1], after[1:]], axis=1))
    assert not inner or max(inner.values()) == 1
    assert not ends & set(inner)
    segments = np.concatenate(edges)
    assert (segments[:, 0] != segments[:, 1]).any(axis=1).all()
    geometries = shapely.linestrings(segments)
    one, other = shapely.STRtree(geometries).query(geometries, predicate="intersects")
    one, other = one[one < other], other[one < other]
    meeting = shapely.intersection(geometries[one], geometries[other])
    assert (shapely.get_type_id(meeting) == 0).all()
    points = shapely.get_coordinates(meeting)
    for pair in (one, other):
        assert ((segments[pair] == points[:, None]).all(axis=2).any(axis=1)).all()
    faces, simple_faces = (
        shapely.get_parts(shapely.polygonize(shapely.linestrings(np.concatenate(parts))))
        for parts in ([np.stack([line[:-1], line[1:]], axis=1) for line in lines(arcs)], edges)
    )
    assert len(faces) == len(simple_faces)
    assert sorted(shapely.get_num_interior_rings(faces)) == sorted(shapely.get_num_interior_rings(simple_faces))
    assert around_stops(arcs) == around_stops(simple)


@functools.cache
def arcs_of(name: str) -> Arcs:
    return make_arcs(MASKS[name], stop_every=0 if name != "discs" else 17)


@pytest.fixture(params=MASKS)
def arcs(request: pytest.FixtureRequest, landscape: np.ndarray) -> Arcs:
    return make_arcs(landscape[60:140, 100:200], 50) if request.param == "landscape" else arcs_of(request.param)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tolerance", [0.0, 0.75, 1.0, 2.0, 6.0, 50.0])
def test_nothing_crosses_or_vanishes(arcs: Arcs, tolerance: float, method: SimplifyMethod, smooth: bool) -> None:
    require_sound(arcs, simplify(arcs, tolerance, method, smooth=smooth))


@settings(max_examples=150, deadline=None)
@given(
    npst.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 2)),
    st.sampled_from([0.5, 0.8, 1.0, 1.6, 3.0, 20.0]),
    st.sampled_from(METHODS),
    st.booleans(),
    st.sampled_from([0, 2, 5]),
)
def test_nothing_crosses_in_any_mask(
    mask: np.ndarray, tolerance: float, method: SimplifyMethod, smooth: bool, stop_every: int
) -> None:
    arcs = make_arcs(mask, stop_every)
    require_sound(arcs, simplify(arcs, tolerance, method, smooth=smooth))


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tolerance", [0.75, 1.0, 2.5])
def test_an_arc_depends_on_the_corners_near_it_alone(
    arcs: Arcs, tolerance: float, method: SimplifyMethod, smooth: bool
) -> None:
    together = simplify(arcs, tolerance, method, smooth=smooth)
    reach = 2 * reach_px(tolerance, method)  # half pixels
    every = len(arcs) // 25 + 1  # some will do
    for line, expected in zip(lines(arcs)[::every], lines(together)[::every], strict=True):
        near = shapely.distance(shapely.linestrings(line), shapely.points(arcs.coords)) < reach
        alone = Arcs(line, np.array([0, len(line)], np.int64))
        assert np.array_equal(
            simplify(alone, tolerance, method, smooth=smooth, obstacles=arcs.coords[near]).coords, expected
        )


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_neither_order_nor_choice_nor_place_matters(arcs: Arcs, method: SimplifyMethod, smooth: bool) -> None:
    together = lines(simplify(arcs, 1.5, method, smooth=smooth))
    random = np.random.default_rng(3)
    order = random.permutation(len(arcs))
    chosen = random.random(len(arcs)) < 0.5
    separate = lines(arcs)
    shifted = [separate[i] + np.array([2 * 2**16 + 14, 2 * 777], np.int32) for i in order]
    some = simplify(
        Arcs(np.concatenate(shifted), offsets_of(np.array([len(line) for line in shifted]))),
        1.5,
        method,
        smooth=smooth,
        chosen=chosen,
    )
    for place, (i, line) in enumerate(zip(order, lines(some), strict=True)):
        expected = together[i] if chosen[place] else separate[i]
        assert np.array_equal(line - np.array([2 * 2**16 + 14, 2 * 777]), expected)


def test_nothing_to_do(arcs: Arcs) -> None:
    assert same(simplify(arcs, 0.0), arcs)
    assert same(simplify(arcs, 3.0, chosen=np.zeros(len(arcs), np.bool_)), arcs)
    none = Arcs(NOTHING, np.zeros(1, np.int64))
    assert same(simplify(none, 1.0), none)


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_must_be_a_length(tolerance: float) -> None:
    with pytest.raises(InputError, match="simplification tolerance"):
        simplify(make_arcs(np.ones((2, 2))), tolerance)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tolerance", [0.75, 1.0, 2.0, 6.0])
def test_every_vertex_stays_near_its_chord(arcs: Arcs, tolerance: float, method: SimplifyMethod) -> None:
    bound = 2 * tolerance * (2 if method == "visvalingam" else 1) * 1.001
    for before, after in zip(lines(arcs), lines(simplify(arcs, tolerance, method)), strict=True):
        place = 0
        for chord in np.stack([after[:-1], after[1:]], axis=1):
            begin = place
            place += 1
            while not np.array_equal(before[place], chord[1]):
                place += 1
            points = shapely.points(before[begin : place + 1])
            assert (shapely.distance(shapely.linestrings(chord), points) <= bound).all()


@pytest.mark.parametrize("tolerance", [0.75, 1.0, 2.0])
def test_no_small_triangle_is_left_without_reason(arcs: Arcs, tolerance: float) -> None:
    """Visvalingam goes on while it may: what is left is large, or blocked by a corner, or too far, or needed."""
    corners = shapely.points(np.unique(arcs.coords, axis=0))
    tree = shapely.STRtree(corners)
    for before, after in zip(lines(arcs), lines(simplify(arcs, tolerance)), strict=True):
        loop = np.array_equal(after[0], after[-1])
        own = {tuple(corner) for corner in before.tolist()} - {tuple(corner) for corner in after.tolist()}
        for i in range(1, len(after) - 1) if len(after) > (5 if loop else 3) else ():
            triangle = shapely.polygons(after[[i - 1, i, i + 1]])
            if shapely.area(triangle) > 4 * tolerance**2 * 1.002 or shapely.area(triangle) == 0:
                continue
            inside = {
                tuple(shapely.get_coordinates(corners[k])[0].astype(int)) for k in tree.query(triangle, "intersects")
            }
            if inside - own - {tuple(corner) for corner in after[[i - 1, i, i + 1]].tolist()}:
                continue
            begin, end = (int(np.flatnonzero((before == after[k]).all(axis=1))[0]) for k in (i - 1, i + 1))
            piece = before[begin : (end or len(before)) + 1]
            chord = shapely.linestrings(after[[i - 1, i + 1]])
            assert (shapely.distance(chord, shapely.points(piece)) > 4 * tolerance).any()


@pytest.mark.parametrize(("tolerance", "goes"), [(1.2, False), (1.3, True)])
def test_the_tolerance_squared_is_the_largest_triangle(tolerance: float, goes: bool) -> None:
    mask = np.ones((12, 12), np.uint8)
    mask[0, 4:7] = 0  # a notch: each of its corners makes a triangle of 1.5 px^2 with its neighbours
    notched = Arcs(np.array([[0, 4], [8, 4], [8, 2], [14, 2], [14, 4], [24, 4]], np.int32), np.array([0, 6]))
    assert (not same(simplify(notched, tolerance), notched)) is goes


@pytest.mark.parametrize("method", METHODS)
def test_a_staircase_becomes_a_slope(method: SimplifyMethod) -> None:
    simple = simplify(make_arcs(ROWS >= COLS), 1.0, method)
    assert len(simple.coords) <= 14  # outline and diagonal, in three or four arcs
    assert same(simplify(simple, 0.0), simple)


def test_a_single_pixel_stays_a_square() -> None:
    pixels = make_arcs(MASKS["single pixels"])
    for method in METHODS:
        assert same(simplify(pixels, 30.0, method), simplify(pixels, 30.0, method, smooth=True))
        alone = make_arcs(np.pad(np.ones((1, 1)), 1))
        assert same(simplify(alone, 30.0, method, smooth=True), alone)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mirror", [1, -1])
def test_two_arcs_between_the_same_ends_stay_two(method: SimplifyMethod, mirror: int) -> None:
    above = np.array([[0, 0], [4, 0], [4, 2], [8, 2], [8, 4]], np.int32)
    below = np.array([[0, 0], [0, 2], [2, 2], [2, 4], [8, 4]], np.int32)
    both = Arcs(np.concatenate([above, below])[::mirror], np.array([0, 5, 10]))
    one, other = lines(simplify(both, 20.0, method))
    assert sorted((len(one), len(other))) == [2, 3]
    # far from everything else each becomes its chord
    for line in (above, below):
        alone = simplify(Arcs(line, np.array([0, 5])), 20.0, method)
        assert len(alone.coords) == 2


@pytest.mark.parametrize("method", METHODS)
def test_a_chord_along_a_row_is_for_straight_arcs(method: SimplifyMethod) -> None:
    bump = np.array([[0, 0], [4, 0], [4, 2], [6, 2], [6, 0], [20, 0]], np.int32)
    assert len(simplify(Arcs(bump, np.array([0, 6])), 20.0, method).coords) == 3


def signed_area(line: np.ndarray) -> int:
    x, y = (line - line[0]).astype(np.int64).T
    return int((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())


@pytest.mark.parametrize("method", METHODS)
def test_smoothing_keeps_all_areas(arcs: Arcs, method: SimplifyMethod) -> None:
    smooth = simplify(arcs, 0.0, method, smooth=True)
    assert [signed_area(line) for line in lines(smooth)] == [signed_area(line) for line in lines(arcs)]
    for before, after in zip(lines(arcs), lines(smooth), strict=True):
        distance = shapely.hausdorff_distance(shapely.linestrings(before), shapely.linestrings(after))
        assert distance <= 1  # half a pixel


def test_smoothing_runs_from_midpoint_to_midpoint() -> None:
    stairs = [(0, 0), (10, 0), (10, 2), (18, 2), (18, 4), (26, 4), (26, 6), (40, 6)]
    arc = Arcs(np.array(stairs, np.int32), np.array([0, len(stairs)]))
    assert simplify(arc, 0.0, smooth=True).coords.tolist() == [[0, 0], [10, 0], [10, 1], [26, 5], [26, 6], [40, 6]]
    notch = Arcs(np.array([(0, 0), (4, 0), (4, 2), (8, 2), (8, 0), (12, 0)], np.int32), np.array([0, 6]))
    assert same(simplify(notch, 0.0, smooth=True), notch)


def test_the_reach_is_known() -> None:
    assert reach_px(1.0, "visvalingam") == 5
    assert reach_px(1.0, "douglas-peucker") == 3
    assert reach_px(0.0, "visvalingam") == 1

"""Scenes of 100 x 100 m with pixels of 1 m, that lie side by side and overlap."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely import box

from geoseg.stages.overlap import DROPPED, Candidates, Pairs, View, decide, find_pairs, join, overruled, trim


def view(left, right, bottom=0, top=100, seen=None):
    frame = box(left, bottom, right, top)
    return View(frame, frame if seen is None else seen, 1.0)


def merge(*scenes, apart=False, confidence=None, order=None):
    """Merges (view, polygons) of scenes; gives the outlines that come out, each with its parts as (scene, number)."""
    scenes = list(scenes)
    order = list(order or range(len(scenes)))
    polygons_of = []
    for number, (own, polygons) in enumerate(scenes):
        out = np.zeros(len(polygons), bool)
        cut = np.array([not own.seen.contains_properly(polygon) for polygon in polygons], bool)
        for other in [view for there, (view, _) in enumerate(scenes) if there != number]:
            out |= overruled(np.array(polygons, object), cut, other)
        polygons_of.append([n for n in range(len(polygons)) if not out[n]])
    nodes = [(scene, number) for scene in order for number in polygons_of[scene]]
    at = {node: index for index, node in enumerate(nodes)}
    columns = {name: [] for name in ("ours", "theirs", "shared", "ours_there", "theirs_here", "touching", "px")}
    for here, there in itertools.combinations(order, 2):
        view_here, view_there = scenes[here][0], scenes[there][0]
        ours, theirs = (np.array([scenes[s][1][n] for n in polygons_of[s]], object) for s in (here, there))
        found = find_pairs(ours, theirs, view_here, view_there)
        columns["ours"].append([at[here, polygons_of[here][number]] for number in found.ours])
        columns["theirs"].append([at[there, polygons_of[there][number]] for number in found.theirs])
        for name in ("shared", "ours_there", "theirs_here", "touching", "px"):
            columns[name].append(getattr(found, name))
    kinds = {"ours": np.int64, "theirs": np.int64, "touching": bool}
    pairs = Pairs(**{name: np.concatenate([*parts]).astype(kinds.get(name, float)) for name, parts in columns.items()})
    polygons = [scenes[scene][1][number] for scene, number in nodes]
    candidates = Candidates(
        scene=np.array([scene for scene, _ in nodes]),
        id=np.array([number for _, number in nodes]),
        area=shapely.area(polygons),
        cut=np.array([not scenes[scene][0].seen.contains_properly(scenes[scene][1][n]) for scene, n in nodes]),
        confidence=np.array([1.0 if confidence is None else confidence[node] for node in nodes]),
        gsd_m=np.ones(len(nodes)),
    )
    views = [one for one, _ in scenes]
    decision = decide(candidates, pairs, apart=apart, views=views, geometry=polygons.__getitem__)
    cuts = dict(decision.cuts)
    outcome = {}
    for group in sorted(set(decision.group.tolist()) - {DROPPED}, key=lambda node: nodes[node]):
        members = np.flatnonzero(decision.group == group).tolist()
        parts = []
        for node in members:
            others = [polygons[other] for other in cuts.get(node, ())]
            parts += trim(polygons[node], others, 1.0) if others else [polygons[node]]
        outlines = join(parts, 1.0) if len(members) > 1 else parts
        outcome[tuple(sorted(nodes[node] for node in members))] = outlines
    return dict(sorted(outcome.items()))


LEFT, RIGHT = view(0, 100), view(60, 160)


def test_what_one_scene_saw_alone_is_kept():
    ours, theirs = box(10, 10, 20, 20), box(120, 10, 130, 20)
    assert merge((LEFT, [ours]), (RIGHT, [theirs])) == {((0, 0),): [ours], ((1, 0),): [theirs]}


@pytest.mark.parametrize("apart", [False, True])
def test_two_views_of_one_object_are_one_and_the_surer_is_kept(apart):
    ours, theirs = box(70, 10, 80, 20), box(71, 10, 81, 20)
    for sure in (0, 1):
        confidence = {(scene, 0): 0.9 if scene == sure else 0.6 for scene in (0, 1)}
        kept = merge((LEFT, [ours]), (RIGHT, [theirs]), apart=apart, confidence=confidence)
        assert list(kept) == [((sure, 0),)]


@pytest.mark.parametrize("apart", [False, True])
def test_what_a_scene_cut_off_gives_way_to_the_whole(apart):
    whole, cut = box(80, 10, 120, 40), box(81, 11, 100, 39)
    confidence = {(0, 0): 0.99, (1, 0): 0.5}
    assert list(merge((LEFT, [cut]), (RIGHT, [whole]), apart=apart, confidence=confidence)) == [((1, 0),)]


@pytest.mark.parametrize("apart", [False, True])
def test_what_neither_scene_saw_whole_is_joined(apart):
    ours, theirs = box(10, 10, 100, 20), box(60, 10, 160, 20)
    ((parts, outlines),) = merge((LEFT, [ours]), (RIGHT, [theirs]), apart=apart).items()
    assert parts == ((0, 0), (1, 0))
    assert outlines[0].equals(box(10, 10, 160, 20))
    assert len(outlines) == 1


def test_a_river_through_many_scenes_is_one_polygon_in_any_order():
    # sixty per cent of each scene is in the next one, as in aerial surveys
    scenes = [
        (view(40 * number, 40 * number + 100), [box(40 * number, 48, 40 * number + 100, 52)]) for number in range(9)
    ]
    for order in ([*range(9)], [*range(8, -1, -1)], [4, 8, 0, 6, 2, 1, 7, 3, 5]):
        ((_, (river,)),) = merge(*scenes, order=order).items()
        assert river.equals(box(0, 48, 420, 52))


def test_two_reaches_that_a_third_scene_shows_to_be_one_are_joined():
    across = view(0, 160, 30, 100)
    scenes = [(LEFT, [box(0, 40, 65, 50)]), (RIGHT, [box(95, 40, 160, 50)]), (across, [box(30, 40, 130, 50)])]
    ((parts, (river,)),) = merge(*scenes).items()
    assert len(parts) == 3
    assert river.equals(box(0, 40, 160, 50))


def test_fields_do_not_melt_together():
    """One scene sees two fields where the other sees one that runs on: each keeps its ground, none is joined."""
    ours = [box(40, 10, 79, 60), box(79, 10, 100, 60)]
    theirs = [box(60, 10, 150, 60)]
    kept = merge((LEFT, ours), (RIGHT, theirs), apart=True)
    outlines = [outline for parts in kept.values() for outline in parts]
    assert shapely.union_all(outlines).equals(box(40, 10, 150, 60))
    assert sum(outline.area for outline in outlines) == pytest.approx(110 * 50)
    assert len(outlines) >= 2


def test_touching_fields_of_one_scene_stay_apart_beside_those_of_the_other():
    ours = [box(20, 10, 100, 30), box(20, 30, 100, 50)]
    theirs = [box(60, 10, 140, 30.5), box(60, 30.5, 140, 50)]
    kept = merge((LEFT, ours), (RIGHT, theirs), apart=True)
    assert list(kept) == [((0, 0), (1, 0)), ((0, 1), (1, 1))]
    first, second = (outlines[0] for outlines in kept.values())
    assert first.intersection(second).area < 1
    assert first.union(second).area == pytest.approx(120 * 40)


def test_a_small_overlap_of_fields_is_cut_off_the_less_sure():
    ours, theirs = box(62, 10, 80, 30), box(78, 10, 90, 30)
    for sure in (0, 1):
        confidence = {(scene, 0): 0.9 if scene == sure else 0.6 for scene in (0, 1)}
        kept = merge((LEFT, [ours]), (RIGHT, [theirs]), apart=True, confidence=confidence)
        assert kept[((sure, 0),)][0].equals([ours, theirs][sure])
        assert sum(outlines[0].area for outlines in kept.values()) == pytest.approx(28 * 20, abs=0.1)


def test_scenes_that_only_touch_are_joined_along_their_edge():
    """Tiles of an orthophoto: a hair's breadth between them, as rounding leaves it."""
    first, second = view(0, 100), view(100 + 1e-9, 200)
    river, on = box(10, 10, 100, 20), box(100 + 1e-9, 12, 170, 22)
    lone = box(100 + 1e-9, 60, 120, 70)
    kept = merge((first, [river]), (second, [on, lone]))
    assert list(kept) == [((0, 0), (1, 0)), ((1, 1),)]
    (outline,) = kept[((0, 0), (1, 0))]
    assert outline.area == pytest.approx(90 * 10 + 70 * 10)


def test_touching_fields_are_joined_by_what_they_share_of_the_edge():
    first, second = view(0, 100), view(100, 200)
    fields = [box(10, 10, 100, 40), box(10, 40, 100, 80)]
    on = [box(100, 10, 150, 41), box(100, 41, 150, 55), box(100, 55, 150, 80)]
    kept = merge((first, fields), (second, on), apart=True)
    # of the second field 25 of 40 m go on
    assert list(kept) == [((0, 0), (1, 0)), ((0, 1), (1, 2)), ((1, 1),)]


def test_objects_that_touch_an_edge_beside_one_another_stay_two():
    first, second = view(0, 100), view(100, 200)
    assert len(merge((first, [box(10, 10, 100, 20)]), (second, [box(100, 20, 170, 30)]))) == 2


def test_what_is_cut_counts_for_nothing_where_another_scene_saw_all_of_it():
    artefact, real = box(95, 40, 100, 60), box(10, 40, 30, 60)
    assert list(merge((LEFT, [artefact, real]), (RIGHT, []))) == [((0, 1),)]
    # of scenes that end at the same edge neither knows more than the other
    same = view(0, 100, 20, 100)
    assert len(merge((LEFT, [artefact]), (same, []))) == 1
    # and what is whole in its own scene is kept although another did not find it
    assert list(merge((LEFT, [box(80, 40, 95, 60)]), (RIGHT, []))) == [((0, 0),)]


def test_ground_without_data_was_not_seen():
    """The right scene has no data east of 110: what it shows of the lake is cut there, as at a raster's edge."""
    half = view(60, 160, seen=box(60, 0, 110, 100))
    whole = view(60, 160)
    lake = box(90, 10, 150, 60)
    kept = merge((half, [box(90, 10, 110, 60)]), (whole, [lake]), confidence={(0, 0): 0.99, (1, 0): 0.6})
    assert shapely.union_all([outline for parts in kept.values() for outline in parts]).equals(lake)
    assert len(kept) == 1


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 90), st.integers(0, 90), st.integers(2, 40), st.integers(2, 40)),
        min_size=1,
        max_size=12,
    ),
    st.permutations([0, 1, 2]),
    st.booleans(),
)
def test_nothing_is_lost_nothing_is_twice_and_no_order_matters(rectangles, order, apart):
    views = [view(0, 100), view(50, 150), view(25, 125, 20, 120)]
    scenes = []
    for number, one in enumerate(views):
        left, bottom, *_ = one.frame.bounds
        drawn = [box(x, y, x + w, y + h) for scene, x, y, w, h in rectangles if scene == number]
        placed = [shapely.affinity.translate(shape, left, bottom).intersection(one.frame) for shape in drawn]
        own = []
        for shape in placed:  # polygons of a scene never overlap
            rest = shape.difference(shapely.union_all(own)) if own else shape
            own += [part for part in shapely.get_parts(rest) if part.geom_type == "Polygon" and part.area > 1]
        scenes.append((one, own))
    confidence = {(s, n): (7 * s + 3 * n) % 10 / 10 for s in range(3) for n in range(len(scenes[s][1]))}
    kept = merge(*scenes, apart=apart, confidence=confidence)
    assert merge(*scenes, apart=apart, confidence=confidence, order=order) == kept
    outlines = [outline for parts in kept.values() for outline in parts]
    for first, second in itertools.combinations(outlines, 2):
        assert first.intersection(second).area < 3, "found twice"
    ground = shapely.union_all(outlines)
    for own, polygons in scenes:
        for polygon in polygons:  # of each that is whole at least half is still there
            if own.frame.contains_properly(polygon):
                assert polygon.intersection(ground).area >= polygon.area / 2 - 5

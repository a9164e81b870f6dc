"""Objects judged by their centres."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from geoseg.evaluation.centres import count_centres

BOXES = np.array([[0, 0, 4, 4], [3, 0, 8, 4], [20, 20, 24, 30]], np.float64)


def centres(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, np.float64).reshape(-1, 2)


def test_detections_lie_in_boxes_or_are_false():
    assert count_centres(centres((1, 1), (22, 25), (50, 50)), BOXES).tolist() == [2, 1, 1]


def test_an_object_is_taken_once():
    assert count_centres(centres((21, 22), (23, 28)), BOXES).tolist() == [1, 1, 2]


def test_the_order_of_detections_plays_no_part():
    # the first lies in both boxes, the second in one of them alone: either order gives both their object
    assert count_centres(centres((3.5, 2), (1, 1)), BOXES).tolist() == [2, 0, 1]
    assert count_centres(centres((1, 1), (3.5, 2)), BOXES).tolist() == [2, 0, 1]


def test_edges_belong_to_a_box():
    assert count_centres(centres((24, 30)), BOXES).tolist() == [1, 0, 2]


def test_excused_detections_count_when_right_only():
    points = centres((1, 1), (50, 50), (60, 60))
    assert count_centres(points, BOXES, np.array([True, True, False])).tolist() == [1, 1, 2]


def test_nothing_found_or_nothing_there():
    assert count_centres(centres(), BOXES).tolist() == [0, 0, 3]
    assert count_centres(centres((1, 1)), np.zeros((0, 4))).tolist() == [0, 1, 0]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8), st.randoms())
def test_counts_add_up_in_any_order(points, random):
    boxes = np.array([[0, 0, 5, 5], [2, 2, 7, 7], [4, 4, 9, 9], [8, 0, 9, 1]], np.float64)
    found = count_centres(centres(*points), boxes)
    assert found[0] + found[1] == len(points)
    assert found[0] + found[2] == len(boxes)
    random.shuffle(points)
    assert count_centres(centres(*points), boxes).tolist() == found.tolist()

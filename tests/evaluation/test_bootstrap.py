"""Intervals by the bootstrap over scenes."""

from __future__ import annotations

import numpy as np
import pytest

from geoseg.evaluation.bootstrap import Figure, draw_scenes, ratio, to_figure


def test_the_first_draw_is_every_scene_once_and_all_draw_as_many():
    draws = draw_scenes(7, 200)
    assert draws.shape == (201, 7)
    assert (draws[0] == 1).all()
    assert (draws.sum(axis=1) == 7).all()
    assert np.array_equal(draws, draw_scenes(7, 200))


def test_one_scene_has_no_interval():
    assert to_figure(draw_scenes(1, 200) @ np.array([0.25])) == Figure(0.25)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(5).normal(10, 2, 400)
    figure = to_figure(draw_scenes(400, 4000) @ values / 400)
    error = values.std() / 20
    assert figure.value == pytest.approx(values.mean())
    assert figure.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert figure.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_draws_without_anything_to_judge_are_left_out():
    figure = to_figure(ratio(np.array([1.0, 0.0, 1.0, 3.0]), np.array([2.0, 0.0, 4.0, 4.0])))
    assert figure.value == 0.5
    assert 0.25 <= figure.low <= figure.high <= 0.75
    assert to_figure(np.array([np.nan, 0.5])) == Figure(None)

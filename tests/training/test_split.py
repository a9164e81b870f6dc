from __future__ import annotations

import numpy as np
import pytest

from geoseg.errors import InputError
from geoseg.training.classes import TrainClass
from geoseg.training.crops import Crop
from geoseg.training.sampler import Sampler, Source
from geoseg.training.split import MOST_VIEWS, choose_validation, make_views
from geoseg.training.survey import Survey

CLASSES = [TrainClass("water", 1, (0, 0, 0))]


def counted(*pixels: int) -> Survey:
    return Survey(np.array([[100, count] for count in pixels]), ())


def chip(size: int, *, known: bool = True) -> Crop:
    bits = np.full((size, size), int(known), np.uint16)
    return Crop("c", np.zeros((size, size, 3), np.uint8), bits, bits, None, 1.0)


def test_validation_has_its_share_of_every_class() -> None:
    surveys = [counted(10, 0)] * 6 + [counted(0, 50)] * 2
    chosen = choose_validation(surveys, 0.5, 3)
    assert len(chosen) == 4
    assert len([number for number in chosen if number >= 6]) == 1
    assert choose_validation(surveys, 0.5, 3) == chosen
    assert choose_validation(surveys, 0.0, 3) == []
    assert choose_validation(surveys[:1], 0.5, 3) == []
    assert len(choose_validation(surveys[:2], 0.01, 3)) == 1
    assert len(choose_validation(surveys, 0.99, 3)) == 7


def test_views_cover_small_pictures_and_share_among_sources() -> None:
    one = Source("one", [chip(100)], 1.0, (1.0, 1.0))
    sampler = Sampler([one], CLASSES, size=64)
    views = make_views(sampler, [one], 0)
    assert len(views) == 4
    assert all((view.weight == 1).all() for view in views)
    many = Source("many", [chip(640)], 1.0, (1.0, 4.0))
    views = make_views(sampler, [one, many], 0)
    assert len([view for view in views if view.source == "many"]) == MOST_VIEWS // 2
    assert {round(view.gsd_m) for view in views} == {1, 2, 4}
    again = make_views(sampler, [one, many], 0)
    assert all(np.array_equal(a.target, b.target) for a, b in zip(views, again, strict=True))
    assert make_views(sampler, [Source("none", [], 1.0, (1.0, 1.0))], 0) == []


def test_a_picture_smaller_than_a_crop_is_seen_whole_and_an_unknown_one_not() -> None:
    one = Source("one", [chip(40)], 1.0, (1.0, 1.0))
    sampler = Sampler([one], CLASSES, size=64)
    (view,) = make_views(sampler, [one], 0)
    assert view.weight.sum() == 40 * 40
    with pytest.raises(InputError, match="nothing is known"):
        make_views(sampler, [Source("dark", [chip(40, known=False)], 1.0, (1.0, 1.0))], 0)

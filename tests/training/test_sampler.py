from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from geoseg.errors import SettingsError
from geoseg.lattice import Window
from geoseg.training.classes import TrainClass
from geoseg.training.crops import Crop, encode
from geoseg.training.sampler import Sampler, Source
from geoseg.training.survey import ANCHORS, survey

WATER, ROAD, FIELD, PARKING = range(4)
GREY = (128, 128, 128)
CLASSES = [
    TrainClass("water", 1, GREY),
    TrainClass("road", 2, GREY),
    TrainClass("field", 3, GREY, instances=True),
    TrainClass("parking", 4, GREY),
]
BOUNDED = [*CLASSES[:2], TrainClass("field", 3, GREY, instances=True, boundary=True, boundary_code=5), CLASSES[3]]


def picture(size: int = 96, *, gsd_m: float = 1.0, seed: int = 0) -> Crop:
    """Two touching fields left of a road, water below; parking unknown."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (size, size, 3)).astype(np.uint8)
    instances = np.zeros((size, size), np.uint16)
    instances[: size // 2, : size // 3] = 1
    instances[: size // 2, size // 3 : 2 * size // 3] = 2
    present = np.zeros((4, size, size), bool)
    present[FIELD] = instances > 0
    present[ROAD][:, 3 * size // 4 : 3 * size // 4 + 6] = True
    present[WATER][size // 2 :, : size // 2] = True
    known = np.ones_like(present)
    known[PARKING] = False
    return Crop("made", image, *encode(present, known), instances, gsd_m)


def drown(crop: Crop, rng: np.random.Generator) -> Crop:
    crop.image[:] = rng.integers(0, 9)
    return crop


def test_samples_carry_the_gap_and_its_weight_and_leave_parking_unknown() -> None:
    sampler = Sampler([Source("made", [picture(200)], 1.0, (1.0, 1.0))], CLASSES, size=64, seed=3, touch_weight=5.0)
    assert sampler.channels == ("water", "road", "field", "parking")
    weights = set()
    for index in range(30):
        drawn = sampler.draw(index)
        assert drawn.image.shape == (3, 64, 64)
        assert drawn.target.shape == drawn.weight.shape == (4, 64, 64)
        assert not drawn.weight[PARKING].any()
        assert not drawn.target[drawn.weight == 0].any()
        weights |= set(np.unique(drawn.weight))
    assert weights == {0.0, 1.0, 5.0}


def test_a_boundary_is_a_channel_of_its_own_and_taken_out_of_its_class() -> None:
    sampler = Sampler([Source("made", [picture(200)], 1.0, (1.0, 1.0))], BOUNDED, size=64)
    assert sampler.channels == ("water", "road", "field", "parking", "field_boundary")
    sample = sampler.view(picture(64), Window(0, 0, 64, 64), "made")
    inside, band = sample.target[FIELD], sample.target[4]
    assert not (inside & band).any()
    assert np.array_equal(inside | band, picture(64).instances.astype(bool))
    assert np.flatnonzero(band[10]).tolist() == [19, 20, 21, 22, 40, 41]
    assert np.flatnonzero(band[:, 10]).tolist() == [30, 31]
    assert sample.weight[4].min() == 1
    assert (sample.weight[4] == sample.weight[FIELD]).all()
    assert sample.weight[FIELD].max() == sampler.touch_weight


@pytest.mark.parametrize(("gsd_m", "width"), [(0.5, 8), (1.0, 4), (2.0, 2), (4.0, 2)])
def test_a_boundary_keeps_its_width_on_the_ground_but_is_never_too_thin(gsd_m: float, width: int) -> None:
    field = TrainClass("field", 1, GREY, instances=True, boundary=True, boundary_code=2, boundary_px=2, boundary_m=4.0)
    crop = picture(96, gsd_m=gsd_m)
    crop = Crop("f", crop.image, crop.present >> FIELD & 1, crop.known >> FIELD & 1, crop.instances, gsd_m)
    sampler = Sampler([Source("made", [crop], 1.0, (gsd_m, gsd_m))], [field], size=96)
    band = sampler.view(crop, Window(0, 0, 96, 96), "made").target[1]
    assert np.flatnonzero(band[:, 10]).tolist() == list(range(48 - width, 48))


def test_a_class_whose_objects_are_merged_says_nothing_of_boundaries_inside_it() -> None:
    merged = picture(64)
    merged = Crop("merged", merged.image, merged.present, merged.known, None, 1.0)
    sampler = Sampler([Source("merged", [merged], 1.0, (1.0, 1.0))], BOUNDED, size=64)
    sample = sampler.view(merged, Window(0, 0, 64, 64), "merged")
    there = picture(64).instances > 0
    assert not sample.target[4].any()
    assert np.array_equal(sample.weight[4] == 0, there)
    assert np.array_equal(sample.target[FIELD].astype(bool), there)
    assert np.flatnonzero(sample.weight[FIELD][10] == 0).tolist() == [40, 41]


@pytest.mark.parametrize("edit", [None, drown])
def test_a_sample_is_a_function_of_seed_and_number(edit: Callable[..., Crop] | None) -> None:
    source = Source("made", [picture(150, gsd_m=0.5), picture(100, seed=2)], 1.0, (0.4, 2.0), edit=edit)
    first = Sampler([source], CLASSES, size=48, seed=5, blur_chance=0.5, blur_factor=3)
    second = pickle.loads(pickle.dumps(first))
    gsds = []
    for index in reversed(range(20)):
        a, b = first.draw(index), second.draw(index)
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.target, b.target)
        assert np.array_equal(a.weight, b.weight)
        gsds.append(a.gsd_m)
    assert 0.3 < min(gsds) < max(gsds) / 1.5 < 2.7
    other = Sampler([source], CLASSES, size=48, seed=6)
    assert not np.array_equal(other.draw(0).target, first.draw(0).target)


def test_windows_larger_than_the_picture_are_unknown_outside() -> None:
    sampler = Sampler([Source("made", [picture(40)], 1.0, (4.0, 4.0))], CLASSES, size=32, seed=1)
    assert 0 < (sampler.draw(0).weight[WATER] > 0).mean() < 0.2


def test_mosaics_fill_the_crop_and_cut_no_gaps_between_chips() -> None:
    bits = np.full((20, 22), 15, np.uint16)
    chip = Crop("field", np.zeros((20, 22, 3), np.uint8), bits & 1 << FIELD, bits, None, 0.3)
    sampler = Sampler([Source("chips", [chip], 1.0, (0.6, 0.6), mosaic=True)], CLASSES, size=40)
    for index in range(10):
        drawn = sampler.draw(index)
        assert (drawn.weight == 1).mean() > 0.98  # corners of a rotated crop may come from outside
        assert drawn.target[FIELD][drawn.weight[FIELD] > 0].all()


@pytest.mark.parametrize("classes", [CLASSES, BOUNDED])
def test_objects_that_meet_at_a_seam_are_no_neighbours(classes: list[TrainClass]) -> None:
    bits = np.full((60, 60), 15, np.uint16)
    chip = Crop("f", np.zeros((60, 60, 3), np.uint8), bits & 1 << FIELD, bits, np.full((60, 60), 1, np.uint16), 1.0)
    sampler = Sampler([Source("chips", [chip], 1.0, (1.0, 1.0), mosaic=True)], classes, size=96)
    for index in range(6):
        drawn = sampler.draw(index)
        assert set(np.unique(drawn.weight)) == {0.0, 1.0}
        assert drawn.target[FIELD][drawn.weight[FIELD] > 0].all()
        assert 0 < (drawn.weight[FIELD] == 0).mean() < 0.5
        assert (drawn.weight[WATER] > 0).mean() > 0.95
        assert not drawn.target[4:].any()


def test_sources_are_drawn_by_their_shares_and_rare_classes_come_into_view() -> None:
    known = np.full((400, 400), 15, np.uint16)
    present = np.zeros_like(known)
    present[200:204, 200:204] = 1 << PARKING
    rare = Crop("rare", picture(400).image, present, known, None, 1.0)
    sampler = Sampler(
        [Source("rare", [rare], 3.0, (1.0, 1.0), focus=1.0), Source("made", [picture()], 1.0, (1.0, 1.0))],
        CLASSES,
        size=32,
    )
    drawn = [sampler.draw(index) for index in range(80)]
    rares = [d for d in drawn if d.source == "rare"]
    assert 45 <= len(rares) <= 75
    assert np.mean([d.target[PARKING].any() for d in rares]) > 0.8


def test_surveys_count_pixels_and_find_places_in_every_window(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = picture(96)
    once = survey(whole, 4)
    assert once.pixels[FIELD].tolist() == [96 * 96, 48 * 64]
    assert once.pixels[PARKING].tolist() == [0, 0]
    assert len(once.anchors[PARKING]) == 0
    monkeypatch.setattr("geoseg.training.survey.WINDOW", 40)
    pieces = survey(whole, 4)
    assert np.array_equal(pieces.pixels, once.pixels)
    for looked in (once, pieces):
        for number in (WATER, ROAD, FIELD):
            rows, cols = looked.anchors[number].T
            assert len(rows) == ANCHORS
            assert (whole.present[rows, cols] & 1 << number).all()
            assert np.ptp(cols) >= 5


def test_impossible_samplers_are_refused() -> None:
    with pytest.raises(SettingsError, match="at least one source"):
        Sampler([Source("none", [], 1.0, (1.0, 1.0))], CLASSES)
    made = Source("made", [picture(), picture(gsd_m=2.0)], 1.0, (1.0, 1.0), mosaic=True)
    with pytest.raises(SettingsError, match="different GSD"):
        Sampler([made], CLASSES)
    with pytest.raises(SettingsError, match="1 to 16"):
        Sampler([Source("made", [picture()], 1.0, (1.0, 1.0))], CLASSES * 5)
    with pytest.raises(SettingsError, match="blur"):
        Sampler([Source("made", [picture()], 1.0, (1.0, 1.0))], CLASSES, blur_factor=0.5)

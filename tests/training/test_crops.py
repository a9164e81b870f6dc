from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geoseg.errors import SettingsError
from geoseg.lattice import Window
from geoseg.training.crops import Crop, blur, encode, planes, resize, rotate

WATER, ROAD, FIELD, PARKING = range(4)


def make(present: np.ndarray, known: np.ndarray, instances: np.ndarray | None = None, *, gsd_m: float = 1.0) -> Crop:
    image = np.zeros((*present.shape[1:], 3), np.uint8)
    return Crop("made", image, *encode(present, known), instances, gsd_m)


@given(present=arrays(np.bool_, (16, 3, 5)), known=arrays(np.bool_, (16, 3, 5)))
@settings(max_examples=40)
def test_bits_keep_what_is_known(present: np.ndarray, known: np.ndarray) -> None:
    there, seen = encode(present, known)
    assert there.dtype == seen.dtype == np.uint16
    assert np.array_equal(planes(seen, 16), known)
    assert np.array_equal(planes(there, 16), present & known)


def test_coarser_labels_follow_the_majority_of_what_is_known() -> None:
    present = np.zeros((4, 4, 8), bool)
    known = np.ones_like(present)
    present[WATER, :3, :4] = True  # 12 of 16 pixels
    present[ROAD, 0, 4:] = True  # 4 of 16
    known[PARKING, :3, :4] = False  # known in 4 of 16
    present[PARKING, 3, :4] = True
    known[FIELD, :2, 4:] = False  # known in 8 of 16, and all of that present
    present[FIELD, 2:, 4:] = True
    coarse = resize(make(present, known, gsd_m=0.5), 1, 2)
    now, seen = planes(coarse.present, 4), planes(coarse.known, 4)
    assert now[:, 0, 0].tolist() == [1, 0, 0, 0]
    assert seen[:, 0, 0].tolist() == [1, 1, 1, 0]
    assert now[:, 0, 1].tolist() == [0, 0, 1, 0]
    assert seen[:, 0, 1].tolist() == [1, 1, 1, 1]
    assert coarse.gsd_m == pytest.approx(2.0)


def test_finer_labels_keep_areas_and_places() -> None:
    rng = np.random.default_rng(0)
    present = np.kron(rng.random((4, 6, 6)) < 0.4, np.ones((1, 8, 8), bool))
    known = np.ones_like(present)
    known[PARKING] = False
    numbers = np.kron(np.arange(36).reshape(6, 6), np.ones((8, 8))).astype(np.uint16)
    fine = resize(make(present, known, numbers), 144, 144)
    assert fine.gsd_m == pytest.approx(1 / 3)
    assert fine.instances is not None
    assert set(np.unique(fine.instances)) == set(range(36))
    after = planes(fine.present, 4)
    assert np.array_equal(after[:, 1::3, 1::3], present & known)
    assert np.array_equal(planes(fine.known, 4).mean((1, 2)), known.mean((1, 2)))


@given(size=st.integers(3, 40), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_resampling_never_invents_a_class_or_knowledge(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = rng.random((4, 20, 20)) < 0.7
    present = rng.random((4, 20, 20)) < 0.5
    present[ROAD] = False
    known[PARKING] = False
    coarse = resize(make(present, known), size, size)
    now, seen = planes(coarse.present, 4), planes(coarse.known, 4)
    assert not now[ROAD].any()
    assert not seen[PARKING].any()
    assert not (now & ~seen).any()


def test_an_impossible_size_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least 1 x 1"):
        resize(make(np.zeros((1, 4, 4), bool), np.ones((1, 4, 4), bool)), 0, 5)


def test_a_window_mirrors_what_sticks_out_and_knows_nothing_of_it() -> None:
    whole = make(np.ones((1, 3, 4), bool), np.ones((1, 3, 4), bool), np.full((3, 4), 7, np.uint16))
    whole.image[...] = np.arange(12).reshape(3, 4, 1)
    cut = whole.read(Window(-2, -1, 8, 5))
    assert cut.size == (5, 8)
    assert cut.image[0, :, 0].tolist() == [1, 0, 0, 1, 2, 3, 3, 2]
    assert cut.image[4, 2:6, 0].tolist() == [8, 9, 10, 11]
    assert cut.known.sum() == cut.present.sum() == 12
    assert cut.instances is not None
    assert np.count_nonzero(cut.instances) == 12
    assert whole.read(Window(1, 1, 2, 2)).image[..., 0].tolist() == [[5, 6], [9, 10]]


@pytest.mark.parametrize("bands", [1, 3, 4, 6])
def test_geometry_takes_any_number_of_bands(bands: int) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 255, (20, 20, bands)).astype(np.uint8)
    bits = np.ones((20, 20), np.uint16)
    crop = Crop("bands", image, bits, bits, None, 1.0)
    coarse = resize(crop, 10, 10)
    assert coarse.image.shape == (10, 10, bands)
    means = image.reshape(10, 2, 10, 2, bands).mean((1, 3))
    assert np.abs(coarse.image - means).max() <= 1
    assert rotate(crop, 30.0, 14).image.shape == (14, 14, bands)
    assert blur(crop, 2.0).image.shape == image.shape


def test_blur_keeps_brightness_and_labels_and_loses_detail() -> None:
    rng = np.random.default_rng(2)
    bits = rng.integers(0, 2, (64, 64)).astype(np.uint16)
    crop = Crop("noise", rng.integers(0, 255, (64, 64, 3)).astype(np.uint8), bits, np.ones_like(bits), None, 1.0)
    soft = blur(crop, 4.0)
    assert soft.image.std() < crop.image.std() / 2
    assert soft.image.mean() == pytest.approx(crop.image.mean(), abs=1)
    assert soft.present is bits
    assert blur(crop, 1.0) is crop


def test_turning_moves_picture_and_labels_together() -> None:
    numbers = np.arange(12, dtype=np.uint16).reshape(3, 4)
    crop = Crop("t", np.repeat(numbers[..., None], 3, 2).astype(np.uint8), numbers, numbers, numbers, 1.0)
    for quarter in range(4):
        for mirror in (False, True):
            turned = crop.turn(quarter, mirror=mirror)
            assert np.array_equal(turned.image[..., 0], turned.present)
            assert np.array_equal(turned.present, turned.instances)

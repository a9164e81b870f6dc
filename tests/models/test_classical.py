from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from geoseg.errors import ModelError, SceneError
from geoseg.models import zoo
from geoseg.models.classical import Segmenter, scene_thresholds
from geoseg.models.runtimes import open_runtime

NDWI, NDVI, OTSU, MULTI = (zoo.load(name) for name in ("ndwi", "ndvi", "otsu", "multi-otsu"))


def label(card, tiles, **options):
    return open_runtime(card, runtime="torch", device="cpu", precision="fp32", halo=0, **options)(np.asarray(tiles))


def pixels_of(*pairs, dtype=np.float32):
    """One tile of 1 x n pixels with two bands."""
    return np.array(pairs, dtype).T[None, :, None, :]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_water_is_where_green_is_above_near_infrared(dtype):
    mask, confidence = label(NDWI, pixels_of((60, 20), (20, 60), (40, 40), (0, 0), (100, 0), (0, 9), dtype=dtype))
    np.testing.assert_array_equal(mask[0, 0], [1, 0, 0, 0, 1, 0])
    # NDWI 0.5 and -0.5 are halfway to the end, 0 is the threshold, nothing is known of darkness
    np.testing.assert_allclose(confidence[0, 0], [190, 190, 127, 0, 254, 254], atol=1)
    assert confidence[0, 0, 3] == 0


def test_what_is_no_reflectance_is_background_without_confidence():
    mask, confidence = label(NDWI, pixels_of((np.nan, 5), (-30, 10), (5, np.inf), (30, -10)))
    np.testing.assert_array_equal(mask[0, 0], [0, 0, 0, 1])  # the last: a ratio beyond 1 counts as 1
    np.testing.assert_array_equal(confidence[0, 0], [0, 0, 0, 254])


def test_vegetation_is_above_its_threshold_in_its_band_order():
    nir, red = 65, 35  # NDVI 0.3: not above
    mask, confidence = label(NDVI, pixels_of((nir, red), (66, 34), (34, 66), (100, 0)))
    np.testing.assert_array_equal(mask[0, 0], [0, 1, 0, 1])
    assert confidence[0, 0, 0] == 127
    assert confidence[0, 0, 3] == 254


def scene(dtype=np.uint8, factor=1):
    rng = np.random.default_rng(3)
    gray = np.concatenate([rng.normal(60, 10, 3000), rng.normal(180, 15, 2000)]).clip(0, 255)
    return np.broadcast_to((gray * factor).astype(dtype).reshape(1, 50, 100), (3, 50, 100))


def test_threshold_is_otsus():
    pixels, valid = scene(), np.ones((50, 100), bool)
    low, threshold, high = scene_thresholds(OTSU, pixels, valid)
    assert abs(threshold - threshold_otsu(pixels[0])) <= 1
    mask, confidence = label(OTSU, pixels[None], thresholds=(low, threshold, high))
    assert np.array_equal(mask[0] == 2, pixels[0] > threshold)
    assert set(np.unique(mask)) == {1, 2}
    assert confidence[0][pixels[0] >= high].min() == 254
    assert confidence.min() >= 127


@pytest.mark.parametrize(("dtype", "factor"), [(np.uint16, 20), (np.float32, 0.001), (np.int16, 100)])
def test_any_dtype_divides_alike(dtype, factor):
    valid = np.ones((50, 100), bool)
    masks = [
        label(OTSU, pixels[None], thresholds=scene_thresholds(OTSU, pixels, valid))[0]
        for pixels in (scene(np.float64), scene(dtype, factor).astype(np.float64))
    ]
    assert (masks[0] == masks[1]).mean() > 0.995


def test_what_is_not_valid_does_not_count():
    pixels, valid = scene().copy(), np.ones((50, 100), bool)
    expected = scene_thresholds(OTSU, pixels, valid)
    wide = np.concatenate([pixels, np.full((3, 50, 100), 255, np.uint8)], axis=1)
    assert scene_thresholds(OTSU, wide, np.concatenate([valid, ~valid])) == expected


def test_several_thresholds():
    rng = np.random.default_rng(5)
    gray = np.concatenate([rng.normal(middle, 8, 1000) for middle in (40, 120, 210)]).reshape(1, 30, 100)
    pixels, valid = np.repeat(gray, 3, axis=0), np.ones((30, 100), bool)
    found = scene_thresholds(MULTI, pixels, valid)
    assert 60 < found[1] < 100
    assert 140 < found[2] < 190
    levels = np.array([[found[0], 40, found[1], (found[1] + found[2]) / 2, found[2], 210, found[3]]])
    mask, confidence = label(MULTI, np.repeat(levels[None, None], 3, axis=1), thresholds=found)
    np.testing.assert_array_equal(mask[0, 0], [1, 1, 1, 2, 2, 3, 3])
    np.testing.assert_allclose(confidence[0, 0, [0, 2, 3, 4, 6]], [254, 127, 254, 127, 254], atol=1)


def test_scores_of_gray_levels_are_shares():
    found = scene_thresholds(MULTI, scene(), np.ones((50, 100), bool))
    scores, known, picture = Segmenter(MULTI, found)(scene()[None])
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    assert known.all()
    assert picture.min() >= 0
    assert picture.max() <= 255


@pytest.mark.parametrize("refine", ["guided", "crf"])
@pytest.mark.parametrize("card", [NDWI, MULTI], ids=lambda card: card.name)
def test_scores_are_refined(card, refine):
    tiles = np.random.default_rng(1).integers(0, 255, (1, card.channels, 48, 48)).astype(np.uint8)
    thresholds = scene_thresholds(card, tiles[0], np.ones((48, 48), bool))
    rough, _ = label(card, tiles, thresholds=thresholds)
    mask, _ = label(card, tiles, thresholds=thresholds, refine=refine)
    assert set(np.unique(mask)) <= set(np.unique(rough))
    assert (mask != rough).any()


def test_tiles_alone_need_no_thresholds_and_gray_levels_do():
    assert scene_thresholds(NDWI, scene()[:2], np.ones((50, 100), bool)) is None
    assert scene_thresholds(zoo.load("town"), scene(), np.ones((50, 100), bool)) is None
    with pytest.raises(ModelError, match="needs the thresholds of the whole scene"):
        label(OTSU, scene()[None])


@pytest.mark.parametrize("value", [0, 7])
def test_scene_of_one_gray_level_is_refused_in_one_line(value):
    with pytest.raises(SceneError, match="divides at least 2") as caught:
        scene_thresholds(OTSU, np.full((3, 5, 5), value, np.uint8), np.ones((5, 5), bool))
    assert "\n" not in str(caught.value)
    with pytest.raises(SceneError, match="0 gray levels"):
        scene_thresholds(OTSU, np.full((3, 5, 5), value, np.uint8), np.zeros((5, 5), bool))


@pytest.mark.parametrize(
    ("card", "change", "message"),
    [
        (NDWI, {"thresholds": ()}, "one threshold"),
        (NDWI, {"bands": ("green", "nir", "red")}, "two bands"),
        (OTSU, {"architecture": "otsu-9"}, "expected otsu-2 to otsu-4"),
        (OTSU, {"architecture": "otsu-3"}, "2 classes"),
        (OTSU, {"bands": ("red", "green")}, "gray levels take one"),
    ],
)
def test_cards_that_do_not_fit_their_rule_are_refused(card, change, message):
    with pytest.raises(ModelError, match=message):
        Segmenter(replace(card, **change), (0.0, 1.0, 2.0))

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from shapely.geometry import box

from geoseg.errors import SettingsError
from geoseg.training.datasets import (
    Example,
    Sampler,
    Source,
    augment,
    encode,
    load_dubai,
    load_fields_naip,
    load_rendered,
    load_ucmerced,
    paste_ponds,
    planes,
    rescale,
    save_rendered,
    separate_fields,
)

WATER, ROAD, FIELD, PARKING = range(4)


def example(size: int = 96, *, gsd_m: float = 1.0, seed: int = 0) -> Example:
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
    return Example("made", image, encode(present, known), instances, gsd_m)


@given(
    present=arrays(np.bool_, (4, 3, 5)),
    known=arrays(np.bool_, (4, 3, 5)),
)
@settings(max_examples=40)
def test_label_bytes_keep_what_is_known(present: np.ndarray, known: np.ndarray) -> None:
    back_present, back_known = planes(encode(present, known))
    assert np.array_equal(back_known, known)
    assert np.array_equal(back_present, present & known)


def test_coarser_labels_follow_the_majority_of_what_is_known() -> None:
    present = np.zeros((4, 4, 8), bool)
    known = np.ones_like(present)
    present[WATER, :3, :4] = True  # 12 of 16 pixels
    present[ROAD, 0, 4:] = True  # 4 of 16
    known[PARKING, :3, :4] = False  # known in 4 of 16
    present[PARKING, 3, :4] = True
    known[FIELD, :2, 4:] = False  # known in 8 of 16, and all of that present
    present[FIELD, 2:, 4:] = True
    made = Example("made", np.zeros((4, 8, 3), np.uint8), encode(present, known), None, 0.5)
    coarse = rescale(made, 1, 2)
    now, seen = planes(coarse.labels)
    assert now[:, 0, 0].tolist() == [1, 0, 0, 0]
    assert seen[:, 0, 0].tolist() == [1, 1, 1, 0]
    assert now[:, 0, 1].tolist() == [0, 0, 1, 0]
    assert seen[:, 0, 1].tolist() == [1, 1, 1, 1]
    assert coarse.gsd_m == pytest.approx(2.0)


def test_finer_labels_keep_areas_and_places() -> None:
    made = example(48)
    fine = rescale(made, 144, 144)
    before, known_before = planes(made.labels)
    after, known_after = planes(fine.labels)
    assert fine.gsd_m == pytest.approx(1 / 3)
    assert fine.instances is not None
    assert set(np.unique(fine.instances)) == {0, 1, 2}
    for number in range(4):
        assert after[number].mean() == pytest.approx(before[number].mean(), abs=0.01)
        assert known_after[number].mean() == known_before[number].mean()
    middle = after[:, 1::3, 1::3]
    assert np.array_equal(middle, before)


@given(size=st.integers(3, 40), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_rescaling_never_invents_a_class_or_knowledge(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = rng.random((4, 20, 20)) < 0.7
    present = rng.random((4, 20, 20)) < 0.5
    present[ROAD] = False
    known[PARKING] = False
    made = Example("made", np.zeros((20, 20, 3), np.uint8), encode(present, known), None, 1.0)
    now, seen = planes(rescale(made, size, size).labels)
    assert not now[ROAD].any()
    assert not seen[PARKING].any()
    assert not (now & ~seen).any()


def test_an_impossible_size_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least 1 x 1"):
        rescale(example(), 0, 5)


def test_touching_fields_get_a_gap_of_two_pixels_and_others_none() -> None:
    instances = np.zeros((9, 20), np.uint16)
    instances[:, 2:10] = 7
    instances[:, 10:15] = 3
    instances[4:, 17:] = 9  # two pixels of ground between
    gap, close = separate_fields(instances)
    assert np.flatnonzero(gap[0]).tolist() == [9, 10]
    assert np.flatnonzero(gap[8]).tolist() == [9, 10]
    assert np.flatnonzero(close[8]).tolist() == [8, 9, 10, 11, 15, 16]
    only, _ = separate_fields((instances > 0).astype(np.uint16))
    assert not only.any()


def test_crops_carry_the_gap_and_its_weight_and_leave_parking_unknown() -> None:
    sampler = Sampler([Source("made", [example(200)], 1.0, (1.0, 1.0))], size=64, seed=3, gap_weight=5.0)
    weights = set()
    for _ in range(30):
        drawn = sampler.draw()
        assert drawn.image.shape == (3, 64, 64)
        assert drawn.target.shape == drawn.weight.shape == (4, 64, 64)
        assert not drawn.weight[PARKING].any()
        assert not drawn.target[drawn.weight == 0].any()
        heavy = drawn.weight[FIELD] == 5.0
        assert heavy.any() == (drawn.weight[FIELD] > 1).any()
        weights |= set(np.unique(drawn.weight))
    assert weights == {0.0, 1.0, 5.0}


def test_same_seed_draws_the_same_and_gsd_stays_in_range() -> None:
    source = Source("made", [example(150, gsd_m=0.5), example(100, seed=2)], 1.0, (0.4, 2.0), ponds=0.5)
    first, second = (Sampler([source], size=48, seed=5) for _ in range(2))
    gsds = []
    for _ in range(20):
        a, b = first.draw(), second.draw()
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.target, b.target)
        assert np.array_equal(a.weight, b.weight)
        gsds.append(a.gsd_m)
    assert min(gsds) > 0.3
    assert max(gsds) < 2.7
    assert max(gsds) > 1.5 * min(gsds)


def test_windows_larger_than_the_image_are_unknown_outside() -> None:
    sampler = Sampler([Source("made", [example(40)], 1.0, (4.0, 4.0))], size=32, seed=1)
    drawn = sampler.draw()
    assert 0 < (drawn.weight[WATER] > 0).mean() < 0.2


def test_mosaics_fill_the_crop_and_cut_no_gaps_between_chips() -> None:
    field = Example("field", np.zeros((20, 22, 3), np.uint8), np.full((20, 22), 0xF0 | 1 << FIELD, np.uint8), None, 0.3)
    sampler = Sampler([Source("chips", [field], 1.0, (0.6, 0.6), mosaic=True)], size=40, seed=0)
    for _ in range(10):
        drawn = sampler.draw()
        assert (drawn.weight == 1).mean() > 0.98  # corners of a rotated crop may come from outside
        assert drawn.target[FIELD][drawn.weight[FIELD] > 0].all()


def test_sources_are_drawn_by_their_shares_and_rare_classes_come_into_view() -> None:
    rare = example(400)
    labels = np.full((400, 400), 0xF0, np.uint8)
    labels[200:204, 200:204] |= 1 << PARKING
    rare = Example("rare", rare.image, labels, None, 1.0)
    sampler = Sampler(
        [Source("rare", [rare], 3.0, (1.0, 1.0), focus=1.0), Source("made", [example()], 1.0, (1.0, 1.0))], size=32
    )
    drawn = [sampler.draw() for _ in range(80)]
    rares = [d for d in drawn if d.source == "rare"]
    assert 45 <= len(rares) <= 75
    assert np.mean([d.target[PARKING].any() for d in rares]) > 0.8


def test_ponds_are_water_and_known() -> None:
    made = example(128)
    assert made.instances is not None
    drowned = 0
    for seed in range(8):
        pond = paste_ponds(made, np.random.default_rng(seed))
        changed = pond.labels != made.labels
        assert changed.any()
        assert (pond.labels[changed] == (0xF0 | 1 << WATER)).all()
        assert pond.instances is not None
        assert not pond.instances[changed].any()
        drowned += np.count_nonzero(made.instances[changed])
    assert drowned > 0


@given(seed=st.integers(0, 500))
@settings(max_examples=25)
def test_augmentation_keeps_shape_kind_and_layout(seed: int) -> None:
    image = np.zeros((24, 24, 3), np.uint8)
    image[:, 12:] = 200
    result = augment(image, np.random.default_rng(seed))
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    assert result[:, 16:].mean() > result[:, :8].mean()


def write_palette(path: Path, codes: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(codes)
    mask.putpalette([9, 9, 9, 0, 0, 255, 255, 0, 0] + [7, 7, 7] * 253)
    mask.save(path)


def write_jpeg(path: Path, shape: tuple[int, int], rgb: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*shape, 3), rgb, np.uint8)).save(path, quality=95)


def test_reading_fields_naip(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "images" / "a.jpg", (6, 8), (200, 30, 10))
    codes = np.zeros((6, 8), np.uint8)
    codes[0], codes[1], codes[2] = 1, 2, 255
    write_palette(tmp_path / "water_roads" / "a.png", codes)
    instances = np.zeros((6, 8), np.uint16)
    instances[2:5, :4] = 300
    (tmp_path / "instances").mkdir()
    cv2.imwrite(str(tmp_path / "instances" / "a.png"), instances)
    (tmp_path / "meta.json").write_text(json.dumps({"a": {"gsd_m": 1.95}}))
    (tmp_path / "split.json").write_text(json.dumps({"train": ["a"], "test": []}))
    (read,) = load_fields_naip(tmp_path, "train")
    assert read.gsd_m == 1.95
    assert read.image[0, 0, 0] > 150 > read.image[0, 0, 2]  # red first
    assert read.instances is not None
    assert read.instances.max() == 300
    present, known = planes(read.labels)
    assert present[:, 0, 0].tolist() == [1, 0, 0, 0]
    assert present[:, 1, 0].tolist() == [0, 1, 0, 0]
    assert known[:, 2, 0].tolist() == [0, 0, 1, 1]  # unsure water and road, but a field, so no parking
    assert known[:, 2, 7].tolist() == [0, 0, 1, 0]
    assert present[:, 3, 0].tolist() == [0, 0, 1, 0]
    assert load_fields_naip(tmp_path, "test") == []


def test_reading_dubai(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "images" / "a.jpg", (2, 6), (90, 90, 90))
    write_palette(tmp_path / "masks" / "a.png", np.array([[0, 1, 2, 3, 4, 5]] * 2, np.uint8))
    (tmp_path / "split.json").write_text(json.dumps({"train": [], "test": ["a"]}))
    (read,) = load_dubai(tmp_path, "test")
    present, known = planes(read.labels)
    assert present[WATER, 0].tolist() == [0, 1, 0, 0, 0, 0]
    assert present[ROAD, 0].tolist() == [0, 0, 1, 0, 0, 0]
    assert not present[[FIELD, PARKING]].any()
    assert known[WATER, 0].tolist() == known[ROAD, 0].tolist() == [0, 1, 1, 1, 1, 1]
    assert known[FIELD, 0].tolist() == [0, 1, 1, 1, 0, 1]
    assert known[PARKING, 0].tolist() == [0, 1, 0, 1, 1, 0]


def test_reading_dubai_takes_remote_land_as_free_of_lots(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "images" / "a.jpg", (3, 100), (90, 90, 90))
    codes = np.full((3, 100), 5, np.uint8)
    codes[:, 0] = 2
    write_palette(tmp_path / "masks" / "a.png", codes)
    (tmp_path / "split.json").write_text(json.dumps({"train": ["a"]}))
    (read,) = load_dubai(tmp_path, "train", gsd_m=2.0)
    assert np.flatnonzero(planes(read.labels)[1][PARKING, 0]).min() in (20, 21, 22)


def test_reading_ucmerced_skips_chips_without_a_mask_but_takes_the_wild(tmp_path: Path) -> None:
    for name in ("river/river00", "river/river01", "forest/forest07"):
        write_jpeg((tmp_path / name).with_suffix(".jpg"), (5, 5), (1, 2, 3))
    write_palette(tmp_path / "masks" / "river" / "river01.png", np.array([[0, 1, 2, 3, 4], [255] * 5] * 2, np.uint8))
    names = ["river/river00.jpg", "river/river01.jpg", "forest/forest07.jpg"]
    (tmp_path / "split.json").write_text(json.dumps({"train": names, "test": names}))
    assert len(load_ucmerced(tmp_path, "test")) == 1
    read, wild = load_ucmerced(tmp_path, "train")
    present, known = planes(wild.labels)
    assert not present.any()
    assert known[:, 2, 2].tolist() == [1, 0, 1, 1]
    present, known = planes(read.labels)
    assert present[:, 0].T.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert known[:, 0].all()
    assert not known[:, 1].any()


def test_rendered_scenes_survive_the_disk(tmp_path: Path) -> None:
    mask = np.zeros((12, 12), np.uint8)
    mask[2:10, 1:11] = 3
    mask[5] = 2
    image = np.arange(432, dtype=np.uint8).reshape(3, 12, 12)
    fields = [box(1, 2, 6, 10), box(6, 2, 11, 10)]
    save_rendered(tmp_path / "s.npz", image=image, mask=mask, fields=fields, gsd_m=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"]
    (read,) = load_rendered([tmp_path / "s.npz"])
    assert np.array_equal(read.image.transpose(2, 0, 1), image)
    present, known = planes(read.labels)
    assert known.all()
    assert np.array_equal(present[FIELD], mask == 3)
    assert read.instances is not None
    assert (read.instances[5] == 0).all()
    assert read.instances[3, 1:11].tolist() == [1] * 5 + [2] * 5


def test_missing_files_and_empty_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="train and test"):
        load_dubai(tmp_path, "train")
    (tmp_path / "split.json").write_text(json.dumps({"train": ["a"]}))
    with pytest.raises(SettingsError, match="own layout"):
        load_dubai(tmp_path, "train")
    with pytest.raises(SettingsError, match="at least one source"):
        Sampler([Source("none", [], 1.0, (1.0, 1.0))])

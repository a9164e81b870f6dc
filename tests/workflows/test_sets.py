"""The readers of the sets that the default models learn from."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from PIL import Image
from shapely.geometry import box

from geoseg.errors import InputError
from geoseg.training.crops import Crop, encode, planes

sys.path.append(str(Path(__file__).parents[2] / "workflows" / "default_models"))

import sets
from sets import (
    VALID_FIELDS,
    Ponds,
    load_dubai,
    load_fields_naip,
    load_landcover_s2,
    load_rendered,
    load_ucmerced,
    load_ucmerced_drawn,
    load_ucmerced_without,
    load_vehicles_kit,
    save_rendered,
)

CLASSES = ("water", "road", "field", "parking")
WATER, ROAD, FIELD, PARKING = range(4)


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
    (tmp_path / "split.json").write_text(json.dumps({"train": ["a", *VALID_FIELDS], "test": []}))
    (read,) = load_fields_naip(tmp_path, "train", CLASSES)
    assert read.gsd_m == 1.95
    assert read.image[0, 0, 0] > 150 > read.image[0, 0, 2]  # red first
    assert read.instances is not None
    assert read.instances.max() == 300
    present, known = planes(read.present, 4), planes(read.known, 4)
    assert present[:, 0, 0].tolist() == [1, 0, 0, 0]
    assert present[:, 1, 0].tolist() == [0, 1, 0, 0]
    assert known[:, 2, 0].tolist() == [0, 0, 1, 1]  # unsure water and road, but a field, so no parking
    assert known[:, 2, 7].tolist() == [0, 0, 1, 0]
    assert present[:, 3, 0].tolist() == [0, 0, 1, 0]
    assert load_fields_naip(tmp_path, "test", CLASSES) == []


def test_reading_dubai(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "images" / "a.jpg", (2, 6), (90, 90, 90))
    write_palette(tmp_path / "masks" / "a.png", np.array([[0, 1, 2, 3, 4, 5]] * 2, np.uint8))
    (tmp_path / "split.json").write_text(json.dumps({"train": [], "test": ["a"]}))
    (read,) = load_dubai(tmp_path, "test", CLASSES)
    present, known = planes(read.present, 4), planes(read.known, 4)
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
    (read,) = load_dubai(tmp_path, "train", CLASSES, gsd_m=2.0)
    assert np.flatnonzero(planes(read.known, 4)[PARKING, 0]).min() in (20, 21, 22)


def test_reading_ucmerced_skips_chips_without_a_mask_but_takes_the_wild(tmp_path: Path) -> None:
    for name in ("river/river00", "river/river01", "forest/forest07"):
        write_jpeg((tmp_path / name).with_suffix(".jpg"), (5, 5), (1, 2, 3))
    write_palette(tmp_path / "masks" / "river" / "river01.png", np.array([[0, 1, 2, 3, 4], [255] * 5] * 2, np.uint8))
    names = ["river/river00.jpg", "river/river01.jpg", "forest/forest07.jpg"]
    (tmp_path / "split.json").write_text(json.dumps({"train": names, "test": names}))
    assert len(load_ucmerced(tmp_path, "test", CLASSES)) == 1
    read, wild = load_ucmerced(tmp_path, "train", CLASSES)
    present, known = planes(wild.present, 4), planes(wild.known, 4)
    assert not present.any()
    assert known[:, 2, 2].tolist() == [1, 0, 1, 1]
    present, known = planes(read.present, 4), planes(read.known, 4)
    assert present[:, 0].T.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert known[:, 0].all()
    assert not known[:, 1].any()


def test_drawn_water_lies_on_images_that_have_no_other_label() -> None:
    drawn = Path(sets.__file__).parent / "drawn"
    chips, scenes = (json.loads((drawn / f"{name}_water.json").read_text()) for name in ("ucmerced", "landcover_s2"))
    assert len(chips) == 207
    assert len(scenes) == 30
    for rings in (*chips.values(), *scenes.values()):
        assert set(rings) <= {"water", "holes", "unsure"}
        side = 512 if rings in scenes.values() else 257
        for ring in (ring for part in rings.values() for ring in part):
            assert len(ring) >= 3
            assert all(0 <= place <= side for point in ring for place in point)


def test_reading_drawn_water(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    square = [[0, 0], [4, 0], [4, 4], [0, 4]]
    rings = {
        "water": [square],
        "holes": [[[0, 0], [1, 0], [1, 1], [0, 1]]],
        "unsure": [[[3, 0], [6, 0], [6, 1], [3, 1]]],
    }
    monkeypatch.setattr("sets._DRAWN", tmp_path)
    (tmp_path / "ucmerced_water.json").write_text(json.dumps({"river/river30": rings, "golf/golf01": {}}))
    (tmp_path / "landcover_s2_water.json").write_text(json.dumps({"a": rings}))
    for name in ("river/river30.jpg", "golf/golf01.jpg"):
        write_jpeg(tmp_path / name, (6, 6), (200, 30, 10))
    (tmp_path / "images").mkdir()
    place = rasterio.Affine(10, 0, 0, 0, -10, 0)
    with rasterio.open(tmp_path / "images" / "a.tif", "w", "GTiff", 6, 6, 4, None, place, "uint8") as raster:
        raster.write(np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((6, 6), np.uint8))
    river, dry = load_ucmerced_drawn(tmp_path, CLASSES)
    (scene,) = load_landcover_s2(tmp_path, CLASSES)
    assert scene.gsd_m == 10
    assert scene.image[0, 0].tolist() == [2, 1, 0]
    for read in (river, scene):
        present, known = planes(read.present, 4), planes(read.known, 4)
        assert present[WATER].tolist() == [
            [0, 1, 1, 0, 0, 0],
            *[[1, 1, 1, 1, 0, 0]] * 3,
            *[[0] * 6] * 2,
        ]
        assert known[WATER, 0].tolist() == [1, 1, 1, 0, 0, 0]
        assert known[WATER, 1:].all()
        assert not known[[ROAD, PARKING]].any()
    assert not planes(dry.present, 4).any()
    assert planes(dry.known, 4)[[WATER, FIELD]].all()
    assert not planes(scene.known, 4)[FIELD].any()


def test_rendered_scenes_survive_the_disk(tmp_path: Path) -> None:
    mask = np.zeros((12, 12), np.uint8)
    mask[2:10, 1:11] = 3
    mask[5] = 2
    image = np.arange(432, dtype=np.uint8).reshape(3, 12, 12)
    fields = [box(1, 2, 6, 10), box(6, 2, 11, 10)]
    save_rendered(tmp_path / "s.npz", image=image, mask=mask, fields=fields, gsd_m=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"]
    (read,) = load_rendered([tmp_path / "s.npz"], CLASSES)
    assert np.array_equal(read.image.transpose(2, 0, 1), image)
    present, known = planes(read.present, 4), planes(read.known, 4)
    assert known.all()
    assert np.array_equal(present[FIELD], mask == 3)
    assert read.instances is not None
    assert (read.instances[5] == 0).all()
    assert read.instances[3, 1:11].tolist() == [1] * 5 + [2] * 5


def test_boxes_become_ellipses_and_cut_vehicles_unknown(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "images" / "a.jpg", (120, 160), (90, 90, 90))
    (tmp_path / "boxes.json").write_text(json.dumps({"a.jpg": [[60, 50, 100, 70], [0, 0, 20, 12]]}))
    (tmp_path / "split.json").write_text(json.dumps({"train": ["a.jpg"]}))
    (read,) = load_vehicles_kit(tmp_path, "train", ("vehicle", "water"))
    assert read.present[60, 80] == read.known[60, 80] == 1
    assert read.present[50, 60] == 0
    assert read.present[6, 10] == read.known[6, 10] == 1
    assert read.known[40, 5] == 0
    assert (read.known[80:90, 30:100] == 1).all()
    assert 0.4 < read.present[40:].sum() / 800 < 0.65


def test_chips_say_by_their_kind_what_they_do_not_show(tmp_path: Path) -> None:
    for name in ("runway/runway00", "runway/runway01", "river/river00"):
        write_jpeg((tmp_path / name).with_suffix(".jpg"), (5, 5), (1, 2, 3))
    write_palette(tmp_path / "masks" / "runway" / "runway01.png", np.zeros((5, 5), np.uint8))
    names = ["runway/runway00.jpg", "runway/runway01.jpg", "river/river00.jpg"]
    (tmp_path / "split.json").write_text(json.dumps({"train": names}))
    (read,) = load_ucmerced_without(tmp_path, "train", CLASSES, {"runway": ("water", "parking")})
    assert not read.present.any()
    assert planes(read.known, 4)[:, 0, 0].tolist() == [1, 0, 0, 1]


def test_ponds_are_water_and_known() -> None:
    rng = np.random.default_rng(0)
    present = np.zeros((4, 128, 128), bool)
    known = np.ones_like(present)
    known[PARKING] = False
    present[FIELD, :64] = True
    image = rng.integers(0, 255, (128, 128, 3)).astype(np.uint8)
    made = Crop("made", image, *encode(present, known), present[FIELD].astype(np.uint16), 1.0)
    ponds = pickle.loads(pickle.dumps(Ponds(1.0, WATER, 4)))
    drowned = 0
    for seed in range(8):
        pond = ponds(made, np.random.default_rng(seed))
        changed = pond.known != made.known
        assert changed.any()
        assert (pond.present[changed] == 1 << WATER).all()
        assert pond.instances is not None
        assert not pond.instances[changed].any()
        drowned += np.count_nonzero(made.instances[changed])
    assert drowned > 0
    assert Ponds(0.0, WATER, 4)(made, rng) is made


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train and test"):
        load_dubai(tmp_path, "train", CLASSES)
    (tmp_path / "split.json").write_text(json.dumps({"train": ["a"]}))
    with pytest.raises(InputError, match="own layout"):
        load_dubai(tmp_path, "train", CLASSES)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from geoseg.errors import InputError, SettingsError
from geoseg.training.config import read_config

SET = {"images": "images", "polygons": "labels.gpkg"}
LEAST: dict[str, Any] = {"name": "ponds", "classes": ["water"], "gsd_range_m": [0.5, 1], "steps": 10, "data": [SET]}


def test_the_least_configuration_has_defaults() -> None:
    config = read_config(LEAST)
    assert config.architecture == "unet-tf_efficientnet_lite0"
    assert config.bands == ("red", "green", "blue")
    assert config.channels == ("water",)
    assert (config.classes[0].code, config.encoder, config.card, config.minutes) == (1, "imagenet", None, None)
    assert (config.tile, config.halo) == (1536, 256)
    assert config.data[0].name == "set 1"
    assert config.data[0].annotates == ("water",)
    assert config.data[0].unknown == (255,)


def test_classes_get_codes_and_boundaries_theirs() -> None:
    classes = [
        "water",
        {"name": "field", "boundary": True, "boundary_px": 3, "boundary_m": 4},
        {"name": "lot", "code": 1},
    ]
    config = read_config(LEAST | {"classes": classes})
    assert [(entry.code, entry.boundary_code) for entry in config.classes] == [(2, 0), (3, 4), (1, 0)]
    assert config.classes[1].instances
    assert config.channels == ("water", "field", "lot", "field_boundary")
    same = read_config(
        LEAST | {"classes": {"water": None, "field": {"boundary": True, "boundary_px": 3, "boundary_m": 4.0}}}
    )
    assert same.channels == ("water", "field", "field_boundary")


def test_yaml_and_python_say_the_same_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "name: ponds\nclasses: [water]\ngsd_range_m: [0.5, 1]\nsteps: 10\nlearning_rate: 1e-3\n"
        "data:\n  - {images: images, polygons: labels.gpkg}\n"
    )
    (tmp_path / "a.py").write_text(f"CONFIG = {LEAST | {'learning_rate': 1e-3}!r}\n")
    first, second = read_config(tmp_path / "a.yaml"), read_config(str(tmp_path / "a.py"))
    assert first == second
    assert first.folder == tmp_path
    assert first.learning_rate == 1e-3
    assert first.identity() == read_config(LEAST | {"learning_rate": 1e-3}).identity()


def test_a_set_annotates_what_its_labels_tell_of() -> None:
    classes = {"classes": ["water", "road", "field"]}
    masks = {"images": "i", "labels": "masks", "codes": {1: "water", 7: "field"}}
    assert read_config(LEAST | classes | {"data": [masks]}).data[0].annotates == ("water", "field")
    one = SET | {"class": "road"}
    assert read_config(LEAST | classes | {"data": [one]}).data[0].annotates == ("road",)
    assert read_config(LEAST | classes).data[0].annotates == ("water", "road", "field")
    empty = {"images": "i", "annotates": ["water"]}
    assert read_config(LEAST | classes | {"data": [empty]}).data[0].annotates == ("water",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gsd_rang_m": [1, 2]}, "unknown key gsd_rang_m; did you mean gsd_range_m?"),
        ({"gsd_range_m": None}, "gsd_range_m is missing"),
        ({"gsd_range_m": [2, 1]}, r"expected \[low, high\]"),
        ({"minutes": 5}, "steps or as minutes"),
        ({"steps": None}, "steps or as minutes"),
        ({"steps": 0}, "steps is 0; expected a number from 1"),
        ({"crop": 100}, "crop is 100; expected a multiple of 32"),
        ({"tile": 100}, "tile is 100; expected a multiple of 32"),
        ({"halo": 40}, "halo is 40; expected a multiple of 32"),
        ({"tile": 512}, "tile is 512 and halo 256; expected a tile larger than two halos"),
        ({"name": "../x"}, "name is '../x'"),
        ({"classes": []}, "1 to 16 classes"),
        ({"classes": ["a b"]}, "letters, digits"),
        ({"classes": [{"name": "a", "code": 300}]}, "code is 300"),
        ({"classes": [{"name": "a", "code": 1}, {"name": "b", "code": 1}]}, "no code twice"),
        ({"classes": [{"name": "a", "boundary": True, "instances": False}]}, "boundary without instances"),
        ({"classes": [{"name": "a", "color": [1, 2, 3]}]}, "unknown key color; did you mean colour?"),
        ({"classes": [{"name": "a", "colour": [1, 2, 300]}]}, "0-255"),
        ({"augment": "much"}, "none, light, strong"),
        ({"losses": {"ce": -1}}, "losses"),
        ({"validation": 1.5}, "validation is 1.5"),
        ({"encoder": {"crad": "x"}}, "card is missing; you wrote crad"),
        ({"encoder": 7}, "encoder is 7"),
        ({"blur": {"chance": 2}}, "chance is 2"),
        ({"data": []}, "data is"),
        ({"data": ["images"]}, r"data\[0\]: 'images' is no mapping"),
        ({"data": [{"polygons": "x"}]}, r"data\[0\]: images is missing"),
        ({"data": [SET | {"labels": "masks"}]}, "both labels and polygons"),
        ({"data": [{"images": "i", "labels": "masks"}]}, "no codes"),
        ({"data": [{"images": "i", "labels": "m", "codes": {1: "lake"}}]}, "'lake', but classes are water"),
        ({"data": [{"images": "i", "labels": "m", "codes": {"one": "water"}}]}, "codes 0-255"),
        ({"data": [{"images": "i"}]}, "neither labels nor polygons"),
        ({"data": [SET | {"gsd_m": 0.3}]}, "gsd_m is for images without a place"),
        ({"data": [SET | {"mosaic": "yes please"}]}, "true or false"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        read_config(LEAST | change)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_configuration_are_refused(tmp_path: Path) -> None:
    for name, text, message in (
        ("a.yaml", "a: [1", "no readable YAML"),
        ("b.py", "1 / 0", "ZeroDivisionError"),
        ("c.py", "X = 1", "no CONFIG"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message):
            read_config(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        read_config(tmp_path / "none.yaml")

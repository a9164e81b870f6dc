"""Which model finds which class, by bands, GSD and preference."""

from __future__ import annotations

import numpy as np
import pytest

from geoseg import Card, RunSettings, Scene
from geoseg.engine.choice import choose_models
from geoseg.errors import InputError
from geoseg.models import zoo


@pytest.fixture(scope="session")
def cards(write_card):
    """Paths of three models as they may be shipped, the most preferred first."""
    return {
        "town": write_card("town", gsd_m=(0.3, 1.2), classes=("water", "road", "parking", "roof")),
        "landscape": write_card("landscape", gsd_m=(1, 5), classes=("water", "road", "field", "hedge")),
        "vehicle": write_card("vehicle", gsd_m=(0.3, 0.3), classes=("vehicle", "bus", "plane", "ship")),
    }


@pytest.fixture
def shipped(cards, monkeypatch):
    monkeypatch.setattr(zoo, "automatic", lambda: [Card.read(path) for path in cards.values()])


@pytest.fixture(scope="session")
def scene(write_scene):
    """Returns a function that gives a small scene of some GSD."""

    def make(gsd_m: float, *, bands: int = 3, dtype: str = "uint8") -> Scene:
        pixels = np.full((bands, 20, 30), 90, dtype)
        options = {"photometric": "RGB"} if bands == 3 else {"photometric": "MINISBLACK", "alpha": "NO"}
        return Scene.open(write_scene(pixels, f"{dtype}-{bands}-{gsd_m}", gsd_m=gsd_m, **options))

    return make


def chosen(scene: Scene, **settings) -> dict[str, tuple[str, ...]]:
    """Classes and working GSD by model."""
    choices, _ = choose_models(scene, RunSettings(**settings))
    return {choice.card.name: (*choice.codes, round(choice.grid.gsd_m, 3)) for choice in choices}


VEHICLES = ("vehicle", "bus", "plane", "ship")


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("gsd_m", "expected"),
    [
        (
            0.1,
            {
                "town": ("water", "road", "parking", "roof", 0.3),
                "landscape": ("field", "hedge", 1),
                "vehicle": (*VEHICLES, 0.3),
            },
        ),
        (
            0.31,  # what is nearly the range is in it
            {
                "town": ("water", "road", "parking", "roof", 0.31),
                "landscape": ("field", "hedge", 1),
                "vehicle": (*VEHICLES, 0.31),
            },
        ),
        (
            0.6,
            {
                "town": ("water", "road", "parking", "roof", 0.6),
                "landscape": ("field", "hedge", 1),
                "vehicle": (*VEHICLES, 0.3),
            },
        ),
        (1, {"town": ("water", "road", "parking", "roof", 1), "landscape": ("field", "hedge", 1)}),
        (2, {"town": ("parking", "roof", 1.2), "landscape": ("water", "road", "field", "hedge", 2)}),
        (4, {"landscape": ("water", "road", "field", "hedge", 4)}),
        (10, {"landscape": ("water", "road", "field", "hedge", 5)}),
    ],
)
def test_each_class_goes_to_the_model_that_fits(scene, gsd_m, expected):
    assert chosen(scene(gsd_m)) == expected


@pytest.mark.usefixtures("shipped")
def test_classes_restrict_to_the_models_that_are_needed(scene):
    assert chosen(scene(1), classes=("field",)) == {"landscape": ("field", 1)}
    assert chosen(scene(1), classes=("field", "road")) == {"town": ("road", 1), "landscape": ("field", 1)}


@pytest.mark.usefixtures("shipped")
def test_notes_say_what_is_missing_and_why(scene):
    _, notes = choose_models(scene(4), RunSettings())
    found = {note.split(":")[0] for note in notes}
    assert found == {f"no {name}" for name in ("parking", "roof", *VEHICLES)}
    assert all("GSD of 4 m" in note for note in notes)
    _, notes = choose_models(scene(2), RunSettings(classes=("parking",)))
    assert notes == ["the scene's GSD of 2 m is outside the 0.3-1.2 m of model town: read and mapped at 1.2 m"]


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("gsd_m", "settings", "message"),
    [
        (
            4,
            {"classes": ("water", "parking")},
            r"no model can find parking here: .*GSD of 4 m; model town.*0\.3-1\.2 m",
        ),
        (30, {}, "no model can find .*GSD of 30 m"),
        (1, {"classes": ("lake",)}, "models town, landscape, vehicle have no class lake; they have water, road"),
        (1, {"bands": ("1", "2")}, "names 2 bands"),
        (1, {"bands": ("1", "2", "9")}, "9"),
    ],
)
def test_what_no_model_can_find_is_refused(scene, gsd_m, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        choose_models(scene(gsd_m), RunSettings(**settings))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("shipped")
def test_values_and_bands_decide_too(scene):
    with pytest.raises(InputError, match=r"uint16.*--scale LOW,HIGH"):
        choose_models(scene(1, dtype="uint16"), RunSettings())
    assert chosen(scene(4, dtype="uint16"), scale=(0, 3000)).keys() == {"landscape"}
    with pytest.raises(InputError, match=r"--bands 1,2,3"):
        choose_models(scene(1, bands=4), RunSettings())
    assert chosen(scene(4, bands=4), bands=("1", "2", "4")).keys() == {"landscape"}


def test_named_models_are_preferred_in_their_order(scene, cards):
    town, landscape = str(cards["town"]), str(cards["landscape"])
    first = chosen(scene(1.1), models=(landscape, town))
    assert first == {"landscape": ("water", "road", "field", "hedge", 1.1), "town": ("parking", "roof", 1.1)}
    assert chosen(scene(1.1), models=(town, landscape))["town"][:2] == ("water", "road")
    assert chosen(scene(4), models=(town, landscape), classes=("field",)).keys() == {"landscape"}


def test_a_named_model_must_be_able_to_read_the_scene(scene, cards):
    with pytest.raises(InputError, match=r"GSD of 4 m; model town was trained for 0\.3-1\.2 m"):
        choose_models(scene(4), RunSettings(models=(str(cards["town"]), str(cards["landscape"]))))


def test_a_named_model_without_anything_to_find_is_told(scene, cards, write_card):
    other = write_card("other", gsd_m=(1, 2))
    _, notes = choose_models(scene(1), RunSettings(models=(str(other), str(write_card("again", gsd_m=(1, 2))))))
    [note] = notes
    assert note.startswith("model again has nothing to find")


def test_models_of_one_name_and_of_other_bands_are_refused(scene, cards, write_card):
    town = str(cards["town"])
    with pytest.raises(InputError, match="two models are called town"):
        choose_models(scene(1), RunSettings(models=(town, str(write_card("Town")))))
    with pytest.raises(InputError, match=r"names its model '\.\./evil'"):
        choose_models(scene(1), RunSettings(models=(town, str(write_card("../evil")))))
    turned = write_card("turned", bands=("blue", "green", "red"), classes=("wood", "heath", "bog", "rock"))
    with pytest.raises(InputError, match=r"--bands stands for .* as well as .*one by one"):
        choose_models(scene(1), RunSettings(models=(town, str(turned)), bands=("1", "2", "3")))
    assert chosen(scene(1), models=(town, str(turned))).keys() == {"town", "turned"}

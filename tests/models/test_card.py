from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from geoseg.console import describe
from geoseg.errors import ModelError
from geoseg.models import zoo
from geoseg.models.card import Card, write_halo, write_model

PLAIN = {"int8": None, "int8_checksum": "", "int8_measured": (), "precisions": ("fp32",), "parity": ()}


@pytest.fixture
def copied(tmp_path):
    """The default card's STAC item in a folder of its own, and a function that reads it back."""
    card = zoo.load("town")
    (tmp_path / card.weights).write_bytes(card.weights_path.read_bytes())
    path = tmp_path / "copy.card.json"
    item = card.to_item()

    def read() -> Card:
        path.write_text(json.dumps(item), encoding="utf-8")
        return Card.read(path)

    return item, read


def test_round_trip(copied):
    _, read = copied
    assert replace(read(), path=zoo.load("town").path) == zoo.load("town")


def test_shipped_file_is_what_the_card_writes():
    card = zoo.load("town")
    assert json.loads(card.path.read_text(encoding="utf-8")) == card.to_item()


def test_item_has_what_mlm_requires():
    properties = zoo.load("town").to_item()["properties"]
    assert {"mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"} <= set(properties)
    assert properties["mlm:input"][0]["input"]["dim_order"] == ["batch", "bands", "height", "width"]


def test_class_codes():
    card = zoo.load("town")
    assert card.class_codes(None) == {"water": 1, "road": 2, "parking": 4}
    assert card.class_codes(("parking", "water")) == {"water": 1, "parking": 4}
    with pytest.raises(ModelError, match="no class pond; it has water"):
        card.class_codes(("pond",))


def test_every_shipped_model_is_complete():
    cards = zoo.available()
    assert {"landscape", "town", "vehicle"} <= {card.name for card in cards}
    for card in cards:
        assert card.licence
        if card.weights is None:
            assert not card.automatic
            assert card.intended_use
            assert card.known_failures
            continue
        assert card.training_data
        assert {row["class"] for row in card.held_out} == set(card.class_codes(None))
        assert card.weights_path.stat().st_size <= 25e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda item: item["properties"].pop("mlm:input"), "not a complete model card"),
        (lambda item: item["assets"]["weights"].update(href="weights.pt"), ".safetensors and .onnx only"),
        (lambda item: item["assets"]["weights"].update(href="gone.safetensors"), "not beside its card"),
        (lambda item: item["properties"].update({"geoseg:halo": 100}), "multiples of the stride"),
        (lambda item: item["properties"].update({"geoseg:halo": 1536}), "larger than two halos"),
        (lambda item: item["properties"]["mlm:input"][0]["value_scaling"].pop(), "one each"),
    ],
)
def test_incomplete_cards_are_refused_in_one_line(copied, change, message):
    item, read = copied
    change(item)
    with pytest.raises(ModelError, match=message) as caught:
        read()
    assert "\n" not in str(caught.value)


def test_weights_that_are_code_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(ModelError, match="runs code when loaded"):
        zoo.load(str(path))


def test_unknown_names_list_the_known():
    with pytest.raises(ModelError, match=r"there is .*town"):
        zoo.load("nonesuch")
    with pytest.raises(ModelError, match="not a readable model card"):
        zoo.load("nowhere/none.card.json")


def state_of(card):
    from safetensors.torch import load_file

    loaded = load_file(card.weights_path)
    return {key: value.float() if value.is_floating_point() else value for key, value in loaded.items()}


def test_written_model_is_read_back(tmp_path):
    shipped = replace(zoo.load("town"), **PLAIN)
    made = replace(
        shipped,
        name="mine",
        intended_use=("lakes",),
        known_failures=("ice", "shadow"),
        pictures=("mine.jpg",),
        held_out=({"set": "mine", "class": "water", "images": 3, "object_f1": 0.5, "low": 0.4, "high": 0.6},),
    )
    card = write_model(tmp_path, made, state_of(shipped))
    assert card == replace(made, path=tmp_path / "mine.card.json", weights="mine.safetensors", checksum=card.checksum)
    assert card.checksum == f"1220{card.weights_sha256}"
    assert card.weights_path.stat().st_size < 1.1 * shipped.weights_path.stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.card.json", "mine.safetensors"]


def test_unsound_model_is_not_written(tmp_path):
    shipped = replace(zoo.load("town"), **PLAIN)
    state = state_of(shipped)
    with pytest.raises(ModelError, match="multiples of the stride"):
        write_model(tmp_path, replace(shipped, halo=100), state)
    key = next(key for key, value in state.items() if value.is_floating_point())
    with pytest.raises(ModelError, match="not finite in float16"):
        write_model(tmp_path, shipped, state | {key: state[key] * 1e9})
    assert not list(tmp_path.iterdir())


def test_halo_is_written_or_the_card_stays_as_it_was(tmp_path):
    shipped = replace(zoo.load("town"), **PLAIN)
    card = write_model(tmp_path, shipped, state_of(shipped))
    before = card.path.read_bytes()
    for halo in (100, 1536):
        with pytest.raises(ModelError, match=f"has tile 3072, halo {halo}, stride 32"):
            write_halo(card, halo, ())
    assert card.path.read_bytes() == before
    rows = ({"halo": 192, "differing": 1e-5, "scenes": 2},)
    assert write_halo(card, 192, rows) == replace(card, halo=192, halo_measured=rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["town.card.json", "town.safetensors"]
    config = tmp_path / "config.json"
    config.write_text("{}")
    with pytest.raises(ModelError, match=r"config\.json has no place for a halo"):
        write_halo(replace(card, path=config), 192, rows)


def test_digest_of_the_first_cards_stays_and_new_facts_count():
    card = replace(zoo.load("town"), **PLAIN)
    classes = [(entry.code, entry.name) for entry in card.classes]
    first = [card.weights_sha256, card.architecture, card.bands, card.mean, card.std, classes, card.stride]
    assert card.digest == hashlib.sha256(json.dumps(first).encode()).hexdigest()
    changed = [{"activation": "softmax"}, {"dtype": "any"}, {"options": (("a", 1),)}, {"thresholds": (0.1,)}]
    changed.append({"classes": (*card.classes[:-1], replace(card.classes[-1], odds=2.0))})
    changed.append({"int8": "town.int8.safetensors", "int8_checksum": "1220"})
    assert len({card.digest, *(replace(card, **change).digest for change in changed)}) == 7
    assert replace(card, intended_use=("all",), automatic=False, tile=1536).digest == card.digest


def test_description_shows_intervals_of_any_figure(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    row = {"set": "lakes", "gsd_m": 1.0, "class": "water", "object_f1": 0.5, "low": 0.4, "high": 0.6}
    describe(replace(zoo.load("town"), held_out=(row,), known_failures=("ice",)))
    out = capsys.readouterr().out
    assert "0.500 (0.400-0.600)" in out
    assert "known failure" in out
    describe(zoo.load("ndwi"))
    assert "only when --model names it" in capsys.readouterr().out

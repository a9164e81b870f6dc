from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import torch

import geoseg
from geoseg.cli import main
from geoseg.errors import InputError, ModelError, OutputError, SettingsError
from geoseg.models import zoo
from geoseg.models.architectures import build
from geoseg.training.config import read_config
from geoseg.training.preparation import prepare
from geoseg.training.start import Start, take_matching

LEFT, TOP = 500_000, 5_200_000  # of `write_raster`, at half a metre
CLASSES = ["water", {"name": "field", "boundary": True}]


@pytest.fixture
def folder(write_raster, tmp_path: Path) -> Path:
    """Four images with a dark field in two halves on bright ground, and its polygons."""
    rng = np.random.default_rng(0)
    shapes = []
    for number in range(4):
        pixels = rng.integers(180, 220, (3, 96, 96)).astype(np.uint8)
        pixels[:, 20:70, 20:70] -= 120
        left = LEFT + 100 * number
        place = rasterio.Affine(0.5, 0, left, 0, -0.5, TOP)
        write_raster(pixels, f"i{number}.tif", transform=place, descriptions=("red", "green", "blue"))
        for a, b in ((20, 45), (45, 70)):
            shapes.append(shapely.box(left + a / 2, TOP - 35, left + b / 2, TOP - 10))
    gpd.GeoDataFrame({"class": "field"}, index=range(8), geometry=shapes, crs="EPSG:32614").to_file(tmp_path / "l.gpkg")
    return tmp_path


def configure(folder: Path, **changes: Any) -> Path:
    given = {
        "name": "small",
        "classes": CLASSES,
        "gsd_range_m": [0.5, 0.6],
        "encoder": {"card": "landscape"},
        "steps": 2,
        "validations": 1,
        "crop": 64,
        "batch": 2,
        "tile": 96,
        "halo": 32,
        "validation": ["i3"],
        "data": [{"images": "i*.tif", "polygons": "l.gpkg", "name": "squares", "licence": "CC0-1.0"}],
    }
    path = folder / "train.py"
    path.write_text(f"CONFIG = {given | changes!r}\n")
    return path


def test_a_training_leaves_a_model_that_runs_and_resumes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = configure(folder), folder / "out"
    main(["train", str(path), "-o", str(out), "--workers", "0", "--device", "cpu"])
    shown = capsys.readouterr()
    assert "squares: 3 images and 1 held back" in shown.err
    assert "350 tensors start from model landscape" in shown.err
    assert "warning: class water has no pixel to learn from" in shown.err
    assert "geoseg run SCENE" in shown.out
    card = geoseg.Card.read(out / "small.card.json")
    assert [(entry.code, entry.name, entry.boundary_of) for entry in card.classes] == [
        (1, "water", None),
        (2, "field", None),
        (3, "field_boundary", "field"),
    ]
    assert {row["class"] for row in card.held_out} == {"water", "field", "field_boundary"}
    assert card.held_out[0]["set"] == "validation"
    assert card.training_data[0] == {"name": "squares", "licence": "CC0-1.0", "source": "not stated"}
    assert len(card.training_data) > 1  # what the first weights have learned from
    result = geoseg.run(
        str(folder / "i0.tif"),
        folder / "layers",
        settings=geoseg.RunSettings(models=(str(card.path),)),
        execution=geoseg.Execution(threads=1),
    )
    assert set(result.layers) == {"water", "field"}

    again = geoseg.train(path, out, workers=0, device="cpu")
    assert again.steps == 2
    assert again.card.weights_sha256 == card.weights_sha256
    other = configure(folder, learning_rate=0.1)
    with pytest.raises(OutputError, match=r"another training: learning_rate was 0\.0015 and is 0\.1; .*--overwrite"):
        geoseg.train(other, out)
    configure(folder)
    frame = gpd.read_file(folder / "l.gpkg")
    frame[1:].to_file(folder / "l.gpkg")
    with pytest.raises(OutputError, match="images or labels have changed"):
        geoseg.train(path, out)


def test_preparation_holds_back_and_describes(folder: Path) -> None:
    ready = prepare(read_config(configure(folder, encoder="none", validation=0.5)))
    (found,) = ready.found.sets
    assert (found.images, found.held_back) == (2, 2)
    assert found.present["field"] == pytest.approx(2500 / 96**2)
    assert found.known["water"] == 1.0
    assert ready.found.notes == ("all weights start at random",)
    assert ready.validation
    sample = ready.sampler.draw(3)
    assert sample.image.shape == (3, 64, 64)
    assert sample.target.shape == (3, 64, 64)
    with pytest.raises(InputError, match="holds back every image"):
        prepare(read_config(configure(folder, encoder="none", validation=["i0", "i1", "i2", "i3"])))
    with pytest.raises(InputError, match="no image has the stem i9"):
        prepare(read_config(configure(folder, encoder="none", validation=["i9"])))
    lonely = {"images": "i0.tif", "annotates": ["water"]}
    with pytest.raises(InputError, match="no image to learn from has a pixel of water, field"):
        prepare(read_config(configure(folder, encoder="none", validation=0, data=[lonely])))


def test_an_image_in_two_sets_is_held_back_in_both_or_in_none(folder: Path) -> None:
    one = {"images": "i*.tif", "polygons": "l.gpkg"}
    data = [one | {"name": "a"}, one | {"name": "b", "split": "train"}]
    ready = prepare(read_config(configure(folder, encoder="none", validation=0.25, data=data)))
    first, second = ready.found.sets
    assert (first.held_back, second.held_back) == (1, 1)


def test_the_last_layer_is_taken_by_the_names_of_classes(folder: Path) -> None:
    card = zoo.load("landscape")
    from safetensors.torch import load_file

    theirs = load_file(card.weights_path)["segmentation_head.0.weight"].float()
    names = [entry.name for entry in card.classes]
    start = Start.make(read_config(configure(folder)))
    ours = start.network.get_parameter("segmentation_head.0.weight")
    assert torch.equal(ours[0], theirs[names.index("water")])
    assert torch.equal(ours[1], theirs[names.index("field")])
    assert start.mean == card.mean
    assert torch.equal(ours[2], theirs[names.index("field_boundary")])
    with pytest.raises(ModelError, match="no model 'nonesuch'"):
        Start.make(read_config(configure(folder, encoder={"card": "nonesuch"})))
    with pytest.raises(ModelError, match="bands must be the same"):
        Start.make(read_config(configure(folder, bands=["nir", "red", "green"])))


def test_the_first_weights_follow_the_seed(folder: Path) -> None:
    def first(seed: int) -> torch.Tensor:
        path = configure(folder, architecture="unet-resnet18", encoder="none", seed=seed)
        return Start.make(read_config(path)).network.get_parameter("segmentation_head.0.weight")

    before = torch.random.get_rng_state()
    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_of_other_shapes_are_left_and_named() -> None:
    network, other = build("unet-resnet18", classes=2), build("unet-resnet18", classes=3)
    taken, left = take_matching(network, other.state_dict())
    assert left == ["segmentation_head.0.weight", "segmentation_head.0.bias"]
    assert taken == len(network.state_dict()) - 2
    assert take_matching(network, {}) == (0, list(network.state_dict()))


def test_an_encoder_may_come_from_a_file(folder: Path) -> None:
    from safetensors.torch import save_file

    source = build("unet-resnet18", classes=1)
    save_file({key: value.contiguous() for key, value in source.state_dict().items()}, folder / "e.safetensors")
    start = Start.make(read_config(configure(folder, architecture="unet-resnet18", encoder="e.safetensors")))
    key = next(key for key, value in source.state_dict().items() if value.ndim == 4)
    assert torch.equal(start.network.state_dict()[key], source.state_dict()[key])
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        Start.make(read_config(configure(folder, encoder="none.safetensors")))


def test_a_training_without_a_checkpoint_may_be_corrected(folder: Path) -> None:
    out = folder / "out"
    path = configure(folder, encoder="none", batch=3)
    with pytest.raises(SettingsError, match="batch 3 does not divide among 2 devices"):
        geoseg.train(path, out, workers=0, device="cpu", devices=2)
    data = [{"images": "i*.tif", "polygons": "l.gpkg", "scale": [0, 250]}]
    trained = geoseg.train(configure(folder, encoder="none", steps=1, data=data), out, workers=0, device="cpu")
    assert trained.steps == 1
    assert trained.card.intended_use == ("trained on values 0-250: run with --scale 0,250",)


def test_a_bad_configuration_is_one_line_and_nothing_is_written(folder: Path, capsys: Any) -> None:
    path = configure(folder, data=[{"images": "i*.tif", "polygons": "l.gpkg", "field": "kind"}], encoder="none")
    with pytest.raises(SystemExit) as ended:
        main(["train", str(path), "-o", str(folder / "out")])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("geoseg: data[0] (set 1): ")
    assert "no attribute kind" in line
    assert not (folder / "out").exists()
    (folder / "out" / "fit").mkdir(parents=True)
    (folder / "out" / "fit" / "last.ckpt").touch()
    (folder / "out" / "training.json").write_text("{}")
    with pytest.raises(SettingsError, match="unknown loss 'ce2'"):
        geoseg.train(configure(folder, encoder="none", losses={"ce2": 1}), folder / "out", overwrite=True)
    assert (folder / "out" / "fit" / "last.ckpt").exists()
    configure(folder)
    (folder / "out" / "training.json").write_text(json.dumps([]))
    with pytest.raises(OutputError, match="damaged"):
        geoseg.train(path, folder / "out")

"""What `geoseg train` is asked to do: a YAML file, or a Python file that defines the same mapping as ``CONFIG``.

Paths are relative to the file. What its keys mean: `TrainConfig`, `SetConfig`, `geoseg.training.classes.TrainClass`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from geoseg.errors import InputError, SettingsError
from geoseg.models.architectures import STRIDE
from geoseg.settings import require_layer_names
from geoseg.training.classes import TrainClass, channel_names
from geoseg.training.crops import MOST_CLASSES
from geoseg.training.entries import Entries, as_number

__all__ = ["SetConfig", "Split", "TrainConfig", "read_config"]

Split = Literal["auto", "train", "validation"]

_COLOURS = {
    "water": (38, 115, 217),
    "road": (230, 76, 60),
    "field": (241, 196, 15),
    "parking": (155, 89, 182),
    "vehicle": (231, 84, 160),
    "building": (192, 57, 43),
    "forest": (39, 124, 64),
    "tree": (46, 139, 87),
}
_OTHER_COLOURS = ((26, 188, 156), (211, 84, 0), (52, 73, 94), (142, 68, 173), (127, 140, 141), (22, 160, 133))
_TILE, _HALO = 1536, 256
"""In pixels, where a configuration says nothing else. The halo is about half of what a U-Net of stride 32 looks at:
then some ten thousandths of the pixels differ from a prediction in one piece. Decoders that look further (pyramid
pooling, attention) differ more near the borders of tiles, and want a larger one. The tile costs 2.25 times its core."""
_FILE_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SetConfig:
    """One set of labelled images.

    Attributes:
        name: of the set; ``set 1`` and so on when not given.
        licence: of the set, for the model's card.
        source: where it came from, for the model's card.
        images: rasters: a folder, a glob, or a list of such.
        labels: mask rasters of class codes: a folder or a glob (an image's mask has the image's stem), a list of such,
            or a path with ``{stem}`` in it.
        codes: class of each code in the masks; all others are background.
        unknown: codes of pixels about which nothing is known; so is a mask's nodata.
        polygons: vector files of any format; polygons outside an image do no harm.
        field: attribute that holds a polygon's class, by name or code; ``class`` when not given and there is one.
        values: class of each value of that attribute, when those are other words.
        class_name: class of all polygons, when the file does not say (``class`` in the file).
        annotates: classes that the set shows completely: where it does not draw them, they are not. All other classes
            are unknown. By default the classes of `codes`, `values` or `class_name`, else all. A set with neither
            labels nor polygons shows that its classes are absent.
        area: vector files; outside of their polygons nothing is known.
        share: of the samples, relative to the other sets; by default the area of its images at the middle GSD.
        gsd_m: metres per pixel, for images without georeference.
        gsd_range_m: of its samples; by default the model's, but not finer than 0.8 of the finest image.
        bands: of the images, for the model's bands; by default by their common names.
        scale: values of the images that become 0 and 255; needed unless they are bytes.
        mosaic: lay small images side by side.
        focus: chance that a sample lies on a pixel of a randomly chosen class.
        split: "train" and "validation" put all images there; "auto" leaves it to the model's `validation`.
    """

    name: str
    licence: str
    source: str
    images: tuple[str, ...]
    labels: tuple[str, ...]
    codes: tuple[tuple[int, str], ...]
    unknown: tuple[int, ...]
    polygons: tuple[str, ...]
    field: str | None
    values: tuple[tuple[str, str], ...]
    class_name: str | None
    annotates: tuple[str, ...]
    area: tuple[str, ...]
    share: float | None
    gsd_m: float | None
    gsd_range_m: tuple[float, float] | None
    bands: tuple[str, ...] | None
    scale: tuple[float, float] | None
    mosaic: bool
    focus: float
    split: Split


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A training.

    Attributes:
        folder: that paths are relative to.
        name: of the model, and of its files.
        title: one line for people.
        version: of the model.
        licence: SPDX identifier of the weights.
        architecture: name of the network, see `geoseg.models.architectures`.
        classes: what to learn, 16 at most.
        bands: common names, in the order in which the network takes them.
        gsd_range_m: (finest, coarsest) GSD that the model is for.
        tile: side of a tile when the model runs, pixels.
        halo: of a tile, pixels.
        crop: side of a sample, pixels.
        steps: budget, optimiser steps; or
        minutes: budget, wall time.
        batch: samples per step.
        learning_rate: at its peak.
        encoder_share: the encoder learns at this share of the rate, since it starts pre-trained.
        losses: names and weights, see `geoseg.training.losses`.
        augment: how much light and colour change, "none", "light" or "strong".
        blur_chance: of a sample to be blurred as by a coarser sensor.
        blur_factor: how much coarser, at most.
        touch_weight: weight of pixels near touching objects.
        validation: share of the images to validate on, or their stems.
        validations: how often, over the budget; the weights of the best are kept.
        patience: validations without a better one after which the training ends early; None never does.
        seed: of all randomness.
        encoder: what to start from: "imagenet", "none", or the path of safetensors.
        card: model to start from, by name or path of its card; then `encoder` is "none".
        frozen: beginnings of the names of weights that stay as they are.
        data: sets of labelled images.
    """

    folder: Path
    name: str
    title: str
    version: str
    licence: str
    architecture: str
    classes: tuple[TrainClass, ...]
    bands: tuple[str, ...]
    gsd_range_m: tuple[float, float]
    tile: int
    halo: int
    crop: int
    steps: int | None
    minutes: float | None
    batch: int
    learning_rate: float
    encoder_share: float
    losses: tuple[tuple[str, float], ...]
    augment: Literal["none", "light", "strong"]
    blur_chance: float
    blur_factor: float
    touch_weight: float
    validation: float | tuple[str, ...]
    validations: int
    patience: int | None
    seed: int
    encoder: str
    card: str | None
    frozen: tuple[str, ...]
    data: tuple[SetConfig, ...]

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the network's channels."""
        return channel_names(self.classes)

    def identity(self) -> dict[str, Any]:
        """All of it but the folder, as plain JSON values."""
        facts: dict[str, Any] = json.loads(
            json.dumps(dataclasses.asdict(dataclasses.replace(self, folder=Path())) | {"folder": None})
        )
        del facts["folder"]
        return facts


def read_config(config: str | os.PathLike[str] | Mapping[str, Any]) -> TrainConfig:
    """Read and check a configuration; no image is opened yet.

    Args:
        config: path of a YAML file, or of a Python file (``.py``) that defines ``CONFIG``; or the mapping itself,
            whose paths are relative to the working folder.

    Raises:
        InputError: there is no such file, or it cannot be read.
        SettingsError: a key is unknown, missing or has an unfit value.
    """
    if isinstance(config, Mapping):
        return _parse(config, Path.cwd(), "the configuration")
    path = Path(config)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a training's configuration, YAML or Python")
    if path.suffix == ".py":
        try:
            given = runpy.run_path(str(path)).get("CONFIG")
        except Exception as error:  # noqa: BLE001 - whatever the file's code raises
            raise InputError(f"{path} fails: {type(error).__name__}: {' '.join(str(error).split())}") from None
        if given is None:
            raise InputError(f"{path} defines no CONFIG; expected a mapping of that name")
    else:
        import yaml

        try:
            given = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{path} is no readable YAML: {' '.join(str(error).split())}") from None
    return _parse(given, path.absolute().parent, path.name)


def _parse(given: object, folder: Path, where: str) -> TrainConfig:
    entries = Entries(given, where)
    classes = _classes(entries)
    names = tuple(entry.name for entry in classes)
    steps, minutes = entries.whole("steps", None, least=1), entries.number("minutes", None, least=0.01)
    if (steps is None) == (minutes is None):
        raise SettingsError(f"{where}: give the budget as steps or as minutes, one of the two")
    encoder = entries.take("encoder", "imagenet")
    card = None
    if isinstance(encoder, Mapping):
        start = Entries(encoder, f"{where}: encoder")
        encoder, card = "none", start.text("card")
        start.close()
    elif not isinstance(encoder, str):
        raise entries.wrong("encoder", "imagenet, none, a path of safetensors, or card: NAME")
    blur = Entries(entries.take("blur", {}), f"{where}: blur")
    data = entries.take("data")
    if not isinstance(data, list | tuple) or not data:
        raise entries.wrong("data", "a list of sets, each with images")
    name = entries.text("name")
    if not _FILE_NAME.fullmatch(name):
        raise entries.wrong("name", "letters, digits, _, - and ., as it becomes the name of files")
    config = TrainConfig(
        folder=folder,
        name=name,
        title=entries.text("title", f"{', '.join(names)} from imagery"),
        version=entries.text("version", "1.0"),
        licence=entries.text("licence", "not stated"),
        architecture=entries.text("architecture", "unet-tf_efficientnet_lite0"),
        classes=classes,
        bands=entries.texts("bands", ("red", "green", "blue")),
        gsd_range_m=entries.pair("gsd_range_m", above=0.0),
        tile=entries.whole("tile", _TILE, least=64, most=8192),
        halo=entries.whole("halo", _HALO, least=0, most=2048),
        crop=entries.whole("crop", 256, least=32, most=4096),
        steps=steps,
        minutes=minutes,
        batch=entries.whole("batch", 8, least=1, most=4096),
        learning_rate=entries.number("learning_rate", 1.5e-3, least=1e-8, most=10),
        encoder_share=entries.number("encoder_share", 0.4, least=0, most=10),
        losses=_losses(entries),
        augment=entries.one_of("augment", "strong", "none", "light", "strong"),
        blur_chance=blur.number("chance", 0.0, least=0, most=1),
        blur_factor=blur.number("factor", 2.0, least=1, most=16),
        touch_weight=entries.number("touch_weight", 6.0, least=0, most=100),
        validation=_validation(entries),
        validations=entries.whole("validations", 10, least=1),
        patience=entries.whole("patience", None, least=1),
        seed=entries.whole("seed", 1, least=0),
        encoder=encoder,
        card=card,
        frozen=entries.texts("frozen", ()),
        data=tuple(_set(entry, names, f"{where}: data[{place}]", place) for place, entry in enumerate(data)),
    )
    blur.close()
    entries.close()
    for key, side in (("crop", config.crop), ("tile", config.tile), ("halo", config.halo)):
        if side % STRIDE:
            raise SettingsError(f"{where}: {key} is {side}; expected a multiple of {STRIDE}")
    if config.tile <= 2 * config.halo:
        raise SettingsError(
            f"{where}: tile is {config.tile} and halo {config.halo}; expected a tile larger than two halos"
        )
    return config


def _classes(entries: Entries) -> tuple[TrainClass, ...]:
    given = entries.take("classes")
    if isinstance(given, Mapping):
        given = [{"name": name, **(more or {})} for name, more in given.items()]
    if not isinstance(given, list | tuple) or not 1 <= len(given) <= MOST_CLASSES:
        raise entries.wrong("classes", f"a list of 1 to {MOST_CLASSES} classes")
    found = []
    for place, one in enumerate(given):
        one_entries = Entries({"name": one} if isinstance(one, str) else one, f"{entries.where}: classes[{place}]")
        name = one_entries.text("name")
        colour = one_entries.wholes("colour", _COLOURS.get(name, _OTHER_COLOURS[place % len(_OTHER_COLOURS)]))
        if len(colour) != 3 or not all(0 <= part <= 255 for part in colour):
            raise one_entries.wrong("colour", "[red, green, blue] with 0-255")
        boundary = one_entries.yes("boundary")
        found.append(
            TrainClass(
                name=name,
                code=one_entries.whole("code", 0, least=1, most=254),
                colour=(colour[0], colour[1], colour[2]),
                instances=one_entries.yes("instances", default=boundary),
                boundary=boundary,
                boundary_px=one_entries.whole("boundary_px", 2, least=1, most=32),
                boundary_m=one_entries.number("boundary_m", 0.0, least=0, most=1000),
                boundary_code=one_entries.whole("boundary_code", 0, least=1, most=254),
                weight=one_entries.number("weight", 1.0, least=0, most=1000),
            )
        )
        if boundary and not found[-1].instances:
            raise SettingsError(f"{one_entries.where}: boundary without instances; a boundary keeps instances apart")
        one_entries.close()
    return _coded(found, entries.where)


def _coded(classes: list[TrainClass], where: str) -> tuple[TrainClass, ...]:
    """Give codes to classes and boundaries that have none."""
    taken = [code for entry in classes for code in (entry.code, entry.boundary_code if entry.boundary else 0) if code]
    if len(set(taken)) < len(taken):
        raise SettingsError(f"{where}: classes have codes {', '.join(map(str, taken))}; give no code twice")
    free = iter(code for code in range(1, 255) if code not in taken)
    coded = [entry if entry.code else dataclasses.replace(entry, code=next(free)) for entry in classes]
    coded = [
        dataclasses.replace(entry, boundary_code=(entry.boundary_code or next(free)) if entry.boundary else 0)
        for entry in coded
    ]
    try:
        require_layer_names(channel_names(coded))
    except SettingsError as error:
        raise SettingsError(f"{where}: classes: {error}") from None
    return tuple(coded)


def _losses(entries: Entries) -> tuple[tuple[str, float], ...]:
    given = entries.take("losses", {"ce": 0.6, "dice": 0.4})
    if not isinstance(given, Mapping) or not given:
        raise entries.wrong("losses", "name: weight, ...")
    found = []
    for name, weight in given.items():
        number = as_number(weight)
        if number is None or number < 0:
            raise entries.wrong("losses", "a weight of 0 or more for each name")
        found.append((str(name), float(number)))
    return tuple(found)


def _validation(entries: Entries) -> float | tuple[str, ...]:
    value = entries.take("validation", 0.15)
    if isinstance(value, list | tuple) and all(isinstance(stem, str) for stem in value):
        return tuple(value)
    share = as_number(value)
    if share is None or not 0 <= share < 1:
        raise entries.wrong("validation", "a share from 0 to below 1, or a list of images' stems")
    return share


def _set(given: object, classes: tuple[str, ...], where: str, place: int) -> SetConfig:
    entries = Entries(given, where)
    codes = entries.take("codes", {})
    values = entries.take("values", {})
    for key, mapping in (("codes", codes), ("values", values)):
        if not isinstance(mapping, Mapping):
            raise entries.wrong(key, f"{'code' if key == 'codes' else 'value'}: class, ...")
        _require_classes(entries, key, mapping.values(), classes)
    if not all(isinstance(code, int) and 0 <= code <= 255 for code in codes):
        raise entries.wrong("codes", "codes 0-255")
    labels, polygons = entries.texts("labels", ()), entries.texts("polygons", ())
    class_name = entries.text("class", None)
    if class_name is not None:
        _require_classes(entries, "class", (class_name,), classes)
    if labels and polygons:
        raise SettingsError(f"{where}: has both labels and polygons; give two sets of the same images")
    if labels and not codes:
        raise SettingsError(f"{where}: has labels, but no codes; give CODE: CLASS, ...")
    told = tuple(name for name in classes if name in {*codes.values(), *values.values(), class_name})
    annotates = entries.texts("annotates", told or (classes if polygons else ()))
    _require_classes(entries, "annotates", annotates, classes)
    if not annotates:
        raise SettingsError(f"{where}: has neither labels nor polygons; name the classes that are absent in annotates")
    found = SetConfig(
        name=entries.text("name", f"set {place + 1}"),
        licence=entries.text("licence", "not stated"),
        source=entries.text("source", "not stated"),
        images=entries.texts("images"),
        labels=labels,
        codes=tuple(sorted(codes.items())),
        unknown=entries.wholes("unknown", (255,)),
        polygons=polygons,
        field=entries.text("field", None),
        values=tuple(sorted((str(value), name) for value, name in values.items())),
        class_name=class_name,
        annotates=tuple(annotates),
        area=entries.texts("area", ()),
        share=entries.number("share", None, least=1e-6),
        gsd_m=entries.number("gsd_m", None, least=1e-3),
        gsd_range_m=entries.pair("gsd_range_m", None, above=0.0),
        bands=entries.texts("bands", None),
        scale=entries.pair("scale", None),
        mosaic=entries.yes("mosaic"),
        focus=entries.number("focus", 0.5, least=0, most=1),
        split=entries.one_of("split", "auto", "auto", "train", "validation"),
    )
    entries.close()
    if found.gsd_m is not None and (polygons or found.area):
        raise SettingsError(
            f"{where}: gsd_m is for images without a place, where polygons cannot be drawn; leave it out"
        )
    return found


def _require_classes(entries: Entries, key: str, names: Any, classes: tuple[str, ...]) -> None:
    for name in names:
        if name not in classes:
            raise SettingsError(f"{entries.where}: {key} has {name!r}, but classes are {', '.join(classes)}")

"""A model's card: all that a run must know of a model before it loads one (floor 3).

A card is a STAC Item with the Machine Learning Model (MLM) extension, so that catalogues can read it. What MLM
has no word for stands under ``geoseg:``. Source: https://github.com/stac-extensions/mlm
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from geoseg.errors import ModelError, SettingsError
from geoseg.settings import require_layer_names

__all__ = ["Card", "CardClass"]

_CODE_SUFFIXES = {".pt", ".pth", ".ckpt", ".pkl", ".pt2", ".bin", ".jit"}


@dataclass(frozen=True, slots=True)
class CardClass:
    """One class of a model's mask.

    Attributes:
        code: value in the mask, 1-254.
        name: the layer's name.
        colour: (red, green, blue), 0-255.
        boundary_of: name of the class whose instances this class bounds: it has no layer of its own, it keeps touching
            instances apart and is given back to them. Else ``None``.
    """

    code: int
    name: str
    colour: tuple[int, int, int]
    boundary_of: str | None = None


@dataclass(frozen=True)
class Card:
    """A model's description.

    Attributes:
        path: the card's own file; the weights lie beside it.
        name: the name in the zoo.
        title: one line for people.
        version: of the weights.
        licence: SPDX identifier of the weights.
        architecture: name known to ``geoseg.models.architectures``.
        bands: common names, in the order in which the network takes them.
        mean: subtracted from each band, in uint8 units.
        std: each band is divided by it, in uint8 units.
        gsd_range_m: (finest, coarsest) ground sampling distance, metres, that the model was trained for.
        classes: what the mask's codes mean; the network has one sigmoid channel for each, in this order.
        tile: side of a tile, pixels.
        halo: pixels of a tile's edge that are not trusted.
        stride: of the network; tile and halo are multiples of it.
        weights: file name of the safetensors beside the card.
        training_data: (name, licence, source) of each set.
        held_out: one row of figures per class and test set.
        halo_measured: share of pixels that differ from whole-image prediction, a row per image and halo.
        datetime: when the weights were trained, RFC 3339.
    """

    path: Path
    name: str
    title: str
    version: str
    licence: str
    architecture: str
    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    gsd_range_m: tuple[float, float]
    classes: tuple[CardClass, ...]
    tile: int
    halo: int
    stride: int
    weights: str
    training_data: tuple[dict[str, str], ...]
    held_out: tuple[dict[str, Any], ...]
    halo_measured: tuple[dict[str, Any], ...]
    datetime: str

    @classmethod
    def read(cls, path: Path) -> Card:
        """Reads a card.

        Args:
            path: of the JSON file.

        Raises:
            ModelError: no such file, not a card, or weights that are code.
        """
        if path.suffix in _CODE_SUFFIXES:
            raise ModelError(
                f"{path} is a pickle or TorchScript file, which runs code when loaded; "
                "geoseg takes a card (JSON) with safetensors weights beside it"
            )
        try:
            item = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ModelError(f"{path} is not a readable model card: {error}; expected a STAC MLM item (JSON)") from None
        try:
            card = cls._from_item(path, item)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ModelError(
                f"{path} is not a complete model card: {type(error).__name__} {error}; "
                "expected a STAC MLM item with geoseg: fields, as `geoseg models NAME --json` prints one"
            ) from None
        _check(card)
        return card

    @classmethod
    def _from_item(cls, path: Path, item: dict[str, Any]) -> Card:
        properties = item["properties"]
        network_input, network_output = properties["mlm:input"][0], properties["mlm:output"][0]
        scaling = network_input["value_scaling"]
        low, high = properties["geoseg:gsd_range_m"]
        return cls(
            path=path.absolute(),
            name=properties["mlm:name"],
            title=properties["title"],
            version=properties["version"],
            licence=properties["license"],
            architecture=properties["mlm:architecture"],
            bands=tuple(band["name"] for band in network_input["bands"]),
            mean=tuple(float(band["mean"]) for band in scaling),
            std=tuple(float(band["stddev"]) for band in scaling),
            gsd_range_m=(float(low), float(high)),
            classes=tuple(
                CardClass(entry["value"], entry["name"], _colour(entry["color_hint"]), entry.get("geoseg:boundary_of"))
                for entry in network_output["classification:classes"]
                if entry["value"] != 0
            ),
            tile=int(network_input["input"]["shape"][-1]),
            halo=int(properties["geoseg:halo"]),
            stride=int(properties["geoseg:stride"]),
            weights=item["assets"]["weights"]["href"],
            training_data=tuple(properties["geoseg:training_data"]),
            held_out=tuple(properties["geoseg:held_out"]),
            halo_measured=tuple(properties["geoseg:halo_measured"]),
            datetime=properties["datetime"],
        )

    def to_item(self) -> dict[str, Any]:
        """The card as a STAC Item with the MLM extension; :meth:`read` is the way back."""
        shape = [-1, len(self.bands), self.tile, self.tile]
        scaling = [
            {"type": "z-score", "mean": mean, "stddev": std} for mean, std in zip(self.mean, self.std, strict=True)
        ]
        classes = [{"value": 0, "name": "background", "description": "none of the classes", "color_hint": "000000"}]
        classes += [
            {
                "value": entry.code,
                "name": entry.name,
                "description": entry.name,
                "color_hint": bytes(entry.colour).hex().upper(),
            }
            | ({"geoseg:boundary_of": entry.boundary_of} if entry.boundary_of else {})
            for entry in self.classes
        ]
        return {
            "type": "Feature",
            "stac_version": "1.0.0",
            "stac_extensions": [
                "https://stac-extensions.github.io/mlm/v1.4.0/schema.json",
                "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
                "https://stac-extensions.github.io/file/v2.1.0/schema.json",
            ],
            "id": f"geoseg-{self.name}",
            "geometry": None,
            "links": [],
            "properties": {
                "title": self.title,
                "version": self.version,
                "license": self.licence,
                "datetime": self.datetime,
                "mlm:name": self.name,
                "mlm:architecture": self.architecture,
                "mlm:tasks": ["semantic-segmentation"],
                "mlm:framework": "pytorch",
                "mlm:total_parameters": self.parameters,
                "mlm:pretrained": True,
                "mlm:pretrained_source": "ImageNet",
                "mlm:batch_size_suggestion": 1,
                "mlm:accelerator": "cuda",
                "mlm:accelerator_constrained": False,
                "mlm:input": [
                    {
                        "name": "tile",
                        "bands": [{"name": name} for name in self.bands],
                        "input": {
                            "shape": shape,
                            "dim_order": ["batch", "bands", "height", "width"],
                            "data_type": "uint8",
                        },
                        "value_scaling": scaling,
                        "resize_type": None,
                    }
                ],
                "mlm:output": [
                    {
                        "name": "logits",
                        "tasks": ["semantic-segmentation"],
                        "result": {
                            "shape": [-1, len(self.classes), self.tile, self.tile],
                            "dim_order": ["batch", "class", "height", "width"],
                            "data_type": "float32",
                        },
                        "classification:classes": classes,
                        "post_processing_function": None,
                    }
                ],
                "geoseg:gsd_range_m": list(self.gsd_range_m),
                "geoseg:halo": self.halo,
                "geoseg:stride": self.stride,
                "geoseg:training_data": list(self.training_data),
                "geoseg:held_out": list(self.held_out),
                "geoseg:halo_measured": list(self.halo_measured),
            },
            "assets": {
                "weights": {
                    "href": self.weights,
                    "type": "application/octet-stream",
                    "title": "weights, float16 safetensors",
                    "roles": ["mlm:model", "mlm:weights"],
                    "mlm:artifact_type": "safetensors",
                    "file:size": self.weights_path.stat().st_size,
                    "file:checksum": f"1220{self.weights_sha256}",
                }
            },
        }

    @property
    def weights_path(self) -> Path:
        """Where the weights lie."""
        return self.path.parent / self.weights

    @cached_property
    def weights_sha256(self) -> str:
        """Digest of the weights file, hexadecimal: the model's identity in a manifest."""
        return hashlib.sha256(self.weights_path.read_bytes()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """Digest of all that decides a prediction: weights, architecture, scaling, classes, tiling."""
        # a card without boundaries keeps the digest that it had before there were any
        classes = [
            tuple(value for value in (entry.code, entry.name, entry.boundary_of) if value) for entry in self.classes
        ]
        facts = [
            self.weights_sha256,
            self.architecture,
            self.bands,
            self.mean,
            self.std,
            classes,
            self.tile,
            self.stride,
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @property
    def parameters(self) -> int:
        """Number of trained values in the weights."""
        from safetensors import safe_open

        with safe_open(self.weights_path, framework="np") as weights:
            return sum(_product(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118

    def class_codes(self, names: tuple[str, ...] | None) -> dict[str, int]:
        """Maps the wanted layer names to mask codes, in the card's order.

        Args:
            names: layers wanted; ``None`` is all.

        Raises:
            ModelError: a name that the model does not know.
        """
        known = {entry.name: entry.code for entry in self.classes if entry.boundary_of is None}
        unknown = [name for name in names or () if name not in known]
        if unknown:
            raise ModelError(f"model {self.name} has no class {', '.join(unknown)}; it has {', '.join(known)}")
        return {name: code for name, code in known.items() if names is None or name in names}

    @property
    def boundaries(self) -> tuple[tuple[int, int], ...]:
        """(code, boundary code) of the classes whose touching instances stay apart."""
        codes = {entry.name: entry.code for entry in self.classes}
        return tuple((codes[entry.boundary_of], entry.code) for entry in self.classes if entry.boundary_of)


def _colour(hint: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(hint.removeprefix("#"))
    return red, green, blue


def _product(shape: list[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def _check(card: Card) -> None:
    if Path(card.weights).suffix != ".safetensors":
        raise ModelError(f"{card.path} names the weights {card.weights}; geoseg loads .safetensors only")
    if not card.weights_path.is_file():
        raise ModelError(f"the weights {card.weights} of model {card.name} are not beside its card {card.path}")
    if not len(card.bands) == len(card.mean) == len(card.std) > 0:
        raise ModelError(f"{card.path} has {len(card.bands)} bands but {len(card.mean)} scalings; one each is needed")
    if card.stride < 1 or card.tile % card.stride or card.halo % card.stride or card.tile <= 2 * card.halo:
        raise ModelError(
            f"{card.path} has tile {card.tile}, halo {card.halo}, stride {card.stride}; tile and halo must be "
            "multiples of the stride, and the tile larger than two halos"
        )
    if not all(1 <= entry.code <= 254 for entry in card.classes) or not card.classes:
        raise ModelError(f"{card.path} has class codes outside 1-254")
    layers = {entry.name for entry in card.classes if entry.boundary_of is None}
    bounded = [entry.boundary_of for entry in card.classes if entry.boundary_of is not None]
    if not layers.issuperset(bounded) or len(set(bounded)) < len(bounded):
        raise ModelError(
            f"{card.path} has boundaries of {', '.join(bounded)}; expected one at most of each of its layers"
        )
    try:
        require_layer_names(tuple(entry.name for entry in card.classes))
    except SettingsError as error:
        raise ModelError(f"{card.path} has unfit {error}") from None

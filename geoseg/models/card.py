"""A model's card: all that a run must know of a model before it loads one (floor 3).

A card is a STAC Item with the Machine Learning Model (MLM) extension, so that catalogues can read it. What MLM
has no word for stands under ``geoseg:``. Source: https://github.com/stac-extensions/mlm
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from geoseg.atomic import staged
from geoseg.errors import ModelError, SettingsError
from geoseg.settings import OF_INTEGERS, require_layer_names

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CARD_SUFFIX",
    "Activation",
    "Card",
    "CardClass",
    "InputType",
    "OutputType",
    "write_halo",
    "write_int8",
    "write_model",
    "write_parity",
]

Activation: TypeAlias = Literal["sigmoid", "softmax"]
InputType: TypeAlias = Literal["uint8", "any"]
OutputType: TypeAlias = Literal["logits", "scores"]

CARD_SUFFIX = ".card.json"
_ONNX = ".onnx"
_CLASSICAL = {"index", "otsu"}  # families of architectures that have no weights
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
        odds: of a boundary: factor on its odds where it stands against its class's inside. More than 1 closes
            boundaries that are seen in part, and splits more instances.
        min_area_m2: the minimum mapping unit: smaller instances are given to their neighbours unless the user says
            otherwise; ``None`` leaves it to the run.
    """

    code: int
    name: str
    colour: tuple[int, int, int]
    boundary_of: str | None = None
    odds: float = 1.0
    min_area_m2: float | None = None


@dataclass(frozen=True)
class Card:
    """A model's description.

    Attributes:
        path: the card's own file; the weights lie beside it.
        name: the name in the zoo.
        title: one line for people.
        version: of the weights.
        licence: SPDX identifier of the weights.
        architecture: name known to ``geoseg.models.architectures``; ``index-...`` and ``otsu-...`` are segmenters
            without weights, see ``geoseg.models.classical``.
        bands: common names, in the order in which the network takes them.
        mean: subtracted from each band, in units of the input.
        std: each band is divided by it, in units of the input.
        gsd_range_m: (finest, coarsest) ground sampling distance, metres, at which the model reads scenes.
        classes: what the mask's codes mean; the network has one channel for each, in this order.
        tile: largest side of a tile, pixels; an ONNX file gets no other.
        halo: pixels of a tile's edge that are not trusted.
        stride: of the network; tile and halo are multiples of it.
        weights: file name of the safetensors beside the card, or of an ONNX file, which is a network and its weights;
            ``None`` for segmenters that need none.
        training_data: (name, licence, source) of each set.
        held_out: one row of figures per class and test set.
        halo_measured: how labels of tiles differ from those of the whole image, a row per halo, see
            ``geoseg.engine.halo``.
        datetime: when the weights were trained, RFC 3339.
        activation: "sigmoid", channels are independent of each other, and background is where all are below a half;
            "softmax", exactly one holds, and a channel for background comes before those of the classes.
        output: "logits", or "scores" where the network itself applies the activation, as many ONNX files do.
        dtype: values of the input: "uint8", 0-255, to which scenes of other types are scaled; "any", as they are.
        options: arguments of the network's class that differ from its defaults, see ``architectures.build``.
        thresholds: of classical segmenters; empty where the scene decides.
        automatic: whether the model may be chosen for a scene without being asked for.
        intended_use: what the model is for, a line each.
        known_failures: what it gets wrong, a line each.
        pictures: file names of pictures of its predictions beside the card.
        checksum: of the weights as the card states it, a hexadecimal multihash; empty if it does not.
        upsampling: how many times coarser than its range a scene may be; it is then read upsampled.
        precisions: of the arithmetic with which labels are those of fp32 on at least 99.7 % of real pixels;
            ``--precision auto`` takes no other.
        int8: file name of its convolutions of integers beside the card, see ``geoseg.models.quantization``;
            ``None`` if there are none.
        int8_checksum: of that file, a hexadecimal multihash.
        int8_measured: how labels by integers differ from those of fp32, see ``geoseg.engine.quantize``.
        parity: how labels differ from those of torch in fp32, a row per runtime and precision, see
            ``geoseg.engine.parity``.
        download: where the weights came from, for a model of the zoo: ``url``, ``sha256`` and more; else empty.
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
    weights: str | None
    training_data: tuple[dict[str, str], ...]
    held_out: tuple[dict[str, Any], ...]
    halo_measured: tuple[dict[str, Any], ...]
    datetime: str
    activation: Activation = "sigmoid"
    output: OutputType = "logits"
    dtype: InputType = "uint8"
    options: tuple[tuple[str, Any], ...] = ()
    thresholds: tuple[float, ...] = ()
    automatic: bool = True
    intended_use: tuple[str, ...] = ()
    known_failures: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    checksum: str = ""
    upsampling: float = 2.0
    precisions: tuple[str, ...] = ("fp32",)
    int8: str | None = None
    int8_checksum: str = ""
    int8_measured: tuple[tuple[str, Any], ...] = ()
    parity: tuple[dict[str, Any], ...] = ()
    download: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, path: Path) -> Card:
        """Reads a card.

        Args:
            path: of the JSON file; a ``config.json`` of segmentation_models_pytorch's hub will do.

        Raises:
            ModelError: no such file, not a card, or weights that are code.
        """
        if path.suffix in _CODE_SUFFIXES:
            raise ModelError(
                f"{path} is a pickle or TorchScript file, which runs code when loaded; "
                "geoseg takes a card (JSON) with safetensors weights beside it"
            )
        if path.suffix == _ONNX:
            raise ModelError(
                f"{path} is a network without a card; write one beside it that names it as its weights "
                "(geoseg models NAME --json shows a card)"
            )
        from geoseg.models.smp_hub import card_of, is_config

        try:
            item = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ModelError(f"{path} is not a readable model card: {error}; expected a STAC MLM item (JSON)") from None
        try:
            card = card_of(path, item) if is_config(item) else cls.from_item(path, item)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ModelError(
                f"{path} is not a complete model card: {type(error).__name__} {error}; "
                "expected a STAC MLM item with geoseg: fields, as `geoseg models NAME --json` prints one"
            ) from None
        _check(card)
        return card

    @classmethod
    def from_item(cls, path: Path, item: dict[str, Any]) -> Card:
        """The card that a STAC Item holds, unchecked; :meth:`read` is the way for files.

        Args:
            path: of the card's file; the weights lie beside it.
            item: as :meth:`to_item` makes it.

        Raises:
            KeyError, TypeError, ValueError: something that every card has is not there.
        """
        properties = item["properties"]
        weights, int8 = (item["assets"].get(name, {}) for name in ("weights", "int8"))
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
                CardClass(
                    entry["value"],
                    entry["name"],
                    _colour(entry["color_hint"]),
                    entry.get("geoseg:boundary_of"),
                    float(entry.get("geoseg:odds", 1.0)),
                    entry.get("geoseg:min_area_m2"),
                )
                for entry in network_output["classification:classes"]
                if entry["value"] != 0
            ),
            tile=int(network_input["input"]["shape"][-1]),
            halo=int(properties["geoseg:halo"]),
            stride=int(properties["geoseg:stride"]),
            weights=weights["href"] if weights else None,
            training_data=tuple(properties["geoseg:training_data"]),
            held_out=tuple(properties["geoseg:held_out"]),
            halo_measured=tuple(properties["geoseg:halo_measured"]),
            datetime=properties["datetime"],
            activation=_one_of(properties.get("geoseg:activation", "sigmoid"), "sigmoid", "softmax"),
            output="scores" if network_output.get("name") == "scores" else "logits",
            dtype="uint8" if network_input["input"]["data_type"] == "uint8" else "any",
            options=tuple(sorted(properties.get("geoseg:architecture_options", {}).items())),
            thresholds=tuple(float(value) for value in properties.get("geoseg:thresholds", ())),
            automatic=bool(properties.get("geoseg:automatic", True)),
            intended_use=tuple(properties.get("geoseg:intended_use", ())),
            known_failures=tuple(properties.get("geoseg:known_failures", ())),
            pictures=tuple(properties.get("geoseg:pictures", ())),
            checksum=weights.get("file:checksum", ""),
            upsampling=float(properties.get("geoseg:upsampling", 2.0)),
            precisions=tuple(properties.get("geoseg:precisions", ("fp32",))),
            int8=int8["href"] if int8 else None,
            int8_checksum=int8.get("file:checksum", ""),
            int8_measured=tuple(sorted(properties.get("geoseg:int8_measured", {}).items())),
            parity=tuple(properties.get("geoseg:parity", ())),
            download=tuple(sorted(properties.get("geoseg:download", {}).items())),
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
            | ({"geoseg:odds": entry.odds} if entry.odds != 1 else {})
            | ({"geoseg:min_area_m2": entry.min_area_m2} if entry.min_area_m2 is not None else {})
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
                "mlm:framework": "ONNX" if self.is_onnx else "pytorch" if self.weights else "numpy",
                "mlm:total_parameters": self.parameters,
                "mlm:pretrained": bool(self.weights),
                **({"mlm:pretrained_source": "ImageNet"} if self.weights else {}),
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
                            "data_type": "uint8" if self.dtype == "uint8" else "float32",
                        },
                        "value_scaling": scaling,
                        "resize_type": None,
                    }
                ],
                "mlm:output": [
                    {
                        "name": self.output,
                        "tasks": ["semantic-segmentation"],
                        "result": {
                            "shape": [-1, self.planes, self.tile, self.tile],
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
                **self._extras(),
            },
            "assets": ({"weights": self._asset()} if self.weights else {}) | self._int8_asset(),
        }

    def _extras(self) -> dict[str, Any]:
        """What not every card has."""
        extras = {
            "geoseg:activation": self.activation if self.activation != "sigmoid" else None,
            "geoseg:architecture_options": dict(self.options),
            "geoseg:thresholds": list(self.thresholds),
            "geoseg:automatic": None if self.automatic else False,
            "geoseg:intended_use": list(self.intended_use),
            "geoseg:known_failures": list(self.known_failures),
            "geoseg:pictures": list(self.pictures),
            "geoseg:upsampling": self.upsampling if self.upsampling != 2.0 else None,
            "geoseg:precisions": list(self.precisions) if self.precisions != ("fp32",) else None,
            "geoseg:int8_measured": dict(self.int8_measured),
            "geoseg:parity": list(self.parity),
            "geoseg:download": dict(self.download),
        }
        return {key: value for key, value in extras.items() if value is False or value}

    def _asset(self) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if self.weights_path.is_file():  # weights of the zoo may still be elsewhere
            facts = {"file:size": self.weights_path.stat().st_size, "file:checksum": f"1220{self.weights_sha256}"}
        if self.is_onnx:
            title, kind = "network, ONNX", "onnx"
        else:
            title, kind = "weights, float16 safetensors", "safetensors"
            if facts and self._is_wide():
                title = "weights, safetensors"
        return {
            "href": self.weights,
            "type": "application/octet-stream",
            "title": title,
            "roles": ["mlm:model", "mlm:weights"],
            "mlm:artifact_type": kind,
            **facts,
        }

    def _int8_asset(self) -> dict[str, Any]:
        if self.int8 is None:
            return {}
        asset = {
            "href": self.int8,
            "type": "application/octet-stream",
            "title": "convolutions of 8-bit integers, safetensors",
            "roles": ["mlm:weights"],
            "file:checksum": self.int8_checksum,
        }
        return {"int8": asset}

    def _is_wide(self) -> bool:
        """Whether the weights take more than float16 would."""
        return self.weights_path.stat().st_size > 3 * self.parameters

    @property
    def is_there(self) -> bool:
        """Whether the weights lie where they should, or none are needed."""
        return self.weights is None or self.weights_path.is_file()

    @property
    def is_onnx(self) -> bool:
        """Whether the network is an ONNX file, and not built from its architecture."""
        return self.weights is not None and Path(self.weights).suffix == _ONNX

    def check_weights(self) -> None:
        """Makes sure that the weights are those which the card describes, if it says which.

        Raises:
            ModelError: they are not.
        """
        if self.checksum and self.checksum != f"1220{self.weights_sha256}":
            raise ModelError(
                f"{self.weights_path} are not the weights that the card of {self.name} describes: sha256 "
                f"{self.weights_sha256[:16]}..., expected {self.checksum[4:20]}...; fetch card and weights together"
            )

    @property
    def int8_path(self) -> Path:
        """Where the convolutions of integers lie, the very file that the card describes.

        Raises:
            ModelError: the model has none, or another file lies there.
        """
        if self.int8 is None:
            raise ModelError(f"model {self.name} has no convolutions of integers; make them with geoseg quantize")
        path = self.path.parent / self.int8
        try:
            found = _checksum(path)
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}; fetch it with its card") from None
        if found != self.int8_checksum:
            raise ModelError(f"{path} is not the file that the card of {self.name} describes; fetch both together")
        return path

    @property
    def channels(self) -> int:
        """Bands that the network takes."""
        return len(self.bands)

    @property
    def planes(self) -> int:
        """Planes of scores that the network gives: the classes', and with softmax one for background before them."""
        return len(self.classes) + (self.activation == "softmax")

    @property
    def weights_path(self) -> Path:
        """Where the weights lie.

        Raises:
            ModelError: the model has none.
        """
        if self.weights is None:
            raise ModelError(f"model {self.name} has no weights; it is a {self.architecture} segmenter")
        return self.path.parent / self.weights

    @cached_property
    def weights_sha256(self) -> str:
        """Digest of the weights file, hexadecimal, or of nothing: the model's identity in a manifest."""
        return hashlib.sha256(self.weights_path.read_bytes() if self.weights else b"").hexdigest()

    @cached_property
    def digest(self) -> str:
        """Digest of all that decides a prediction but how the scene is cut: weights, architecture, scaling, classes."""
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
            self.stride,
        ]
        # nor does one whose network is of the first kind
        if self.activation != "sigmoid" or self.dtype != "uint8" or self.options or self.thresholds:
            facts.append([self.activation, self.dtype, self.options, self.thresholds])
        if self.output != "logits":
            facts.append(self.output)
        if any(entry.odds != 1 for entry in self.classes):
            facts.append([entry.odds for entry in self.classes])
        if self.int8 is not None:
            facts.append(self.int8_checksum)
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @property
    def parameters(self) -> int:
        """Number of trained values in the weights; 0 while they are not there, and for ONNX files."""
        if self.weights is None or not self.is_there or self.is_onnx:
            return 0
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
    def min_areas_m2(self) -> dict[int, float]:
        """The minimum mapping unit of each class that has one, by code."""
        return {entry.code: entry.min_area_m2 for entry in self.classes if entry.min_area_m2 is not None}

    @property
    def boundaries(self) -> tuple[tuple[int, int], ...]:
        """(code, boundary code) of the classes whose touching instances stay apart."""
        codes = {entry.name: entry.code for entry in self.classes}
        return tuple((codes[entry.boundary_of], entry.code) for entry in self.classes if entry.boundary_of)


def write_model(directory: Path, card: Card, state: Mapping[str, Tensor], *, half: bool = True) -> Card:
    """Writes a model: a card, and its weights as safetensors, both or none.

    Args:
        directory: where ``NAME.card.json`` and ``NAME.safetensors`` go; an older model of that name is replaced.
        card: the model's; ``path`` and ``weights`` are set here, and what was measured of other weights' precisions is
            left out.
        state: the network's state dict.
        half: round floating point tensors to float16.

    Returns:
        the card as it lies in ``directory``.

    Raises:
        ModelError: the card is not sound, or a weight is not finite (in float16).
        OutputError: there is no such directory, or it cannot be written.
    """
    import torch
    from safetensors.torch import save_file

    tensors = {
        key: (value.half() if half and value.is_floating_point() else value)
        .detach()
        .cpu()
        .clone(memory_format=torch.contiguous_format)
        for key, value in state.items()
    }
    wrong = [key for key, value in tensors.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if wrong:
        raise ModelError(f"weights {wrong[0]} of model {card.name} are not finite{' in float16' if half else ''}")
    path = directory / f"{card.name}{CARD_SUFFIX}"
    with staged(path) as inside:
        made = replace(
            card,
            path=inside,
            weights=f"{card.name}.safetensors",
            precisions=("fp32",),
            int8=None,
            int8_checksum="",
            int8_measured=(),
            parity=(),
        )
        save_file(tensors, made.weights_path, metadata={"format": "pt"})
        made.weights_path.chmod(0o644)  # safetensors writes files for their owner alone
        inside.write_text(json.dumps(made.to_item(), indent=1, ensure_ascii=False), encoding="utf-8")
        Card.read(inside)
    return Card.read(path)


def write_int8(card: Card, write: Callable[[Path], None], measured: Mapping[str, Any]) -> Card:
    """Gives a model's card convolutions of integers, as ``NAME.int8.safetensors`` beside it.

    What it told of integers that it had before goes, all else in it stays.

    Args:
        card: as read.
        write: writes the file.
        measured: what tells that they do, plain JSON values.

    Returns:
        the card as it lies there now.

    Raises:
        ModelError: the file is no card of geoseg's.
        OutputError: it cannot be written.
    """
    item = _item(card, "convolutions of integers")
    with staged(card.path) as inside:  # both files appear, or none
        made = replace(card, path=inside, int8=f"{card.name}.int8.safetensors")
        path = inside.with_name(str(made.int8))
        write(path)
        item["assets"]["int8"] = replace(made, int8_checksum=_checksum(path)).to_item()["assets"]["int8"]
        properties = item["properties"]
        others = [one for one in properties.get("geoseg:precisions", ("fp32",)) if one not in OF_INTEGERS]
        properties |= {"geoseg:precisions": [*others, "int8"], "geoseg:int8_measured": dict(measured)}
        if "geoseg:parity" in properties:
            rows = properties["geoseg:parity"]
            properties["geoseg:parity"] = [row for row in rows if row["precision"] not in OF_INTEGERS]
        inside.write_text(json.dumps(item, indent=1, ensure_ascii=False), encoding="utf-8")
    return Card.read(card.path)


def write_parity(card: Card, precisions: tuple[str, ...], measured: Sequence[Mapping[str, Any]]) -> Card:
    """Writes into a card's file which precisions keep labels, at once or not at all; all else in it stays.

    Args:
        card: as read.
        precisions: that pass the gate.
        measured: what it rests on, plain JSON values.

    Returns:
        the card as it lies there now.

    Raises:
        ModelError: the file is no card of geoseg's.
        OutputError: it cannot be written.
    """
    item = _item(card, "precisions")
    item["properties"] |= {"geoseg:precisions": list(precisions), "geoseg:parity": list(measured)}
    with staged(card.path) as inside:
        inside.write_text(json.dumps(item, indent=1, ensure_ascii=False), encoding="utf-8")
    return Card.read(card.path)


def _checksum(path: Path) -> str:
    """Of a file, a hexadecimal multihash of sha256."""
    return f"1220{hashlib.sha256(path.read_bytes()).hexdigest()}"


def _item(card: Card, what: str) -> dict[str, Any]:
    """A card's file, to write something into it.

    Raises:
        ModelError: it is no card of geoseg's.
    """
    item: dict[str, Any] = json.loads(card.path.read_text(encoding="utf-8"))
    if "properties" not in item:
        raise ModelError(
            f"{card.path} has no place for {what}; write a card for {card.weights} "
            "(geoseg models NAME --json shows one)"
        )
    return item


def write_halo(card: Card, halo: int, measured: Sequence[Mapping[str, Any]]) -> Card:
    """Writes another halo into a card's file, at once or not at all; all else in it stays, and so do the weights.

    Args:
        card: as read.
        halo: pixels, a multiple of the card's stride.
        measured: what it rests on, plain JSON values.

    Returns:
        the card as it lies there now.

    Raises:
        ModelError: the file is no card of geoseg's, or the halo does not fit the card's tile and stride.
        OutputError: it cannot be written.
    """
    item = _item(card, "a halo")
    item["properties"] |= {"geoseg:halo": halo, "geoseg:halo_measured": list(measured)}
    _check(Card.from_item(card.path, item))
    with staged(card.path) as inside:
        inside.write_text(json.dumps(item, indent=1, ensure_ascii=False), encoding="utf-8")
    return Card.read(card.path)


def _one_of(value: str, *known: Any) -> Any:
    if value not in known:
        raise ValueError(f"{value!r} is not one of {', '.join(known)}")
    return value


def _colour(hint: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(hint.removeprefix("#"))
    return red, green, blue


def _product(shape: list[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def _check(card: Card) -> None:
    family = card.architecture.partition("-")[0]
    if (card.weights is None) != (family in _CLASSICAL):
        raise ModelError(f"{card.path} has weights {card.weights} for the architecture {card.architecture}")
    if card.weights is not None and Path(card.weights).suffix not in {".safetensors", _ONNX}:
        raise ModelError(f"{card.path} names the weights {card.weights}; geoseg loads .safetensors and .onnx only")
    if not card.is_there:
        raise ModelError(f"the weights {card.weights} of model {card.name} are not beside its card {card.path}")
    if not len(card.bands) == len(card.mean) == len(card.std) > 0:
        raise ModelError(f"{card.path} has {len(card.bands)} bands but {len(card.mean)} scalings; one each is needed")
    if not all(card.std):
        raise ModelError(f"{card.path} divides a band by 0; give standard deviations above 0")
    if card.stride < 1 or card.tile % card.stride or card.halo % card.stride or card.tile <= 2 * card.halo:
        raise ModelError(
            f"{card.path} has tile {card.tile}, halo {card.halo}, stride {card.stride}; tile and halo must be "
            "multiples of the stride, and the tile larger than two halos"
        )
    if card.upsampling < 1:
        raise ModelError(f"{card.path} has an upsampling of {card.upsampling}; give 1 or more")
    _check_classes(card)


def _check_classes(card: Card) -> None:
    if not all(1 <= entry.code <= 254 for entry in card.classes) or not card.classes:
        raise ModelError(f"{card.path} has class codes outside 1-254")
    layers = {entry.name for entry in card.classes if entry.boundary_of is None}
    bounded = [entry.boundary_of for entry in card.classes if entry.boundary_of is not None]
    if not layers.issuperset(bounded) or len(set(bounded)) < len(bounded):
        raise ModelError(
            f"{card.path} has boundaries of {', '.join(bounded)}; expected one at most of each of its layers"
        )
    if not all(entry.odds > 0 and (entry.min_area_m2 or 0) >= 0 for entry in card.classes):
        raise ModelError(f"{card.path} has odds or a minimum mapping unit out of range; give odds > 0 and areas >= 0")
    try:
        require_layer_names(tuple(entry.name for entry in card.classes))
    except SettingsError as error:
        raise ModelError(f"{card.path} has unfit {error}") from None

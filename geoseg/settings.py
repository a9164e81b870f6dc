"""What a run is asked to do: frozen, validated, hashable (floor 0)."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from geoseg.errors import SettingsError

__all__ = [
    "OF_BF16",
    "OF_INTEGERS",
    "RESERVED",
    "Arithmetic",
    "Device",
    "EvaluationSettings",
    "Execution",
    "Precision",
    "Refinement",
    "RunSettings",
    "RuntimeName",
    "SimplifyMethod",
    "Stitch",
    "TrainingPrecision",
    "Tta",
    "VectorFormat",
    "VectorSettings",
    "in_lonlat",
    "require_formats",
    "require_layer_names",
]

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "int8", "int8-bf16"]
Arithmetic = Literal["fp32", "bf16", "int8", "int8-bf16"]
"""of networks; int8 has fp32 around its convolutions of integers, int8-bf16 bf16"""

OF_INTEGERS: frozenset[str] = frozenset({"int8", "int8-bf16"})
"""those with convolutions of integers"""

OF_BF16: frozenset[str] = frozenset({"bf16", "int8-bf16"})
"""those whose floating-point numbers are bfloat16"""

TrainingPrecision = Literal["auto", "fp32", "bf16"]
Refinement = Literal["none", "crf", "guided"]
RuntimeName = Literal["auto", "torch", "openvino", "onnx"]
SimplifyMethod = Literal["visvalingam", "douglas-peucker"]
Stitch = Literal["crop", "gaussian", "cosine"]
Tta = Literal["none", "d4"]
VectorFormat = Literal["geojson", "geojsonl", "parquet", "gpkg", "fgb"]

_ROUNDING = 1e-6  # three pixels are three, whatever a division made of them
_WIDEST_PX = 64  # of openings, whose work grows with the width
_LEAST_AREA_M2 = 25.0  # of instances, unless their class's model or the user says otherwise


RESERVED = "failed"
"""what no layer may be called: a file of that name shows where windows failed"""


def require_layer_names(names: tuple[str, ...]) -> None:
    """Refuses layer names that cannot be file names on every system.

    Raises:
        SettingsError: no name, an unfit one, or two that differ in upper and lower case only.
    """
    if any(name.lower() == RESERVED for name in names):
        raise SettingsError(
            f"layer name {RESERVED!r}: its file tells of windows that failed; give the layer another name"
        )
    unfit = [name for name in names if not re.fullmatch(r"\w[\w-]*", name)]
    if unfit or not names or len({name.lower() for name in names}) < len(names):
        raise SettingsError(
            f"layer names {', '.join(map(repr, names)) or '(none)'}: "
            "give each layer a name of letters, digits, _ and -, no two alike"
        )


def require_formats(formats: tuple[str, ...]) -> None:
    """Refuses vector formats that geoseg does not write.

    Raises:
        SettingsError: none at all, or an unknown one; it names those that there are.
    """
    if not formats:
        raise SettingsError("--formats is empty: name at least one, e.g. geojson,parquet")
    for name in formats:
        if name not in get_args(VectorFormat):
            raise SettingsError(f"format {name!r} is not known; use some of {', '.join(get_args(VectorFormat))}")


def in_lonlat(formats: Iterable[str]) -> bool:
    """Whether some of these vector formats hold longitudes and latitudes, and not the scene's coordinates."""
    return any(name in {"geojson", "geojsonl"} for name in formats)


def _require_not_negative(name: str, value: float, unit: str) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise SettingsError(f"--{name} is {value}: give a number of {unit} >= 0")


def _require_moment(value: str | None) -> None:
    try:
        _ = value is None or dt.datetime.fromisoformat(value)
    except ValueError:
        raise SettingsError(f"datetime {value!r} is not ISO 8601; give one like 2024-06-30T10:15:00Z") from None


def _require_one_of(name: str, value: str, kind: Any) -> None:
    if value not in get_args(kind):
        raise SettingsError(f"--{name} is {value!r}: choose one of {', '.join(get_args(kind))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSettings:
    """What shapes the layers, once a mask is there.

    Attributes:
        min_area_m2: instances below this area on the ground are given to their neighbours, after the merge of chunks;
            ``None`` is the minimum mapping unit of each class, and 25 m2 for a class without one.
        mapping_units_m2: (code, area) of classes with a minimum mapping unit, as their model's card has it.
        fill_holes_m2: so are patches of background below this area, unless they touch nodata or the scene's edge.
        min_width_m: parts of a class that are narrower are given to their neighbours; 0 keeps them.
        simplify_m: tolerance of the coverage simplification, metres on the ground; ``None`` is one pixel,
            0 keeps every vertex.
        simplify_method: how vertices are chosen.
        smooth: replace pixel stairs by slanted lines, keeping all areas, before simplifying.
        boundaries: (code, boundary code) of classes whose mask marks the boundaries of instances by a code of its own:
            touching instances stay apart, and the boundary is given back to them.
        growth_px: how far instances may grow into their boundary, pixels.
        formats: vector formats to write, by name.
    """

    min_area_m2: float | None = None
    mapping_units_m2: tuple[tuple[int, float], ...] = ()
    fill_holes_m2: float = 0.0
    min_width_m: float = 0.0
    simplify_m: float | None = None
    simplify_method: SimplifyMethod = "visvalingam"
    smooth: bool = False
    boundaries: tuple[tuple[int, int], ...] = ()
    growth_px: int = 8
    formats: tuple[str, ...] = ("geojson", "parquet")

    def __post_init__(self) -> None:
        if self.min_area_m2 is not None:
            _require_not_negative("min-area", self.min_area_m2, "square metres")
        _require_not_negative("fill-holes", self.fill_holes_m2, "square metres")
        _require_not_negative("min-width", self.min_width_m, "metres")
        if self.simplify_m is not None:
            _require_not_negative("simplify", self.simplify_m, "metres")
        _require_one_of("simplify-method", self.simplify_method, SimplifyMethod)
        codes = [code for pair in self.boundaries for code in pair]
        if len(set(codes)) < len(codes) or not all(1 <= code <= 254 for code in codes):
            pairs = ",".join(f"{code}={boundary}" for code, boundary in self.boundaries)
            raise SettingsError(f"--boundaries is {pairs}: give CODE=BOUNDARY,... with codes 1-254, none twice")
        if not 1 <= self.growth_px <= 254:
            raise SettingsError(f"--growth is {self.growth_px}: give a number of pixels from 1 to 254")
        require_formats(self.formats)

    def width_px(self, gsd_m: float) -> int:
        """Least width of a class's parts, pixels.

        Raises:
            SettingsError: it is more than a chunk can see.
        """
        width_px = math.ceil(self.min_width_m / gsd_m - _ROUNDING)
        if width_px > _WIDEST_PX:
            raise SettingsError(
                f"--min-width is {self.min_width_m:g} m, which is {width_px} pixels; "
                f"give at most {_WIDEST_PX} pixels, here {_WIDEST_PX * gsd_m:g} m"
            )
        return width_px

    def least_area_m2(self, code: int) -> float:
        """Area below which an instance of a class is small, square metres."""
        if self.min_area_m2 is not None:
            return self.min_area_m2
        return dict(self.mapping_units_m2).get(code, _LEAST_AREA_M2)

    def identity(self) -> dict[str, Any]:
        """All settings as plain JSON values; the same for settings that mean the same."""
        facts = asdict(self) | {"formats": sorted(set(self.formats)), "boundaries": sorted(self.boundaries)}
        if self.min_area_m2 is None:
            facts["min_area_m2"] = _LEAST_AREA_M2
        del facts["mapping_units_m2"]  # a run tells what they come to, see `Plan.identity`
        if not self.boundaries:
            del facts["growth_px"]
        return facts


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What one run does with one scene; everything here may change the result.

    Attributes:
        models: names of models in the zoo, or paths of cards (JSON), the most preferred first; each class is predicted
            by one of them. ``None`` chooses among the shipped ones by the scene's bands and GSD.
        classes: layers wanted, by name; ``None`` is all that the models have.
        bands: the scene's bands for the models', in their order: numbers, names or common names.
        scale: (low, high) of the scene's values, stretched linearly to the card's 0-255.
        bounds: (west, south, east, north) in degrees; ``None`` is the whole scene.
        halo: pixels around a tile's core; ``None`` is the card's, or with blending a quarter of the tile.
        stitch: how tiles become one mask: ``crop`` takes the core of each; ``gaussian`` and ``cosine`` blend the scores
            of all tiles that overlap at a pixel, weighted so, before classes are decided.
        refine: how scores are brought to the edges in the image before classes are decided.
        tta: test-time augmentation: ``d4`` averages scores over the eight ways to turn and mirror a tile.
        datetime: when the scene was taken, ISO 8601; ``None`` is what the raster says.
        device: where the models run.
        runtime: what runs their networks; ``auto`` is OpenVINO on a CPU where it is installed, ONNX Runtime for ONNX
            files, else torch.
        precision: their arithmetic; ``auto`` is what the hardware is quickest with of what the model's card says that
            labels stay the same with: bf16, or integers.
        vector: what shapes the layers.
    """

    models: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    bands: tuple[str, ...] | None = None
    scale: tuple[float, float] | None = None
    bounds: tuple[float, float, float, float] | None = None
    halo: int | None = None
    stitch: Stitch = "crop"
    refine: Refinement = "none"
    tta: Tta = "none"
    datetime: str | None = None
    device: Device = "auto"
    runtime: RuntimeName = "auto"
    precision: Precision = "auto"
    vector: VectorSettings = VectorSettings()

    def __post_init__(self) -> None:
        if self.models is not None and not 0 < len(set(self.models)) == len(self.models):
            raise SettingsError(f"--model is {', '.join(self.models) or 'empty'}: name at least one model, none twice")
        if self.classes is not None:
            require_layer_names(self.classes)
        if self.scale is not None:
            low, high = self.scale
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise SettingsError(f"--scale is {low},{high}: give LOW,HIGH with LOW < HIGH, e.g. 0,3000")
        if self.bounds is not None:
            west, south, east, north = self.bounds
            if not (-180 <= west <= 180 and -180 <= east <= 180 and west != east and -90 <= south < north <= 90):
                raise SettingsError(
                    f"--bbox is {west},{south},{east},{north}: give W,S,E,N in degrees with S < N "
                    "(W > E crosses the antimeridian)"
                )
        if self.vector.boundaries or self.vector.mapping_units_m2:
            raise SettingsError(
                "boundaries or mapping units are set for a run; leave them out, the model's card says what they are"
            )
        if self.halo is not None and self.halo < 0:
            raise SettingsError(f"--halo is {self.halo}: give a number of pixels >= 0")
        _require_one_of("stitch", self.stitch, Stitch)
        if self.stitch != "crop" and self.halo == 0:
            raise SettingsError(f"--stitch is {self.stitch}, and tiles with --halo 0 share nothing to blend: give more")
        _require_one_of("refine", self.refine, Refinement)
        _require_one_of("tta", self.tta, Tta)
        _require_moment(self.datetime)
        _require_one_of("device", self.device, Device)
        _require_one_of("runtime", self.runtime, RuntimeName)
        _require_one_of("precision", self.precision, Precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How the work is cut and who does it; nothing here may change the result.

    Attributes:
        chunk: side of a chunk, pixels; ``None`` fits the scene and the workers.
        threads: of this process, each of which does one task at a time; ``None`` fits the machine and the scene.
        workers: processes of a local Dask cluster, in place of threads.
        scheduler: address of a running Dask scheduler, or the path of the file that it wrote.
        cluster: path of a file that says which Dask cluster to start or to join, see ``geoseg.engine.cluster``.
    """

    chunk: int | None = None
    threads: int | None = None
    workers: int | None = None
    scheduler: str | None = None
    cluster: str | None = None

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise SettingsError(f"--chunk is {self.chunk}: give a number of pixels >= 1")
        if self.threads is not None and self.threads < 1:
            raise SettingsError(f"--threads is {self.threads}: give a number >= 1")
        if self.workers is not None and self.workers < 1:
            raise SettingsError(f"--workers is {self.workers}: give a number of processes >= 1")
        if sum(who is not None for who in (self.threads, self.workers, self.scheduler, self.cluster)) > 1:
            raise SettingsError("--threads, --workers, --scheduler and --cluster exclude each other: give one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """How a prediction is judged against truth.

    Attributes:
        classes: (name, code in the prediction's mask) of the classes to judge; other codes count as background.
        truth_classes: the same for the truth's mask; ``None`` is as in the prediction.
        class_field: the attribute of vector layers that holds a class's name or code.
        instances: the truth is objects of this class alone: a raster of their numbers, not of class codes, or polygons;
            no other class is judged.
        roads: classes that are judged as networks, too.
        boundary_px: tolerance of boundary F1 and thickness of boundary IoU's bands, pixels.
        relaxed_px: tolerance of the relaxed figures of roads, pixels.
        resamples: of the bootstrap over scenes.
        worst: how many of the worst places are kept.
    """

    classes: tuple[tuple[str, int], ...] = (("water", 1), ("road", 2), ("field", 3), ("parking", 4))
    truth_classes: tuple[tuple[str, int], ...] | None = None
    class_field: str = "class"
    instances: str | None = None
    roads: tuple[str, ...] = ("road",)
    boundary_px: int = 2
    relaxed_px: int = 3
    resamples: int = 1000
    worst: int = 12

    def __post_init__(self) -> None:
        names = tuple(name for name, _ in self.classes)
        for option, pairs in (("classes", self.classes), ("truth-classes", self.truth_classes or self.classes)):
            require_layer_names(tuple(name for name, _ in pairs))
            codes = [code for _, code in pairs]
            if len(set(codes)) < len(codes) or not all(1 <= code <= 254 for code in codes):
                raise SettingsError(f"--{option}: give NAME=CODE,... with codes 1-254, none twice")
        if self.truth_classes is not None and {name for name, _ in self.truth_classes} != set(names):
            raise SettingsError(f"--truth-classes: give codes for the same classes as --classes, {', '.join(names)}")
        if self.instances is not None and self.instances not in names:
            raise SettingsError(f"--instances is {self.instances!r}: choose one of {', '.join(names)}")
        if self.instances is not None:
            object.__setattr__(self, "classes", tuple(pair for pair in self.classes if pair[0] == self.instances))
        for option, value, least, most in (
            ("boundary", self.boundary_px, 1, 64),
            ("relaxed", self.relaxed_px, 0, 64),
            ("bootstrap", self.resamples, 100, 100_000),
            ("worst", self.worst, 0, 1000),
        ):
            if not least <= value <= most:
                raise SettingsError(f"--{option} is {value}: give a number from {least} to {most}")

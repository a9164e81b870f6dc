"""What `geoseg evaluate` was pointed at: pairs of a prediction and its truth, opened and brought to one grid.

A prediction is a run's directory, a mask, or a vector layer. Of a run, ``mask.tif`` is judged pixel by pixel (and with
``confidence.tif`` by its calibration), its layers are judged as objects and by their boundaries. The grid is that of
the prediction's raster; a prediction without one is judged on the truth's, or on a raster that the user names. Two
folders are as many pairs as they have stems in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geoseg.errors import InputError
from geoseg.evaluation.sources import (
    InstanceSource,
    MaskSource,
    PolygonSource,
    Source,
    find_record,
)
from geoseg.grids import open_band
from geoseg.scene import Scene
from geoseg.settings import EvaluationSettings
from geoseg.shapes import is_vector

__all__ = ["Extras", "Subject", "find_subjects"]

RECORD = "run.json"
SIDECARS = {".xml", ".json", ".txt", ".md", ".prj", ".dbf", ".shx", ".cpg", ".qml", ".csv", ".tfw", ".ovr", ".msk"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """Paths that may go with a prediction and a truth; folders when those are folders.

    Attributes:
        grid: a raster whose grid to judge on.
        within: polygons; what lies outside them is unknown.
        confidence: a raster of bytes, 0-254 for 0-1; a run brings its own.
        image: a raster to show beside the worst places; a run's own scene when not given, if it is still there.
    """

    grid: str | None = None
    within: str | None = None
    confidence: str | None = None
    image: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """One scene to judge.

    Attributes:
        name: for people.
        grid: what windows mean.
        pixels: the prediction, as judged pixel by pixel.
        objects: the prediction, as judged by objects and boundaries; often the same.
        truth: what it is judged by.
        confidence: of the prediction's pixels.
        within: where truth is known.
        image: what the scene looks like.
    """

    name: str
    grid: Scene
    pixels: Source
    objects: Source
    truth: Source
    confidence: Scene | None
    within: PolygonSource | None
    image: Scene | None


def find_subjects(prediction: str, truth: str, settings: EvaluationSettings, extras: Extras) -> list[Subject]:
    """Open all pairs.

    Args:
        prediction: a run's directory, a mask, a vector layer, or a folder of such.
        truth: a mask, a raster of object numbers, a vector layer, or a folder of such.
        settings: of the evaluation.
        extras: more paths.

    Raises:
        InputError: something is not there, cannot be read, or has no counterpart.
    """
    if not (_is_folder(prediction) or _is_folder(truth)):
        return [_open(prediction, truth, settings, extras)]
    if not (_is_folder(prediction) and _is_folder(truth)):
        one, other = (prediction, truth) if _is_folder(prediction) else (truth, prediction)
        raise InputError(f"{one} is a folder and {other} is not; give two folders, or a run, mask or layer each")
    ours, theirs = _members(Path(prediction)), _members(Path(truth))
    names = sorted(ours.keys() & theirs.keys())
    if not names:
        raise InputError(f"{prediction} and {truth} have no name in common; pairs are files or runs of one stem")
    more = {
        field: _members(Path(path)) if _is_folder(path) else {}
        for field in ("grid", "within", "confidence", "image")
        if (path := getattr(extras, field)) is not None
    }
    subjects = []
    for name in names:
        own = {field: found.get(name, None if found else getattr(extras, field)) for field, found in more.items()}
        subjects.append(_open(ours[name], theirs[name], settings, Extras(**own), name))
    return subjects


def _is_folder(path: str) -> bool:
    return Path(path).is_dir() and not (Path(path) / RECORD).exists()


def _members(folder: Path) -> dict[str, str]:
    """Rasters, layers and runs in a folder, by stem.

    Raises:
        InputError: two of one stem.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or (path.is_dir() and not (path / RECORD).exists()):
            continue
        if path.is_file() and path.suffix.lower() in SIDECARS:
            continue
        name = path.name if path.is_dir() else path.stem
        if name in found:
            raise InputError(f"{folder} has both {Path(found[name]).name} and {path.name}; keep one of each stem")
        found[name] = str(path)
    return found


def _open(
    prediction: str, truth: str, settings: EvaluationSettings, extras: Extras, name: str | None = None
) -> Subject:
    """Open one pair."""
    layers: Sequence[str] = ()
    mask: str | None = None
    if Path(prediction).is_dir():
        layers, mask, extras = _of_run(Path(prediction), dict(settings.classes), extras)
    elif is_vector(prediction):
        layers = [prediction]
    else:
        mask = prediction
    if mask is None and not layers:
        raise InputError(f"{prediction} has neither a mask nor layers of {', '.join(dict(settings.classes))}")
    codes, truth_codes = dict(settings.classes), dict(settings.truth_classes or settings.classes)
    grid = Scene.open(extras.grid) if extras.grid is not None else None
    painted = None if mask is None else MaskSource.open(mask, grid, list(codes.values()))
    truth_is_vector = is_vector(truth)
    if grid is None:
        grid = painted.scene if painted is not None else None if truth_is_vector else Scene.open(truth)
    if grid is None:
        raise InputError(f"{prediction} and {truth} are both vector layers; give a raster to judge on with --grid")
    drawn = PolygonSource.open(layers, grid, codes, settings.class_field) if layers else None
    real: Source
    if truth_is_vector:
        ordered = {key: truth_codes[key] for key in codes}
        real = PolygonSource.open([truth], grid, ordered, settings.class_field, settings.instances)
    elif settings.instances is not None:
        real = InstanceSource.open(truth, grid, list(codes).index(settings.instances) + 1)
    else:
        real = MaskSource.open(truth, grid, [truth_codes[key] for key in codes])
    pixels, objects = painted or drawn, drawn or painted
    assert pixels is not None  # noqa: S101 - there is a mask, or layers
    assert objects is not None  # noqa: S101 - the same
    sure = None if extras.confidence is None else open_band(extras.confidence)
    if sure is not None and sure.dtype != "uint8":
        raise InputError(f"{sure.shown}: confidences are bytes, 0-254 for 0-1; this is {sure.dtype}")
    return Subject(
        name=name or Path(prediction).stem,
        grid=grid,
        pixels=pixels,
        objects=objects,
        truth=real,
        confidence=sure,
        within=None if extras.within is None else PolygonSource.open([extras.within], grid, {"known": 1}, ""),
        image=None if extras.image is None else Scene.open(extras.image),
    )


def _of_run(directory: Path, codes: Mapping[str, int], extras: Extras) -> tuple[Sequence[str], str | None, Extras]:
    """What a run left: its layers, its mask if there is one, and what else is given with what it tells beside it."""
    record = find_record(directory)
    mask, confidence = directory / "mask.tif", directory / "confidence.tif"
    scene = str(record.get("identity", {}).get("scene", ""))
    beside = replace(
        extras,
        confidence=extras.confidence or (str(confidence) if confidence.exists() else None),
        image=extras.image or (scene if scene and Path(scene).exists() else None),
        grid=extras.grid or _finest_mask(directory, record, codes),
    )
    return _layers(directory, record, codes), str(mask) if mask.exists() else None, beside


def _finest_mask(directory: Path, record: Mapping[str, Any], codes: Mapping[str, int]) -> str | None:
    """The mask with the smallest pixels of a run by several models, of those that find a judged class.

    Its grid is what the run's layers are drawn on: masks of several models share no grid, layers do the ground.
    """
    found = [entry for entry in record.get("passes", ()) if not codes.keys().isdisjoint(entry["classes"])]
    if not found:
        return None
    path = directory / str(min(found, key=lambda entry: float(entry["gsd_m"]))["mask"])
    return str(path) if path.exists() else None


def _layers(directory: Path, record: Mapping[str, Any], codes: Mapping[str, int]) -> list[str]:
    """The files of a run's layers, GeoParquet before GeoJSON before the rest; one for each class that has one."""
    names = [name for name in record.get("layers", {}) if name in codes]
    files = {str(name) for name in record.get("files", ())}
    found = []
    for name in names:
        held = [f"{name}{end}" for end in (".parquet", ".geojson", ".geojsonl", ".fgb") if f"{name}{end}" in files]
        if held:
            found.append(str(directory / held[0]))
    if not found and "layers.gpkg" in files:
        found = [str(directory / "layers.gpkg")]
    return found

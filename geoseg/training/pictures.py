"""Sets of labelled images on disk, as a configuration describes them, opened and checked.

Images are any rasters that GDAL reads; labels are mask rasters or polygons of any vector format, drawn where a window
is looked at. Small pictures are held decoded, others are read window by window: a set may be larger than memory.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geoseg.errors import GeosegError, InputError, SettingsError
from geoseg.grids import find_inside, open_band, read_band
from geoseg.lattice import Window
from geoseg.scene import Scene
from geoseg.shapes import Drawing, is_vector, name_of, read_polygons
from geoseg.stages.predict import to_uint8
from geoseg.training.config import SetConfig, TrainConfig
from geoseg.training.crops import Crop
from geoseg.training.survey import Picture

__all__ = ["OpenSet", "RasterPicture", "open_sets"]

_FINER = 0.8  # a sample may be finer than its image by this factor: finer ones would only show its blur
HELD_BYTES = 1 << 30
"""Memory for decoded pictures, of all sets together."""
_SIDECARS = {".xml", ".json", ".txt", ".md", ".prj", ".dbf", ".shx", ".cpg", ".qml", ".csv", ".tfw", ".ovr", ".msk"}
_LAST_NUMBER = 65534  # objects are numbered anew in each window; 65535 serves `outlines`


class Labels(Protocol):
    """What is known of a picture."""

    def read(self, window: Window) -> tuple[NDArray[np.uint16], NDArray[np.bool_], NDArray[np.uint16] | None]:
        """Show a window of the picture, which may stick out of it.

        Returns:
            uint16 (rows, cols) bits of the classes that are there; bool, where that is known; uint16 object numbers, or
            None where objects are not told apart.
        """


@dataclass(frozen=True, slots=True, eq=False)
class MaskLabels:
    """A raster of class codes.

    Attributes:
        scene: the raster.
        grid: the picture's.
        bits: uint16 (256,), of each code.
        unknown: bool (256,), codes about which nothing is known.
    """

    scene: Scene
    grid: Scene
    bits: NDArray[np.uint16]
    unknown: NDArray[np.bool_]

    def read(self, window: Window) -> tuple[NDArray[np.uint16], NDArray[np.bool_], None]:
        """See `Labels.read`."""
        pixels, valid = read_band(self.scene, self.grid, window)
        codes = np.where((pixels >= 0) & (pixels <= 255), pixels, 0).astype(np.uint8)
        return self.bits[codes], valid & ~self.unknown[codes], None


@dataclass(frozen=True, slots=True, eq=False)
class PolygonLabels:
    """Polygons; one feature is one object.

    Attributes:
        drawing: of them, on the picture's grid.
        bits: uint16 (polygons + 1,), of each polygon's class; 0 of number 0.
    """

    drawing: Drawing
    bits: NDArray[np.uint16]

    def read(self, window: Window) -> tuple[NDArray[np.uint16], NDArray[np.bool_], NDArray[np.uint16]]:
        """See `Labels.read`."""
        numbers = self.drawing.read(window)
        objects = np.where(numbers > 0, numbers % _LAST_NUMBER + 1, 0).astype(np.uint16)
        return self.bits[numbers], np.ones(numbers.shape, np.bool_), objects


@dataclass(frozen=True, slots=True)
class NoLabels:
    """Nothing of the classes is there."""

    def read(self, window: Window) -> tuple[NDArray[np.uint16], NDArray[np.bool_], None]:
        """See `Labels.read`."""
        size = window.height, window.width
        return np.zeros(size, np.uint16), np.ones(size, np.bool_), None


@dataclass(frozen=True, slots=True, eq=False)
class RasterPicture:
    """A labelled image on disk.

    Attributes:
        scene: the image.
        bands: numbers of its bands.
        scale: values that become 0 and 255; None for bytes.
        fill: uint8 (bands,), what a network sees where there is no data.
        labels: what is known of it.
        annotated: bits of the classes that the labels tell of.
        area: outside of its polygons nothing is known; None is everywhere.
    """

    scene: Scene
    bands: tuple[int, ...]
    scale: tuple[float, float] | None
    fill: NDArray[np.uint8]
    labels: Labels
    annotated: int
    area: Drawing | None

    @property
    def name(self) -> str:
        """Where it came from."""
        return self.scene.shown

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.scene.height, self.scene.width

    @property
    def gsd_m(self) -> float:
        """Metres per pixel."""
        return self.scene.gsd_m

    def read(self, window: Window) -> Crop:
        """Read a window; what sticks out mirrors the image and is unknown."""
        pixels, valid = self.scene.read(window, self.bands)
        image = np.ascontiguousarray(to_uint8(pixels, self.scale).transpose(1, 2, 0))
        image[~valid] = self.fill
        present, known, objects = self.labels.read(window)
        known &= valid & find_inside(self.scene, window)
        if self.area is not None:
            known &= self.area.read(window) > 0
        present = np.where(known, present & np.uint16(self.annotated), np.uint16(0))
        if objects is not None:
            objects = np.where(present > 0, objects, np.uint16(0))
        return Crop(self.name, image, present, known.astype(np.uint16) * np.uint16(self.annotated), objects, self.gsd_m)


@dataclass(frozen=True, slots=True, eq=False)
class OpenSet:
    """A set whose files have been found and opened.

    Attributes:
        config: what was asked for.
        stems: of the images, in order.
        pictures: of the same, held in memory or read from disk.
        gsd_range_m: of its samples.
        digest: of what was read: it changes with the files.
        notes: what people should know, a line each.
    """

    config: SetConfig
    stems: tuple[str, ...]
    pictures: tuple[Picture, ...]
    gsd_range_m: tuple[float, float]
    digest: str
    notes: tuple[str, ...]


def open_sets(config: TrainConfig, fill: Sequence[int]) -> list[OpenSet]:
    """Open all sets of a configuration.

    Args:
        config: the training.
        fill: what a network sees where there is no data, for each band, 0-255.

    Raises:
        InputError: a file is missing, cannot be read, or does not fit the others; no image is there.
    """
    room = HELD_BYTES
    found = []
    for place, one in enumerate(config.data):
        where = f"data[{place}] ({one.name})"
        opener = _Opener(config, one, np.array(fill, np.uint8))
        try:
            images = _find(config.folder, one.images, "images")
            pictures: list[Picture] = []
            for image in images:
                picture: Picture = opener.open(image)
                held = picture.size[0] * picture.size[1] * (len(config.bands) + 6)
                if held <= room:
                    room -= held
                    picture = picture.read(Window(0, 0, picture.size[1], picture.size[0]))
                pictures.append(picture)
            opener.close()
        except GeosegError as error:
            raise type(error)(f"{where}: {error}") from None
        gsd_range_m = _range(config, one, min(picture.gsd_m for picture in pictures), where)
        digest = hashlib.sha256(json.dumps(opener.facts).encode()).hexdigest()
        stems = tuple(Path(image).stem for image in images)
        found.append(OpenSet(one, stems, tuple(pictures), gsd_range_m, digest, tuple(opener.notes)))
    return found


@dataclass(slots=True)
class _Opener:
    """Opens the images of one set with their labels; reads each vector file once for each CRS."""

    config: TrainConfig
    one: SetConfig
    fill: NDArray[np.uint8]
    facts: list[Any] = field(init=False, default_factory=list)
    notes: list[str] = field(init=False, default_factory=list)
    _frames: dict[tuple[tuple[str, ...], str], gpd.GeoDataFrame] = field(init=False, default_factory=dict)
    _masks: Mapping[str, list[str]] | None = field(init=False, default=None)
    _without: list[str] = field(init=False, default_factory=list)

    def open(self, image: str) -> RasterPicture:
        """Open an image with its labels."""
        one = self.one
        scene = Scene.open(image, gsd_m=one.gsd_m)
        self.facts.append([Path(image).name, scene.fingerprint()])
        scene = scene.at_gsd(scene.gsd_m)  # square pixels, as in a run
        bands = scene.select(one.bands or self._default_bands(scene))
        if len(bands) != len(self.config.bands):
            raise SettingsError(f"bands has {len(bands)} bands; the model takes {', '.join(self.config.bands)}")
        if scene.dtype != "uint8" and one.scale is None:
            raise InputError(
                f"{scene.shown} is {scene.dtype}; say with scale: [low, high] which values become 0 and 255"
            )
        annotated = sum(self._bit(name) for name in one.annotates)
        area = None
        if one.area:
            area, _ = Drawing.make(scene, self._near(scene, one.area))
        labels = self._labels(image, scene)
        return RasterPicture(scene, bands, one.scale, self.fill, labels, annotated, area)

    def close(self) -> None:
        """Note what only all images together show."""
        if self._without:
            shown = ", ".join(self._without[:4]) + (", ..." if len(self._without) > 4 else "")
            self.notes.append(f"{len(self._without)} images have no polygon: all background ({shown})")

    def _default_bands(self, scene: Scene) -> tuple[str, ...]:
        """By name; an image of as many bands that says nothing of colours has the model's, as pictures do."""
        named = any(band.name or band.common_name for band in scene.bands)
        if named or len(scene.bands) != len(self.config.bands):
            return self.config.bands
        return tuple(str(band.index) for band in scene.bands)

    def _bit(self, name: str) -> int:
        return 1 << [entry.name for entry in self.config.classes].index(name)

    def _labels(self, image: str, scene: Scene) -> Labels:
        if self.one.labels:
            return self._mask(image, scene)
        if self.one.polygons:
            return self._polygons(scene)
        return NoLabels()

    def _mask(self, image: str, scene: Scene) -> MaskLabels:
        stem = Path(image).stem
        if self._masks is None:
            patterns = [pattern for pattern in self.one.labels if "{stem}" not in pattern]
            paths = _find(self.config.folder, patterns, "labels") if patterns else []
            masks: dict[str, list[str]] = {}
            for path in paths:
                masks.setdefault(Path(path).stem, []).append(path)
            self._masks = masks
        templates = [text.replace("{stem}", stem) for text in self.one.labels if "{stem}" in text]
        named = [path for text in templates for path in _expand(self.config.folder, text)]
        found = list(dict.fromkeys([*named, *self._masks.get(stem, [])]))
        if not found:
            raise InputError(
                f"{image} has no mask of stem {stem} in {', '.join(self.one.labels)}; add it, or drop the image"
            )
        if len(found) > 1:
            raise InputError(f"{image} has two masks, {found[0]} and {found[1]}; leave one, or give two sets")
        path = found[0]
        mask = open_band(path, gsd_m=self.one.gsd_m)
        if self.one.gsd_m is not None and (mask.width, mask.height) != (scene.width, scene.height):
            raise InputError(
                f"{path} has {mask.width} x {mask.height} px and its image {scene.width} x {scene.height}; without a "
                "place on the ground both must have the same size"
            )
        self.facts.append([Path(path).name, mask.fingerprint()])
        bits, unknown = np.zeros(256, np.uint16), np.zeros(256, np.bool_)
        for code, name in self.one.codes:
            bits[code] = self._bit(name)
        unknown[[code for code in self.one.unknown if 0 <= code <= 255 and not bits[code]]] = True
        return MaskLabels(mask, scene, bits, unknown)

    def _polygons(self, scene: Scene) -> PolygonLabels:
        frame = self._near(scene, self.one.polygons)
        drawing, order = Drawing.make(scene, frame)
        if not len(order):
            self._without.append(Path(scene.path).name)
        bits = [0, *(self._bit(name) for name in frame[_CLASS].iloc[order])]
        return PolygonLabels(drawing, np.array(bits, np.uint16))

    def _near(self, scene: Scene, patterns: tuple[str, ...]) -> gpd.GeoDataFrame:
        """The polygons that may lie on a scene, in its CRS, with their class."""
        key = patterns, scene.crs.to_wkt()
        if key not in self._frames:
            self._frames[key] = self._read(scene, patterns)
        frame = self._frames[key]
        ends = [(col, row) for col in (0, scene.width) for row in (0, scene.height)]
        corners = np.array([scene.transform @ end for end in ends])
        return frame.iloc[np.sort(frame.sindex.query(shapely.box(*corners.min(0), *corners.max(0))))]

    def _read(self, scene: Scene, patterns: tuple[str, ...]) -> gpd.GeoDataFrame:
        frames = []
        for path in _find(self.config.folder, patterns, "polygons"):
            if not is_vector(path):
                raise InputError(f"{path} is no vector file; mask rasters go under labels")
            frame = read_polygons(path, scene)
            if patterns == self.one.polygons:
                frame[_CLASS] = self._class_names(path, frame)
                frame = frame[frame[_CLASS] != ""]
            frames.append(frame)
            state = Path(path).stat()
            self.facts.append([Path(path).name, state.st_size, state.st_mtime_ns])
        return pd.concat(frames, ignore_index=True)

    def _class_names(self, path: str, frame: gpd.GeoDataFrame) -> list[str]:
        """The class of each polygon; "" for other kinds of things."""
        one, names = self.one, [entry.name for entry in self.config.classes]
        column = one.field or ("class" if "class" in frame.columns and one.class_name is None else None)
        if one.class_name is not None and one.field is None:
            return [one.class_name] * len(frame)
        if column is None and len(names) == 1:
            return names * len(frame)
        if column is None or column not in frame.columns:
            there = ", ".join(str(name) for name in frame.columns if name != frame.geometry.name) or "none"
            asked = "no attribute class" if column is None else f"no attribute {column}"
            raise InputError(f"{path} has {asked}; name the one with field, or say class: NAME (attributes: {there})")
        words = dict(one.values) or {name: name for name in names} | {str(e.code): e.name for e in self.config.classes}
        found = [name_of(value) for value in frame[column]]
        others = sorted({word for word in found if word not in words})
        if found and len(others) == len(set(found)):
            raise InputError(f"{path}: its {column} is {', '.join(others[:6])}; none of them is {', '.join(words)}")
        if others:
            self.notes.append(f"{Path(path).name}: polygons with {column} {', '.join(others[:6])} are left out")
        return [words.get(word, "") for word in found]


_CLASS = "geoseg_class"  # column of the class in frames of polygons


def _range(config: TrainConfig, one: SetConfig, finest_m: float, where: str) -> tuple[float, float]:
    """GSD of a set's samples: see `SetConfig`."""
    low, high = one.gsd_range_m or config.gsd_range_m
    if one.gsd_range_m is None:
        low = max(low, finest_m * _FINER)
    if low > high:
        raise InputError(
            f"{where}: its finest image has {finest_m:.3g} m, and the model is for {config.gsd_range_m[0]:g} to "
            f"{high:g} m; give finer images, or a coarser gsd_range_m"
        )
    return low, high


def _find(folder: Path, patterns: Sequence[str], what: str) -> list[str]:
    """Files of folders, globs and paths, each once, in order of their names within a pattern.

    Raises:
        InputError: a pattern finds none.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        paths = _expand(folder, pattern)
        if not paths:
            raise InputError(f"{what}: {pattern} finds no file in {folder}; give a folder, a glob or a path")
        found |= dict.fromkeys(paths)
    return list(found)


def _expand(folder: Path, pattern: str) -> list[str]:
    if "://" in pattern or pattern.startswith("/vsi"):
        return [pattern]
    path = folder / pattern
    if path.is_dir():
        paths = sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
        return [str(entry) for entry in paths if entry.suffix.lower() not in _SIDECARS]
    if path.exists():
        return [str(path)]
    names = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    return sorted(name for name in names if Path(name).is_file())

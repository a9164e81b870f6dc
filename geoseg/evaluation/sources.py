"""What is judged and what it is judged by, window by window, on one grid: masks, instance rasters, polygons.

Whatever a path leads to, a source shows a window of the grid in the same way: classes (0 background, 1 and on in the
order of the settings, 255 unknown) and, where objects are told apart, their numbers. A raster on another grid is taken
at the grid's pixel centres, and is unknown where it does not reach. Polygons are drawn with the rule of pixel centres;
where they overlap the smaller one wins, and outside them is background.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geoseg.codes import NODATA
from geoseg.errors import InputError, SceneError
from geoseg.grids import find_inside, open_band, read_band
from geoseg.lattice import Window
from geoseg.scene import Scene
from geoseg.shapes import Drawing, name_of, read_polygons

__all__ = [
    "InstanceSource",
    "MaskSource",
    "PolygonSource",
    "Source",
    "find_record",
]


class Source(Protocol):
    """Anything that shows classes, and perhaps objects."""

    def read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.int32] | None]:
        """Show a window of the grid, which may stick out of it.

        Returns:
            uint8 (rows, cols) classes, 0 = background and 255 = unknown; int32 (rows, cols) numbers of objects, 0
            = none, or None where objects are not told apart.
        """


@dataclass(frozen=True, slots=True, eq=False)
class MaskSource:
    """A raster of class codes.

    Attributes:
        scene: the raster.
        grid: what windows mean.
        codes: the class of each code, 255 of them unknown, as uint8 (256,).
    """

    scene: Scene
    grid: Scene
    codes: NDArray[np.uint8]

    @classmethod
    def open(cls, path: str, grid: Scene | None, codes: Sequence[int]) -> MaskSource:
        """Open a mask.

        Args:
            path: of the raster.
            grid: what windows mean; the mask's own grid when not given.
            codes: of the classes, in order.

        Raises:
            SceneError: it cannot be read, or is no mask of bytes.
        """
        scene = open_band(path)
        if scene.dtype != "uint8":
            raise SceneError(
                f"{scene.shown}: a mask has class codes of uint8, this is {scene.dtype}; a raster of object numbers "
                "needs --instances CLASS"
            )
        table = np.zeros(256, np.uint8)
        table[list(codes)] = np.arange(1, len(codes) + 1)
        table[NODATA] = NODATA
        return cls(scene, grid or scene, table)

    def read(self, window: Window) -> tuple[NDArray[np.uint8], None]:
        """See `Source.read`."""
        pixels, valid = read_band(self.scene, self.grid, window)
        return np.where(valid, self.codes[pixels], np.uint8(NODATA)), None


@dataclass(frozen=True, slots=True, eq=False)
class InstanceSource:
    """A raster of object numbers of one class; 0 is background, its declared nodata unknown.

    Attributes:
        scene: the raster.
        grid: what windows mean.
        code: the class, from 1 on.
    """

    scene: Scene
    grid: Scene
    code: int

    @classmethod
    def open(cls, path: str, grid: Scene | None, code: int) -> InstanceSource:
        """Open a raster of object numbers; arguments as of `MaskSource.open`.

        Raises:
            SceneError: it cannot be read, or its numbers are not whole.
        """
        scene = open_band(path)
        if np.dtype(scene.dtype).kind not in "ui":
            raise SceneError(f"{scene.shown}: object numbers are whole, this is {scene.dtype}")
        return cls(scene, grid or scene, code)

    def read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """See `Source.read`."""
        numbers, valid = read_band(self.scene, self.grid, window)
        if numbers.size and valid.any() and not 0 <= int(numbers[valid].max()) < 2**31:
            raise SceneError(f"{self.scene.shown}: an object number above 2147483647; number objects from 1 on")
        labels = np.where(valid & (numbers > 0), numbers, 0).astype(np.int32)
        codes = np.where(labels > 0, np.uint8(self.code), np.uint8(0))
        return np.where(valid, codes, np.uint8(NODATA)), labels


@dataclass(frozen=True, slots=True, eq=False)
class PolygonSource:
    """Polygons, drawn where they are looked at.

    Attributes:
        drawing: of all of them.
        codes: uint8 (polygons + 1,), the class of each number; 0 of number 0.
        scores: float64 (polygons + 1,), their confidences, NaN = unknown; None if there are none at all.
    """

    drawing: Drawing
    codes: NDArray[np.uint8]
    scores: NDArray[np.float64] | None

    @classmethod
    def open(
        cls, paths: Sequence[str], grid: Scene, codes: Mapping[str, int], field: str, name: str | None = None
    ) -> PolygonSource:
        """Read layers.

        Args:
            paths: of vector files.
            grid: what windows mean.
            codes: code of each class, in order; a layer may name classes or their codes.
            field: the attribute that does.
            name: the class of all polygons, when the layers do not say.

        Raises:
            InputError: a file cannot be read, has no CRS, or does not say which class its polygons are.
        """
        frame = pd.concat([read_polygons(path, grid) for path in paths], ignore_index=True)
        if not len(frame):
            places = np.zeros(0, np.uint8)
        elif field in frame.columns:
            words = {str(code): place for place, code in enumerate(codes.values(), 1)}
            words |= {word: place for place, word in enumerate(codes, 1)}
            places = frame[field].map(lambda value: words.get(name_of(value), 0)).to_numpy(np.uint8)
            if not places.any():
                found = ", ".join(sorted({name_of(value) for value in frame[field]})[:6])
                raise InputError(f"{paths[0]}: its {field!r} is {found}; --classes has {', '.join(codes)}")
        elif name is not None or len(codes) == 1:
            place = list(codes).index(name) + 1 if name is not None else 1
            places = np.full(len(frame), place, np.uint8)
        else:
            raise InputError(
                f"{paths[0]} has no attribute {field!r} that tells classes; "
                "name it with --class-field, or give --classes with one class"
            )
        frame, places = frame[places > 0], places[places > 0]
        drawing, order = Drawing.make(grid, frame)
        scores = None
        if "confidence" in frame.columns and pd.api.types.is_numeric_dtype(frame["confidence"]):
            scores = np.append(np.nan, frame["confidence"].to_numpy(np.float64, na_value=np.nan)[order])
            scores = None if np.isnan(scores).all() else scores
        return cls(drawing, np.append(np.uint8(0), places[order]), scores)

    def read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """See `Source.read`."""
        labels = self.drawing.read(window)
        codes = self.codes[labels]
        outside = ~find_inside(self.drawing.grid, window)
        codes[outside], labels[outside] = NODATA, 0
        return codes, labels


def find_record(directory: Path) -> dict[str, Any]:
    """Read the ``run.json`` of a run's directory.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        record: dict[str, Any] = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(
            f"{directory} holds no finished run; give a run, a mask, a layer, or a folder of them"
        ) from None
    return record

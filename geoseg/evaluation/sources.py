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

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray

from geoseg.codes import NODATA
from geoseg.errors import InputError, SceneError
from geoseg.lattice import Window
from geoseg.scene import Scene

__all__ = [
    "InstanceSource",
    "MaskSource",
    "PolygonSource",
    "Source",
    "find_record",
    "is_vector",
    "open_band",
    "read_band",
    "read_on",
]

SAME_PX = 1e-3  # grids whose corners agree to this are one


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
        grid: what windows mean.
        polygons: in the grid's CRS, larger ones first; number n is entry n - 1.
        codes: uint8 (polygons + 1,), the class of each number; 0 of number 0.
        scores: float64 (polygons + 1,), their confidences, NaN = unknown; None if there are none at all.
        tree: of the polygons.
    """

    grid: Scene
    polygons: NDArray[np.object_]
    codes: NDArray[np.uint8]
    scores: NDArray[np.float64] | None
    tree: shapely.STRtree

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
            places = frame[field].map(lambda value: words.get(_word(value), 0)).to_numpy(np.uint8)
            if not places.any():
                found = ", ".join(sorted({_word(value) for value in frame[field]})[:6])
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
        order = np.argsort(-frame.geometry.area.to_numpy(), kind="stable")
        polygons = frame.geometry.to_numpy()[order]
        scores = None
        if "confidence" in frame.columns and pd.api.types.is_numeric_dtype(frame["confidence"]):
            scores = np.append(np.nan, frame["confidence"].to_numpy(np.float64, na_value=np.nan)[order])
            scores = None if np.isnan(scores).all() else scores
        return cls(grid, polygons, np.append(np.uint8(0), places[order]), scores, shapely.STRtree(polygons))

    def read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """See `Source.read`."""
        around = window.pad(1)
        corners = [self.grid.transform @ corner for corner in _corners(around)]
        xs, ys = zip(*corners, strict=True)
        box = min(xs), min(ys), max(xs), max(ys)
        chosen = np.sort(self.tree.query(shapely.box(*box)))
        shapes = shapely.clip_by_rect(self.polygons[chosen], *box)
        there = ~shapely.is_empty(shapes)
        labels = self.grid.burn(window, shapes[there], (chosen[there] + 1).tolist())
        codes = self.codes[labels]
        outside = ~_inside(self.grid, window)
        codes[outside], labels[outside] = NODATA, 0
        return codes, labels


def is_vector(path: str) -> bool:
    """Tell a vector file from a raster.

    Raises:
        InputError: there is no such file.
    """
    if "://" not in path and not path.startswith("/vsi") and not Path(path).exists():
        raise InputError(f"{path}: no such file")
    if Path(path).suffix.lower() in {
        ".parquet",
        ".geoparquet",
        ".geojson",
        ".geojsonl",
        ".shp",
        ".fgb",
        ".kml",
        ".gml",
    }:
        return True
    try:
        return len(pyogrio.list_layers(path)) > 0
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError):
        return False


def read_polygons(path: str, grid: Scene) -> gpd.GeoDataFrame:
    """Read the polygons of all layers of a vector file, valid, in a grid's CRS.

    Args:
        path: of a file that GDAL reads, or GeoParquet.
        grid: whose CRS is wanted.

    Raises:
        InputError: it cannot be read, or has no CRS.
    """
    try:
        frames = _read_layers(path)
    except Exception as error:  # noqa: BLE001 - readers raise what they like
        raise InputError(f"{path} cannot be read as a vector layer: {' '.join(str(error).split())}") from None
    if any(frame.crs is None for frame in frames):
        raise InputError(f"{path}: no CRS; set the one that its coordinates are in, e.g. with ogr2ogr -a_srs")
    if not frames:
        raise InputError(f"{path} holds no layer of geometries")
    frame = pd.concat([frame.to_crs(grid.crs.to_wkt()) for frame in frames], ignore_index=True)
    shapes = shapely.make_valid(frame.geometry.to_numpy(), method="structure", keep_collapsed=False)
    areal = shapely.area(shapes) > 0
    if len(frame) and not areal.any():
        raise InputError(f"{path} holds no polygons")
    return frame.set_geometry(gpd.GeoSeries(shapes, index=frame.index, crs=frame.crs))[areal]


def _read_layers(path: str) -> list[gpd.GeoDataFrame]:
    """All layers of a vector file that have geometries."""
    if Path(path).suffix.lower() in {".parquet", ".geoparquet"}:
        return [gpd.read_parquet(path)]
    return [gpd.read_file(path, layer=layer) for layer, kind in pyogrio.list_layers(path) if kind is not None]


def open_band(path: str) -> Scene:
    """Open a raster of one band.

    Raises:
        SceneError: it cannot be read, or has more bands.
    """
    scene = Scene.open(path)
    if len(scene.bands) != 1:
        raise SceneError(f"{scene.shown} has {len(scene.bands)} bands; a raster of one band is expected")
    return scene


def read_band(scene: Scene, grid: Scene, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read the first band of a raster at the pixel centres of a grid.

    Args:
        scene: the raster.
        grid: perhaps another one.
        window: of the grid; it may stick out of it.

    Returns:
        (rows, cols) pixels, and where there are any: within the grid and the raster, not nodata.
    """
    pixels, valid = read_on(scene, grid, window, (1,))
    return pixels[0], valid


def read_on(scene: Scene, grid: Scene, window: Window, bands: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The same for several bands, given by number; (bands, rows, cols) pixels."""
    inside = _inside(grid, window)
    if _same_grid(scene, grid):
        pixels, valid = scene.read(window, bands)
        return pixels, valid & inside
    rows, cols = np.mgrid[window.row_off : window.row_stop, window.col_off : window.col_stop] + 0.5
    x, y = grid.transform @ (cols, rows)
    if scene.crs != grid.crs:
        way = pyproj.Transformer.from_crs(grid.crs.to_wkt(), scene.crs.to_wkt(), always_xy=True)
        x, y = way.transform(x, y)
    col, row = ~scene.transform @ (x, y)
    with np.errstate(invalid="ignore"):
        inside = inside & (col >= 0) & (col < scene.width) & (row >= 0) & (row < scene.height)
    if not inside.any():
        return np.zeros((len(bands), *inside.shape), scene.dtype), inside
    col, row = (np.where(inside, place, place[inside].min()).astype(np.int64) for place in (col, row))
    top, left = int(row.min()), int(col.min())
    box = Window(left, top, int(col.max()) - left + 1, int(row.max()) - top + 1)
    pixels, valid = scene.read(box, bands)
    return pixels[:, row - top, col - left], valid[row - top, col - left] & inside


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


def _word(value: object) -> str:
    """A class as its layer has it: 1.0 is code 1."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _corners(window: Window) -> list[tuple[int, int]]:
    return [(col, row) for col in (window.col_off, window.col_stop) for row in (window.row_off, window.row_stop)]


def _inside(grid: Scene, window: Window) -> NDArray[np.bool_]:
    """Where a window lies on its grid."""
    rows = np.arange(window.row_off, window.row_stop)
    cols = np.arange(window.col_off, window.col_stop)
    within: NDArray[np.bool_] = ((rows >= 0) & (rows < grid.height))[:, None] & ((cols >= 0) & (cols < grid.width))
    return within


def _same_grid(scene: Scene, grid: Scene) -> bool:
    if (scene.width, scene.height) != (grid.width, grid.height) or scene.crs != grid.crs:
        return False
    ends = ((0, 0), (grid.width, 0), (0, grid.height))
    off = [np.subtract(~scene.transform @ (grid.transform @ end), end) for end in ends]
    return bool(np.abs(off).max() < SAME_PX)

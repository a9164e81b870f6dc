"""The door to rasters: geometry, bands, nodata and windowed reads. Nothing else in geoseg reads one.

A `Scene` is a small value that can be pickled and sent anywhere: a path, a grid, and what the header says.
No open file goes with it; each process opens as many as its threads read at once. `at_gsd` and `crop` give the same
raster on another grid, or a part of it, and read through to the file:

>>> scene = Scene.open("naip.tif").at_gsd(1.0)                       # doctest: +SKIP
>>> pixels, valid = scene.read(Window(-64, -64, 640, 640), (1, 2, 3))  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import hashlib
import json
import math
import os
import re
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pyproj
import rasterio
import rasterio.windows
from affine import Affine
from numpy.typing import NDArray
from pyproj.exceptions import ProjError
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.features import rasterize

from geoseg.errors import GeosegError, ReadError, SceneError, SettingsError
from geoseg.lattice import Window
from geoseg.remote import version_of
from geoseg.resample import area_taps, linear_taps, resample

__all__ = ["Band", "Scene"]

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")
# STAC's common names, and GDAL's words for the same
COMMON_NAMES = frozenset({
    "alpha", "blue", "cirrus", "coastal", "green", "lwir", "lwir11", "lwir12", "nir", "nir08", "nir09", "pan",
    "red", "rededge", "rededge071", "rededge075", "rededge078", "swir", "swir16", "swir22", "yellow",
})  # fmt: skip
ALPHA_NAMES = re.compile("alpha|mask|valid|opacity|transparen|^a$|^band", re.IGNORECASE)
CACHE_BYTES = 128 * 1024**2  # GDAL's block cache; its own default is 5 % of the machine's memory, for every worker
STRIP_PIXELS = 4_000_000  # source pixels held at once while resampling, of every band read
STRETCH = 0.01  # a projection that stretches lengths by more than this is not taken at its word
SAME_GSD = 1e-3  # a GSD this close to the raster's own is the raster's own: resampling would only blur
OBLONG = 1.01  # a pixel longer than wide by more than this is made square with its GSD
NEARLY = 1 - 1e-6
OWN_PLANE = "+proj=tmerc +ellps=WGS84 +units=m"  # true to length around its origin
SNAP_PX = 1e-3  # bounds this close to a pixel's edge lie on it


@dataclass(frozen=True, slots=True)
class Band:
    """One band of a scene.

    Attributes:
        index: Its number, from 1.
        name: Its description in the file, or "".
        common_name: What it shows, such as "red", "nir" or "alpha", where the file says so; else "".
        dtype: numpy's name of its type.
        nodata: The value that means no data, or None.
    """

    index: int
    name: str
    common_name: str
    dtype: str
    nodata: float | None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A raster with its place on the ground, or a part of it, or the same on another grid.

    Equal and hashable by value; made by `open`, `at_gsd` and `crop`, not by hand.

    Attributes:
        path: Absolute path, or a URL or other name that GDAL opens.
        height: Rows.
        width: Columns.
        transform: From pixel corners (col, row) to the coordinates of the CRS.
        crs: Coordinate reference system.
        bands: The bands, in order.
        dtype: numpy's name of the bands' type.
        gsd_m: Ground sampling distance of this grid, metres per pixel.
        native_gsd_m: The same of the file's own grid.
        datetime: When the image was taken, ISO 8601 in UTC, where the file says so.
    """

    path: str
    height: int
    width: int
    transform: Affine
    crs: CRS
    bands: tuple[Band, ...]
    dtype: str
    gsd_m: float
    native_gsd_m: float
    datetime: str | None
    _native: tuple[int, int] = dataclasses.field(repr=False)  # rows, cols of the file
    _base: Affine = dataclasses.field(repr=False)  # the file's transform
    _edges_m: tuple[float, float] = dataclasses.field(repr=False)  # height, width of the file's pixel on the ground
    _scale: tuple[float, float] = dataclasses.field(repr=False)  # file rows, cols per row, col of this grid
    _grid: tuple[int, int] = dataclasses.field(repr=False)  # rows, cols of the whole raster on this grid
    _origin: tuple[int, int] = dataclasses.field(repr=False)  # row, col of pixel (0, 0) in that grid
    _level: int | None = dataclasses.field(repr=False)  # the overview read from; None: full resolution
    _overviews: tuple[int, ...] = dataclasses.field(repr=False)  # decimation of each overview
    _masked: bool = dataclasses.field(repr=False)  # has a mask of the dataset, other than alpha
    _placeless: bool = dataclasses.field(repr=False)  # the file has no place, and lies on a plane of its own
    _source: _Source = dataclasses.field(repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, gsd_m: float | None = None) -> Scene:
        """Return the scene in a raster file; only its header is read.

        Args:
            path: A local file, a URL, or anything else that GDAL opens.
            gsd_m: Metres per pixel of a raster without georeference, such as a labelled chip: it then lies at the
                origin of a plane of its own. None asks for a raster with its place on the ground.

        Raises:
            SceneError: No such file, not a raster, no CRS, no geotransform (or one, and a GSD was given), or a type
                that geoseg cannot use.
        """
        given = os.fspath(path)
        shown = _shown(given)
        local = _is_local(given)
        if local and not Path(given).exists():
            raise SceneError(f"{shown}: no such file")
        name = str(Path(given).absolute()) if local else given
        if missing := _missing(_parts(name)):
            raise SceneError(f"{shown}: its part {missing}: no such file")
        with _one_line(name, "cannot be opened as a raster", SceneError), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(name) as dataset:
                _refuse_kind(dataset, shown)
                transform, crs = _place(dataset, shown, gsd_m)
                bands = _bands(dataset)
                size = dataset.height, dataset.width
                edges_m = _edges_m(transform, crs, *size)
                native_gsd_m = math.sqrt(edges_m[0] * edges_m[1])
                if not (math.isfinite(native_gsd_m) and native_gsd_m > 0 and _is_on_earth(transform, crs, *size)):
                    raise SceneError(f"{shown}: its coordinates lie nowhere in its CRS; set the CRS that they are in")
                overviews = {tuple(dataset.overviews(band.index)) for band in bands}
                masked = any(
                    MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags for flags in dataset.mask_flag_enums
                )
                return cls(
                    path=name,
                    height=dataset.height,
                    width=dataset.width,
                    transform=transform,
                    crs=crs,
                    bands=bands,
                    dtype=bands[0].dtype,
                    gsd_m=native_gsd_m,
                    native_gsd_m=native_gsd_m,
                    datetime=_datetime(dataset),
                    _native=size,
                    _base=transform,
                    _edges_m=edges_m,
                    _scale=(1.0, 1.0),
                    _grid=size,
                    _origin=(0, 0),
                    _level=None,
                    _overviews=overviews.pop() if len(overviews) == 1 else (),
                    _masked=masked,
                    _placeless=gsd_m is not None,
                    _source=_source(name, _stamp(dataset) if local else version_of(name)),
                )

    @property
    def shown(self) -> str:
        """The path for messages and records: without the query of a URL, which may hold a signature."""
        return _shown(self.path)

    @property
    def window(self) -> Window:
        """The whole scene."""
        return Window(0, 0, self.width, self.height)

    @property
    def bounds_lonlat(self) -> tuple[float, float, float, float]:
        """West, south, east, north of the scene in degrees (WGS 84); west > east across the antimeridian.

        Not finite where some of its edge lies off the earth.
        """
        edge = np.linspace(0.0, 1.0, 22)
        zero, one = np.zeros_like(edge), np.ones_like(edge)
        cols = np.concatenate([edge, one, edge, zero]) * self.width
        rows = np.concatenate([zero, edge, one, edge]) * self.height
        lon, lat = _transformer(self.crs).transform(*_apply(self.transform, cols, rows))
        if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
            return math.nan, math.nan, math.nan, math.nan
        lon = (lon + 180.0) % 360.0 - 180.0 if np.abs(lon).max() > 180.0 else lon
        if np.ptp(lon) > 180.0:  # both ends of the world: the scene lies across their seam
            return float(lon[lon > 0].min()), float(lat.min()), float(lon[lon < 0].max()), float(lat.max())
        return float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max())

    @property
    def pixel_m(self) -> tuple[float, float]:
        """Width and height of a pixel on the ground, metres; far from equal in degrees at high latitudes."""
        return self._edges_m[1] * self._scale[1], self._edges_m[0] * self._scale[0]

    def at_gsd(self, gsd_m: float) -> Scene:
        """Return the same ground on a grid of another GSD, anchored at the raster's top left corner.

        A coarser pixel is the mean of what it covers, read from the coarsest overview that is fine enough; a
        finer one is interpolated linearly. A pixel is valid when at least half of what it covers is. Its value
        is the same whichever window is read. A crop becomes the smallest window that covers it.

        Pixels that are oblong on the ground by more than 1 % become square: a model knows no other. A grid
        within 0.1 % of the file's own is the file's own. For images; a mean of class codes says nothing.

        Args:
            gsd_m: Wanted GSD, metres per pixel.

        Raises:
            SettingsError: The GSD is not a positive number.
        """
        if not (math.isfinite(gsd_m) and gsd_m > 0):
            raise SettingsError(f"a GSD of {gsd_m} m; a positive number of metres per pixel is expected")
        high, wide = self._edges_m
        oblong = max(high, wide) / min(high, wide) > OBLONG
        scale = (gsd_m / high, gsd_m / wide) if oblong else (gsd_m / self.native_gsd_m,) * 2
        if max(abs(scale[0] - 1), abs(scale[1] - 1)) <= SAME_GSD:
            scale, gsd_m = (1.0, 1.0), self.native_gsd_m
        rows, cols = (
            _rescaled(
                self._origin[axis],
                (self.height, self.width)[axis],
                whole=self._grid[axis],
                size=max(1, math.floor(self._native[axis] / scale[axis] + 0.5)),
                ratio=scale[axis] / self._scale[axis],
            )
            for axis in (0, 1)
        )
        # an overview must be at least as fine as the grid; GDAL's decimation factors are whole numbers
        levels = [i for i, factor in enumerate(self._overviews) if factor <= min(scale) * (1 + 1e-9)]
        return dataclasses.replace(
            self,
            height=rows[1],
            width=cols[1],
            transform=_placed(self._base, scale, (rows[0], cols[0])),
            gsd_m=gsd_m,
            _scale=scale,
            _grid=(rows[2], cols[2]),
            _origin=(rows[0], cols[0]),
            _level=max(levels, key=lambda i: self._overviews[i], default=None),
        )

    def crop(self, window: Window) -> Scene:
        """Return a part of the scene, with pixel (0, 0) at the window's origin.

        Reads that stick out of the part still find the raster's true pixels.

        Args:
            window: Pixels of this scene.

        Raises:
            SceneError: The window is empty or sticks out of the scene.
        """
        if not window.area or not self.window.contains(window):
            raise SceneError(
                f"{_shown(self.path)}: a crop to {window}; a window within {self.width} x {self.height} px is expected"
            )
        origin = self._origin[0] + window.row_off, self._origin[1] + window.col_off
        transform = _placed(self._base, self._scale, origin)
        return dataclasses.replace(self, height=window.height, width=window.width, transform=transform, _origin=origin)

    def window_of_bounds(self, bounds_lonlat: Sequence[float]) -> Window:
        """Return the smallest window that covers a box on the ground, clipped to the scene.

        Args:
            bounds_lonlat: West, south, east, north in degrees (WGS 84). West > east crosses the antimeridian.

        Raises:
            SettingsError: Not four numbers, or south of its south.
            SceneError: The box lies outside the scene.
        """
        given = ", ".join(f"{value:g}" for value in bounds_lonlat)
        if len(bounds_lonlat) != 4 or not all(math.isfinite(value) for value in bounds_lonlat):
            raise SettingsError(f"bounds {given}; west, south, east, north in degrees are expected")
        west, south, east, north = bounds_lonlat
        if not -90 <= south <= north <= 90 or max(abs(west), abs(east)) > 360:
            raise SettingsError(f"bounds {given}; west, south, east, north in degrees are expected")
        if west > east:
            east += 360.0
        along = np.linspace(0.0, 1.0, 65)
        lon = np.concatenate([west + (east - west) * along] * 2 + [np.full(65, west), np.full(65, east)])
        lat = np.concatenate([np.full(65, south), np.full(65, north)] + [south + (north - south) * along] * 2)
        for turn in (0.0, 360.0, -360.0):  # a geographic CRS may count its longitudes from elsewhere
            x, y = _transformer(self.crs).transform(lon + turn, lat, direction="INVERSE")
            col, row = _apply(~self.transform, np.asarray(x), np.asarray(y))
            seen = np.isfinite(col) & np.isfinite(row)
            if not seen.any():
                continue
            left, right = math.floor(col[seen].min() + SNAP_PX), math.ceil(col[seen].max() - SNAP_PX)
            top, bottom = math.floor(row[seen].min() + SNAP_PX), math.ceil(row[seen].max() - SNAP_PX)
            box = Window(left, top, max(right - left, 1), max(bottom - top, 1)).intersection(self.window)
            if box is not None:
                return box
        here = ", ".join(f"{value:.6f}" for value in self.bounds_lonlat)
        raise SceneError(f"bounds {given} lie outside {_shown(self.path)}, which covers {here}")

    def select(self, bands: Sequence[str | int]) -> tuple[int, ...]:
        """Return the numbers of bands given by number, name or common name, without regard to case.

        Nothing is guessed: a scene whose bands say nothing about colour has no "red".

        Args:
            bands: Numbers from 1 (3 or "3"), descriptions ("B4") or common names ("red").

        Raises:
            SceneError: The scene lacks one of them, or has it twice.
        """
        return tuple(self._band(wanted) for wanted in bands)

    def read(self, window: Window, indexes: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the pixels of a window and which of them carry data.

        Outside the raster pixels and validity are mirrored about its edge pixels (numpy's "reflect"). A pixel is
        not valid where every selected band that has a nodata value holds it, where a mask or an alpha
        band is 0, or where a band is not finite (NaN; such values are returned as 0). An alpha band that is
        itself selected is data like any other.

        Args:
            window: Pixels of this scene; it may stick out of it.
            indexes: Numbers of the bands, from 1.

        Returns:
            (bands, rows, cols) in the file's dtype, and (rows, cols) bool.

        Raises:
            ReadError: The pixels cannot be read this time.
            SceneError: The file has changed since it was opened, or lacks a band.
        """
        if not indexes or not all(1 <= index <= len(self.bands) for index in indexes):
            raise SceneError(f"{_shown(self.path)}: bands {tuple(indexes)}; {self._inventory()}")
        if not window.area:
            return (
                np.empty((len(indexes), window.height, window.width), self.dtype),
                np.empty((window.height, window.width), np.bool_),
            )
        d_row, d_col = self._origin
        whole = Window(0, 0, self._grid[1], self._grid[0])
        wanted = window.shift(d_row, d_col)
        if whole.contains(wanted):
            return self._read_grid(wanted, indexes)
        rows = _reflected(wanted.row_off, wanted.row_stop, whole.height)
        cols = _reflected(wanted.col_off, wanted.col_stop, whole.width)
        top, left = int(rows.min()), int(cols.min())
        found = Window(left, top, int(cols.max()) - left + 1, int(rows.max()) - top + 1)
        pixels, valid = self._read_grid(found, indexes)
        return _mirrored(pixels, rows - top, cols - left), _mirrored(valid[None], rows - top, cols - left)[0]

    def burn(self, window: Window, geometries: Sequence[Any], values: Sequence[int]) -> NDArray[np.int32]:
        """Return a window of this grid with polygons drawn on it: a pixel belongs to what its centre lies in.

        Args:
            window: Pixels of this scene; it may stick out of it.
            geometries: Shapely polygons in the scene's CRS; where they overlap, the last one wins.
            values: One for each, not 0.

        Returns:
            int32 (rows, cols); 0 where there is no polygon.
        """
        shapes = list(zip(geometries, values, strict=True))
        size = window.height, window.width
        if not shapes or not window.area:
            return np.zeros(size, np.int32)
        origin = self._origin[0] + window.row_off, self._origin[1] + window.col_off
        transform = _placed(self._base, self._scale, origin)
        burnt: NDArray[np.int32] = rasterize(shapes, out_shape=size, transform=transform, dtype="int32")
        return burnt

    def fingerprint(self) -> str:
        """Return a SHA-256 of what the scene is: the grid, CRS, bands and dtype; a file's size and time.

        Of a remote file, its size and ETag. The path is no part of it, save for a remote file of which its server
        tells nothing. Of local files, sidecar files and the sources of a VRT count too.
        """
        facts = {
            "files": self._source.stamp or _shown(self.path),
            "size": [self.height, self.width],
            "transform": list(self.transform)[:6],
            "crs": self.crs.to_wkt(),
            "bands": [[band.index, band.name, band.common_name, band.dtype, repr(band.nodata)] for band in self.bands],
            "raster": [self._native, self._grid, self._origin],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _band(self, wanted: str | int) -> int:
        """Return the number of one band."""
        text = str(wanted).strip().lower()
        found = [band.index for band in self.bands if str(band.index) == text]
        found = found or [band.index for band in self.bands if text and band.name.strip().lower() == text]
        found = found or [band.index for band in self.bands if text and band.common_name == text]
        if len(found) == 1:
            return found[0]
        problem = f"bands {', '.join(map(str, found))} are all" if found else "no band is"
        raise SceneError(f'{_shown(self.path)}: {problem} "{wanted}"; {self._inventory()}; name bands by number')

    def _inventory(self) -> str:
        """Return which bands the scene has, in words."""
        named = [
            f"{band.index} ({' = '.join(dict.fromkeys(filter(None, (band.name, band.common_name))))})"
            if band.name or band.common_name
            else f"{band.index} (no name)"
            for band in self.bands
        ]
        return f"it has {len(named)} band{'s' if len(named) > 1 else ''}: {', '.join(named)}"

    def _read_grid(self, window: Window, indexes: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a window that lies within the whole raster on this grid."""
        try:
            with self._source.reader(self) as reader:
                return self._read_source(reader, window, indexes)
        except ReadError as error:
            error.passing = self._source.is_away()
            raise

    def _read_source(
        self, reader: _Reader, window: Window, indexes: Sequence[int]
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a window of this grid from an open file."""
        if self._scale == (1.0, 1.0):
            return reader.read(self, window, indexes)
        # the size of an overview is a whole number, so it is not the file's over some factor
        size = reader.height, reader.width
        scale = self._scale[0] * size[0] / self._native[0], self._scale[1] * size[1] / self._native[1]
        read = functools.partial(reader.read, self, indexes=indexes)
        return _resampled(read, window, scale=scale, size=size)


class _Reader:
    """One open file, at full resolution or an overview; for one thread at a time.

    It holds no scene, whose source holds it: so files close as soon as nobody needs them.
    """

    def __init__(self, scene: Scene) -> None:
        self._path = scene.path
        options = {} if scene._level is None else {"overview_level": scene._level}  # noqa: SLF001 - one half of the same thing
        with _one_line(self._path, "cannot be opened", ReadError), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # `Scene.open` has asked
            self._full = rasterio.open(scene.path)
            self._data = rasterio.open(scene.path, **options) if options else self._full
        crs = scene.crs if scene._placeless else self._full.crs  # noqa: SLF001
        facts = (self._full.height, self._full.width), self._full.count, crs
        if facts != (scene._native, len(scene.bands), scene.crs):  # noqa: SLF001
            raise SceneError(f"{_shown(self._path)}: the file has changed since the scene was opened; open it again")
        self.height, self.width = int(self._data.height), int(self._data.width)

    def stamp(self) -> str:
        """Return the digest of size and time of the files."""
        return _stamp(self._full)

    def read(self, scene: Scene, window: Window, indexes: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a window within the file, of a scene that it is open for: pixels as they are, and validity."""
        alpha = next((band.index for band in scene.bands if band.common_name == "alpha"), None)
        beside = alpha is not None and alpha not in indexes
        with self._watched(scene, window, self._data), _one_line(self._path, f"{window} cannot be read", ReadError):
            pixels = self._data.read([*indexes, alpha] if beside else list(indexes), window=_box(window))
        valid = pixels[-1] != 0 if beside else np.ones(pixels.shape[1:], np.bool_)
        pixels = pixels[: len(indexes)]
        if scene._masked:  # noqa: SLF001
            valid &= self._mask(scene, window)
        if (empty := self._nodata(scene, pixels, indexes)) is not None:
            valid &= ~empty
        if np.issubdtype(pixels.dtype, np.floating):
            finite = np.isfinite(pixels)
            if not finite.all():
                valid &= finite.all(axis=0)
                pixels = np.where(finite, pixels, pixels.dtype.type(0))
        return pixels, valid

    @contextmanager
    def _watched(self, scene: Scene, window: Window, dataset: Any) -> Iterator[None]:
        """Read a window of an open file, none of a mosaic where a part is missing."""
        source = scene._source  # noqa: SLF001
        if source.parts:
            grow = self._full.height / dataset.height, self._full.width / dataset.width
            rows = (window.row_off - 2) * grow[0], (window.row_stop + 2) * grow[0]
            cols = (window.col_off - 2) * grow[1], (window.col_stop + 2) * grow[1]
            shown = [part for part in source.parts if part.meets(rows, cols)]
            if missing := _missing(shown):
                raise ReadError(f"{_shown(self._path)}: {window} cannot be read: {missing}: No such file or directory")
        with _environment():
            try:
                yield
            except ReadError as error:
                if source.parts and "IReadBlock" not in str(error):  # not a damaged block, but a part
                    source.broken = True
                raise

    @staticmethod
    def _nodata(scene: Scene, pixels: NDArray[Any], indexes: Sequence[int]) -> NDArray[np.bool_] | None:
        """Tell where every band with a nodata value holds it. A band may reach it by honest darkness."""
        empty: NDArray[np.bool_] | None = None
        for plane, index in zip(pixels, indexes, strict=True):
            nodata = scene.bands[index - 1].nodata
            if nodata is None or scene.bands[index - 1].common_name == "alpha":
                continue
            value = _as_stored(nodata, pixels.dtype)
            here = np.zeros(plane.shape, np.bool_) if value is None else plane == value  # NaN: see the caller
            empty = here if empty is None else empty & here
        return empty

    def _mask(self, scene: Scene, window: Window) -> NDArray[np.bool_]:
        """Read the mask of the dataset on the grid of the open level.

        Always from the full resolution: to GDAL a mask without overviews is all valid in an overview.
        """
        if self._data is self._full:
            return self._full_mask(scene, window)[1]
        size = int(self._full.height), int(self._full.width)
        scale = size[0] / self.height, size[1] / self.width
        return _resampled(functools.partial(self._full_mask, scene), window, scale=scale, size=size)[1]

    def _full_mask(self, scene: Scene, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Read the mask of the dataset at full resolution, with no bands beside it."""
        problem = f"the mask of {window} cannot be read"
        with self._watched(scene, window, self._full), _one_line(self._path, problem, ReadError):
            mask = self._full.read_masks(1, window=_box(window)) != 0
        return np.empty((0, *mask.shape), np.uint8), mask


class _Source:
    """The open files of one raster: as many as threads read at once, of each process and overview level.

    Made by `_source`, so that equal scenes share one. Pickles to its name.
    """

    def __init__(self, path: str, stamp: str) -> None:
        self.path = path
        self.stamp = stamp
        # by process, since a forked child must not share its parent's file position, and by overview level
        self._idle: dict[tuple[int, int | None], list[_Reader]] = {}
        self._seen: str | None = None  # the stamp of the files that this process opened first
        self.parts = _parts(path)
        # GDAL remembers for the whole process which part of a mosaic it could not open, and gives zeros for it from
        # then on, without an error. So it is not asked for one that is not there, nor again once that happened.
        self.broken = False

    @contextmanager
    def reader(self, scene: Scene) -> Iterator[_Reader]:
        """Lend a file that is open at the scene's overview level; one that fails is not lent again.

        The one that was used last comes first: windows overlap, and GDAL still has the blocks that it decoded for it.

        Raises:
            ReadError: It cannot be opened this time, or is not as it was.
        """
        if self.broken:
            raise ReadError(f"{_shown(self.path)}: one of its parts could not be opened before")
        idle = self._idle.setdefault((os.getpid(), scene._level), [])  # noqa: SLF001
        try:
            reader = idle.pop()  # no lock, which a forked child might find taken
        except IndexError:
            reader = self._opened(scene)
        yield reader
        idle.append(reader)

    def _opened(self, scene: Scene) -> _Reader:
        reader = _Reader(scene)
        if self.stamp and not _missing(self.parts):
            found = reader.stamp()
            self._seen = self._seen or found
            if found != self._seen:  # two versions of a file must not be mixed
                raise ReadError(f"{_shown(self.path)}: the file is not as it was when it was opened first")
        return reader

    def is_away(self) -> bool:
        """Tell, after a failure, whether the source may come back; it is opened anew for the next read."""
        self._idle = {}
        if not self.stamp:
            return True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                with rasterio.open(self.path) as dataset:
                    return _stamp(dataset) != self.stamp
        except (RasterioError, OSError):
            return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Source) and (self.path, self.stamp) == (other.path, other.stamp)

    def __hash__(self) -> int:
        return hash((self.path, self.stamp))

    def __reduce__(self) -> tuple[Callable[..., _Source], tuple[str, str]]:
        return _revived, (self.path, self.stamp)


_SOURCES: weakref.WeakValueDictionary[tuple[str, str], _Source] = weakref.WeakValueDictionary()
_SOURCES_LOCK = threading.Lock()
_REVIVED: deque[_Source] = deque(maxlen=4)


def _source(path: str, stamp: str) -> _Source:
    """Return the one source of a raster in this process."""
    with _SOURCES_LOCK:
        source = _SOURCES.get((path, stamp))
        if source is None:
            source = _SOURCES[path, stamp] = _Source(path, stamp)
        return source


def _revived(path: str, stamp: str) -> _Source:
    """Return a source that came by pickle, and keep it: a worker gets its scene anew with every task."""
    source = _source(path, stamp)
    with _SOURCES_LOCK:
        if source not in _REVIVED:
            _REVIVED.append(source)
    return source


@contextmanager
def _one_line(path: str, problem: str, kind: type[GeosegError]) -> Iterator[None]:
    """Turn rasterio's errors into one of ours, of one line."""
    shown = _shown(path)
    try:
        yield
    except (RasterioError, CRSError, CPLE_BaseError, ProjError, OSError) as error:
        why = " ".join(str(error.__cause__ or error).replace(path, shown).split())
        why = re.sub(r"(://[^\s?]*)\?\S*", r"\1", why)
        raise kind(f"{shown}: {problem}: {why}") from None


@contextmanager
def _environment() -> Iterator[None]:
    """Hold GDAL's block cache, for a read, to a size that does not grow with the machine, unless the user set it."""
    with rasterio.Env(**({} if "GDAL_CACHEMAX" in os.environ else {"GDAL_CACHEMAX": CACHE_BYTES})):
        yield


@dataclass(frozen=True, slots=True)
class _Part:
    """A local file of a mosaic, and the (start, stop) rows and columns that it fills."""

    path: str
    rows: tuple[float, float]
    cols: tuple[float, float]

    def meets(self, rows: tuple[float, float], cols: tuple[float, float]) -> bool:
        """Tell whether it fills some of these rows and columns."""
        return all(mine[0] < other[1] and other[0] < mine[1] for mine, other in ((self.rows, rows), (self.cols, cols)))


def _parts(path: str) -> tuple[_Part, ...]:
    """Return the local files that a mosaic (a VRT) puts together; none for other rasters."""
    if not path.lower().endswith(".vrt"):
        return ()
    try:
        root = ET.parse(path).getroot()  # noqa: S314 - GDAL parses it, too
    except (OSError, ET.ParseError):
        return ()
    found: dict[_Part, None] = {}
    for source in root.iter():
        name = source.find("SourceFilename")
        if name is None or not name.text:
            continue
        place = Path(path).parent / name.text if name.get("relativeToVRT") == "1" else Path(name.text)
        if place.is_absolute() and place.parts[1:2] and not place.parts[1].startswith("vsi"):
            box = source.find("DstRect")
            left, top, width, height = (
                (0.0, 0.0, math.inf, math.inf)
                if box is None
                else (float(box.get(key, "nan")) for key in ("xOff", "yOff", "xSize", "ySize"))
            )
            found[_Part(str(place), (top, top + height), (left, left + width))] = None
    return tuple(found)


def _missing(parts: Sequence[_Part]) -> str:
    """Return the first file that is not there, or ""."""
    return next((part.path for part in parts if not os.path.exists(part.path)), "")  # noqa: PTH110 - before every read


def _is_local(path: str) -> bool:
    """Tell a local path from a URL, a virtual file and another name that only GDAL understands."""
    known = "://" in path or path.startswith(("/vsi", "<")) or re.match(r"[A-Za-z][A-Za-z0-9_]+:", path)
    return not known or Path(path).exists()


def _shown(path: str) -> str:
    """Return a path for messages and records: a URL's query may hold a signature."""
    return path.split("?", 1)[0] if "://" in path or path.startswith("/vsi") else path


def _refuse_kind(dataset: Any, shown: str) -> None:
    """Raise SceneError, in words, for a raster whose bands geoseg cannot use."""
    if not dataset.count:
        inner = (
            f"; it holds {len(dataset.subdatasets)} others, such as {dataset.subdatasets[0]}"
            if dataset.subdatasets
            else ""
        )
        raise SceneError(f"{shown}: a raster without bands{inner}")
    types = sorted(set(dataset.dtypes))
    if len(types) > 1:
        raise SceneError(f"{shown}: bands of different types ({', '.join(types)}); one type is expected")
    if types[0] not in DTYPES:
        raise SceneError(f"{shown}: bands of type {types[0]}; whole or real numbers are expected")


def _place(dataset: Any, shown: str, gsd_m: float | None) -> tuple[Affine, CRS]:
    """Return a raster's transform and CRS; raise SceneError, in words, where it has none that geoseg can use."""
    transform = dataset.transform
    if gsd_m is not None:
        if not (math.isfinite(gsd_m) and gsd_m > 0):
            raise SettingsError(f"a GSD of {gsd_m} m; a positive number of metres per pixel is expected")
        if transform != Affine.identity() and dataset.crs:
            raise SceneError(f"{shown}: a GSD of {gsd_m:g} m is given, but it has a place and a GSD of its own")
        return Affine(gsd_m, 0.0, 0.0, 0.0, -gsd_m, 0.0), CRS.from_string(OWN_PLANE)
    if transform == Affine.identity():
        way = "only ground control points" if dataset.gcps[0] else "no geotransform"
        raise SceneError(f"{shown}: {way}; a georeferenced raster is expected (see gdalwarp or gdal_translate -a_ullr)")
    if transform.determinant == 0 or not all(math.isfinite(value) for value in transform):
        raise SceneError(f"{shown}: a geotransform of no area {tuple(transform)[:6]}")
    if not dataset.crs:
        raise SceneError(f"{shown}: no CRS; set it first, for example with rio edit-info --crs EPSG:32614 FILE")
    if not (dataset.crs.is_projected or dataset.crs.is_geographic):
        raise SceneError(f"{shown}: its CRS is neither projected nor geographic; set one that is")
    return transform, dataset.crs


def _is_on_earth(transform: Affine, crs: CRS, height: int, width: int) -> bool:
    """Tell whether some of a raster has longitude and latitude; the corners of a whole disc have none."""
    rows, cols = np.mgrid[0:1:22j, 0:1:22j]
    places = _transformer(crs).transform(*_apply(transform, cols.ravel() * width, rows.ravel() * height))
    return bool(np.isfinite(places).all(axis=0).any())


def _bands(dataset: Any) -> tuple[Band, ...]:
    """Return the bands with the names that tags, descriptions and colours give, in that order of trust."""
    names = [(text or "").strip() for text in dataset.descriptions]
    common = []
    for index, name in enumerate(names, start=1):
        tags = {key.lower(): value for key, value in dataset.tags(index).items()}
        told = (tags.get("common_name") or tags.get("eo:common_name") or name).strip().lower()
        common.append(told if told in COMMON_NAMES else "")
    taken = set(common)
    for place, colour in enumerate(dataset.colorinterp):
        word = colour.name if isinstance(colour, ColorInterp) else ""
        if word == "alpha" and names[place] and not ALPHA_NAMES.search(names[place]):
            continue  # GDAL tags the fourth of four bytes as alpha by default; the band's own name says more
        if not common[place] and word in COMMON_NAMES and word not in taken:
            common[place] = word
    return tuple(
        Band(place + 1, names[place], common[place], dataset.dtypes[place], dataset.nodatavals[place])
        for place in range(dataset.count)
    )


def _datetime(dataset: Any) -> str | None:
    """Return when the image was taken, from GDAL's imagery metadata or else TIFF's DateTime tag, taken as UTC."""
    for text in (
        dataset.tags(ns="IMAGERY").get("ACQUISITIONDATETIME"),
        *map(dataset.tags().get, ("ACQUISITIONDATETIME", "TIFFTAG_DATETIME")),
    ):
        if not text:
            continue
        iso = re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", text.strip())
        try:
            moment = dt.datetime.fromisoformat(iso)
        except ValueError:
            continue
        moment = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
        return moment.isoformat().replace("+00:00", "Z")
    return None


def _stamp(dataset: Any) -> str:
    """Return a digest of size and time of a local raster's files; .aux.xml is left out, as viewers write it."""
    files = [Path(name) for name in dataset.files if not name.endswith(".aux.xml")]
    facts = [file.stat() for file in files if file.is_file()]
    return hashlib.sha256(repr(sorted((f.st_size, f.st_mtime_ns) for f in facts)).encode()).hexdigest()


def _as_stored(nodata: float, dtype: np.dtype[Any]) -> Any:
    """Return a nodata value in the bands' type, or None where they cannot hold it."""
    if np.issubdtype(dtype, np.floating):
        return dtype.type(nodata)
    if not math.isfinite(nodata) or nodata != int(nodata):
        return None
    limits = np.iinfo(dtype)
    return dtype.type(int(nodata)) if limits.min <= nodata <= limits.max else None


def _reflected(start: int, stop: int, size: int) -> NDArray[np.int64]:
    """Return the pixel shown at each place from start to stop: mirrored at the edge pixels, as often as needed."""
    if size == 1:
        return np.zeros(stop - start, np.int64)
    place = np.arange(start, stop) % (2 * size - 2)
    return np.where(place < size, place, 2 * size - 2 - place).astype(np.int64)


_MOST_TURNS = 16  # of a run of places; a scene of few pixels is mirrored many times


def _mirrored(planes: NDArray[Any], rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[Any]:
    """Return planes (n, rows, cols) at some rows and columns; runs of them are copied at once, which is quick."""
    mirrored = np.empty((len(planes), len(rows), len(cols)), planes.dtype)
    for to_rows, from_rows in _runs(rows):
        for to_cols, from_cols in _runs(cols):
            mirrored[:, to_rows, to_cols] = planes[:, from_rows][:, :, from_cols]
    return mirrored


def _runs(places: NDArray[np.int64]) -> list[tuple[slice, slice | NDArray[np.int64]]]:
    """Split places into runs that count up or down by one: where each goes, and what it takes."""
    steps = np.diff(places)
    turns = np.flatnonzero(np.diff(steps)) + 1
    if len(turns) > _MOST_TURNS or not (np.abs(steps) == 1).all():
        return [(slice(0, len(places)), places)]
    runs: list[tuple[slice, slice | NDArray[np.int64]]] = []
    for start, stop in pairwise([0, *(int(turn) + 1 for turn in turns), len(places)]):
        first, step = int(places[start]), int(steps[start]) if stop - start > 1 else 1
        beyond = first + step * (stop - start)
        runs.append((slice(start, stop), slice(first, beyond if beyond >= 0 else None, step)))
    return runs


def _resampled(
    read: Callable[[Window], tuple[NDArray[Any], NDArray[np.bool_]]],
    window: Window,
    *,
    scale: tuple[float, float],
    size: tuple[int, int],
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Resample a window from a source of some (rows, cols) size, in strips so that memory stays bounded.

    `scale` is (rows, cols) source pixels per pixel of the window: above 1 they are averaged, else interpolated.
    """
    # an overview may miss its factor by a rounded pixel, and is averaged all the same
    taps = [area_taps if axis > NEARLY else linear_taps for axis in scale]
    cols = taps[1](window.col_off, window.col_stop, scale=scale[1], size=size[1])
    step = max(1, int(STRIP_PIXELS / ((cols.stop - cols.start) * scale[0])))
    strips = []
    for start in range(window.row_off, window.row_stop, step):
        rows = taps[0](start, min(start + step, window.row_stop), scale=scale[0], size=size[0])
        source = Window(cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start)
        strips.append(resample(*read(source), rows=rows, cols=cols))
    if len(strips) == 1:
        return strips[0]
    return np.concatenate([strip[0] for strip in strips], axis=1), np.concatenate([strip[1] for strip in strips])


def _box(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return a window as rasterio's ((row, row), (col, col)); its own Window checks more than is needed here."""
    return (window.row_off, window.row_stop), (window.col_off, window.col_stop)


def _apply(transform: Affine, col: Any, row: Any) -> tuple[Any, Any]:
    """Return the coordinates of a pixel position; numbers or arrays."""
    a, b, c, d, e, f = tuple(transform)[:6]
    return a * col + b * row + c, d * col + e * row + f


@functools.lru_cache(maxsize=16)
def _transformer(crs: CRS) -> Any:
    """Return the way from a CRS to degrees (WGS 84, longitude first)."""
    return pyproj.Transformer.from_crs(crs.to_wkt(), "OGC:CRS84", always_xy=True)


def _edges_m(transform: Affine, crs: CRS, height: int, width: int) -> tuple[float, float]:
    """Return height and width in metres of a pixel on the ground.

    Projected: in the CRS's own units. Geographic, or a projection that stretches lengths by more than 1 % there
    (Web Mercator off the equator): geodesic, at the raster's centre.
    """
    projected = None
    if crs.is_projected:
        metre = crs.linear_units_factor[1]
        projected = math.hypot(transform.b, transform.e) * metre, math.hypot(transform.a, transform.d) * metre
    col, row = width / 2, height / 2
    # a pixel's two middle lines
    ends = [(col, row - 0.5), (col, row + 0.5), (col - 0.5, row), (col + 0.5, row)]
    x, y = zip(*(_apply(transform, *end) for end in ends), strict=True)
    lon, lat = _transformer(crs).transform(x, y)
    if crs.is_geographic and np.abs(lat).max() > 90:
        return math.nan, math.nan
    high, wide = pyproj.Geod(ellps="WGS84").inv(lon[::2], lat[::2], lon[1::2], lat[1::2])[2]
    if projected is not None:
        ratios = [edge / true for edge, true in zip(projected, (high, wide), strict=True) if 0 < true < math.inf]
        if all(abs(ratio - 1) <= STRETCH for ratio in ratios):
            return projected
    return float(high), float(wide)


def _placed(base: Affine, scale: tuple[float, float], origin: tuple[int, int]) -> Affine:
    """Return the transform of a grid from the file's; both pairs are (rows, cols)."""
    if scale != (1.0, 1.0):
        base = base @ Affine.scale(scale[1], scale[0])
    return base @ Affine.translation(origin[1], origin[0])


def _rescaled(start: int, length: int, *, whole: int, size: int, ratio: float) -> tuple[int, int, int]:
    """Return the span of a crop on another grid along one axis, outwards: (start, length, size of that grid).

    `whole` is the size of the grid that it is on, `ratio` its pixels per pixel of the other. What reaches the
    raster's end goes on doing so.
    """
    first = min(math.floor(start / ratio + 1e-6), size - 1)
    if start + length == whole:
        return first, size - first, size
    return first, min(max(math.ceil((start + length) / ratio - 1e-6), first + 1), size) - first, size

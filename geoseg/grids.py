"""Rasters read at the pixel centres of another raster's grid (floor 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyproj
from numpy.typing import NDArray

from geoseg.errors import SceneError
from geoseg.lattice import Window
from geoseg.scene import Scene

__all__ = ["find_inside", "open_band", "read_band", "read_on"]

SAME_PX = 1e-3  # grids whose corners agree to this are one


def open_band(path: str, *, gsd_m: float | None = None) -> Scene:
    """Open a raster of one band.

    Args:
        path: of the raster.
        gsd_m: of a raster without georeference, see `Scene.open`.

    Raises:
        SceneError: it cannot be read, or has more bands.
    """
    scene = Scene.open(path, gsd_m=gsd_m)
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
    inside = find_inside(grid, window)
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


def find_inside(grid: Scene, window: Window) -> NDArray[np.bool_]:
    """Tell which pixels of a window lie on its grid, bool (rows, cols)."""
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

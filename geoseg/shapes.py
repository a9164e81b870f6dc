"""Polygons of vector files, drawn window by window on a scene's grid (floor 2).

Polygons are drawn with the rule of pixel centres; where they overlap the smaller one wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely
from numpy.typing import NDArray

from geoseg.errors import InputError
from geoseg.lattice import Window
from geoseg.scene import Scene

__all__ = ["Drawing", "is_vector", "name_of", "read_polygons"]


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """Polygons on a grid, drawn where they are looked at.

    Attributes:
        grid: what windows mean.
        polygons: in the grid's CRS, larger ones first; number n is entry n - 1.
        tree: of the polygons.
    """

    grid: Scene
    polygons: NDArray[np.object_]
    tree: shapely.STRtree

    @classmethod
    def make(cls, grid: Scene, frame: gpd.GeoDataFrame) -> tuple[Drawing, NDArray[np.int64]]:
        """Make a drawing.

        Args:
            grid: what windows mean.
            frame: polygons in the grid's CRS.

        Returns:
            The drawing, and the row of the frame that each of its polygons is.
        """
        order = np.argsort(-frame.geometry.area.to_numpy(), kind="stable")
        polygons = frame.geometry.to_numpy()[order]
        return cls(grid, polygons, shapely.STRtree(polygons)), order

    def read(self, window: Window) -> NDArray[np.int32]:
        """Draw a window of the grid, which may stick out of it.

        Returns:
            int32 (rows, cols), numbers of polygons, 0 = none.
        """
        around = window.pad(1)
        corners = [(col, row) for col in (around.col_off, around.col_stop) for row in (around.row_off, around.row_stop)]
        xs, ys = zip(*(self.grid.transform @ corner for corner in corners), strict=True)
        box = min(xs), min(ys), max(xs), max(ys)
        chosen = np.sort(self.tree.query(shapely.box(*box)))
        shapes = shapely.clip_by_rect(self.polygons[chosen], *box)
        there = ~shapely.is_empty(shapes)
        return self.grid.burn(window, shapes[there], (chosen[there] + 1).tolist())


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


def name_of(value: object) -> str:
    """Return a class as a layer's attribute has it, as text: 1.0 is "1"."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

"""Make the sample scene and its truth again: `python sample_tiles/make.py [FOLDER]`.

The land is invented; geoseg's renderer lays it out and paints it from one seed. With the same versions of NumPy,
OpenCV, Shapely and GDAL the files come out the same, byte for byte.
"""

from __future__ import annotations

import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from shapely import Polygon
from shapely.affinity import affine_transform

from geoseg.training.renderer import LAYERS, render

NAME = "riverside"
SEED = 24
SIZE = 2048
GSD_M = 0.5
CRS = "EPSG:32633"
LEFT_M, TOP_M = 456_000.0, 5_402_000.0
TAKEN_AT = "2026:06:21 10:30:00"
COLOURS = {
    0: (0, 0, 0, 0),
    1: (38, 110, 180, 255),
    2: (214, 96, 77, 255),
    3: (222, 203, 98, 255),
    4: (150, 80, 170, 255),
}


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """The picture as a Cloud Optimized GeoTIFF, JPEG inside."""
    with rasterio.open(
        path,
        "w",
        driver="COG",
        width=SIZE,
        height=SIZE,
        count=3,
        dtype="uint8",
        crs=CRS,
        transform=from_origin(LEFT_M, TOP_M, GSD_M, GSD_M),
        compress="JPEG",
        quality=90,
        blocksize=512,
        overview_resampling="AVERAGE",
    ) as tif:
        tif.write(image)
        tif.update_tags(
            TIFFTAG_DATETIME=TAKEN_AT,
            TIFFTAG_IMAGEDESCRIPTION="Invented land, rendered by geoseg; the coordinates are real, the place is not",
        )


def write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    """The true class codes as a Cloud Optimized GeoTIFF, with colours."""
    with rasterio.open(
        path,
        "w",
        driver="COG",
        width=SIZE,
        height=SIZE,
        count=1,
        dtype="uint8",
        nodata=255,
        crs=CRS,
        transform=from_origin(LEFT_M, TOP_M, GSD_M, GSD_M),
        compress="DEFLATE",
        level=9,
        blocksize=512,
        overview_resampling="MODE",
    ) as tif:
        tif.write(mask, 1)
        tif.write_colormap(1, COLOURS)
        tif.update_tags(TIFFTAG_DATETIME=TAKEN_AT)


def write_polygons(path: Path, polygons: list[Polygon], columns: dict[str, list[object]]) -> None:
    """Polygons in pixels as GeoJSON in longitude and latitude (RFC 7946)."""
    to_land = [GSD_M, 0, 0, -GSD_M, LEFT_M, TOP_M]
    frame = gpd.GeoDataFrame(columns, geometry=[affine_transform(shape, to_land) for shape in polygons], crs=CRS)
    path.unlink(missing_ok=True)
    frame.to_file(path, driver="GeoJSON", engine="pyogrio", RFC7946="YES", COORDINATE_PRECISION=8)


def main(folder: Path) -> None:
    """Write the scene, its mask, its polygons and its stalls."""
    scene = render(SEED, size=SIZE, gsd_m=GSD_M)
    write_image(folder / f"{NAME}.tif", scene.image)
    write_mask(folder / f"{NAME}_truth.tif", scene.mask)
    classes: list[object] = [layer for layer in LAYERS for _ in scene.polygons[layer]]
    shapes = [shape for layer in LAYERS for shape in scene.polygons[layer]]
    write_polygons(folder / f"{NAME}_truth.geojson", shapes, {"id": list(range(1, len(shapes) + 1)), "class": classes})
    numbers: list[object] = list(range(1, len(scene.stalls) + 1))
    stalls: dict[str, list[object]] = {"id": numbers, "taken": list(scene.taken)}
    write_polygons(folder / f"{NAME}_stalls.geojson", scene.stalls, stalls)
    for path in sorted(folder.glob(f"{NAME}*")):
        print(f"{path.name:28} {path.stat().st_size / 1e6:6.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)

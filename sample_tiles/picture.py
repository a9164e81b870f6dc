"""Draws a finished run: the scene, its masks over it, its polygons over it, side by side.

``python sample_tiles/picture.py SCENE DIR OUT.jpg`` (needs the ``train`` extra).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import geopandas
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling

CODES = {"water": 1, "road": 2, "field": 3, "parking": 4, "vehicle": 6}
COLOURS = {1: (38, 115, 217), 2: (230, 76, 60), 3: (241, 196, 15), 4: (155, 89, 182), 6: (255, 0, 200)}

Picture = NDArray[np.uint8]


def draw_mask(image: Picture, mask: NDArray[np.uint8], opacity: float = 0.5) -> Picture:
    """The image (rows, cols, 3) with each class in its colour."""
    mixed = image.astype(np.float32)
    for code, colour in COLOURS.items():
        mixed[mask == code] += opacity * (np.array(colour, np.float32) - mixed[mask == code])
    return mixed.astype(np.uint8)


def draw_polygons(image: Picture, directory: Path, to_pixel: Any, scale: float, width: int = 2) -> Picture:
    """The image with the outlines of all layers, holes too."""
    drawn = image.copy()
    for layer, code in CODES.items():
        path, colour = directory / f"{layer}.parquet", COLOURS[code]
        for polygon in geopandas.read_parquet(path).geometry if path.exists() else ():
            for ring in (polygon.exterior, *polygon.interiors):
                cols, rows = to_pixel @ np.array(ring.coords.xy)
                points = (np.stack([cols, rows], axis=1) * scale * 16).round().astype(np.int32)
                cv2.polylines(
                    drawn, [points], isClosed=True, color=colour, thickness=width, lineType=cv2.LINE_AA, shift=4
                )
    return drawn


def main() -> None:
    """Reads the arguments and draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bands", default="1,2,3", help="red, green, blue")
    parser.add_argument("--side", type=int, default=900, help="longest side of each panel, pixels")
    options = parser.parse_args()
    bands = [int(band) for band in options.bands.split(",")]
    with rasterio.open(options.scene) as raster:
        scale = min(1.0, options.side / max(raster.shape))
        shape = (round(raster.height * scale), round(raster.width * scale))
        to_pixel = ~raster.transform
        pixels = raster.read(bands, out_shape=(3, *shape), resampling=Resampling.average)
    image: Picture = np.ascontiguousarray(np.moveaxis(pixels, 0, 2))
    labelled = image
    for path in sorted(options.directory.glob("mask*.tif")):  # one of each model, on a grid of its own
        with rasterio.open(path) as raster:
            labelled = draw_mask(labelled, raster.read(1, out_shape=shape, resampling=Resampling.nearest))
    panels = [image, labelled, draw_polygons(image, options.directory, to_pixel, scale)]
    gap = np.full((shape[0], 6, 3), 255, np.uint8)
    picture = np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)
    cv2.imwrite(str(options.out), picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()

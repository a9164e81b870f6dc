"""Packs many images into one large scene, to try geoseg on: ``python tests/benchmarks/mosaic.py OUT.tif IMAGE...``

Images are laid on shelves, largest first, until a square of ``--side`` pixels is full; what no image covers is
masked. Their borders fall where they fall, not on tile or chunk lines.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from PIL import Image
from rasterio.windows import Window


def shelves(sizes: list[tuple[int, int]], side: int) -> list[tuple[int, int, int]]:
    """Places (image, row, col) of images of (height, width) in a square, clipped at its edges."""
    order = sorted(range(len(sizes)), key=lambda index: (-sizes[index][0], index))
    places, row, col, shelf = [], 0, 0, 0
    for index in order:
        if col >= side:
            row, col, shelf = row + shelf, 0, 0
        if row >= side:
            break
        places.append((index, row, col))
        shelf = max(shelf, sizes[index][0])
        col += sizes[index][1]
    return places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--side", type=int, default=10_240)
    parser.add_argument("--gsd", type=float, default=1.0, help="metres per pixel")
    options = parser.parse_args()
    sizes = []
    for path in options.images:
        with Image.open(path) as image:
            sizes.append((image.height, image.width))
    side = options.side
    profile = {
        "driver": "GTiff",
        "width": side,
        "height": side,
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:32614",
        "transform": Affine(options.gsd, 0, 500_000, 0, -options.gsd, 5_000_000),
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "compress": "DEFLATE",
        "zlevel": 1,
        "photometric": "RGB",
    }
    scene = np.zeros((3, side, side), np.uint8)
    covered = np.zeros((side, side), bool)
    for index, row, col in shelves(sizes, side):
        with Image.open(options.images[index]) as image:
            pixels = np.moveaxis(np.asarray(image.convert("RGB")), 2, 0)[:, : side - row, : side - col]
        place = np.s_[row : row + pixels.shape[1], col : col + pixels.shape[2]]
        scene[:, *place], covered[place] = pixels, True
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(options.out, "w", **profile) as raster:
        for row in range(0, side, 512):
            window = Window(0, row, side, min(512, side - row))
            raster.write(scene[:, row : row + 512], window=window)
            raster.write_mask(covered[row : row + 512], window=window)
    print(f"{options.out}: {side} x {side} px, {covered.mean():.1%} covered")


if __name__ == "__main__":
    main()

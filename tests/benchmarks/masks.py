"""The masks that benchmarks run on, at little cost: ``python tests/benchmarks/masks.py busy|spiral SIZE TIF``.

Written by a process of its own where memory is measured: a process begins with the peak of the one that started it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window
from scipy import ndimage

PIXEL_M = 0.5
PLACE = {"crs": "EPSG:32633", "transform": Affine(PIXEL_M, 0, 500_000, 0, -PIXEL_M, 5_300_000)}
TILE = 5000


def make_noise(size: int, seed: int = 0) -> np.ndarray:
    """Five classes (one is background) from noise at three scales: per megapixel some 900 polygons, 80 000 vertices."""
    random = np.random.default_rng(seed)
    best, mask = np.full((size, size), -np.inf, np.float32), np.zeros((size, size), np.uint8)
    for code in range(5):
        field = np.zeros((size, size), np.float32)
        for cell, weight in ((128, 1.0), (24, 0.5), (4, 0.1)):
            coarse = random.standard_normal((size // cell + 4, size // cell + 4)).astype(np.float32)
            field += weight * ndimage.zoom(coarse, cell, order=3)[:size, :size]
        mask[field > best] = code
        np.maximum(best, field, out=best)
    return mask


def mirrored(tile: np.ndarray, row: int, col: int, height: int, width: int) -> np.ndarray:
    """A window of the endless plane that is paved with a square tile, every second one mirrored: no seams."""
    size = len(tile)

    def places(start: int, length: int) -> np.ndarray:
        place = np.arange(start, start + length) % (2 * size)
        return np.where(place < size, place, 2 * size - 1 - place)

    return tile[np.ix_(places(row, height), places(col, width))]


def busy_mask(size: int) -> np.ndarray:
    """Noise; above 5000 pixels one tile of it and its mirror images."""
    return make_noise(size) if size <= TILE else mirrored(make_noise(TILE), 0, 0, size, size)


def write_busy(path: Path, size: int) -> None:
    """The mask of :func:`busy_mask` as a GeoTIFF, rows after rows."""
    tile = make_noise(min(size, TILE))
    write_raster(path, size, lambda row, height: mirrored(tile, row, 0, height, size))


def write_spiral(path: Path, size: int, width: int = 40, pitch: int = 80) -> None:
    """A river that winds from the middle of the scene to its edge: an Archimedean spiral with rounded corners.

    It is one instance without holes, and reaches into all corners of the scene.
    """
    turns = size // 2 // pitch - 1

    def read_rows(row: int, height: int) -> np.ndarray:
        y = np.arange(row, row + height)[:, None] + 0.5 - size / 2
        x = np.arange(size)[None, :] + 0.5 - size / 2
        outwards = (x**4 + y**4) ** 0.25 / pitch - np.arctan2(y, x) / (2 * np.pi)
        turn = np.floor(outwards)
        return ((outwards - turn < width / pitch) & (turn >= 1) & (turn < turns)).astype(np.uint8)

    write_raster(path, size, read_rows)


def write_raster(path: Path, size: int, read_rows, block: int = 512) -> Path:
    """Writes a tiled, compressed GeoTIFF of ``read_rows(row, height) -> (height, size) uint8``, rows after rows."""
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": size, "width": size, **PLACE}
    layout = {"tiled": True, "blockxsize": block, "blockysize": block, "compress": "deflate", "zlevel": 1}
    with rasterio.open(path, "w", **profile, **layout, BIGTIFF="IF_SAFER") as raster:
        for row in range(0, size, block):
            height = min(block, size - row)
            raster.write(read_rows(row, height), 1, window=Window(0, row, size, height))
    return path


if __name__ == "__main__":
    {"busy": write_busy, "spiral": write_spiral}[sys.argv[1]](Path(sys.argv[3]), int(sys.argv[2]))

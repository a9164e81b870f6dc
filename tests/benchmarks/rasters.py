"""What it costs to write the mask and the confidence of a run, against GDAL's COG driver on a draft.

    python tests/benchmarks/rasters.py [SIZE [ROUNDS]] [--mask TIF --confidence TIF]        default: 10240 3

Processor seconds (all threads), medians of interleaved rounds, and megabytes. GDAL's way is that of most programs: a
tiled draft, of which its COG driver makes overviews and file, both with DEFLATE. The mask is noise, above 5000 pixels a
tile of it and its mirror images; the confidence is high within its regions, low at their borders, and a little rough.
Other rasters can be given, such as those of a real run. Fails if pixels differ.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from masks import PLACE, TILE, make_noise, mirrored
from rasterio.windows import Window
from scipy import ndimage

from geoseg.export.cog import BLOCK, write_cog

COARSER = 3  # the noise has more borders than masks of scenes have
RESAMPLING = {"mask": "mode", "confidence": "average"}


def make_confidence(mask: np.ndarray, seed: int = 1) -> np.ndarray:
    """Confidences (127-254): unsure at the borders of the regions, a little rough beside them, sure within."""
    border = (mask != np.roll(mask, 1, axis=0)) | (mask != np.roll(mask, 1, axis=1))
    unsure = np.exp(-ndimage.distance_transform_edt(~border).astype(np.float32) / 3)
    rough = np.random.default_rng(seed).standard_normal((len(mask) // 8 + 2, len(mask) // 8 + 2)).astype(np.float32)
    rough = ndimage.zoom(rough, 8, order=1)[: len(mask), : len(mask)]
    return np.clip(254 - 127 * unsure + 20 * rough * unsure, 127, 254).round().astype(np.uint8)


def make_rasters(size: int) -> dict[str, np.ndarray]:
    side = min(size, TILE)
    tile = make_noise(side // COARSER + 1).repeat(COARSER, axis=0).repeat(COARSER, axis=1)[:side, :side]
    tiles = {"mask": tile, "confidence": make_confidence(tile)}
    return {name: mirrored(pixels, 0, 0, size, size) for name, pixels in tiles.items()}


def write_by_gdal(path: Path, pixels: np.ndarray, resampling: str) -> None:
    draft = path.with_name("draft.tif")
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": 255, **PLACE}
    layout = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate", "zlevel": 1}
    with rasterio.open(draft, "w", height=len(pixels), width=pixels.shape[1], **profile, **layout) as raster:
        for row in range(0, len(pixels), BLOCK):
            rows = pixels[row : row + BLOCK]
            raster.write(rows, 1, window=Window(0, row, rows.shape[1], len(rows)))
    options = {"BLOCKSIZE": BLOCK, "COMPRESS": "DEFLATE", "OVERVIEW_RESAMPLING": resampling.upper()}
    predictor = "STANDARD" if resampling == "average" else "NO"
    rasterio.shutil.copy(draft, path, driver="COG", PREDICTOR=predictor, **options)
    draft.unlink()


def write_by_geoseg(path: Path, pixels: np.ndarray, resampling: str) -> None:
    write_cog(path, pixels, **PLACE, overview_resampling=resampling)


def measure(rasters: dict[str, np.ndarray], rounds: int, folder: Path) -> None:
    ways = {"GDAL": write_by_gdal, "geoseg": write_by_geoseg}
    for way in ways.values():  # kernels are compiled, libraries read
        way(folder / "warm.tif", rasters["mask"][:2000, :2000], "mode")
    seconds = {(way, name): [] for name in rasters for way in ways}
    megabytes = {}
    for _ in range(rounds):
        for (way, name), measured in seconds.items():
            path = folder / f"{way}.tif"
            start = time.process_time()
            ways[way](path, rasters[name], RESAMPLING[name])
            measured.append(time.process_time() - start)
            megabytes[way, name] = path.stat().st_size / 1e6
            with rasterio.open(path) as raster:
                assert np.array_equal(raster.read(1), rasters[name])
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    print(f"{'':12}" + "".join(f"{way:>10} s{way:>10} MB" for way in ways) + "     ratio")
    for name in rasters:
        row = "".join(f"{medians[way, name]:12.2f}{megabytes[way, name]:13.2f}" for way in ways)
        print(f"{name:12}{row}{medians['GDAL', name] / medians['geoseg', name]:10.1f}")
    sums = {way: sum(medians[way, name] for name in rasters) for way in ways}
    sizes = {way: sum(megabytes[way, name] for name in rasters) for way in ways}
    row = "".join(f"{sums[way]:12.2f}{sizes[way]:13.2f}" for way in ways)
    print(f"{'both':12}{row}{sums['GDAL'] / sums['geoseg']:10.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", nargs="?", type=int, default=10240)
    parser.add_argument("rounds", nargs="?", type=int, default=3)
    parser.add_argument("--mask", type=Path)
    parser.add_argument("--confidence", type=Path)
    given = parser.parse_args()
    paths = {name: path for name in RESAMPLING if (path := getattr(given, name))}
    read = {name: rasterio.open(path).read(1) for name, path in paths.items()}
    with tempfile.TemporaryDirectory() as scratch:
        measure(read or make_rasters(given.size), given.rounds, Path(scratch))

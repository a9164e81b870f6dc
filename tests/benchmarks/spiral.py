"""One river that winds through every chunk: the instance that no chunk can finish.

    python tests/benchmarks/spiral.py [SIZE [CHUNK]]                                      default: 20000 2048

Vectorizes it with every vertex and with the default simplification, in processes of their own, and prints their memory
and time. Fails unless there is one polygon in either, the one with every vertex has exactly the area of the river's
pixels, and up to 4000 pixels it is GDAL's.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import rasterio.features
import shapely
from masks import PIXEL_M, PLACE
from memory import GIB, make, vectorize

EXACTLY_UP_TO = 4000


def count_pixels(path: Path) -> int:
    """Pixels of the river, block after block."""
    with rasterio.open(path) as raster:
        return sum(int(np.count_nonzero(raster.read(1, window=window))) for _, window in raster.block_windows())


def main(size: int = 20_000, chunk: int = 2048) -> None:
    good = True
    with tempfile.TemporaryDirectory() as folder:
        mask = Path(folder) / "spiral.tif"
        make("spiral", size, mask)
        options = ("--threads=1", "--chunk", str(chunk), "--formats", "parquet", "--min-area", "0")
        ways = {"every vertex": ("--simplify", "0"), "default": ()}
        peaks = {way: vectorize(mask, Path(folder) / way, *options, *more) for way, more in ways.items()}
        pixels = count_pixels(mask)
        print(f"{size} x {size} px in chunks of {chunk}; a river of {pixels} pixels")
        for way, peak in peaks.items():
            layer = geopandas.read_parquet(Path(folder) / way / "class_1.parquet")
            polygons = layer.geometry.to_numpy()
            area = shapely.area(polygons).sum() / PIXEL_M**2
            holes = int(shapely.get_num_interior_rings(polygons).sum())
            checks = {
                "one polygon": len(polygons) == 1,
                "no hole": holes == 0,
                "valid": shapely.is_valid(polygons).all(),
            }
            if way == "every vertex":
                checks["area of the pixels"] = area == pixels
                if size <= EXACTLY_UP_TO:
                    with rasterio.open(mask) as raster:
                        river = raster.read(1)
                    [(theirs, _)] = rasterio.features.shapes(river, mask=river != 0, transform=PLACE["transform"])
                    checks["GDAL's"] = bool(shapely.geometry.shape(theirs).normalize() == polygons[0].normalize())
            good &= all(checks.values())
            print(
                f"{way:13s} {shapely.get_num_coordinates(polygons).sum():9d} vertices, area {area / pixels:.6f} of the "
                f"pixels', peak {peak.anyone / GIB:.2f} GiB, file {peak.layers / 2**20:.0f} MiB, {peak.seconds:.1f} s; "
                + ", ".join(name if passed else f"NOT {name}" for name, passed in checks.items())
            )
    sys.exit(not good)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

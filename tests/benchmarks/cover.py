"""Whether simplified layers cover the scene without gaps and overlaps, and are the same bytes however it is cut.

    python tests/benchmarks/cover.py [SIZE [METHOD ...]]                                   default: 10000

At 10000 pixels some 120 000 polygons, all of the scene: its five classes have codes 1 to 5, none is background. Each of
twelve settings (two methods, three tolerances, with and without smoothing) is run serially in chunks of 2048, and once
more in other chunks, by one process or by two. Fails if a polygon is not valid, the polygons of all classes together
are no coverage (overlaps, vertices that do not meet), their areas do not add up to the scene's in exact integers
(gaps), or two files differ.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import shapely
from masks import PIXEL_M, PLACE, TILE, make_noise, mirrored, write_raster

import geoseg

METHODS = ("visvalingam", "douglas-peucker")
TOLERANCES_PX = (0.5, 1.0, 3.0)
OTHER_WAYS = tuple(
    geoseg.Execution(chunk=chunk, **who) for chunk, who in ((512, {"workers": 2}), (3000, {"serial": True}))
)


def read(directory: Path) -> np.ndarray:
    """All polygons of all layers."""
    tables = [pq.read_table(file, columns=["geometry"]) for file in sorted(directory.glob("*.parquet"))]
    return np.concatenate([shapely.from_wkb(table["geometry"].to_numpy()) for table in tables])


def digest(directory: Path) -> str:
    """SHA-256 of all layers' bytes."""
    state = hashlib.sha256()
    for file in sorted(directory.glob("*.parquet")):
        state.update(file.name.encode() + file.read_bytes())
    return state.hexdigest()


def doubled_area(polygons: np.ndarray) -> int:
    """Twice the area of all polygons, in square half pixels, exactly."""
    _, coords, (ring_offsets, _) = shapely.to_ragged_array(polygons)
    half = 2 * (coords - [PLACE["transform"].c, PLACE["transform"].f]) / PIXEL_M
    x, y = np.rint(half).astype(np.int64).T
    if not np.array_equal(half, np.rint(half)):
        sys.exit("a vertex lies on no half pixel")
    terms = x[:-1] * y[1:] - x[1:] * y[:-1]
    terms[ring_offsets[1:-1] - 1] = 0  # from one ring to the next
    return int(terms.sum())


def main(size: int = 10_000, methods: Sequence[str] = METHODS) -> None:
    good = True
    others = itertools.cycle(OTHER_WAYS)
    with tempfile.TemporaryDirectory() as folder:
        tile = make_noise(min(size, TILE)) + 1
        mask = write_raster(Path(folder) / "mask.tif", size, lambda row, height: mirrored(tile, row, 0, height, size))
        print(
            "         method  tolerance  smooth   polygons   vertices  invalid  misfits  gaps (px)  bytes, when cut as"
        )
        for method, tolerance, smooth in itertools.product(methods, TOLERANCES_PX, (False, True)):
            settings = geoseg.VectorSettings(
                min_area_m2=0,
                simplify_m=tolerance * PIXEL_M,
                simplify_method=method,
                smooth=smooth,
                formats=("parquet",),
            )
            other = next(others)
            start = time.perf_counter()
            digests = []
            for way in (geoseg.Execution(chunk=2048, serial=True), other):
                geoseg.vectorize(mask, Path(folder) / "layers", settings=settings, execution=way, overwrite=True)
                digests.append(digest(Path(folder) / "layers"))
            seconds = time.perf_counter() - start
            polygons = read(Path(folder) / "layers")
            invalid = int((~shapely.is_valid(polygons)).sum())
            misfits = 0
            if not shapely.coverage_is_valid(polygons):
                misfits = int((~shapely.is_empty(shapely.coverage_invalid_edges(polygons))).sum())
            gaps = size**2 - doubled_area(polygons) / 8
            same = digests[0] == digests[1]
            good &= not invalid and not misfits and gaps == 0 and same
            print(
                f"{method:>15s}{tolerance:11.1f}{smooth!s:>8s}{len(polygons):11d}"
                f"{shapely.get_num_coordinates(polygons).sum():11d}{invalid:9d}{misfits:9d}{gaps:11.3f}  "
                f"{'same' if same else 'NOT the same'}: {other.chunk}, {other.workers or 1} working ({seconds:.0f} s)",
                flush=True,
            )
    print("no gap, no overlap, nothing invalid, one set of bytes" if good else "NOT good")
    sys.exit(not good)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *([sys.argv[2:]] if sys.argv[2:] else []))

"""Whether simplified layers cover the scene without gaps and overlaps, and are the same bytes however it is cut.

    python tests/benchmarks/cover.py [SIZE [METHOD,... [PIXELS,...]]]      default: 10000, both methods, 0.5,1,3

At 10000 pixels some 120 000 polygons, all of the scene: its five classes have codes 1 to 5, none is background. Each of
twelve settings (two methods, three tolerances, with and without smoothing) is run serially in chunks of 2048, and once
more in other chunks, by one process or by two. The last row has background, smoothing, --min-area and --fill-holes, and
is run in three ways. Fails if a polygon is not valid, the polygons of all classes together are no coverage (overlaps,
vertices that do not meet), their areas do not add up to the scene's in exact integers (gaps), or two files differ.
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
    geoseg.Execution(chunk=chunk, **who) for chunk, who in ((512, {"workers": 2}), (3000, {"threads": 1}))
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


def settings_of(method: str, tolerance_px: float, *, smooth: bool, cleaned: bool) -> geoseg.VectorSettings:
    """Vector settings; cleaned: what is small or a small hole goes to its neighbours."""
    least_m2 = 20 * PIXEL_M**2 if cleaned else 0.0
    return geoseg.VectorSettings(
        min_area_m2=least_m2,
        fill_holes_m2=least_m2,
        simplify_m=tolerance_px * PIXEL_M,
        simplify_method=method,
        smooth=smooth,
        formats=("parquet",),
    )


def main(size: int = 10_000, methods: Sequence[str] = METHODS, tolerances_px: Sequence[float] = TOLERANCES_PX) -> None:
    good = True
    others = itertools.cycle(OTHER_WAYS)
    with tempfile.TemporaryDirectory() as folder:
        noise = make_noise(min(size, TILE))

        def write(name: str, tile: np.ndarray) -> Path:
            return write_raster(Path(folder) / name, size, lambda row, height: mirrored(tile, row, 0, height, size))

        full, with_background = write("full.tif", noise + 1), write("background.tif", noise)
        print("         method  tolerance  smooth  cleaned   polygons   vertices  invalid  misfits   gaps, px  bytes")
        rows = [*itertools.product(methods, tolerances_px, (False, True), (False,)), (methods[-1], 1.0, True, True)]
        for method, tolerance, smooth, cleaned in rows:
            settings = settings_of(method, tolerance, smooth=smooth, cleaned=cleaned)
            ways = [geoseg.Execution(chunk=2048, threads=1), *(OTHER_WAYS if cleaned else (next(others),))]
            mask = with_background if cleaned else full
            start = time.perf_counter()
            digests = []
            for way in ways:
                geoseg.vectorize(mask, Path(folder) / "layers", settings=settings, execution=way, overwrite=True)
                digests.append(digest(Path(folder) / "layers"))
            seconds = time.perf_counter() - start
            polygons = read(Path(folder) / "layers")
            invalid = int((~shapely.is_valid(polygons)).sum())
            misfits = 0
            if not shapely.coverage_is_valid(polygons):
                misfits = int((~shapely.is_empty(shapely.coverage_invalid_edges(polygons))).sum())
            # where there is background, what is no polygon's is no gap
            gaps = 0.0 if cleaned else size**2 - doubled_area(polygons) / 8
            same = len(set(digests)) == 1
            good &= not invalid and not misfits and gaps == 0 and same
            cuts = ", ".join(f"{way.chunk} by {way.workers or 1}" for way in ways)
            print(
                f"{method:>15s}{tolerance:11.1f}{smooth!s:>8s}{cleaned!s:>9s}{len(polygons):11d}"
                f"{shapely.get_num_coordinates(polygons).sum():11d}{invalid:9d}{misfits:9d}{gaps:11.3f}  "
                f"{'same' if same else 'NOT the same'}: {cuts} ({seconds:.0f} s)",
                flush=True,
            )
    print("no gap, no overlap, nothing invalid, one set of bytes" if good else "NOT good")
    sys.exit(not good)


if __name__ == "__main__":
    main(
        *map(int, sys.argv[1:2]),
        *([sys.argv[2].split(",")] if sys.argv[2:] else []),
        *([[float(tolerance) for tolerance in sys.argv[3].split(",")]] if sys.argv[3:] else []),
    )

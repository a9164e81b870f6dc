"""How fast the vector half is, against rasterio.features.shapes on the same mask in the same run.

    python tests/benchmarks/bench_trace.py [SIZE [CHUNK [ROUNDS]]]        default 4096 2048 5

Rounds interleave both sides, and figures are medians of processor time, so that a busy machine disturbs them least.
Also checks that both sides agree to the last bit, and that simplified neighbours fit.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rasterio.features
import shapely
from affine import Affine
from scipy import ndimage

from geoseg.lattice import Window
from geoseg.stages.instances import find_faces, merge_faces
from geoseg.stages.polygons import measure, to_geometries
from geoseg.stages.simplify import simplify_polygons
from geoseg.stages.trace import join_fragments, trace_chunk

PIXEL = Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000)


def make_mask(size: int, seed: int = 0) -> np.ndarray:
    """Five classes from noise at three scales: some 1000 polygons and 65 000 vertices a megapixel."""
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


class Stopwatch:
    """Processor seconds by name, over rounds."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def run(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = work()
        self.seconds.setdefault(name, []).append(time.process_time() - start)
        return result

    def median(self, *names: str) -> float:
        return statistics.median(map(sum, zip(*(self.seconds[name] for name in names), strict=True)))

    def ratio(self, slow: tuple[str, ...], fast: tuple[str, ...]) -> float:
        pairs = zip(
            zip(*(self.seconds[name] for name in slow), strict=True),
            zip(*(self.seconds[name] for name in fast), strict=True),
            strict=True,
        )
        return statistics.median(sum(above) / sum(below) for above, below in pairs)


def normalised(geometries: np.ndarray) -> list[bytes]:
    return sorted(shapely.to_wkb(shapely.normalize(geometries)))


def main(size: int = 4096, chunk: int = 2048, rounds: int = 5) -> None:
    mask = make_mask(size)
    confidence = np.random.default_rng(1).integers(100, 255, mask.shape, dtype=np.uint8)
    shape = mask.shape
    windows = [
        Window(col, row, min(chunk, size - col), min(chunk, size - row))
        for row in range(0, size, chunk)
        for col in range(0, size, chunk)
    ]
    watch = Stopwatch()
    for number in range(rounds + 1):
        if number == 1:
            watch.seconds.clear()  # the first round compiled
        faces = watch.run("label", lambda: [find_faces(mask[w.slices()], w, shape) for w in windows])
        merge = watch.run("merge", lambda faces=faces: merge_faces(faces, shape))
        borders = watch.run("merge borders", lambda merge=merge: [merge.border(w) for w in windows])
        fragments = watch.run(
            "trace",
            lambda borders=borders: [
                trace_chunk(mask[w.slices()], confidence[w.slices()], border, w, shape)
                for w, border in zip(windows, borders, strict=True)
            ],
        )
        polygons = watch.run("join", lambda fragments=fragments: join_fragments(fragments))
        ours = watch.run("geometries", lambda polygons=polygons: to_geometries(polygons, PIXEL, keep_junctions=False))
        thinned = watch.run("simplify", lambda polygons=polygons: simplify_polygons(polygons, 1.0))
        simple = watch.run(
            "thinned geometries", lambda thinned=thinned: to_geometries(thinned, PIXEL, keep_junctions=True)
        )
        watch.run("measure", lambda simple=simple: measure(simple, "EPSG:32633"))
        covering = to_geometries(polygons, PIXEL, keep_junctions=True)
        watch.run("GEOS simplify", lambda covering=covering: shapely.coverage_simplify(covering, 0.5))
        found = watch.run(
            "rasterio shapes",
            lambda: list(rasterio.features.shapes(mask, mask=mask != 0, connectivity=4, transform=PIXEL)),
        )
        theirs = watch.run(
            "rasterio to shapely",
            lambda found=found: np.array([shapely.geometry.shape(geometry) for geometry, _ in found], object),
        )
    if normalised(ours) != normalised(theirs):
        raise SystemExit("the polygons differ from GDAL's")
    if not shapely.coverage_is_valid(simple):
        raise SystemExit("the simplified polygons are no coverage")

    megapixels = mask.size / 1e6
    print(f"{size} x {size} px in chunks of {chunk}; {len(polygons)} polygons, {len(polygons.coords)} vertices")
    for name in watch.seconds:
        print(f"  {name:20s} {1000 * watch.median(name) / megapixels:8.2f} ns/px")
    exact = ("label", "merge", "merge borders", "trace", "join")
    reference = ("rasterio shapes", "rasterio to shapely")
    print(f"label + merge + trace + join: {megapixels / watch.median(*exact):.1f} Mpx/s on one core")
    print(f"  and to shapely, against rasterio to shapely: {watch.ratio(reference, (*exact, 'geometries')):.1f} x")
    print(
        f"trace + join + to shapely, against the same: {watch.ratio(reference, ('trace', 'join', 'geometries')):.1f} x"
    )
    print(f"trace + join, against rasterio shapes alone: {watch.ratio(reference[:1], ('trace', 'join')):.1f} x")
    print(f"simplify, against GEOS' coverage_simplify: {watch.ratio(('GEOS simplify',), ('simplify',)):.1f} x")
    everything = (*exact, "simplify", "thinned geometries", "measure")
    print(f"mask to measured, simplified polygons: {megapixels / watch.median(*everything):.1f} Mpx/s on one core")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

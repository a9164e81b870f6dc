"""How fast the vector half is, and where its time goes, against rasterio.features.shapes on the same mask.

    python tests/benchmarks/vector.py [SIZE [CHUNK [ROUNDS]]] [--peers PYTHON ...]         default: 4096 2048 3

All figures are processor seconds of one process (all its threads), medians of interleaved rounds, so that a busy
machine disturbs them least. Ours are those of a whole ``vectorize``, serially, with a confidence for every pixel, from
a compressed GeoTIFF to GeoParquet (and GeoJSON, which is told apart): with every vertex, simplified by one pixel, and
with all defaults (small polygons given to their neighbours, too). GDAL and the peers get the mask in memory. Above 5000
pixels the mask is a tile of noise and its mirror images. Peers are looked for in this Python and in those given:
xarray-spatial, contourrs.

Fails if the polygons with every vertex differ from GDAL's (normalised WKB up to 5000 pixels, above that every polygon's
area and number of vertices).
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import rasterio.features
import shapely
from masks import PIXEL_M, PLACE, busy_mask, write_raster

import geoseg
from geoseg.engine import kernels, vector_half
from geoseg.engine.store import Store
from geoseg.export import rows, vectors
from geoseg.stages.instances import Merge
from geoseg.stages.join import Joiner
from geoseg.stages.polygons import Ground

GEOJSON = "write GeoJSON"
# what is timed on its own: (where it is looked up, its name, the line of the table)
TIMED = (
    (kernels.SceneMask, "read", "read"),
    (Store, "read", "read again"),
    (Store, "write", "sieve: write"),
    (kernels, "find_small", "sieve: find"),
    (vector_half, "merge_small", "sieve: merge"),
    (kernels, "sieve_chunk", "sieve: rewrite"),
    (kernels, "find_faces", "label"),
    (vector_half, "merge_faces", "merge"),
    (Merge, "border", "merge"),
    (kernels, "label_chunk", "label"),
    (kernels, "count_confidence", "confidence"),
    (kernels, "trace_chunk", "trace"),
    (kernels, "finished_arcs", "share out"),
    (kernels, "share_out", "share out"),
    (kernels, "simplify_arcs", "simplify"),
    (kernels, "assemble", "assemble"),
    (Store, "write_fragment", "fragments"),
    (Store, "read_fragments", "fragments"),
    (Store, "write_found", "marks"),
    (Store, "read_found", "marks"),
    (Joiner, "add", "join"),
    (Ground, "measure", "measure"),
    (rows, "to_wkb", "to WKB"),
    (rows, "ground_bounds", "to WKB"),
    (rows, "hilbert_keys", "to WKB"),
    (kernels, "write_rows", "write rows"),
    (rows, "read_layers", "write GeoParquet"),
    (rows, "pack_lonlat", GEOJSON),
    (vectors, "features_text", GEOJSON),
)
GEOMETRY = ("label", "merge", "trace", "share out", "assemble", "fragments", "join")
EXACT = "every vertex"
SETTINGS: dict[str, dict[str, float]] = {
    EXACT: {"min_area_m2": 0, "simplify_m": 0},
    "simplified": {"min_area_m2": 0},
    "as by default": {},
}
EXACTLY_UP_TO = 5000

PEERS = {
    "contourrs": """
import contourrs
def work(mask):
    return contourrs.shapes_arrow(mask, mask=mask != 0, connectivity=4)
""",
    "xarray-spatial": """
import xarray
from xrspatial.experimental.polygonize import polygonize
def work(mask):
    return polygonize(xarray.DataArray(mask), mask=xarray.DataArray(mask != 0), connectivity=4)
""",
}
PEER = """
import sys, time
import numpy as np
{import_and_work}
mask = np.load(sys.argv[1])
work(np.ascontiguousarray(mask[:300, :300]))
start = time.process_time()
work(mask)
print(time.process_time() - start)
"""


class Ledger:
    """Processor seconds of threads by line; what is timed inside something else is taken off there."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._of_thread = threading.local()
        self._adding = threading.Lock()

    @contextmanager
    def entry(self, line: str) -> Iterator[None]:
        inner = self._of_thread.__dict__.setdefault("inner", [])
        inner.append(0.0)
        start = time.thread_time()
        try:
            yield
        finally:
            spent = time.thread_time() - start
            with self._adding:
                self.seconds[line] = self.seconds.get(line, 0.0) + spent - inner.pop()
            if inner:
                inner[-1] += spent

    def timed(self, function: Callable, line: str) -> Callable:
        def call(*args, **kwargs):
            with self.entry(line):
                return function(*args, **kwargs)

        return call

    def sum(self, *lines: str) -> float:
        return sum(self.seconds.get(line, 0.0) for line in lines)


def vectorize(path: Path, directory: Path, confidence: np.ndarray, chunk: int, settings: dict[str, float]) -> Ledger:
    """One whole run; the mask comes from the file, its confidence from memory."""
    ledger = Ledger()
    writers = {
        name: vectors.FORMATS[name]._replace(write=ledger.timed(vectors.FORMATS[name].write, line))
        for name, line in (("geojson", GEOJSON), ("parquet", "write GeoParquet"))
    }
    execution = geoseg.Execution(threads=1, chunk=chunk)
    with ExitStack() as patches:
        for source in (kernels.SceneMask, kernels.StoredMask):
            read = mock.patch.object(source, "read_confidence", lambda _, window: confidence[window.slices()])
            patches.enter_context(read)
        patches.enter_context(mock.patch.dict(vectors.FORMATS, writers))
        for owner, name, line in TIMED:
            patches.enter_context(mock.patch.object(owner, name, ledger.timed(getattr(owner, name), line)))
        with ledger.entry("anything else"):
            geoseg.vectorize(
                path, directory, settings=geoseg.VectorSettings(**settings), execution=execution, overwrite=True
            )
    return ledger


def run_gdal(mask: np.ndarray) -> tuple[Ledger, list[np.ndarray], list[int]]:
    """GDAL's polygons and their codes, drawn in batches so that Python's tuples do not pile up."""
    ledger = Ledger()
    geometries, codes = [], []
    with ledger.entry("shapes"):
        found = rasterio.features.shapes(mask, mask=mask != 0, connectivity=4, transform=PLACE["transform"])
        while batch := list(itertools.islice(found, 4096)):
            with ledger.entry("to shapely"):
                geometries.append(np.array([shapely.geometry.shape(geometry) for geometry, _ in batch], object))
            codes += [int(code) for _, code in batch]
    return ledger, geometries, codes


def run_peer(python: str, name: str, mask_file: Path) -> float | None:
    """Processor seconds of a peer in a process of its own, after a small mask to compile; None if it is not there."""
    script = PEER.format(import_and_work=PEERS[name])
    done = subprocess.run([python, "-c", script, str(mask_file)], capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None


def is_same(directory: Path, geometries: list[np.ndarray], codes: list[int], *, to_the_bit: bool) -> bool:
    """Whether the layers hold the polygons of GDAL."""
    theirs, codes = np.concatenate(geometries), np.array(codes)
    same = True
    for code in np.unique(codes):
        file = pq.ParquetFile(directory / f"class_{code}.parquet")
        batches = file.iter_batches(columns=["geometry"])
        ours = np.concatenate([shapely.from_wkb(batch["geometry"].to_numpy(zero_copy_only=False)) for batch in batches])
        there = theirs[codes == code]
        if to_the_bit:
            same &= sorted(shapely.to_wkb(shapely.normalize(ours))) == sorted(shapely.to_wkb(shapely.normalize(there)))
        else:
            facts = [
                np.sort(shapely.area(side) / PIXEL_M**2 * 2**20 + shapely.get_num_coordinates(side))
                for side in (ours, there)
            ]
            same &= np.array_equal(*facts)
    return same and len(list(directory.glob("*.parquet"))) == len(np.unique(codes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", type=int, nargs="?", default=4096)
    parser.add_argument("chunk", type=int, nargs="?", default=2048)
    parser.add_argument("rounds", type=int, nargs="?", default=3)
    parser.add_argument("--peers", nargs="*", default=[], metavar="PYTHON")
    options = parser.parse_args()
    mask = busy_mask(options.size)
    confidence = np.random.default_rng(1).integers(100, 255, mask.shape, dtype=np.uint8)
    ours: dict[str, list[Ledger]] = {name: [] for name in SETTINGS}
    gdal, peers = [], {}
    with tempfile.TemporaryDirectory() as folder:
        path = write_raster(Path(folder) / "mask.tif", len(mask), lambda row, height: mask[row : row + height])
        warm = write_raster(Path(folder) / "warm.tif", 600, lambda row, height: mask[row : row + height, :600])
        mask_file = Path(folder) / "mask.npy"
        np.save(mask_file, mask)
        for settings in SETTINGS.values():
            vectorize(warm, Path(folder) / "warm", confidence, 256, settings)  # compiles
        pythons = [sys.executable, *options.peers]
        missing = set(PEERS)
        for number in range(options.rounds):
            ledger, geometries, codes = run_gdal(mask)
            gdal.append(ledger)
            for name, settings in SETTINGS.items():
                ours[name].append(vectorize(path, Path(folder) / name, confidence, options.chunk, settings))
            if number == 0:
                to_the_bit = options.size <= EXACTLY_UP_TO
                same = is_same(Path(folder) / EXACT, geometries, codes, to_the_bit=to_the_bit)
                polygons = len(codes)
                vertices = sum(int(shapely.get_num_coordinates(batch).sum()) for batch in geometries)
            del geometries, codes
            for python, name in itertools.product(pythons, PEERS):
                if (seconds := run_peer(python, name, mask_file)) is not None:
                    peers.setdefault(name, []).append(seconds)
                    missing.discard(name)
    report(mask.size / 1e6, ours, gdal, peers)
    print(f"{polygons} polygons with {vertices} vertices before anything is sieved or simplified")
    for name in sorted(missing):
        print(f"{name}: not installed here (give --peers a Python that has it)")
    print(f"peak memory of everything here: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print("polygons with every vertex:", "the same as GDAL's" if same else "DIFFER from GDAL's")
    sys.exit(not same)


def report(megapixels: float, ours: dict[str, list[Ledger]], gdal: list[Ledger], peers: dict) -> None:
    """Prints the table and the ratios."""

    def median(ledgers: list[Ledger], *lines: str) -> float:
        return statistics.median(ledger.sum(*lines) for ledger in ledgers)

    def row(name: str, *seconds: float) -> None:
        print(f"  {name:35s}" + "".join(f"{100 * value / megapixels:15.3f}" for value in seconds))

    print(f"CPU-s per 100 Mpx, of {megapixels:8.0f} Mpx    " + "".join(f"{name:>15s}" for name in ours))
    found = dict.fromkeys(line for ledgers in ours.values() for line in ledgers[0].seconds)
    lines = sorted(found, key=lambda line: -max(median(ledgers, line) for ledgers in ours.values()))
    for line in lines:
        row(line, *(median(ledgers, line) for ledgers in ours.values()))
    lines.remove(GEOJSON)
    whole = [median(ledgers, *lines) for ledgers in ours.values()]
    row("whole vector half, to GeoParquet", *whole)
    print(f"  {'  Mpx/s per core':35s}" + "".join(f"{megapixels / value:15.1f}" for value in whole))
    shapes = [ledger.sum("shapes") for ledger in gdal]
    shapely_too = [ledger.sum("shapes", "to shapely") for ledger in gdal]
    others = {"rasterio shapes": shapes, "rasterio to shapely": shapely_too, **peers}
    for name, seconds in others.items():
        row(name, statistics.median(seconds))
    for lines_of_ours, what in ((("trace",), "trace"), (GEOMETRY, "label to join"), (lines, "whole vector half")):
        print(f"with every vertex, our {what} is quicker than")
        for name, seconds in others.items():
            pairs = zip(seconds, ours[EXACT], strict=True)
            times = (theirs / ledger.sum(*lines_of_ours) for theirs, ledger in pairs)
            print(f"  {name:35s}{statistics.median(times):12.2f} times")


if __name__ == "__main__":
    main()

"""Runs one scene in many ways and compares all bytes: ``python tests/benchmarks/invariance.py SCENE [geoseg options]``

Chunks of one, two and five tile cores; serially and with 1, 2 and 4 workers.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rasterio

from geoseg.models import zoo


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of the vector files' bytes and the rasters' pixels."""
    found = {}
    for path in sorted(directory.iterdir()):
        if path.suffix in {".geojson", ".parquet"}:
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".tif":
            with rasterio.open(path) as raster:
                found[path.name] = hashlib.sha256(raster.read().tobytes()).hexdigest()
    return found


def main() -> None:
    scene, *options = sys.argv[1:]
    card = zoo.load("landscape")
    core = card.tile - 2 * card.halo
    ways = [("--threads=1", core), ("--threads=1", 2 * core), ("--threads=1", 5 * core)]
    ways += [(f"--workers={workers}", chunk * core) for workers, chunk in ((1, 2), (2, 1), (2, 5), (4, 1), (4, 2))]
    first: dict[str, str] = {}
    same = True
    with tempfile.TemporaryDirectory() as folder:
        for number, (how, chunk) in enumerate(ways):
            directory = Path(folder) / str(number)
            command = [sys.executable, "-m", "geoseg", "run", scene, "-o", str(directory), "--quiet", *options]
            start = time.perf_counter()
            subprocess.run([*command, how, "--chunk", str(chunk)], check=True)
            found = digests(directory)
            first = first or found
            same &= found == first
            verdict = "the same bytes" if found == first else f"DIFFERS: {[n for n in found if found[n] != first[n]]}"
            print(f"{how:12} --chunk {chunk:5}  {time.perf_counter() - start:6.1f} s  {verdict}", flush=True)
    print(f"{len(first)} files in {len(ways)} ways:", "all the same" if same else "NOT the same")
    sys.exit(not same)


if __name__ == "__main__":
    main()

"""Memory of whole runs, whatever the size of the scene: ``python tests/benchmarks/run_memory.py [--sides 10240 40960]``

Scenes made of the sample, mirrored over and over, go through ``geoseg run`` as it comes; prints the most memory that a
process took, the time, and the ratio to the smallest scene. What the layers themselves hold is told beside it: polygons
have to be somewhere until they are written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from speed import make_scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[10_240, 20_480, 40_960])
    parser.add_argument("--model", default="town")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    first = None
    for side in options.sides:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_scene(folder / "scene.tif", side)
            how = ["--model", options.model, "--precision", options.precision, "--quiet"]
            command = [
                sys.executable,
                "-m",
                "geoseg",
                "run",
                str(folder / "scene.tif"),
                "-o",
                str(folder / "layers"),
                *how,
            ]
            start = time.perf_counter()
            subprocess.run(command, check=True)
            wall = time.perf_counter() - start
            record = json.loads((folder / "layers" / "run.json").read_text(encoding="utf-8"))
            layers = sum(path.stat().st_size for path in (folder / "layers").glob("*.parquet")) / 1024**3
        peak = max(record["peak_memory_bytes"].values()) / 1024**3
        first = first or peak
        polygons = sum(layer["polygons"] for layer in record["layers"].values())
        part = record["passes"][0]
        print(f"{side} x {side} px, {part['precision']}, {record['executor']}, tiles of ", end="")
        print(
            f"{part['lattice']['core'] + 2 * part['lattice']['halo']} px: {peak:.2f} GiB, {peak / first:.2f} x, ",
            end="",
        )
        print(f"{wall:.0f} s, {side**2 / 1e6 / wall:.1f} Mpx/s, {polygons} polygons in {layers:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()

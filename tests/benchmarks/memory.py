"""Peak memory of ``geoseg vectorize`` as scenes grow, serially and with two workers.

    python tests/benchmarks/memory.py [--sizes SIZE ...] [geoseg options]                default: 10000 20000 40000

Each run is a process of its own on a busy mask in a tiled, compressed GeoTIFF, with the command line's defaults. Fails
if any process of the largest scene took more than 1.2 times what it took for the smallest plus the size of the
finished layers, or more than 3 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
GIB = 1 << 30


class Peak(NamedTuple):
    """What one run took, bytes and seconds."""

    driver: int
    worker: int
    anyone: int  # the largest of all processes, as the system counted it
    layers: int
    seconds: float
    stages: str


def make(kind: str, size: int, path: Path) -> None:
    """Writes a mask in a process of its own, so that its memory is not ours."""
    subprocess.run([sys.executable, str(HERE / "masks.py"), kind, str(size), str(path)], check=True)


def vectorize(mask: Path, directory: Path, *options: str) -> Peak:
    """Runs the command line."""
    command = [sys.executable, "-m", "geoseg", "vectorize", str(mask), "-o", str(directory), "--quiet", *options]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed with {process.returncode}")
    record = json.loads((directory / "run.json").read_text())
    told = record["peak_memory_bytes"]
    stages = ", ".join(f"{stage['name']} {stage['seconds']:.0f}" for stage in record["stages"])
    layers = sum(file.stat().st_size for file in directory.iterdir() if file.is_file())
    return Peak(told["driver"], told["worker"], usage.ru_maxrss * 1024, layers, seconds, stages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 20_000, 40_000])
    options, given = parser.parse_known_args()
    peaks: dict[str, list[Peak]] = {"--threads=1": [], "--workers=2": []}
    print("   size         who   driver   worker   anyone   layers   seconds     Mpx/s   GiB; stages in s")
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            mask = Path(folder) / f"{size}.tif"
            make("busy", size, mask)
            for who, found in peaks.items():
                directory = Path(folder) / f"{size}{who}"
                peak = vectorize(mask, directory, who, *given)
                found.append(peak)
                gib = "".join(f"{value / GIB:9.2f}" for value in peak[:4])
                speed = size**2 / 1e6 / peak.seconds
                print(f"{size:7d} {who:>11s}{gib}{peak.seconds:10.1f}{speed:10.1f}   {peak.stages}", flush=True)
                subprocess.run(["rm", "-r", str(directory)], check=True)
            mask.unlink()
    good = True
    for who, found in peaks.items():
        first, last = found[0], found[-1]
        for process in ("driver", "worker", "anyone"):
            before, after = getattr(first, process), getattr(last, process)
            allowed = min(1.2 * before + last.layers, 3 * GIB)
            good &= after <= allowed
            print(
                f"{who:>11s} {process:6s}: {after / GIB:.2f} GiB, {after / before:.2f} times the smallest; "
                f"allowed {allowed / GIB:.2f} GiB: {'good' if after <= allowed else 'TOO MUCH'}"
            )
    sys.exit(not good)


if __name__ == "__main__":
    main()

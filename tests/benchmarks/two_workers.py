"""Two Dask workers against one on the vector half: ``python tests/benchmarks/two_workers.py [--chunk 4096]``

Vectorizes a busy mask by turns with one worker and with two, and prints the seconds of each stage (the median), and how
many times as quick two are, for the stages that workers do and for all, with what the leading process does alone. On a
smaller mask what each stage takes to begin and to end counts for more.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from masks import write_busy

import geoseg

ON_WORKERS = ("sieve", "label", "trace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=49_152)
    parser.add_argument("--chunk", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    times: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_busy(folder / "mask.tif", options.size)
        for turn in range(options.rounds):
            for workers, found in times.items():
                execution = geoseg.Execution(workers=workers, chunk=options.chunk)
                result = geoseg.vectorize(folder / "mask.tif", folder / f"{turn}-{workers}", execution=execution)
                found.append({stage.name: stage.seconds for stage in result.stages})
                print(workers, found[-1], flush=True)
    medians = {
        workers: {stage: statistics.median(run[stage] for run in runs) for stage in runs[0]}
        for workers, runs in times.items()
    }
    for stage, one in medians[1].items():
        print(f"{stage:8s} {one:7.2f} s, {medians[2][stage]:7.2f} s: {one / medians[2][stage]:.2f} x")
    for name, stages in (("on workers", ON_WORKERS), ("all", tuple(medians[1]))):
        one, two = (sum(of[stage] for stage in stages) for of in (medians[1], medians[2]))
        print(f"{name:8s} {one:7.2f} s, {two:7.2f} s: {one / two:.2f} x")


if __name__ == "__main__":
    main()

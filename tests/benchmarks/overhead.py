"""What a whole run costs over the network alone: ``python tests/benchmarks/overhead.py SCENE``

Runs the scene in this process and, before and after it, times the network on as many pixels as one tile has. Prints
the ratio of the whole run (reading, stitching, labels, polygons, files) to the network's time on the same tiles, and
that ratio times the halo's own factor: what a pixel of the scene costs over a pixel through the network.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import geoseg
from geoseg.models.runtimes import open_runtime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene")
    parser.add_argument("--bands")
    options = parser.parse_args()
    settings = geoseg.RunSettings(bands=tuple(options.bands.split(",")) if options.bands else None)
    execution = geoseg.Execution(threads=1)
    plan = geoseg.make_plan(options.scene, settings, execution)
    [part] = plan.passes
    how = {"runtime": part.runtime, "device": plan.device, "precision": part.precision}
    infer = open_runtime(replace(part.card, tile=part.lattice.tile_size), **how, halo=part.lattice.halo)
    side = part.lattice.tile_size
    tiles = np.random.default_rng(0).integers(0, 256, (infer.batch, len(part.bands), side, side), dtype=np.uint8)

    def network_seconds() -> float:
        """Median of five batches, per tile."""
        times = []
        for _ in range(5):
            start = time.perf_counter()
            infer(tiles)
            times.append(time.perf_counter() - start)
        return statistics.median(times) / infer.batch

    infer(tiles)
    before = network_seconds()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = geoseg.run(options.scene, Path(folder) / "layers", settings=settings, execution=execution)
        wall = time.perf_counter() - start
    per_tile = (before + network_seconds()) / 2
    network = per_tile * part.tiles
    predict = next(stage.seconds for stage in result.stages if stage.name == "predict")
    factor = (side / part.lattice.core) ** 2
    speed = side * side / 1e6 / per_tile
    print(f"network alone      {network:7.2f} s on {part.tiles} tiles, {speed:.2f} Mpx/s on one core")
    print(f"predict stage      {predict:7.2f} s, {predict / network:.3f} x the network")
    print(f"whole run          {wall:7.2f} s, {wall / network:.3f} x the network")
    print(f"halo factor        {factor:.3f} (tile {side}, core {part.lattice.core})")


if __name__ == "__main__":
    main()

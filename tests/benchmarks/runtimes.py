"""What the runtimes make of the shipped models: ``python tests/benchmarks/runtimes.py [--side 1024] [MODEL ...]``

For each model and runtime: Mpx/s of one core, all inside (scaling, network, decision), by the processor time of one
tile, the median of several after warming up, interleaved, so that a busy machine troubles all alike; seconds until the
first tile; and the share of labels on the sample scene that differ from torch in float32. CPUs without AMX emulate
bf16, which is slow: it is left out without ``--bf16``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio

from geoseg.models import zoo
from geoseg.models.runtimes import open_runtime

SAMPLE = Path(__file__).parents[2] / "sample_tiles" / "riverside.tif"
ROWS = (
    ("torch", "fp32"),
    ("onnx", "fp32"),
    ("openvino", "fp32"),
    ("openvino", "int8"),
    ("torch", "bf16"),
    ("openvino", "bf16"),
    ("openvino", "int8-bf16"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["landscape", "town", "vehicle"])
    parser.add_argument("--side", type=int, default=1024, help="of a tile, pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="too, which is slow where it is emulated")
    options = parser.parse_args()
    with rasterio.open(SAMPLE) as scene:
        tile = scene.read([1, 2, 3])[None, :, : options.side, : options.side]
    tile = np.ascontiguousarray(tile)
    print("| model | runtime | Mpx/s per core | start, s | labels unlike torch fp32 |\n|---|---|---|---|---|")
    for name in options.models:
        card = replace(zoo.load(name), tile=tile.shape[-1])
        rows = [row for row in ROWS if row[1] in ("fp32", *["bf16"] * options.bf16, *card.precisions)]
        started, infers, masks = {}, {}, {}
        for row in rows:
            start = time.process_time()
            infers[row] = open_runtime(card, runtime=row[0], device="cpu", precision=row[1], halo=card.halo)
            started[row] = time.process_time() - start
            masks[row], _ = infers[row](tile)
        seconds = {row: [] for row in rows}
        for _ in range(options.repeats):
            for row in rows:
                start = time.process_time()
                infers[row](tile)
                seconds[row].append(time.process_time() - start)
        for row in rows:
            speed = tile[0, 0].size / 1e6 / statistics.median(seconds[row])
            unlike = (masks[row] != masks["torch", "fp32"]).mean()
            print(f"| {name} | {' '.join(row)} | {speed:.2f} | {started[row]:.1f} | {unlike:.4%} |", flush=True)


if __name__ == "__main__":
    main()

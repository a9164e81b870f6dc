"""What blocks and narrowing save OpenVINO: ``python tests/benchmarks/blocks.py [--side 3008] [MODEL ...]``

Seconds for a tile of the sample scene (repeated to fill the tile), one thread and all of this machine's cores working
on a tile each, the least of several rounds, by turns: the whole network, without what the halo crops (narrow), and that
in blocks of some sizes. And the share of labels and confidences that differ from the whole network's.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import rasterio

from geoseg.machine import count_cores
from geoseg.models import runtime_openvino, zoo
from geoseg.models.runtimes import open_runtime, resolve_precision

SAMPLE = Path(__file__).parents[2] / "sample_tiles" / "riverside.tif"
WAYS = {
    "whole": None,
    "narrow": ("nothing", (0, 0)),
    **{
        f"{where}, {rows} x {cols} px": (where, (rows, cols))
        for where in ("beginning", "both ends")
        for rows, cols in ((32, 4096), (64, 512), (128, 512), (256, 512), (128, 1024))
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["town", "landscape"])
    parser.add_argument("--side", type=int, default=3008, help="of a tile, pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    with rasterio.open(SAMPLE) as scene:
        image = scene.read([1, 2, 3])
    places = np.arange(options.side) % min(image.shape[1:])
    tile = np.ascontiguousarray(image[:, places][:, :, places])[None]
    cores = count_cores()
    print(f"| model | precision | way | s a tile, 1 thread | {cores} threads | labels | confidences unlike |")
    print("|---|---|---|---|---|---|---|")
    for name in options.models:
        card = replace(zoo.load(name), tile=options.side)
        precision = resolve_precision(options.precision, "cpu", "openvino", passed=card.precisions)
        infers = {way: open_way(card, precision, how, cores) for way, how in WAYS.items()}
        expected = infers["whole"](tile)
        seconds: dict[tuple[str, int], list[float]] = {}
        for _ in range(options.rounds):
            for way, infer in infers.items():
                for threads in {1, cores}:
                    seconds.setdefault((way, threads), []).append(time_tiles(infer, tile, threads))
        for way, infer in infers.items():
            unlike = [(found != other).mean() for found, other in zip(infer(tile), expected, strict=True)]
            times = [min(seconds[way, threads]) for threads in (1, cores)]
            facts = (name, precision, way, *(f"{one:.2f}" for one in times), *(f"{one:.5%}" for one in unlike))
            print(f"| {' | '.join(facts)} |", flush=True)


def open_way(card, precision, way, cores):
    """A runtime with blocks of such a size there; None is without any, and with what the halo crops, too."""
    narrow = runtime_openvino.narrow if way is not None else lambda *_: None
    with (
        mock.patch.object(runtime_openvino, "narrow", narrow),
        mock.patch.object(runtime_openvino, "_choose_blocks", return_value=way or WAYS["narrow"]),
        mock.patch.object(runtime_openvino, "find_kept", return_value=None),
        mock.patch.object(runtime_openvino, "keep"),
    ):
        return open_runtime(card, runtime="openvino", device="cpu", precision=precision, halo=card.halo, at_once=cores)


def time_tiles(infer, tile: np.ndarray, threads: int) -> float:
    """Seconds a tile when so many are computed at the same time."""
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(lambda _: infer(tile), range(threads)))
        return (time.perf_counter() - start) / threads


if __name__ == "__main__":
    main()

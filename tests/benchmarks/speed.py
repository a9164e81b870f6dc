"""A run against its model alone, and against a plain tile loop: ``python tests/benchmarks/speed.py [--side 10240]``

All of one scene, made of the sample, mirrored over and over, and all in one go on the CPU:

**model alone**
    The run's own tiles through its own runtime, by as many processes at once as the run has workers, pixels in memory.
    Some tiles of each before the run and as many after it, scaled to all: a busy machine troubles both alike. The first
    of each process, which has its memory yet to find, is not among them; what it takes more is told.
**geoseg run**
    The command, from start to the last file.
**least**
    What any program takes that uses these libraries: the start of Python with NumPy and rasterio, and the model alone
    with its first tiles; and on all cores without a gap the model opened once (from what was kept), the scene decoded
    once, mask and confidence encoded once. No tile read twice, no label, no polygon, no file but these two.
**plain loop**
    What most scripts do: the same network in torch as it comes (fp32, all cores), tiles of 512 px that overlap by a
    quarter, four at a time, read, predicted and added to the scores of the whole scene in memory one after the other.
    ``--share`` of its rows of tiles are done, and scaled.

``--architecture unet-resnet34`` takes another network in the model's place, with random weights: how long that computes
does not depend on them.

Prints the ratios of issue and README; memory is of the largest process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

import geoseg

SAMPLE = Path(__file__).parents[2] / "sample_tiles" / "riverside.tif"
TILE, STEP, BATCH = 512, 384, 4


def make_scene(path: Path, side: int) -> None:
    """The sample, mirrored at its edges until it is wide and high enough."""
    with rasterio.open(SAMPLE) as sample:
        pixels, profile = sample.read([1, 2, 3]), sample.profile
    rows, cols = (np.pad(np.arange(size), (0, side - size), mode="symmetric") for size in pixels.shape[1:])
    profile |= {"width": side, "height": side, "count": 3, "tiled": True, "blockxsize": 512, "blockysize": 512}
    with rasterio.open(path, "w", **profile) as raster:
        for top in range(0, side, 512):
            band = pixels[:, rows[top : top + 512]][:, :, cols]
            raster.write(band, window=Window(0, top, side, band.shape[1]))


def untrained(folder: Path, model: str, architecture: str) -> str:
    """The card of a model of another architecture, in other things like a known one."""
    import torch

    from geoseg.models import zoo
    from geoseg.models.architectures import build
    from geoseg.models.card import write_model

    like = replace(zoo.load(model), name="untrained", architecture=architecture, int8=None)
    torch.manual_seed(0)
    network = build(architecture, classes=like.planes, bands=like.channels)
    return str(write_model(folder, like, network.state_dict()).path)


def forward(how: dict[str, Any], model: str, side: int, count: int) -> tuple[float, float, float]:
    """Seconds of some tiles in one process, after a first one; what that took more than one of them; and of opening."""
    from geoseg.models import zoo
    from geoseg.models.runtimes import open_runtime

    card = replace(zoo.load(model), tile=side)
    begin = time.perf_counter()
    infer = open_runtime(card, **how)
    opening = time.perf_counter() - begin
    with rasterio.open(SAMPLE) as sample:
        pixels = sample.read([1, 2, 3])
    gaps = [(0, 0), *((0, max(0, side - size)) for size in pixels.shape[1:])]
    tile = np.ascontiguousarray(np.pad(pixels, gaps, mode="symmetric")[:, :side, :side])
    tiles = np.stack([tile] * infer.batch)
    marks = [time.perf_counter()]
    for _ in range(1 + count):
        infer(tiles)
        marks.append(time.perf_counter())
    first, later = marks[1] - marks[0], marks[-1] - marks[1]
    return later / infer.batch, first - later / count, opening


def model_alone(how: dict[str, Any], model: str, side: int, workers: int, count: int) -> NDArray[np.float64]:
    """Seconds per tile when all workers are busy; what the first of each takes more; and to open the model."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        found = pool.map(forward, [how] * workers, [model] * workers, [side] * workers, [count] * workers)
        seconds, more, opening = np.mean(list(found), axis=0)
    return np.array([seconds / count / workers, more, opening])


def least(path: Path, layers: Path) -> tuple[float, float, float]:
    """Seconds to start, and processor seconds to decode a scene and to encode its mask and confidence."""
    command = [sys.executable, "-c", "import numpy, rasterio"]
    starts = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, check=True)
        starts.append(time.perf_counter() - start)
    begin = time.process_time()
    with rasterio.open(path) as raster:
        for top in range(0, raster.height, 512):
            raster.read(window=Window(0, top, raster.width, min(512, raster.height - top)))
    decoding, encoding = time.process_time() - begin, 0.0
    for found in [*layers.glob("mask*.tif"), *layers.glob("confidence*.tif")]:
        with rasterio.open(found) as raster:
            band, profile = raster.read(1), raster.profile | {"zlevel": 5}  # the run's own
        begin = time.process_time()
        with rasterio.open(path.with_name("once_more.tif"), "w", **profile) as raster:
            raster.write(band, 1)
        encoding += time.process_time() - begin
    return min(starts), decoding, encoding


def plain_loop(path: Path, model: str, share: float) -> float:
    """Seconds of the plain loop over all of a scene."""
    import torch

    from geoseg.models import zoo
    from geoseg.models.runtime_torch import load_network

    card = zoo.load(model)
    network = load_network(card).eval()
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (card.mean, card.std))
    start = time.perf_counter()
    with rasterio.open(path) as raster, torch.inference_mode():
        side = raster.width
        places = range(0, side - TILE + STEP, STEP)
        rows = max(1, round(share * len(places)))
        total = np.zeros((card.planes, min(side, (rows - 1) * STEP + TILE), side), np.float32)
        times = np.zeros(total.shape[1:], np.float32)
        corners = [(min(row, side - TILE), min(col, side - TILE)) for row in places[:rows] for col in places]
        for first in range(0, len(corners), BATCH):
            some = corners[first : first + BATCH]
            tiles = np.stack([raster.read(window=Window(col, row, TILE, TILE)) for row, col in some])
            scores = torch.sigmoid(network((torch.from_numpy(tiles).float() - mean) / std)).numpy()
            for (row, col), plane in zip(some, scores, strict=True):
                total[:, row : row + TILE, col : col + TILE] += plane
                times[row : row + TILE, col : col + TILE] += 1
        total /= times
        np.where(total.max(0) >= 0.5, total.argmax(0) + 1, 0).astype(np.uint8)
    return (time.perf_counter() - start) * len(places) / rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=10_240)
    parser.add_argument("--model", default="town")
    parser.add_argument("--architecture", help="see geoseg.models.architectures; the model's by default")
    parser.add_argument("--precision", default="auto", help="of the run and the model alone")
    parser.add_argument("--share", type=float, default=0.25, help="of the plain loop that is done")
    parser.add_argument("--tiles", type=int, default=6, help="of the model alone, in each process, before and after")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = folder / "scene.tif"
        make_scene(scene, options.side)
        model = untrained(folder, options.model, options.architecture) if options.architecture else options.model
        plan = geoseg.make_plan(str(scene), geoseg.RunSettings(models=(model,), precision=options.precision))
        [part] = plan.passes
        how = {"runtime": part.runtime, "device": plan.device, "precision": part.precision, "halo": part.lattice.halo}
        alone = (how, model, part.lattice.tile_size, plan.workers, options.tiles)
        before = model_alone(*alone)
        start = time.perf_counter()
        command = [sys.executable, "-m", "geoseg", "run", str(scene), "-o", str(folder / "layers"), "--quiet"]
        subprocess.run([*command, "--model", model, "--precision", options.precision], check=True)
        wall = time.perf_counter() - start
        after = model_alone(*alone)
        per_tile, more = ((before + after) / 2)[:2]
        opening = after[2]  # once it was opened before, and so kept
        record = json.loads((folder / "layers" / "run.json").read_text(encoding="utf-8"))
        peak = max(record["peak_memory_bytes"].values()) / 1024**3
        starting, decoding, encoding = least(scene, folder / "layers")
        plain = plain_loop(scene, model, options.share)
    forward_s = per_tile * part.tiles
    area = options.side**2 / 1e6
    print(f"{options.side} x {options.side} px, {part.card.architecture} in {part.runtime} {part.precision}, ", end="")
    print(f"{plan.workers} workers, tiles of {part.lattice.tile_size} px, halo {part.lattice.halo}")
    print(f"model alone  {forward_s:8.1f} s  {area / forward_s:6.2f} Mpx/s, {more:.1f} s more with the first tiles")
    print(f"geoseg run   {wall:8.1f} s  {area / wall:6.2f} Mpx/s  ", end="")
    print(f"{wall / forward_s:.3f} x the model alone  {peak:.2f} GiB")
    print("             " + ", ".join(f"{stage['name']} {stage['seconds']:.1f} s" for stage in record["stages"]))
    bound = starting + forward_s + more + (opening + decoding + encoding) / plan.workers
    print(f"least        {bound:8.1f} s               {bound / forward_s:.3f} x the model alone: ", end="")
    print(f"{starting:.1f} s to start; on one core ", end="")
    print(f"{opening:.1f} s to open the model, {decoding:.1f} s to decode, {encoding:.1f} s to encode")
    print(f"plain loop   {plain:8.1f} s  {area / plain:6.2f} Mpx/s  {plain / wall:.2f} x geoseg run")


if __name__ == "__main__":
    main()

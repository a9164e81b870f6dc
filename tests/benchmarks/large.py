"""A scene of 10 Gpx on Dask, and what Dask costs: ``python tests/benchmarks/large.py [--side 100352] [--workers 2]``

A VRT that repeats one tile of blobs goes through ``geoseg run`` with a model that only thresholds, in chunks of
2048 px. Prints for each stage the time; the share of the workers' time that was spent in kernels, by their logs (the
rest is Dask's, the rasters' that the leading process writes meanwhile, and the wait for the last); the most memory of
the leading process, which holds the scheduler, in each quarter of the stage; and the most memory of a worker. With
``--against-threads`` the same is done once more without Dask, by as many threads of one process, whose time is that of
the work alone.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import rasterio
from affine import Affine
from scipy.ndimage import gaussian_filter

TILE = 3584
CHUNK = 2048


def make_scene(folder: Path, side: int) -> Path:
    """A VRT of side x side pixels, two bands: green and near infrared, water where the first is above."""
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(TILE, TILE)), 25, mode="wrap")
    green = (110 + 60 * noise / np.abs(noise).max()).astype(np.uint8)
    profile = {"driver": "GTiff", "width": TILE, "height": TILE, "count": 2, "dtype": "uint8"}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
    transform = Affine(1, 0, 5e5, 0, -1, 5e6)
    with rasterio.open(folder / "tile.tif", "w", **profile, crs="EPSG:32614", transform=transform) as raster:
        raster.write(np.stack([green, np.full_like(green, 125)]))
        crs = raster.crs.to_wkt()
    bands = []
    for band in (1, 2):
        sources = [
            f'<SimpleSource><SourceFilename relativeToVRT="1">tile.tif</SourceFilename><SourceBand>{band}</SourceBand>'
            f'<SourceProperties RasterXSize="{TILE}" RasterYSize="{TILE}" DataType="Byte" BlockXSize="512" '
            f'BlockYSize="512"/><SrcRect xOff="0" yOff="0" xSize="{TILE}" ySize="{TILE}"/>'
            f'<DstRect xOff="{col}" yOff="{row}" xSize="{TILE}" ySize="{TILE}"/></SimpleSource>'
            for row in range(0, side, TILE)
            for col in range(0, side, TILE)
        ]
        bands.append(f'<VRTRasterBand dataType="Byte" band="{band}">{"".join(sources)}</VRTRasterBand>')
    path = folder / "scene.vrt"
    path.write_text(
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>{crs}</SRS>'
        f"<GeoTransform>500000, 1, 0, 5000000, 0, -1</GeoTransform>{''.join(bands)}</VRTDataset>"
    )
    return path


class Samples(threading.Thread):
    """Memory of the run's processes, and its stage, every second."""

    def __init__(self, process: psutil.Process, logs: Path) -> None:
        super().__init__(daemon=True)
        self.process = process
        self.logs = logs
        self.of_stage: dict[str, list[int]] = collections.defaultdict(list)
        self.worker = 0

    def run(self) -> None:
        stage = "start"
        while True:
            try:
                self.of_stage[stage].append(self.process.memory_info().rss)
                for child in self.process.children(recursive=True):
                    self.worker = max(self.worker, child.memory_info().rss)
            except psutil.Error:
                if not self.process.is_running():
                    return
            for log in self.logs.glob("0.log"):
                with log.open("rb") as file:
                    file.seek(max(0, log.stat().st_size - 200))
                    found = re.findall(r"INFO ([a-z ]+) [\d.]+ ", file.read().decode(errors="replace"))
                stage = found[-1] if found else stage
            time.sleep(1)


def kernel_seconds(logs: Path) -> dict[str, tuple[int, float]]:
    """Number of tasks and seconds in kernels, by stage."""
    found: dict[str, tuple[int, float]] = {}
    for log in logs.glob("*.log"):
        for stage, seconds in re.findall(r"INFO ([a-z ]+) [\d.]+ done in ([\d.]+) s", log.read_text()):
            count, total = found.get(stage, (0, 0.0))
            found[stage] = count + 1, total + float(seconds)
    return found


def watch(command: list[str], home: Path) -> tuple[float, float, Samples]:
    """Runs a command; returns its seconds, those of processor time that its first process took, and its memory."""
    start, cpu_s = time.perf_counter(), 0.0
    with subprocess.Popen(command) as process:
        leading = psutil.Process(process.pid)
        samples = Samples(leading, home / ".geoseg" / "logs")
        samples.start()
        while process.poll() is None:
            time.sleep(1)
            try:
                times = leading.cpu_times()
            except psutil.Error:
                break
            cpu_s = times.user + times.system
    assert process.returncode == 0
    return time.perf_counter() - start, cpu_s, samples


def gib(size: float) -> str:
    return f"{size / 1024**3:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=100_352, help=f"a multiple of {TILE}")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the scene and the run go for the time being")
    parser.add_argument("--against-threads", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder, home = Path(name), Path(name) / "layers"
        scene = make_scene(folder, options.side)
        command = [sys.executable, "-m", "geoseg", "run", str(scene), "--model", "ndwi", "--quiet"]
        command += ["--bands", "1,2", "--chunk", str(CHUNK), "--formats", "parquet"]
        wall, cpu_s, samples = watch([*command, "-o", str(home), "--workers", str(options.workers)], home)
        record = json.loads((home / "run.json").read_text(encoding="utf-8"))
        disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        kernels = kernel_seconds(home / ".geoseg" / "logs")
        if options.against_threads:
            shutil.rmtree(home)
            start = time.perf_counter()
            subprocess.run([*command, "-o", str(home), "--threads", str(options.workers)], check=True)
            alone = time.perf_counter() - start
    chunks = (-(-options.side // CHUNK)) ** 2
    print(f"{options.side} x {options.side} px, {chunks} chunks, {options.workers} workers: {wall:.0f} s, ", end="")
    print(f"{options.side**2 / 1e6 / wall:.1f} Mpx/s, {gib(disk)} GiB on disk in the end")
    print(f"polygons {sum(layer['polygons'] for layer in record['layers'].values())}")
    seconds = {stage["name"]: stage["seconds"] for stage in record["stages"]}
    for stage, taken in seconds.items():
        print(f"  {stage:8s} {taken:8.1f} s", end="")
        within = ("find small", "sieve") if stage == "sieve" else (stage,)
        if any(each in kernels for each in within):
            tasks = sum(kernels[each][0] for each in within if each in kernels)
            inside = sum(kernels[each][1] for each in within if each in kernels)
            print(f"  {tasks} tasks, {inside / options.workers / taken:.1%} of the workers' time in kernels", end="")
        rss = samples.of_stage.get(stage, [])
        if len(rss) >= 4:
            quarters = [max(rss[len(rss) * part // 4 : len(rss) * (part + 1) // 4]) for part in range(4)]
            print(f", leading process {' '.join(map(gib, quarters))} GiB", end="")
        print()
    if options.against_threads:
        print(f"without Dask, {options.workers} threads: {alone:.0f} s; with it {wall / alone:.3f} x")
    tasks = sum(count for count, _ in kernels.values())
    inside = sum(taken for _, taken in kernels.values())
    on_dask = sum(taken for stage, taken in seconds.items() if stage in kernels)
    print(f"tasks per chunk {tasks / chunks:.2f}; in kernels {inside / options.workers / on_dask:.1%} of those stages")
    print(f"leading process: {cpu_s:.0f} s of CPU, ", end="")
    print(f"at most {gib(max(max(rss) for rss in samples.of_stage.values()))} GiB; a worker {gib(samples.worker)} GiB")


if __name__ == "__main__":
    main()

"""A run that is killed over and over: ``python tests/benchmarks/kills.py [--seed 0] [--clients 20] [--schedulers 5]``

A scene of 10 x 12 chunks goes through ``geoseg run`` with a model that only thresholds. First undisturbed; then

* with a random worker killed (``kill -9``) every few seconds until the run ends,
* with the client killed at random moments of its life, and run again,
* with the scheduler of a cluster killed at random moments, and run again on a new one.

After each the layers must be the same bytes. From the workers' logs it counts the chunks that a stage began more often
than in the undisturbed run: at most as many as were under way when something was killed.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import rasterio
from affine import Affine

from geoseg.models import zoo

CHUNK, WORKERS = 128, 2
SHAPE = (10 * CHUNK, 12 * CHUNK)
UNDER_WAY = 2 * WORKERS


def make_scene(path: Path) -> None:
    random_numbers = np.random.default_rng(0)
    coarse = random_numbers.integers(20, 200, (2, SHAPE[0] // 16 + 1, SHAPE[1] // 16 + 1))
    pixels = np.kron(coarse, np.ones((16, 16)))[:, : SHAPE[0], : SHAPE[1]]
    profile = {"driver": "GTiff", "count": 2, "height": SHAPE[0], "width": SHAPE[1], "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, crs="EPSG:32614", transform=Affine(1, 0, 5e5, 0, -1, 5e6)) as raster:
        raster.write(pixels.astype(np.uint8))


def make_card(path: Path) -> None:
    """The NDWI's card with small tiles."""
    item = zoo.load("ndwi").to_item()
    item["properties"]["mlm:input"][0]["input"]["shape"][-2:] = [CHUNK, CHUNK]
    path.write_text(json.dumps(item), encoding="utf-8")


def layers(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home.iterdir() if path.suffix in {".geojson", ".parquet"}}


def family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def workers_of(pid: int) -> list[psutil.Process]:
    found = []
    for process in family(pid):
        try:
            if any("multiprocessing.spawn" in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def begun(home: Path) -> collections.Counter[str]:
    """How often each stage began each chunk, by ``stage chunk``."""
    return collections.Counter(
        match
        for log in (home / ".geoseg" / "logs").glob("*.log")
        for match in re.findall(r"INFO ([a-z ]+ [\d.]+) begins", log.read_text(errors="replace"))
    )


class Soak:
    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        make_scene(folder / "scene.tif")
        make_card(folder / "ndwi.card.json")
        self.command = [sys.executable, "-m", "geoseg", "run", str(folder / "scene.tif"), "--bands", "1,2", "--quiet"]
        self.command += ["--model", str(folder / "ndwi.card.json"), "--chunk", str(CHUNK), "--min-area", "300"]
        start = time.monotonic()
        self.finish(folder / "whole", "--workers", str(WORKERS))
        self.seconds = time.monotonic() - start
        self.whole = layers(folder / "whole")
        self.begun = begun(folder / "whole")
        print(f"undisturbed: {self.seconds:.1f} s, {sum(map(len, self.whole.values()))} bytes of layers", flush=True)

    def start(self, home: Path, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*self.command, "-o", str(home), *options], stderr=subprocess.PIPE, text=True)

    def finish(self, home: Path, *options: str) -> None:
        subprocess.run([*self.command, "-o", str(home), *options], check=True, timeout=600)

    def check(self, home: Path) -> None:
        assert layers(home) == self.whole, f"other layers in {home}"

    def again(self, home: Path) -> dict[str, int]:
        """How many chunks of each stage were begun again."""
        extra: collections.Counter[str] = collections.Counter()
        for what, times in (begun(home) - self.begun).items():
            extra[what.rpartition(" ")[0]] += times
        return dict(extra)

    def kill_workers(self, every_s: float) -> None:
        home, killed = self.folder / "workers", 0
        process = self.start(home, "--workers", str(WORKERS))
        while process.poll() is None:
            time.sleep(every_s * self.random.uniform(0.5, 1.5))
            alive = workers_of(process.pid)
            if alive and (home / ".geoseg" / "logs").exists():
                self.random.choice(alive).kill()
                killed += 1
        assert process.returncode == 0, process.communicate()[1]
        self.check(home)
        print(f"workers: {killed} kills survived, begun again {self.again(home)}, of at most {killed} x 1 at work")

    def kill_clients(self, times: int) -> None:
        late = 0
        most: collections.Counter[str] = collections.Counter()
        orphans: list[psutil.Process] = []
        for number in range(times):
            home = self.folder / f"client-{number}"
            process = self.start(home, "--workers", str(WORKERS))
            children: list[psutil.Process] = []
            moment = time.monotonic() + self.random.uniform(0, self.seconds)
            while time.monotonic() < moment and process.poll() is None:
                children = family(process.pid) or children
                time.sleep(0.2)
            late += process.poll() is not None
            process.kill()
            process.wait()
            self.finish(home, "--workers", str(WORKERS))
            self.check(home)
            for stage, extra in self.again(home).items():
                assert extra <= UNDER_WAY, f"{extra} chunks of {stage} were done again"
                most[stage] = max(most[stage], extra)
            orphans += children
        left = psutil.wait_procs(orphans, timeout=180)[1]
        assert not left, f"{left} outlive the client"
        print(f"clients: {times - late} kills survived ({late} came after the end), done again {dict(most)} at most")

    def kill_schedulers(self, times: int) -> None:
        late = 0
        most: collections.Counter[str] = collections.Counter()
        for number in range(times):
            home = self.folder / f"scheduler-{number}"
            head, rest, file = self.cluster(number)
            process = self.start(home, "--scheduler", str(file))
            time.sleep(self.random.uniform(0.3, 0.9) * self.seconds)
            late += process.poll() is not None
            head.kill()
            message = process.communicate(timeout=120)[1]
            assert process.returncode in {0, 1}, message
            assert len(message.splitlines()) <= 1, message
            self.end(rest)
            head, rest, file = self.cluster(times + number)
            self.finish(home, "--scheduler", str(file))
            self.end([head, *rest])
            self.check(home)
            for stage, extra in self.again(home).items():
                assert extra <= UNDER_WAY, f"{extra} chunks of {stage} were done again"
                most[stage] = max(most[stage], extra)
        print(f"schedulers: {times - late} kills survived ({late} came after the end), done again {dict(most)} at most")

    def cluster(self, number: int) -> tuple[subprocess.Popen[bytes], list[subprocess.Popen[bytes]], Path]:
        file = self.folder / f"scheduler-{number}.json"
        common = ["--no-dashboard", "--scheduler-file", str(file), "--host", "127.0.0.1"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        python = [sys.executable, "-m"]
        head = subprocess.Popen([*python, "distributed.cli.dask_scheduler", *common, "--port", "0"], **quiet)
        worker = [*python, "distributed.cli.dask_worker", *common, "--nthreads", "1"]
        rest = [subprocess.Popen([*worker, "--name", str(name)], **quiet) for name in range(WORKERS)]
        from distributed import Client

        while not file.exists():
            time.sleep(0.1)
        time.sleep(0.3)
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(WORKERS, timeout=60)
        return head, rest, file

    def end(self, processes: list[subprocess.Popen[bytes]]) -> None:
        for process in processes:
            for each in (*family(process.pid), process):
                each.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between kills of workers")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--schedulers", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), options.seed)
        soak.kill_workers(options.every)
        soak.kill_clients(options.clients)
        soak.kill_schedulers(options.schedulers)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()

"""Dask clusters of real processes: joined, started, guarded, and broken."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import dask
import numpy as np
import psutil
import pytest
import rasterio
import trustme
import yaml
from affine import Affine

import geoseg
from geoseg import Execution, VectorSettings
from geoseg.engine.executor import open_executor
from geoseg.errors import SettingsError

CHUNK = 64
SIDE = (11 * CHUNK - 5, 12 * CHUNK)  # 132 chunks


def make_kernels():
    """They travel by value: workers cannot import a test module."""

    def grow(job, item):
        held = []
        while item == 2 and len(held) < job:  # MiB
            held.append(b"x" * 2**20)
            time.sleep(0.001)
        return item

    def wait(job, item):
        time.sleep(job)
        return item

    return grow, wait


grow, wait = make_kernels()


@pytest.fixture(scope="module")
def mask(tmp_path_factory):
    """A class mask."""
    path = tmp_path_factory.mktemp("mask") / "mask.tif"
    random = np.random.default_rng(5)
    pixels = np.kron(random.integers(0, 4, (SIDE[0] // 9 + 1, SIDE[1] // 7 + 1)), np.ones((9, 7)))
    profile = {"driver": "GTiff", "count": 1, "height": SIDE[0], "width": SIDE[1], "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, crs="EPSG:32614", transform=Affine(1, 0, 5e5, 0, -1, 5e6)) as raster:
        raster.write(pixels[: SIDE[0], : SIDE[1]].astype(np.uint8), 1)
    return path


@pytest.fixture(scope="module")
def command(mask):
    """The start of a command line that vectorizes it."""
    return [sys.executable, "-m", "geoseg", "vectorize", str(mask), "--min-area", "0", "--chunk", str(CHUNK), "--quiet"]


def layers(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in {".geojson", ".parquet"}}


@pytest.fixture(scope="module")
def layers_by(mask):
    """A function that vectorizes it from this process, and gives the layers."""

    def vectorize(home: Path, **how) -> dict[str, bytes]:
        geoseg.vectorize(mask, home, settings=VectorSettings(min_area_m2=0), execution=Execution(chunk=CHUNK, **how))
        return layers(home)

    return vectorize


@pytest.fixture(scope="module")
def whole(layers_by, tmp_path_factory):
    """The layers of an undisturbed run."""
    return layers_by(tmp_path_factory.mktemp("whole") / "run", threads=1)


@contextmanager
def running(*commands: list[str], environment: dict[str, str] | None = None):
    """Processes that are killed in the end, with their children."""
    processes = [
        subprocess.Popen(command, env=os.environ | (environment or {}), stderr=subprocess.DEVNULL, cwd="/")
        for command in commands
    ]
    try:
        yield processes
    finally:
        for process in processes:
            for each in (*_family(process.pid), process):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        for process in processes:
            process.wait()


def _family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def scheduler(file: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard", "--scheduler-file", str(file)),
        *("--host", "127.0.0.1", "--port", "0", *options),
    ]


def worker(file: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard", "--scheduler-file", str(file)),
        *("--host", "127.0.0.1", "--nthreads", "1", *options),
    ]


def wait_for(condition, process: subprocess.Popen | None = None, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "it ended too soon"
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


def address_in(file: Path) -> str:
    """Where the scheduler is that writes a file, which is there before it is whole."""
    found = {}

    def is_whole() -> bool:
        with suppress(OSError, ValueError):
            found.update(json.loads(file.read_text()))
        return bool(found)

    wait_for(is_whole)
    return found["address"]


def wait_for_workers(file: Path, count: int, security=None):
    from distributed import Client

    with Client(address_in(file), security=security, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=60)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The file of a scheduler with two workers."""
    file = tmp_path_factory.mktemp("pair") / "scheduler.json"
    with running(scheduler(file), worker(file), worker(file)):
        wait_for_workers(file, 2)
        yield file


def test_a_scheduler_is_found_by_its_file_and_its_workers_keep_a_log(layers_by, whole, pair, tmp_path):
    assert layers_by(tmp_path / "run", scheduler=str(pair)) == whole
    logs = list((tmp_path / "run" / ".geoseg" / "logs").iterdir())
    assert len(logs) == 2
    lines = [line for log in logs for line in log.read_text().splitlines()]
    for stage in ("label", "trace"):
        assert sum(f"INFO {stage} 0003.0004 begins" in line for line in lines) == 1
        assert sum(f"INFO {stage} 0003.0004 done in" in line for line in lines) == 1


def test_a_worker_that_sees_another_directory_is_refused(command, pair, tmp_path):
    """Workers whose /tmp is another than this one."""
    if not _can_unshare():
        pytest.skip("this system does not let a process have a file system of its own")
    file = tmp_path / "scheduler.json"
    home = tmp_path / "shared" / "run"
    home.parent.mkdir()
    apart = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs none {home.parent} && exec "$@"', "sh"]
    with running(scheduler(file), [*apart, *worker(file)]):
        wait_for_workers(file, 1)
        message = _fails(2, [*command, "-o", str(home), "--scheduler", str(file)])
    assert f"is not fit for this run: it does not see {home} as it is here; give a -o on a file system" in message


def _can_unshare() -> bool:
    try:
        probe = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs none /mnt"]
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _fails(code: int, command: list[str], environment: dict[str, str] | None = None) -> str:
    """What a command says, in one line, when it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=os.environ | (environment or {})
    )
    assert done.returncode == code, done.stderr
    [line] = done.stderr.splitlines()
    return line


def test_a_worker_of_another_version_is_refused_and_left_out_when_it_comes_late(command, mask, pair, tmp_path):
    """Its installed metadata are another version's."""
    other = tmp_path / "other" / "geoseg-99.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: geoseg\nVersion: 99.9\n")
    path = os.pathsep.join([str(other.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    notes = []
    with (
        open_executor(Execution(scheduler=str(pair)), note=notes.append) as opened,
        running(worker(pair, "--name", "old"), environment={"PYTHONPATH": path}),
    ):
        wait_for_workers(pair, 3)
        found = []
        opened.run("wait", wait, 0.1, range(60), lambda item, _: found.append(item))
        message = _fails(2, [*command, "-o", str(tmp_path / "run"), "--scheduler", str(pair)])
    assert sorted(found) == list(range(60))
    [note] = [note for note in notes if "left out" in note]
    assert f"it has geoseg 99.9; install geoseg {version('geoseg')} there" in note
    assert "is not fit for this run (1 of 3 are not): it has geoseg 99.9; install" in message
    assert not (tmp_path / "run").exists()


_MOVED = """
import pyproj

carry = pyproj.Transformer.transform

def move(*given, **options):
    lon, lat = carry(*given, **options)
    return lon + 1e-6, lat

pyproj.Transformer.transform = move
"""


def test_a_worker_whose_proj_has_other_grids_is_refused(command, tmp_path):
    """A decimetre off, as after another datum shift."""
    (tmp_path / "sitecustomize.py").write_text(_MOVED)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    file = tmp_path / "scheduler.json"
    with running(scheduler(file)), running(worker(file), environment={"PYTHONPATH": path}):
        wait_for_workers(file, 1)
        message = _fails(2, [*command, "-o", str(tmp_path / "run"), "--scheduler", str(file)])
    assert "is not fit for this run: its PROJ finds the scene at other longitudes and latitudes; install" in message


_PLAIN = """
import geoseg.machine

geoseg.machine._cpu_info = lambda: "flags : sse2 avx2"
"""


def test_a_worker_whose_cpu_would_round_otherwise_is_refused(tmp_path):
    """It lacks bf16, which the run was asked for: other workers' labels would differ from its own."""
    (tmp_path / "sitecustomize.py").write_text(_PLAIN)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    file = tmp_path / "scheduler.json"
    scene = Path(__file__).parents[2] / "sample_tiles" / "riverside.tif"
    command = [sys.executable, "-m", "geoseg", "run", str(scene), "--model", "town", "--quiet", "--precision", "bf16"]
    with running(scheduler(file)), running(worker(file), environment={"PYTHONPATH": path}):
        wait_for_workers(file, 1)
        message = _fails(2, [*command, "-o", str(tmp_path / "run"), "--scheduler", str(file)])
    assert "is not fit for this run: its CPU lacks bf16; use workers that have it, or give --precision" in message


def test_a_chunk_that_takes_more_memory_than_a_worker_may_is_named_and_the_rest_is_done(tmp_path):
    file = tmp_path / "scheduler.json"
    notes, found, failed = [], [], {}
    with running(scheduler(file), worker(file, "--memory-limit", "500MB")):
        wait_for_workers(file, 1)
        with open_executor(Execution(scheduler=str(file)), note=notes.append) as opened:
            opened.run("grow", grow, 2000, range(5), lambda item, _: found.append(item), on_failure=failed.__setitem__)
    assert sorted(found) == [0, 1, 3, 4]
    assert list(failed) == [2]
    assert re.search(
        r"ended every worker that did it, also alone: the last, tcp://127.0.0.1:\d+, was over its memory limit with "
        r"\d\.\d GiB; give workers more memory, or a smaller --chunk",
        str(failed[2]),
    )
    assert any("is over its memory limit" in note for note in notes)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A folder with ca.pem, cert.pem and key.pem."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    own.private_key_pem.write_to_path(folder / "key.pem")
    own.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return folder


def test_tls_between_all_from_a_file_and_from_dasks_configuration(layers_by, whole, certificates, tmp_path):
    file = tmp_path / "scheduler.json"
    paths = {name: str(certificates / f"{name}.pem") for name in ("ca", "cert", "key")}
    options = [f"--tls-ca-file={paths['ca']}", f"--tls-cert={paths['cert']}", f"--tls-key={paths['key']}"]
    with running(scheduler(file, "--protocol", "tls", *options), worker(file, "--protocol", "tls", *options)):
        address = address_in(file)
        assert address.startswith("tls://")
        text = f"scheduler: {address}\ntls: {{ca_file: ca.pem, cert: cert.pem, key: key.pem}}\npatience: 60\n"
        (certificates / "site.yaml").write_text(text)
        assert layers_by(tmp_path / "file", cluster=str(certificates / "site.yaml")) == whole
        own = {"ca-file": paths["ca"], "client.cert": paths["cert"], "client.key": paths["key"]}
        with dask.config.set({f"distributed.comm.tls.{name}": path for name, path in own.items()}):
            assert layers_by(tmp_path / "dask", scheduler=address) == whole
        with pytest.raises(SettingsError, match="asks for TLS without saying which certificates; name them in Dask"):
            layers_by(tmp_path / "none", scheduler=address)


def test_nothing_listens_beyond_the_loopback_interface(command, tmp_path):
    with running([*command, "-o", str(tmp_path / "run"), "--workers", "2"]) as [process]:
        wait_for((tmp_path / "run" / ".geoseg" / "logs").exists, process)
        listening = {}
        for each in (psutil.Process(process.pid), *_family(process.pid)):
            for connection in _connections(each):
                if connection.status == psutil.CONN_LISTEN:
                    listening[connection.laddr.port] = connection.laddr.ip
    assert len(listening) >= 1 + 2 * 2  # the scheduler; nannies and workers
    assert set(listening.values()) <= {"127.0.0.1", "::1"}


def _connections(process: psutil.Process) -> list:
    try:
        return process.net_connections(kind="inet")
    except psutil.Error:  # it ended meanwhile
        return []


def workers_of(pid: int) -> list[psutil.Process]:
    """The processes that do the chunks: children of the nannies."""
    return [each for each in _family(pid) if _is_spawned(each)]


def _is_spawned(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:  # it ended meanwhile
        return False
    return "--multiprocessing-fork" in words or any("multiprocessing.spawn" in word for word in words)


def test_workers_are_killed_again_and_again(command, whole, tmp_path):
    home = tmp_path / "run"
    with running([*command, "-o", str(home), "--workers", "2"]) as [process]:
        wait_for(lambda: list(home.glob(".geoseg/logs/*")), process)
        killed = set()
        while len(killed) < 4 and process.poll() is None:
            for each in workers_of(process.pid):
                if each.pid not in killed:
                    killed.add(each.pid)
                    with suppress(psutil.NoSuchProcess):
                        each.kill()
                    break
            time.sleep(0.7)
        assert process.wait(timeout=100) == 0
    assert len(killed) >= 2
    assert layers(home) == whole


def test_the_scheduler_is_killed_and_the_run_resumes(command, whole, tmp_path):
    file, home = tmp_path / "scheduler.json", tmp_path / "run"
    with running(scheduler(file), worker(file), worker(file)) as [head, *_]:
        wait_for_workers(file, 2)
        client = subprocess.Popen(
            [*command, "-o", str(home), "--scheduler", str(file)], stderr=subprocess.PIPE, text=True
        )
        fragments = home / ".geoseg" / "masks" / "mask" / "fragments"
        wait_for(lambda: len(list(fragments.glob("*.npz"))) >= 10, client)
        head.kill()
        message = client.communicate(timeout=60)[1]
    assert client.returncode == 1
    assert re.fullmatch(r"geoseg: lost the Dask scheduler in stage trace; .* again to resume\n", message)
    kept = {path: path.stat().st_mtime_ns for path in fragments.glob("*.npz")}
    assert 10 <= len(kept) < 132
    run = [*command, "-o", str(home), "--threads", "1"]
    with subprocess.Popen(run) as again:
        wait_for(lambda: len(list(fragments.glob("*.npz"))) == 132 or again.poll() is not None)
        assert all(not path.exists() or path.stat().st_mtime_ns == time for path, time in kept.items())
        assert again.wait(timeout=100) == 0
    assert layers(home) == whole


def test_a_stopped_worker_does_not_stop_the_run(monkeypatch, pair):
    from geoseg.engine import dask_executor

    monkeypatch.setattr(dask_executor, "_STRAGGLES_S", 1.0)
    found = []
    with open_executor(Execution(scheduler=str(pair))) as opened:
        pids = list(opened._crew.client.run(os.getpid).values())

        def stop_one(item, _):
            if not found:
                os.kill(pids[0], signal.SIGSTOP)
            found.append(item)

        try:
            opened.run("wait", wait, 0.05, range(12), stop_one)
        finally:
            os.kill(pids[0], signal.SIGCONT)
    assert sorted(found) == list(range(12))


BAD_FILES = {
    "nothing": ("", "names no cluster; give cluster: cuda|slurm|pbs|kubernetes|gateway, or scheduler:"),
    "no YAML": ("cluster: [", "is not YAML: "),
    "unknown": ("cluster: yarn", "cluster 'yarn' is not known; use one of cuda, slurm, pbs, kubernetes, gateway"),
    "key": ("cluster: slurm\nworker: 3", "has 'worker', which is not known; use some of cluster, scheduler"),
    "kind": ("cluster: slurm\nworkers: many", "workers is 'many', which is of the wrong kind"),
    "both": ("cluster: slurm\nscheduler: tcp://a:1", "names a cluster to start and a scheduler to join"),
    "options": ("scheduler: tcp://a:1\nworkers: 2", "workers, adapt and options are of clusters to start"),
    "workers": ("cluster: slurm\nworkers: 0", "give a number of workers >= 1"),
    "adapt": ("cluster: slurm\nadapt: {minimum: 2}", "adapt is {'minimum': 2}; give {minimum: 0, maximum: 8}"),
    "package": ("cluster: kubernetes", "kubernetes needs dask-kubernetes"),
    "tls": ("scheduler: tls://a:1\ntls: {cert: a}", "tls has cert; give ca_file, cert, key"),
    "tls files": ("scheduler: tls://a:1\ntls: {cert: a, key: b, ca_file: c}", "/a, which is no file"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_cluster_file_is_refused_in_one_line(geoseg, mask, tmp_path, case):
    text, message = BAD_FILES[case]
    (tmp_path / "cluster.yaml").write_text(text)
    run = geoseg("vectorize", mask, "-o", tmp_path / "run", "--cluster", tmp_path / "cluster.yaml", "--quiet")
    assert run[0] == 2
    assert message in run[2]
    assert run[2].count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_argument_that_the_class_does_not_know(command, tmp_path):
    (tmp_path / "slurm.yaml").write_text("cluster: slurm\noptions: {colour: red}")
    message = _fails(2, [*command, "-o", str(tmp_path / "run"), "--cluster", str(tmp_path / "slurm.yaml")])
    assert "SLURMCluster cannot be started with its options: " in message
    assert "unexpected keyword argument 'colour'" in message


@pytest.mark.parametrize(
    ("given", "message"),
    [("{}", "is no scheduler's file"), (None, "is neither an address, e.g. tcp://host:8786, nor a file")],
)
def test_no_scheduler_in_the_file(geoseg, mask, tmp_path, given, message):
    file = tmp_path / "scheduler.json"
    if given is not None:
        file.write_text(given)
    code, _, said = geoseg("vectorize", mask, "-o", tmp_path / "run", "--scheduler", file, "--quiet")
    assert code == 2
    assert message in said


@pytest.mark.parametrize("address", ["http://127.0.0.1:8786", "tcp://", "tcp://127.0.0.1", "8786"])
def test_an_address_that_no_scheduler_has(command, tmp_path, address):
    message = _fails(2, [*command, "-o", str(tmp_path / "run"), "--scheduler", address])
    assert f"--scheduler {address} is neither an address, e.g. tcp://host:8786, nor a file" in message


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A SLURM of this machine alone: ``sbatch`` starts a job script at once, ``scancel`` ends it."""
    tools = tmp_path / "bin"
    tools.mkdir()
    scripts = {
        "sbatch": """
            import subprocess, sys
            job = subprocess.Popen(["sh", sys.argv[-1]], start_new_session=True, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            print("Submitted batch job", job.pid)
            """,
        "scancel": """
            import os, signal, sys
            os.killpg(int(sys.argv[-1]), signal.SIGTERM)
            """,
    }
    for name, text in scripts.items():
        (tools / name).write_text(f"#!{sys.executable}\n{textwrap.dedent(text)}")
        (tools / name).chmod((tools / name).stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")


def test_a_cluster_of_slurm_jobs(slurm, layers_by, whole, tmp_path):
    options = {
        "cores": 1,
        "memory": "2GB",
        "interface": "lo",
        "walltime": "00:10:00",
        "log_directory": str(tmp_path / "logs"),
        "python": sys.executable,
    }
    file = tmp_path / "slurm.yaml"
    file.write_text(yaml.safe_dump({"cluster": "slurm", "workers": 2, "options": options}))
    assert layers_by(tmp_path / "run", cluster=str(file)) == whole
    logs = {log.name for log in (tmp_path / "run" / ".geoseg" / "logs").iterdir()}
    assert logs  # of the job that began first; the other may come when all is done
    assert logs <= {"SLURMCluster-0.log", "SLURMCluster-1.log"}


def test_no_gpu_where_one_is_asked_for(geoseg, pair, tmp_path, write_raster):
    scene = write_raster(np.kron([[1, 200], [200, 1]], np.ones((3, 32, 32))).astype(np.uint8))
    options = ("--bands", "1,2,3", "--scheduler", pair, "--device", "cuda", "--runtime", "torch", "--quiet")
    code, _, said = geoseg("run", scene, "-o", tmp_path / "run", "--model", "otsu", *options)
    assert code == 2
    assert "no Dask worker offers a GPU" in said
    assert not (tmp_path / "run").exists()

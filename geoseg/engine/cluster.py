"""Starts or joins a Dask cluster (floor 4).

``--workers N`` starts processes on this machine, which listen on the loopback interface alone. ``--scheduler`` joins a
scheduler that runs. ``--cluster FILE`` reads a YAML file that does either::

    cluster: slurm          # or pbs, kubernetes, gateway, cuda: what to start ...
    workers: 8              # ... with so many workers (cuda: one for each GPU, unless told), or
    adapt: {minimum: 0, maximum: 40}
    options:                # of the class: see ``KINDS``
      cores: 4
      memory: 16GB
    patience: 3600          # seconds that the run waits while there is no worker

    scheduler: tls://head.example.org:8786      # ... or what to join
    tls: {ca_file: ca.pem, cert: cert.pem, key: key.pem}

Paths in the file are relative to it. Dask's own configuration holds wherever the file says nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from geoseg.engine.executor import FEEDERS
from geoseg.errors import SettingsError
from geoseg.machine import memory_bytes
from geoseg.settings import Execution

__all__ = ["KINDS", "Cluster", "connect"]

_START_TIMEOUT_S = 120.0
_CONNECT_TIMEOUT_S = 15
_PATIENCE_S = 30.0
_LOCAL_PATIENCE_S = 90.0
_REVIVE_S = 15.0
_BEGIN_S = 30.0  # more, for one that begins on a busy machine
_LONG_PATIENCE_S = 600.0  # of a cluster whose workers wait in a queue
# A kernel keeps nothing in Dask's memory, so there is nothing to spill, and a paused worker would wait for ever.
_WORKER_CONFIG = {f"distributed.worker.memory.{level}": False for level in ("target", "spill", "pause")}
_LOCAL_CONFIG = _WORKER_CONFIG | {
    "distributed.comm.timeouts.connect": "10s",  # so long they look for a scheduler that was killed
    # Looking at itself all the time takes Dask a twentieth of two cores.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "2s",
}
_TLS = ("ca_file", "cert", "key")
_LOOPBACK = "127.0.0.1"
_KEYS: dict[str, type | tuple[type, ...]] = {
    "cluster": str,
    "scheduler": str,
    "workers": int,
    "adapt": dict,
    "options": dict,
    "tls": dict,
    "patience": (int, float),
}


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of cluster: the class, and the extra of geoseg that installs its package."""

    module: str
    name: str
    extra: str


KINDS = {
    "cuda": _Kind("dask_cuda", "LocalCUDACluster", "cuda"),
    "slurm": _Kind("dask_jobqueue", "SLURMCluster", "jobqueue"),
    "pbs": _Kind("dask_jobqueue", "PBSCluster", "jobqueue"),
    "kubernetes": _Kind("dask_kubernetes.operator", "KubeCluster", "kubernetes"),
    "gateway": _Kind("dask_gateway", "GatewayCluster", "gateway"),
}
"""The clusters that a file can name."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster to which this process is connected.

    Attributes:
        client: Dask's.
        patience_s: how long a run waits while there is no worker.
        revive: told the names of the workers that are there now and then, starts those anew that stay away; Dask does
            so itself, but not with a worker that died while it began.
    """

    client: Any
    patience_s: float
    revive: Callable[[Collection[Any]], None] = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """What a cluster's file says."""

    path: Path
    cluster: str | None = None
    scheduler: str | None = None
    workers: int | None = None
    adapt: Mapping[str, int] | None = None
    options: Mapping[str, Any] | None = None
    tls: Mapping[str, str] | None = None
    patience: float = _LONG_PATIENCE_S


@contextmanager
def connect(execution: Execution, *, gpus: int, note: Callable[[str], None]) -> Iterator[Cluster]:
    """A running scheduler, or a cluster that lives as long as the context.

    Args:
        execution: has workers, a scheduler or a cluster.
        gpus: how many local workers hold one GPU each (Dask resource ``GPU``).
        note: sees what is waited for.

    Raises:
        SettingsError: no scheduler answers, no worker comes, or the cluster's file cannot be followed.
    """
    import distributed  # noqa: F401 - first, since it sets the levels of its loggers

    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if execution.cluster is not None:
        file = _read_file(Path(execution.cluster))
        if file.cluster is not None:
            with _started(file, note) as cluster:
                yield cluster
            return
        with _joined(_address(file.scheduler or ""), _security(file)) as client:
            _wait_for_workers(client, file, note)
            yield Cluster(client, file.patience)
    elif execution.scheduler is not None:
        with _joined(_address(execution.scheduler), None) as client:
            if not client.scheduler_info(n_workers=1)["workers"]:
                raise SettingsError(
                    f"the Dask scheduler at {execution.scheduler} has no workers; start some with `dask worker`"
                )
            yield Cluster(client, _PATIENCE_S)
    else:
        with _local(max(execution.workers or 1, gpus), gpus) as cluster:
            yield cluster


def _read_file(path: Path) -> _File:
    """Reads a cluster's file.

    Raises:
        SettingsError: it is not there, is no YAML, or says what is not understood.
    """
    content = _read_yaml(path)
    if not {"cluster", "scheduler"} & content.keys():
        raise SettingsError(
            f"--cluster {path} names no cluster; give cluster: {'|'.join(KINDS)}, or scheduler: tcp://host:8786"
        )
    for key, value in content.items():
        if key not in _KEYS:
            raise SettingsError(f"--cluster {path} has {key!r}, which is not known; use some of {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise SettingsError(f"--cluster {path}: {key} is {value!r}, which is of the wrong kind; see README")
    file = _File(path=path, **content)
    if file.cluster is not None and file.scheduler is not None:
        raise SettingsError(f"--cluster {path} names a cluster to start and a scheduler to join; give one of them")
    if file.cluster is not None and file.cluster not in KINDS:
        raise SettingsError(f"--cluster {path}: cluster {file.cluster!r} is not known; use one of {', '.join(KINDS)}")
    if file.scheduler is not None and {"workers", "adapt", "options"} & content.keys():
        raise SettingsError(f"--cluster {path}: workers, adapt and options are of clusters to start; leave them out")
    _check_numbers(file)
    return file


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--cluster {path} cannot be read: {error.strerror}; give a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"--cluster {path} is not YAML: {' '.join(str(error).split())}") from None
    return content if isinstance(content, dict) else {}


def _check_numbers(file: _File) -> None:
    if file.workers is not None and (file.workers < 1 or file.adapt is not None):
        raise SettingsError(
            f"--cluster {file.path}: give a number of workers >= 1, or in its place adapt: {{minimum: 0, maximum: 8}}"
        )
    if file.adapt is not None and (
        file.adapt.keys() != {"minimum", "maximum"} or not all(isinstance(count, int) for count in file.adapt.values())
    ):
        raise SettingsError(f"--cluster {file.path}: adapt is {dict(file.adapt)}; give {{minimum: 0, maximum: 8}}")
    if file.patience < 0:
        raise SettingsError(f"--cluster {file.path}: patience is {file.patience}; give a number of seconds >= 0")


def _address(scheduler: str) -> str:
    """A scheduler's address, as given or from the file that it wrote.

    Raises:
        SettingsError: neither.
    """
    from distributed.comm.addressing import parse_address
    from distributed.comm.registry import get_backend

    path = Path(scheduler)
    if "://" not in scheduler and path.is_file():
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["address"])
        except (OSError, ValueError, KeyError, TypeError):
            raise SettingsError(
                f"--scheduler {scheduler} is no scheduler's file; give what `dask scheduler --scheduler-file` wrote"
            ) from None
    try:  # a client of a bad address fails late and noisily
        kind, place = parse_address(scheduler)
        host = get_backend(kind).get_address_host(place)
    except ValueError:
        host = ""
    if not host:
        raise SettingsError(f"--scheduler {scheduler} is neither an address, e.g. tcp://host:8786, nor a file")
    return scheduler


def _security(file: _File) -> Any:
    """TLS as the file says, or ``None`` for Dask's own configuration.

    Raises:
        SettingsError: a file that is not there.
    """
    from distributed import Security

    if file.tls is None:
        return None
    if sorted(file.tls) != sorted(_TLS):
        raise SettingsError(
            f"--cluster {file.path}: tls has {', '.join(file.tls) or 'nothing'}; give {', '.join(_TLS)}"
        )
    paths = {name: str(file.path.parent / value) for name, value in file.tls.items()}
    for name, path in paths.items():
        if not Path(path).is_file():
            raise SettingsError(f"--cluster {file.path}: tls.{name} is {path}, which is no file")
    roles = ("client", "scheduler", "worker")
    ends = {f"tls_{role}_{what}": paths[what] for role in roles for what in ("cert", "key")}
    return Security(tls_ca_file=paths["ca_file"], require_encryption=True, **ends)


@contextmanager
def _joined(scheduler: str, security: Any) -> Iterator[Any]:
    """A client of a scheduler that is left running."""
    from distributed import Client, Security

    try:
        encrypted = (security or Security()).get_connection_args("client")["ssl_context"] is not None
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"the TLS files in Dask's configuration or the cluster's file are no good: {error}"
        ) from None
    if scheduler.startswith("tls://") and not encrypted:
        raise SettingsError(
            f"--scheduler {scheduler} asks for TLS without saying which certificates; name them in Dask's "
            "configuration (distributed.comm.tls), or with --cluster FILE"
        )
    try:
        client = Client(scheduler, timeout=_CONNECT_TIMEOUT_S, set_as_default=False, security=security)
    except (OSError, TimeoutError, ValueError, TypeError, RuntimeError) as error:
        raise SettingsError(
            f"no Dask scheduler answers at {scheduler} ({error or type(error).__name__}); "
            "give the address that `dask scheduler` printed, e.g. tcp://host:8786"
        ) from None
    with client:
        yield client


@contextmanager
def _started(file: _File, note: Callable[[str], None]) -> Iterator[Cluster]:
    """A client of the cluster that a file names."""
    import dask
    from distributed import Client

    kind = KINDS[file.cluster or ""]
    options = dict(file.options or {})
    if file.tls is not None:
        if kind.extra != "jobqueue":
            raise SettingsError(
                f"--cluster {file.path}: tls is for a scheduler, slurm and pbs; use the class's options"
            )
        options |= {"security": _security(file), "protocol": "tls://"}
    if file.cluster == "cuda":
        options = {"resources": {"GPU": 1}} | options
    if kind.extra == "jobqueue":  # workers must reach its scheduler; nobody else needs to see its dashboard
        options["scheduler_options"] = {"dashboard_address": f"{_LOOPBACK}:0"} | options.get("scheduler_options", {})
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_WORKER_CONFIG))
        cluster = stack.enter_context(_build(kind, file, options))
        if file.adapt is not None:
            cluster.adapt(**file.adapt)
        elif file.workers is not None and file.cluster != "cuda":
            cluster.scale(file.workers)
        client = stack.enter_context(Client(cluster, set_as_default=False))
        _wait_for_workers(client, file, note)
        yield Cluster(client, file.patience)


def _wait_for_workers(client: Any, file: _File, note: Callable[[str], None]) -> None:
    """Waits until there is one; the others may come while it works."""
    if client.scheduler_info(n_workers=1)["workers"]:
        return
    note(f"waiting for workers of {file.cluster or file.scheduler}, for {file.patience:g} s at most")
    try:
        client.wait_for_workers(1, timeout=file.patience)
    except TimeoutError:
        raise SettingsError(
            f"--cluster {file.path}: no worker came within {file.patience:g} s; look at the queue and its logs, or "
            "give a longer patience"
        ) from None


def _build(kind: _Kind, file: _File, options: dict[str, Any]) -> Any:
    """Starts a cluster without workers.

    Raises:
        SettingsError: the package is missing, or does not like the options.
    """
    try:
        build = getattr(import_module(kind.module), kind.name)
    except ImportError as error:
        raise SettingsError(
            f"--cluster {file.path}: {file.cluster} needs {kind.module.partition('.')[0].replace('_', '-')} ({error}); "
            f"install geoseg's extra: pip install 'geoseg[{kind.extra}]'"
        ) from None
    if file.cluster == "cuda" and file.workers is not None:
        options["n_workers"] = file.workers
    try:
        return build(**options)
    except Exception as error:  # noqa: BLE001 - whatever a class of another package says of its options
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise SettingsError(f"--cluster {file.path}: {kind.name} cannot be started with its options: {why}") from None


@contextmanager
def _local(workers: int, gpus: int) -> Iterator[Cluster]:
    """A scheduler in this process, and workers in their own."""
    import dask
    from distributed import Client

    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_LOCAL_CONFIG))
        cluster = stack.enter_context(_local_cluster(workers, gpus))
        client = stack.enter_context(Client(cluster, set_as_default=False))
        try:
            client.wait_for_workers(workers, timeout=_START_TIMEOUT_S)
        except TimeoutError:
            raise SettingsError(
                f"{workers} Dask workers did not start within {_START_TIMEOUT_S:g} s; give fewer --workers, or "
                "--threads"
            ) from None
        yield Cluster(client, _LOCAL_PATIENCE_S, _Reviver(cluster))


class _Reviver:
    """Starts workers of a local cluster anew, see :attr:`Cluster.revive`."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._specs = dict(cluster.worker_spec)
        self._away_since: dict[Any, float] = {}

    def __call__(self, names: Collection[Any]) -> None:
        now = time.monotonic()
        self._away_since = {name: self._away_since.get(name, now) for name in self._specs.keys() - set(names)}
        for name, since in self._away_since.items():
            if now - since > _REVIVE_S:
                self._away_since[name] = now + _BEGIN_S
                self._cluster.sync(self._cluster.scale_down, [name])
                self._cluster.worker_spec[name] = self._specs[name]
                self._cluster.scale(len(self._cluster.worker_spec))


def _local_cluster(workers: int, gpus: int) -> Any:
    """A scheduler in this process and workers in their own, one-threaded but those that feed a GPU.

    Workers are started by command (not by multiprocessing's spawn, which imports the caller's script again), so that
    a five-line script without a ``__main__`` guard works.
    """
    from distributed import LocalCluster, Scheduler
    from distributed.deploy.spec import SpecCluster

    memory = memory_bytes() // workers
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    devices = devices if devices != [""] else [str(index) for index in range(gpus)]
    if sys.platform == "win32":
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=memory,
            dashboard_address=f"{_LOOPBACK}:0",
            resources={"GPU": 1} if gpus else None,
            silence_logs=logging.ERROR,
        )
    from distributed.deploy.subprocess import SubprocessWorker

    # what happens to workers is told by the leading process
    config = _LOCAL_CONFIG | {"logging.distributed": "error"}
    environment = os.environ | {
        f"DASK_{name.upper().replace('.', '__').replace('-', '_')}": str(value) for name, value in config.items()
    }

    class Worker(SubprocessWorker):
        async def _start(self) -> None:
            """As Dask does it, but away from the terminal: Ctrl-C is for the leading process, which ends the others."""
            what = json.dumps({"cls": self.worker_class, "opts": self.worker_kwargs})
            command = [sys.executable, "-m", "dask", "spec", self.scheduler, "--spec", what]
            self.process = await asyncio.create_subprocess_exec(*command, start_new_session=True, env=environment)

    def worker(index: int) -> dict[str, Any]:
        holds_gpu = index < gpus
        options = {
            "name": index,
            "host": _LOOPBACK,
            "death_timeout": _START_TIMEOUT_S,  # else one that never met its scheduler looks for it for ever
            "dashboard_address": f"{_LOOPBACK}:0",
            "nthreads": FEEDERS if holds_gpu else 1,
            "memory_limit": memory,
            "resources": {"GPU": 1} if holds_gpu else {},
            "silence_logs": logging.CRITICAL,
            "env": {"CUDA_VISIBLE_DEVICES": devices[index] if holds_gpu else ""},
        }
        return {"cls": Worker, "options": {"worker_kwargs": options}}

    return SpecCluster(
        workers={index: worker(index) for index in range(workers)},
        scheduler={"cls": Scheduler, "options": {"dashboard_address": f"{_LOOPBACK}:0", "host": _LOOPBACK}},
        silence_logs=logging.CRITICAL,
        name="geoseg",
    )

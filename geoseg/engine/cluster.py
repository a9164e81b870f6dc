"""Starts or joins a Dask cluster (floor 4). With ``executor.py`` the only Dask imports."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from geoseg.errors import SettingsError
from geoseg.machine import memory_bytes

__all__ = ["connect"]

_START_TIMEOUT_S = 120
# A kernel keeps nothing in Dask's memory, so there is nothing to spill, and a paused worker would wait for ever.
_WORKER_CONFIG = {f"distributed.worker.memory.{level}": False for level in ("target", "spill", "pause")}


@contextmanager
def connect(*, workers: int | None, scheduler: str | None, gpus: int) -> Iterator[Any]:
    """A Dask client of a running scheduler, or of a local cluster that lives as long as the client.

    Args:
        workers: processes of the local cluster.
        scheduler: address of a running scheduler, e.g. ``tcp://10.0.0.1:8786``; it is left running.
        gpus: how many local workers hold one GPU each (Dask resource ``GPU``).

    Raises:
        SettingsError: no scheduler answers at the address.
    """
    from distributed import Client
    from distributed.comm.addressing import parse_host_port

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if scheduler is not None:
        try:
            if "://" not in scheduler:
                parse_host_port(scheduler)  # a client of a bad address fails late and noisily
            client = Client(scheduler, timeout=15, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise SettingsError(
                f"no Dask scheduler answers at {scheduler} ({error or type(error).__name__}); "
                "give the address that `dask scheduler` printed, e.g. tcp://host:8786"
            ) from None
        with client:
            _require_geoseg(client, scheduler)
            yield client
        return
    count = max(workers or 1, gpus)
    with _local_cluster(count, gpus) as cluster, Client(cluster, set_as_default=False) as client:
        try:
            client.wait_for_workers(count, timeout=_START_TIMEOUT_S)
        except TimeoutError:
            raise SettingsError(
                f"{count} Dask workers did not start within {_START_TIMEOUT_S} s; give fewer --workers, or --threads"
            ) from None
        yield client


def _require_geoseg(client: Any, scheduler: str) -> None:
    """Refuses workers without this geoseg: a kernel that cannot be imported kills the worker that receives it."""
    here = version("geoseg")
    try:
        there = client.run(version, "geoseg")
    except PackageNotFoundError:
        raise SettingsError(f"a Dask worker at {scheduler} has no geoseg; install geoseg {here} there") from None
    if not there:
        raise SettingsError(
            f"the Dask scheduler at {scheduler} has no workers; start some with `dask worker {scheduler}`"
        )
    other = sorted(set(there.values()) - {here})
    if other:
        raise SettingsError(f"Dask workers at {scheduler} have geoseg {', '.join(other)}; this is geoseg {here}")


def _local_cluster(workers: int, gpus: int) -> Any:
    """A scheduler in this process and one-threaded workers in their own.

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
            dashboard_address=":0",
            resources={"GPU": 1} if gpus else None,
            silence_logs=logging.ERROR,
        )
    from distributed.deploy.subprocess import SubprocessWorker

    def worker(index: int) -> dict[str, Any]:
        holds_gpu = index < gpus
        options = {
            "nthreads": 1,
            "memory_limit": memory,
            "resources": {"GPU": 1} if holds_gpu else {},
            "silence_logs": logging.CRITICAL,
            "config": _WORKER_CONFIG,
            "env": {"CUDA_VISIBLE_DEVICES": devices[index] if holds_gpu else ""},
        }
        return {"cls": SubprocessWorker, "options": {"worker_kwargs": options}}

    return SpecCluster(
        workers={index: worker(index) for index in range(workers)},
        scheduler={"cls": Scheduler, "options": {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}},
        silence_logs=logging.ERROR,
        name="geoseg",
    )

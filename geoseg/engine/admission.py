"""Which workers may take part in a run: those that have the same geoseg, models and directory (floor 4).

A plugin examines every worker of the cluster, and every one that comes later before it gets anything to do. One that is
fit offers a resource that all of the run's tasks ask for; the others are left alone, and get none. So the workers of a
cluster that is shared with others need not all be fit for this run.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from geoseg.engine.calls import begin_log
from geoseg.engine.directory import read_token
from geoseg.errors import InputError, ModelError, OutputError, SettingsError
from geoseg.machine import keep_memory
from geoseg.remote import Place
from geoseg.scene import Scene
from geoseg.settings import Arithmetic

__all__ = ["Terms", "begin", "make_plugin", "refusal_of"]

_ALIKE_DEG = 5e-8  # half of the last decimal of layers; processors may differ in last bits
_ROOM = 1e9  # of the resource: it admits, and limits nothing


@dataclass(frozen=True, slots=True)
class Terms:
    """What a worker must have in common with the process that leads the run.

    Attributes:
        directory: where the run writes.
        token: what tells this directory from every other, see :attr:`geoseg.engine.directory.RunDirectory.token`.
        models: paths and digests of the models.
        packages: names and versions of the packages that run them; another version may round otherwise.
        precisions: that its CPU must have the features for; another may round otherwise.
        scene: what it works on.
        bounds: of that in degrees, see :attr:`geoseg.scene.Scene.bounds_lonlat`; where PROJ has other grids for datum
            shifts, they are others, and so would be the coordinates in layers.
    """

    directory: Place
    token: str
    models: tuple[tuple[Path, str], ...] = ()
    packages: tuple[tuple[str, str], ...] = ()
    precisions: tuple[Arithmetic, ...] = ()
    scene: Scene | None = None
    bounds: tuple[float, ...] = ()

    def check(self) -> None:
        """Compares this process with the one that leads the run.

        Raises:
            InputError: what is missing here, or another than there.
        """
        self._check_arithmetic()
        self._check_models()
        bounds = self.scene.bounds_lonlat if self.scene is not None else ()
        if not np.allclose(bounds, self.bounds, rtol=0, atol=_ALIKE_DEG, equal_nan=True):
            raise SettingsError(
                "its PROJ finds the scene at other longitudes and latitudes; install the same pyproj and grids there"
            )
        if read_token(self.directory) != self.token:
            raise OutputError(
                f"it does not see {self.directory} as it is here; give a -o on a file system that all workers share"
            )

    def _check_arithmetic(self) -> None:
        from geoseg.models.runtimes import cpu_multiplies

        for precision in self.precisions:
            if not cpu_multiplies(precision):
                raise SettingsError(f"its CPU lacks {precision}; use workers that have it, or give --precision fp32")
        for name, wanted in self.packages:
            try:
                here = version(name)
            except PackageNotFoundError:
                here = "none"
            if here != wanted:
                raise SettingsError(f"it has {name} {here}; install {name} {wanted} there")

    def _check_models(self) -> None:
        from geoseg.models.card import Card

        for path, digest in self.models:
            try:
                found = Card.read(path).digest
            except (InputError, OSError):
                raise ModelError(f"it cannot read model {path}; put the model where all workers see it") from None
            if found != digest:
                raise ModelError(f"its {path} is another model; give all workers the same one")


def make_plugin(name: str, terms: Terms | None, logs: Path | None) -> Any:
    """A Dask ``WorkerPlugin`` that examines a worker, and if it is fit admits it and begins its log.

    It travels by value and needs nothing of geoseg before it knows that the worker has it.

    Args:
        name: of the plugin, and of the resource by which a worker is admitted.
        terms: ``None`` asks for the same geoseg alone.
        logs: folder of the workers' logs, see :func:`geoseg.engine.calls.begin_log`.
    """
    from distributed import WorkerPlugin

    wanted, packed = version("geoseg"), pickle.dumps((terms, logs))

    class Admission(WorkerPlugin):
        refusal: str | None = None
        end: Any = None

        def examine(self, worker_name: str) -> None:
            from importlib.metadata import PackageNotFoundError, version

            try:
                here = version("geoseg")
            except PackageNotFoundError:
                here = "none"
            if here != wanted:
                self.refusal = f"it has geoseg {here}; install geoseg {wanted} there"
                return
            from geoseg.engine.admission import begin

            self.refusal, self.end = begin(packed, worker_name)

        async def setup(self, worker: Any) -> None:
            import asyncio

            await asyncio.get_running_loop().run_in_executor(None, self.examine, str(worker.name))
            if self.refusal is not None:
                worker.log_event(name, {"worker": worker.address, "refusal": self.refusal})
                return
            # Kernels keep nothing in Dask's memory: a worker that pauses to let it shrink would wait for ever.
            worker.memory_manager.memory_pause_fraction = False
            await worker.set_resources(**{name: _ROOM})
            # What waits for such a worker is looked at when one begins to run, and this one did before.
            worker.status = type(worker.status).paused
            worker.status = type(worker.status).running

        async def teardown(self, worker: Any) -> None:
            if self.refusal is None:
                if self.end is not None:
                    self.end()
                await worker.set_resources(**{name: 0})

    return Admission()


def begin(packed: bytes, worker: str) -> tuple[str | None, Callable[[], None] | None]:
    """Checks this worker and begins its log; returns why it is not fit, or else what ends the log."""
    terms, logs = pickle.loads(packed)  # noqa: S301 - of `make_plugin`
    try:
        if terms is not None:
            terms.check()
        end = begin_log(logs, worker)
    except (InputError, OSError) as error:
        return str(error), None
    keep_memory()
    threading.Thread(target=_prepare, daemon=True).start()
    return None, end


def _prepare() -> None:
    """Loads what kernels need while the worker waits for its first task, which tells what goes wrong."""
    with suppress(Exception):
        from geoseg.engine.kernels import prepare

        prepare()


def refusal_of(name: str) -> Any:
    """A function that says, on a worker, why it was not admitted; it travels by value as well."""

    def refusal(dask_worker: Any) -> str | None:
        plugin = dask_worker.plugins.get(name)
        return None if plugin is None else plugin.refusal

    return refusal

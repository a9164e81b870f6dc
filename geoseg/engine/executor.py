"""Runs a kernel over many items, in this process or on Dask: the same kernels, the same results (floor 4)."""

from __future__ import annotations

import queue
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from geoseg.engine.cluster import connect, fitting_workers
from geoseg.errors import ChunkError, InputError, SettingsError
from geoseg.settings import Execution

__all__ = ["DaskExecutor", "Executor", "SerialExecutor", "fit", "open_executor", "peak_bytes"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_RETRIES = 2
_CHUNK = 2048
_CHUNKS_PER_WORKER = 2
_IN_FLIGHT_PER_WORKER = 3
_LOOK_AROUND_S = 5.0
_GIVE_UP_S = 30.0


def fit(execution: Execution, height: int, width: int, *, core: int) -> tuple[Execution, int]:
    """Fits the work to the workers: every choice that was left open is made.

    Args:
        execution: as asked for.
        height: rows to go over.
        width: columns to go over.
        core: side of a tile core; a chunk is a whole number of them.

    Returns:
        The execution with a chunk, and with workers unless it has a scheduler (one chunk or one worker: serial); and
        how many kernels will run at once (for a scheduler's workers: 0, unknown).
    """
    workers = 1 if execution.serial else 0 if execution.scheduler else execution.workers or fitting_workers()
    chunk = execution.chunk
    if chunk is None:
        chunk = max(1, _CHUNK // core) * core
        while chunk > core and _count(height, width, chunk) < _CHUNKS_PER_WORKER * workers:
            chunk -= core
    chunk = -(-chunk // core) * core
    if execution.serial or execution.workers or execution.scheduler:
        return replace(execution, chunk=chunk), workers
    workers = min(workers, _count(height, width, chunk))
    if workers == 1:
        return Execution(chunk=chunk, serial=True), 1
    return Execution(chunk=chunk, workers=workers), workers


def _count(height: int, width: int, chunk: int) -> int:
    return -(-height // chunk) * -(-width // chunk)


class Executor(Protocol):
    """Where kernels run.

    Attributes:
        name: for people, e.g. ``serial`` or ``2 workers``.
        dashboard: address of Dask's dashboard, if there is one.
    """

    name: str
    dashboard: str | None

    def run(
        self,
        stage: str,
        kernel: Callable[[Any, Item], Result],
        job: Any,
        items: Iterable[Item],
        on_result: Callable[[Item, Result], None],
        *,
        needs_gpu: bool = False,
    ) -> None:
        """Calls ``kernel(job, item)`` for every item; ``on_result`` sees results in any order, in this thread.

        Args:
            stage: the stage's name, for the dashboard and errors.
            kernel: a module-level function; it returns small metadata and writes arrays itself.
            job: what all items share; picklable, small.
            items: picklable, small; may be a generator, drawn as work goes on.
            on_result: called once per item.
            needs_gpu: send it to workers that hold a GPU.

        Raises:
            InputError: the input turned out to be bad.
            ChunkError: some items failed after retries; all others were done.
        """
        ...

    def peak_worker_bytes(self) -> int:
        """Most memory that one working process has taken so far (resident set), bytes."""
        ...


def peak_bytes() -> int:
    """Most memory that this process has taken so far (resident set), bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class SerialExecutor:
    """Runs every kernel in this thread, one after the other: the oracle of all other executors."""

    name = "serial"
    dashboard: str | None = None

    def run(
        self,
        stage: str,
        kernel: Callable[[Any, Item], Result],
        job: Any,
        items: Iterable[Item],
        on_result: Callable[[Item, Result], None],
        *,
        needs_gpu: bool = False,  # noqa: ARG002  (this process has the GPU, if there is one)
    ) -> None:
        """See :meth:`Executor.run`."""
        failures: list[BaseException] = []
        total = 0
        for item in items:
            total += 1
            try:
                result = kernel(job, item)
            except InputError:
                raise
            except Exception as error:  # noqa: BLE001  (one bad chunk must not lose the others)
                failures.append(error)
            else:
                on_result(item, result)
        _raise_if_failed(stage, failures, total)

    def peak_worker_bytes(self) -> int:
        """See :meth:`Executor.peak_worker_bytes`."""
        return peak_bytes()


class DaskExecutor:
    """Runs kernels on a Dask cluster, one task per item, a bounded number in flight.

    Only items, jobs and results cross the wire; nothing here builds a graph, so the scheduler's memory does not grow
    with the scene.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.dashboard: str | None = client.dashboard_link if _has_dashboard() else None
        count = len(client.scheduler_info(n_workers=-1)["workers"])
        self.name = f"{count} Dask worker{'s' if count != 1 else ''}"
        self._in_flight = _IN_FLIGHT_PER_WORKER * max(1, count)

    def run(
        self,
        stage: str,
        kernel: Callable[[Any, Item], Result],
        job: Any,
        items: Iterable[Item],
        on_result: Callable[[Item, Result], None],
        *,
        needs_gpu: bool = False,
    ) -> None:
        """See :meth:`Executor.run`."""
        from distributed import CancelledError
        from distributed.comm.core import CommClosedError

        if needs_gpu:
            self._require_gpu()
        try:
            self._run(stage, kernel, job, items, on_result, {"GPU": 1} if needs_gpu else None)
        except (CancelledError, CommClosedError) as error:
            raise ChunkError(
                f"lost the Dask scheduler in stage {stage} ({type(error).__name__}); the finished chunks are kept, "
                "run the same command again to resume"
            ) from error

    def _require_gpu(self) -> None:
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        if not any(worker["resources"].get("GPU") for worker in workers):
            raise SettingsError(
                "no Dask worker offers a GPU; start them with `dask worker --resources GPU=1`, or give --device cpu"
            )

    def _run(
        self,
        stage: str,
        kernel: Callable[[Any, Item], Result],
        job: Any,
        items: Iterable[Item],
        on_result: Callable[[Item, Result], None],
        resources: dict[str, int] | None,
    ) -> None:
        waiting = iter(items)
        in_flight: dict[Any, Item] = {}
        failures: list[BaseException] = []
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # of this call alone: another client of the scheduler may be doing the same run
        prefix = f"geoseg-{stage}-{uuid.uuid4().hex[:12]}"
        total = 0

        def submit_next() -> None:
            nonlocal total
            for item in waiting:
                key = f"{prefix}-{total}"
                future = self._client.submit(
                    kernel, job, item, key=key, pure=False, retries=_RETRIES, resources=resources
                )
                total += 1
                in_flight[future] = item
                future.add_done_callback(done.put)
                return

        for _ in range(self._in_flight):
            submit_next()
        while in_flight:
            future = self._next(done, stage)
            item = in_flight.pop(future)
            error = future.exception() if future.status != "finished" else None
            if isinstance(error, InputError):
                self._client.cancel(list(in_flight))
                raise error
            if error is not None:
                failures.append(error)
            else:
                on_result(item, future.result())
            future.release()
            submit_next()
        _raise_if_failed(stage, failures, total)

    def peak_worker_bytes(self) -> int:
        """See :meth:`Executor.peak_worker_bytes`."""
        from distributed.comm.core import CommClosedError

        try:
            return max(self._client.run(peak_bytes).values(), default=0)
        except (CommClosedError, OSError):
            return 0  # a figure for run.json is not worth a run

    def _next(self, done: queue.SimpleQueue[Any], stage: str) -> Any:
        """Waits for a future; gives up when the cluster has had no worker for a while, instead of waiting for ever."""
        alone_since: float | None = None
        while True:
            try:
                return done.get(timeout=_LOOK_AROUND_S)
            except queue.Empty:
                if self._client.scheduler_info(n_workers=1)["workers"]:
                    alone_since = None
                    continue
            now = time.monotonic()
            alone_since = alone_since or now
            if now - alone_since >= _GIVE_UP_S:
                raise ChunkError(
                    f"all Dask workers are gone in stage {stage}; see their logs for the reason (often memory); "
                    "the finished chunks are kept, run the same command again to resume"
                )


def _has_dashboard() -> bool:
    from importlib.util import find_spec

    return find_spec("bokeh") is not None


def _raise_if_failed(stage: str, failures: Sequence[BaseException], total: int) -> None:
    if failures:
        first = failures[0]
        raise ChunkError(
            f"{len(failures)} of {total} chunks failed in stage {stage}, the first with {type(first).__name__}: "
            f"{first}; the others are kept, run the same command again to resume"
        ) from first


@contextmanager
def open_executor(execution: Execution, *, gpus: int = 0) -> Iterator[Executor]:
    """Opens what the settings ask for, and closes it.

    Args:
        execution: serial, a local cluster, or the address of a scheduler.
        gpus: how many workers of a local cluster hold a GPU, one each.
    """
    if execution.serial:
        yield SerialExecutor()
        return
    with connect(workers=execution.workers, scheduler=execution.scheduler, gpus=gpus) as client:
        yield DaskExecutor(client)

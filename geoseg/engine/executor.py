"""Runs a kernel over many items, on threads of this process or on Dask: the same kernels and results (floor 4)."""

from __future__ import annotations

import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol, TypeVar

from geoseg.engine.cluster import connect
from geoseg.engine.faults import attempt, reason_of
from geoseg.errors import ChunkError, InputError, SettingsError, WriteError
from geoseg.machine import count_cores, memory_bytes
from geoseg.settings import Execution

__all__ = ["DaskExecutor", "Executor", "ThreadExecutor", "fit", "open_executor", "peak_bytes"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_RETRIES = 2
_CHUNK = 2048
_CHUNKS_PER_WORKER = 2
_IN_FLIGHT_PER_WORKER = 3
_FEEDERS = 2  # kernels for each that computes: while one does, another reads, or writes what is done
_KERNEL_BYTES = 3 * 1024**3
_LOOK_AROUND_S = 5.0
_GIVE_UP_S = 30.0


def fit(execution: Execution, height: int, width: int, *, core: int, gpus: int = 0) -> tuple[Execution, int]:
    """Fits the work to the machine: every choice that was left open is made.

    Unless told otherwise, kernels run on threads of this process: they hold the interpreter for moments only, and
    threads share what processes each load. Several GPUs need a process each.

    Args:
        execution: as asked for.
        height: rows to go over.
        width: columns to go over.
        core: side of a tile core; a chunk is a whole number of them.
        gpus: how many the work may use.

    Returns:
        The execution with a chunk, and with threads unless it has workers or a scheduler; and how many kernels will run
        at once (for a scheduler's workers: 0, unknown).
    """
    at_once = execution.threads or execution.workers or (0 if execution.scheduler else _fitting_kernels())
    chunk = execution.chunk
    if chunk is None:
        chunk = max(1, _CHUNK // core) * core
        while chunk > core and _count(height, width, chunk) < _CHUNKS_PER_WORKER * at_once:
            chunk -= core
    chunk = -(-chunk // core) * core
    if execution.threads or execution.workers or execution.scheduler:
        return replace(execution, chunk=chunk), at_once
    at_once = min(at_once, _count(height, width, chunk))
    if gpus > 1:
        at_once = max(at_once, gpus)
        return Execution(chunk=chunk, workers=at_once), at_once
    return Execution(chunk=chunk, threads=at_once), at_once


def _fitting_kernels() -> int:
    """Kernels that fit this machine at once: one per core that this process may use, 3 GiB of memory for each."""
    return max(1, min(count_cores(), memory_bytes() // _KERNEL_BYTES))


def _count(height: int, width: int, chunk: int) -> int:
    return -(-height // chunk) * -(-width // chunk)


class Executor(Protocol):
    """Where kernels run.

    Attributes:
        name: for people, e.g. ``serial``, ``4 threads`` or ``2 Dask workers``.
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
        waits: bool = False,
        needs_gpu: bool = False,
        on_failure: Callable[[Item, BaseException], None] | None = None,
    ) -> None:
        """Calls ``kernel(job, item)`` for every item; ``on_result`` sees results in any order, in this thread.

        Args:
            stage: the stage's name, for the dashboard and errors.
            kernel: a module-level function; it returns small metadata and writes arrays itself.
            job: what all items share; picklable, small.
            items: picklable, small; may be a generator, drawn as work goes on.
            on_result: called once per item.
            waits: kernels wait for what a few of them use at once, such as networks; so more are begun.
            needs_gpu: send it to workers that hold a GPU.
            on_failure: called in this thread for each item that failed after retries; the run then goes on, and nothing
                is raised in the end.

        Raises:
            InputError: the input turned out to be bad.
            WriteError: there is no room or no right to write.
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


class ThreadExecutor:
    """Runs kernels on threads of this process; with one, in the calling thread, one after the other: the oracle.

    Kernels let go of the interpreter where they work: in GDAL, numpy, compiled loops and the runtimes. What a stage
    began is finished when the run is interrupted; the rest is left.
    """

    dashboard: str | None = None

    def __init__(self, threads: int) -> None:
        self.name = "serial" if threads == 1 else f"{threads} threads"
        self._threads = threads
        self._pools: dict[int, ThreadPoolExecutor] = {}  # by the number of threads
        self._stops = threading.Event()  # nobody waits any longer for what cannot be read

    def close(self) -> None:
        """Waits for what is under way."""
        self._stops.set()
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)

    def run(
        self,
        stage: str,
        kernel: Callable[[Any, Item], Result],
        job: Any,
        items: Iterable[Item],
        on_result: Callable[[Item, Result], None],
        *,
        waits: bool = False,
        needs_gpu: bool = False,
        on_failure: Callable[[Item, BaseException], None] | None = None,
    ) -> None:
        """See :meth:`Executor.run`; this process has at most one GPU, which several kernels feed."""
        failures: list[BaseException] = []
        total = 0
        if self._threads == 1 and not needs_gpu:
            results = self._in_turn(kernel, job, items)
        else:
            results = self._at_once(kernel, job, items, self._threads * (_FEEDERS if waits or needs_gpu else 1))
        with closing(results):  # whatever interrupts this, what is under way ends before
            for item, result, error in results:
                total += 1
                if error is None:
                    on_result(item, result)
                elif isinstance(error, (InputError, WriteError)) or not isinstance(error, Exception):
                    raise error
                elif on_failure is not None:
                    on_failure(item, error)
                else:
                    failures.append(error)  # one bad chunk must not lose the others
        _raise_if_failed(stage, failures, total)

    def _in_turn(
        self, kernel: Callable[[Any, Item], Result], job: Any, items: Iterable[Item]
    ) -> Generator[tuple[Item, Any, BaseException | None]]:
        for item in items:
            try:
                result, error = attempt(kernel, job, item, self._stops.wait), None
            except Exception as raised:  # noqa: BLE001  (the caller tells them apart)
                result, error = None, raised
            yield item, result, error

    def _at_once(
        self, kernel: Callable[[Any, Item], Result], job: Any, items: Iterable[Item], threads: int
    ) -> Generator[tuple[Item, Any, BaseException | None]]:
        """As many as there are threads, and one that waits for each, so that none is idle while results are seen."""
        if threads not in self._pools:
            self._pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="geoseg")
        pool, waiting = self._pools[threads], iter(items)
        under_way: dict[Future[Result], Item] = {}
        done: queue.SimpleQueue[Future[Result]] = queue.SimpleQueue()
        try:
            while True:
                for item in islice(waiting, 2 * threads - len(under_way)):
                    future = pool.submit(attempt, kernel, job, item, self._stops.wait)
                    under_way[future] = item
                    future.add_done_callback(done.put)
                if not under_way:
                    return
                future = done.get()
                error = future.exception()
                yield under_way.pop(future), None if error else future.result(), error
        finally:
            if under_way:  # something interrupts
                self._stops.set()
            wait([future for future in under_way if not future.cancel()])  # one that is cancelled is never done
            self._stops.clear()

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
        waits: bool = False,  # noqa: ARG002 - a worker's threads are those that it was started with
        needs_gpu: bool = False,
        on_failure: Callable[[Item, BaseException], None] | None = None,
    ) -> None:
        """See :meth:`Executor.run`."""
        from distributed import CancelledError
        from distributed.comm.core import CommClosedError

        if needs_gpu:
            self._require_gpu()
        try:
            self._run(stage, kernel, job, items, on_result, on_failure, {"GPU": 1} if needs_gpu else None)
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
        on_failure: Callable[[Item, BaseException], None] | None,
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
                    attempt, kernel, job, item, key=key, pure=False, retries=_RETRIES, resources=resources
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
            if isinstance(error, (InputError, WriteError)):
                self._client.cancel(list(in_flight))
                raise error
            if error is not None and on_failure is not None:
                on_failure(item, error)
            elif error is not None:
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
            f"{len(failures)} of {total} chunks failed in stage {stage}, the first with {reason_of(first)}; "
            "the others are kept, run the same command again to resume"
        ) from first


@contextmanager
def open_executor(execution: Execution, *, gpus: int = 0) -> Iterator[Executor]:
    """Opens what the settings ask for, and closes it.

    Args:
        execution: threads, a local cluster, or the address of a scheduler.
        gpus: how many workers of a local cluster hold a GPU, one each.
    """
    if execution.workers is None and execution.scheduler is None:
        threads = ThreadExecutor(execution.threads or _fitting_kernels())
        try:
            yield threads
        finally:
            threads.close()
        return
    with connect(workers=execution.workers, scheduler=execution.scheduler, gpus=gpus) as client:
        yield DaskExecutor(client)

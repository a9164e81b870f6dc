"""Runs a kernel over many items, on threads of this process or on Dask: the same kernels and results (floor 4)."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from geoseg.engine.admission import Terms
from geoseg.engine.faults import attempt, reason_of
from geoseg.errors import ChunkError, InputError, ReadError, WriteError
from geoseg.machine import count_cores, memory_bytes
from geoseg.settings import Execution

__all__ = [
    "FEEDERS",
    "Drawn",
    "Executor",
    "Outcomes",
    "ThreadExecutor",
    "complete",
    "fit",
    "open_executor",
    "peak_bytes",
]

Item = TypeVar("Item")
Result = TypeVar("Result")

Outcomes: TypeAlias = Generator[tuple[Item, Any, BaseException | None]]
"""Items in any order, each with its result or with what went wrong."""

FEEDERS = 2
"""kernels for each that computes: while one does, another reads, or writes what is done"""

_PAUSES_S = (0.5, 5.0)  # before what failed is tried again: a file system or a server may have to come back
_CHUNK = 2048
_CHUNKS_PER_WORKER = 2
_CLUSTER_WORKERS = 16  # a guess: how many a cluster has is known once it runs, and may change
_KERNEL_BYTES = 3 * 1024**3


class Drawn(Generic[Item]):
    """Items of a known number, each made when it is drawn.

    Args:
        count: their number.
        items: drawn once.
    """

    def __init__(self, count: int, items: Iterable[Item]) -> None:
        self._count = count
        self._items = items

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)


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
        The execution with a chunk, and with threads unless others work; and how many kernels will run at once (for
        workers of a scheduler or a cluster: 0, unknown).
    """
    elsewhere = execution.scheduler is not None or execution.cluster is not None
    at_once = execution.threads or execution.workers or (0 if elsewhere else _fitting_kernels())
    chunk = execution.chunk
    if chunk is None:
        chunk = max(1, _CHUNK // core) * core
        while chunk > core and _count(height, width, chunk) < _CHUNKS_PER_WORKER * (at_once or _CLUSTER_WORKERS):
            chunk -= core
    chunk = -(-chunk // core) * core
    if execution.threads or execution.workers or elsewhere:
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

    def require_gpu(self) -> None:
        """Makes sure that somebody has one.

        Raises:
            SettingsError: nobody that is there now.
        """
        ...

    def admit(self, terms: Terms, logs: Path | None) -> None:
        """From now on only workers that can take part in the run work, also of those that come later.

        Args:
            terms: what a worker must have in common with this process.
            logs: folder for a log of each worker.

        Raises:
            InputError: one that is there already cannot.
        """
        ...

    def run(
        self,
        stage: str,
        kernel: Callable[[Any, Item], Result],
        job: Any,
        items: Iterable[Item],
        on_result: Callable[[Item, Result], None],
        *,
        on_failure: Callable[[Item, BaseException], None] | None = None,
        waits: bool = False,
        needs_gpu: bool = False,
    ) -> None:
        """Calls ``kernel(job, item)`` for every item; ``on_result`` sees results in any order, in this thread.

        What fails is tried again when all the rest is done, twice; what cannot be read is tried again at once, see
        :func:`geoseg.engine.faults.attempt`, and not later.

        Args:
            stage: the stage's name, for the dashboard and errors.
            kernel: a module-level function; it returns small metadata and writes arrays itself.
            job: what all items share; picklable, small.
            items: picklable, small; drawn as work goes on. It is well if their number is known, see :class:`Drawn`.
            on_result: called once per item.
            on_failure: called in this thread for each item that fails for good, in place of an error in the end.
            waits: kernels wait for what a few of them use at once, such as networks; so more are begun.
            needs_gpu: send it to workers that hold a GPU.

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

    def require_gpu(self) -> None:
        """See :meth:`Executor.require_gpu`: plans are made for this process."""

    def admit(self, terms: Terms, logs: Path | None) -> None:
        """See :meth:`Executor.admit`: this process has with itself all in common."""

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
        on_failure: Callable[[Item, BaseException], None] | None = None,
        waits: bool = False,
        needs_gpu: bool = False,
    ) -> None:
        """See :meth:`Executor.run`; this process has at most one GPU, which several kernels feed."""

        def go_over(items: Iterable[Item]) -> Outcomes[Item]:
            if self._threads == 1 and not needs_gpu:
                return self._in_turn(kernel, job, items)
            return self._at_once(kernel, job, items, self._threads * (FEEDERS if waits or needs_gpu else 1))

        complete(stage, go_over, items, on_result, on_failure)

    def _in_turn(self, kernel: Callable[[Any, Item], Result], job: Any, items: Iterable[Item]) -> Outcomes[Item]:
        for item in items:
            try:
                result, error = attempt(kernel, job, item, self._stops.wait), None
            except Exception as raised:  # noqa: BLE001  (the caller tells them apart)
                result, error = None, raised
            yield item, result, error

    def _at_once(
        self, kernel: Callable[[Any, Item], Result], job: Any, items: Iterable[Item], threads: int
    ) -> Outcomes[Item]:
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


def complete(
    stage: str,
    go_over: Callable[[Iterable[Item]], Outcomes[Item]],
    items: Iterable[Item],
    on_result: Callable[[Item, Any], None],
    on_failure: Callable[[Item, BaseException], None] | None,
) -> None:
    """Goes over items, and again over those that failed, see :meth:`Executor.run`.

    Args:
        stage: its name.
        go_over: begins items and gives their outcomes. A ``ChunkError`` or ``ReadError`` among these is final.
        items: drawn as work goes on.
        on_result: sees what was done.
        on_failure: sees what failed for good; if ``None``, it is raised in the end.
    """
    lost: list[tuple[Item, BaseException]] = []
    total = 0
    for turn, pause in enumerate((*_PAUSES_S, None)):
        failed: list[tuple[Item, BaseException]] = []
        with closing(go_over(items)) as outcomes:  # whatever interrupts this, what is under way ends before
            for item, result, error in outcomes:
                total += turn == 0
                if error is None:
                    on_result(item, result)
                elif isinstance(error, (InputError, WriteError)) or not isinstance(error, Exception):
                    raise error
                else:  # one bad chunk must not lose the others
                    final = pause is None or isinstance(error, (ChunkError, ReadError))
                    (lost if final else failed).append((item, error))
        if pause is None or not failed:
            break
        items = [item for item, _ in failed]
        time.sleep(pause)
    if on_failure is None:
        _raise_if_failed(stage, [error for _, error in lost], total)
        return
    for item, error in lost:
        on_failure(item, error)


def _raise_if_failed(stage: str, failures: Sequence[BaseException], total: int) -> None:
    if failures:
        first = failures[0]
        raise ChunkError(
            f"{len(failures)} of {total} chunks failed in stage {stage}, the first with {reason_of(first)}; "
            "the others are kept, run the same command again to resume"
        ) from first


@contextmanager
def open_executor(
    execution: Execution, *, gpus: int = 0, note: Callable[[str], None] = lambda _: None
) -> Iterator[Executor]:
    """Opens what the settings ask for, and closes it.

    Args:
        execution: threads, a local cluster, the address of a scheduler, or the file of a cluster.
        gpus: how many workers of a local cluster hold a GPU, one each.
        note: sees what happens to workers, a line each.
    """
    if execution.workers is None and execution.scheduler is None and execution.cluster is None:
        threads = ThreadExecutor(execution.threads or _fitting_kernels())
        try:
            yield threads
        finally:
            threads.close()
        return
    from geoseg.engine.cluster import connect
    from geoseg.engine.dask_executor import DaskExecutor

    with connect(execution, gpus=gpus, note=note) as cluster, closing(DaskExecutor(cluster, note)) as dask:
        yield dask

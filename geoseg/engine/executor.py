"""Runs a kernel over many items, in this process or on Dask: the same kernels, the same results (floor 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from geoseg.engine.cluster import connect
from geoseg.errors import ChunkError, InputError
from geoseg.settings import Execution

__all__ = ["DaskExecutor", "Executor", "SerialExecutor", "open_executor"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_RETRIES = 2
_IN_FLIGHT_PER_WORKER = 3


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
        from dask.base import tokenize
        from distributed import as_completed

        waiting = iter(items)
        submitted: dict[Any, Item] = {}
        failures: list[BaseException] = []
        prefix = f"geoseg-{stage}-{tokenize(kernel.__qualname__, job)[:8]}"
        done: Any = as_completed()  # type: ignore[no-untyped-call]

        def submit_next() -> None:
            for item in waiting:
                future = self._client.submit(
                    kernel,
                    job,
                    item,
                    key=f"{prefix}-{len(submitted)}",
                    pure=False,
                    retries=_RETRIES,
                    resources={"GPU": 1} if needs_gpu else None,
                )
                submitted[future.key] = item
                done.add(future)
                return

        for _ in range(self._in_flight):
            submit_next()
        for future in done:
            item = submitted[future.key]
            error = future.exception() if future.status != "finished" else None
            if isinstance(error, InputError):
                self._client.cancel(list(done.futures))
                raise error
            if error is not None:
                failures.append(error)
            else:
                on_result(item, future.result())
            submit_next()
        _raise_if_failed(stage, failures, len(submitted))


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

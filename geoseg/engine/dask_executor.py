"""Runs kernels on the workers of a Dask cluster, and outlives them (floor 4).

A bounded number of tasks under way, of one item each, or of several where these take moments only. Only items, jobs
and results cross the wire, and nothing here builds a graph, so the scheduler's memory does not grow with the scene.
What was begun first is done first.

What a worker writes for an item is the same whoever writes it, and appears whole or not at all. So an item may be begun
again at any time: when its worker died, and when it takes so long that something must be wrong there.
"""

from __future__ import annotations

import queue
import statistics
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from operator import length_hint
from pathlib import Path
from typing import Any, TypeVar

from geoseg.engine.admission import Terms, make_plugin, refusal_of
from geoseg.engine.calls import Called, call
from geoseg.engine.cluster import Cluster
from geoseg.engine.executor import FEEDERS, Outcomes, complete, peak_bytes
from geoseg.errors import ChunkError, SettingsError

__all__ = ["DaskExecutor"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_IN_FLIGHT_PER_SLOT = 2  # one is done, one waits beside it
_TASK_S = 0.5  # Dask takes some 10 ms of processor time for a task; so much work makes little of that
_MOST_ITEMS = 32  # in a task: what is done again when its worker dies
_LOOK_AROUND_S = 2.0
_ANSWER_S = 10.0
_TRIES = 5
_TRY_AGAIN_S = 1.0
_TELL_S = 3.0
_TIMES_KEPT = 1000
_STRAGGLES_S = 10.0  # at least; who is slower than the others by less is waited for
_STRAGGLES = 4.0  # times the median
_HOPELESS = 3  # times what is under way at most, all of them one after the other


class DaskExecutor:
    """Runs kernels on a Dask cluster.

    Args:
        cluster: to which this process is connected.
        note: sees what happens to workers, a line each.

    Raises:
        SettingsError: a worker has no geoseg, or another version.
    """

    def __init__(self, cluster: Cluster, note: Callable[[str], None]) -> None:
        self._crew = _Crew(cluster, note)
        self._stages = 0
        self.dashboard: str | None = cluster.client.dashboard_link if find_spec("bokeh") is not None else None
        self._crew.examine(None, None)
        count = len(self._crew.workers())
        self.name = f"{count} Dask worker{'s' if count != 1 else ''}"

    def close(self) -> None:
        """Takes back what the workers were given; a cluster that others use goes on without this run."""
        self._crew.dismiss()

    def require_gpu(self) -> None:
        """See :meth:`Executor.require_gpu`."""
        if not any(worker["resources"].get("GPU") for worker in self._crew.workers().values()):
            raise SettingsError(
                "no Dask worker offers a GPU; start them with `dask worker --resources GPU=1`, or give --device cpu"
            )

    def admit(self, terms: Terms, logs: Path | None) -> None:
        """See :meth:`Executor.admit`."""
        self._crew.examine(terms, logs)

    def run(
        self,
        stage: str,
        kernel: Callable[[Any, Item], Result],
        job: Any,
        items: Iterable[Item],
        on_result: Callable[[Item, Result], None],
        *,
        on_failure: Callable[[Item, BaseException], None] | None = None,
        waits: bool = False,  # noqa: ARG002 - a worker's threads are those that it was started with
        needs_gpu: bool = False,
    ) -> None:
        """See :meth:`Executor.run`."""
        self._stages += 1
        gpu = 1 / FEEDERS if needs_gpu else 0.0
        work = _Stage(self._crew, stage, f"{self._stages}-{stage}", partial(call, stage, kernel, job), gpu)
        with _naming_loss(f"in stage {stage}"):
            complete(stage, work.go_over, items, on_result, on_failure)

    def peak_worker_bytes(self) -> int:
        """See :meth:`Executor.peak_worker_bytes`."""
        return self._crew.peak_bytes()


class _Crew:
    """The workers that were admitted to a run.

    Attributes:
        client: Dask's.
        patience_s: how long the run waits where there are none.
    """

    def __init__(self, cluster: Cluster, note: Callable[[str], None]) -> None:
        self.client = cluster.client
        self.patience_s = cluster.patience_s
        self._revive = cluster.revive
        self._name = f"geoseg-{uuid.uuid4().hex[:12]}"  # another client of the scheduler may be doing the same run
        self._note = note
        self._events: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._took: dict[str, int] = {}  # by workers that were over their memory limit, bytes
        self.client.subscribe_topic("worker-restart-memory", self._on_memory)
        self.client.subscribe_topic(self._name, self._on_refusal)

    def _on_refusal(self, event: tuple[float, dict[str, Any]]) -> None:
        self._events.put(f"Dask worker {event[1]['worker']} is left out: {event[1]['refusal']}")

    def _on_memory(self, event: tuple[float, dict[str, Any]]) -> None:
        worker, took = event[1]["worker"], event[1]["rss"]
        self._took[worker] = took
        self._events.put(f"Dask worker {worker} is over its memory limit with {_gib(took)} and begins anew")

    def examine(self, terms: Terms | None, logs: Path | None) -> None:
        """Admits all workers that are there, and those to come that are fit.

        Raises:
            SettingsError: one that is there is not fit.
        """
        with _naming_loss("while it examined its workers"):
            for _ in range(_TRIES):
                with suppress(OSError):  # a worker died just now
                    self.client.register_plugin(make_plugin(self._name, terms, logs), name=self._name)
                    break
                time.sleep(_TRY_AGAIN_S)
            with self.asking() as client:
                found = client.run(refusal_of(self._name), on_error="ignore")
        refusals = {address: refusal for address, refusal in found.items() if refusal is not None}
        if refusals:
            address, refusal = next(iter(refusals.items()))
            others = f" ({len(refusals)} of {len(found)} are not)" if len(found) > 1 else ""
            raise SettingsError(f"Dask worker {address} is not fit for this run{others}: {refusal}")

    def dismiss(self) -> None:
        """Lets the workers go."""
        with suppress(*_losses()), self.asking() as client:
            client.unregister_worker_plugin(self._name)

    def peak_bytes(self) -> int:
        """Most memory that one of them has taken."""
        with suppress(*_losses()), self.asking() as client:  # a figure for run.json is not worth a run
            return max(client.run(peak_bytes, on_error="ignore").values(), default=0)
        return 0

    @contextmanager
    def asking(self) -> Iterator[Any]:
        """The client, as long as it is connected.

        Raises:
            _LostError: the scheduler is gone. What a kernel raised passes.
        """
        if self.client.status != "running":
            raise _LostError
        try:
            yield self.client
        except OSError as error:
            raise _LostError from error

    def workers(self) -> dict[str, dict[str, Any]]:
        """What the scheduler says of them, by address. Notes what happened to some since the last time.

        Raises:
            _LostError: the scheduler is gone.
        """
        with self.asking() as client:
            workers = client.scheduler_info(n_workers=-1)["workers"]
        while not self._events.empty():
            self._note(self._events.get())
        return {address: worker for address, worker in workers.items() if worker["resources"].get(self._name)}

    def slots(self, gpu: float) -> int:
        """How many tasks they do at once.

        Args:
            gpu: share of a GPU that a task takes.
        """
        workers = self.workers().values()
        self._revive([worker["name"] for worker in workers])
        if not gpu:
            return sum(worker["nthreads"] for worker in workers)
        return sum(min(worker["nthreads"], int(worker["resources"].get("GPU", 0) / gpu)) for worker in workers)

    def idle(self, gpu: float) -> int:
        """How many tasks more they could do, by what the scheduler gave them to do."""
        with self.asking() as client:
            processing = client.processing()
        return sum(
            max(0, worker["nthreads"] - len(processing.get(address, ())))
            for address, worker in self.workers().items()
            if not gpu or worker["resources"].get("GPU")
        )

    def submit(self, key: str, function: Callable[[Any], Any], items: Any, *, gpu: float, other_than: Any) -> Any:
        """Begins a task; ``other_than`` is a future whose worker shall not be the one, unless there is no other."""
        resources = {self._name: 1.0} | ({"GPU": gpu} if gpu else {})
        how: dict[str, Any] = {}
        if other_than is not None:
            with self.asking() as client:
                processing, has = client.processing(), client.who_has([other_than]).get(other_than.key, ())
            others = [
                name for name in self.workers() if other_than.key not in processing.get(name, ()) and name not in has
            ]
            how = {"workers": others, "allow_other_workers": True} if others else {}
        key = f"{self._name}-{key}"
        with self.asking() as client:
            return client.submit(function, items, key=key, pure=False, retries=0, resources=resources, **how)

    def death(self, killed: Any) -> str:
        """What is known of the last worker that died, from Dask's ``KilledWorker``."""
        address = killed.last_worker.address
        deadline = time.monotonic() + _TELL_S
        while address not in self._took and time.monotonic() < deadline:
            time.sleep(0.1)  # its nanny tells why after the scheduler saw it go
        if address in self._took:
            why = f"was over its memory limit with {_gib(self._took[address])}"
            return f"the last, {address}, {why}; give workers more memory, or a smaller --chunk"
        return f"the last was {address}; its log may say why, and often it is memory"


@dataclass(slots=True)
class _Attempt:
    """Items that are under way in one task.

    Attributes:
        items: which.
        begun: when, by the monotonic clock.
        futures: of their task; of two when it was begun once more.
    """

    items: list[Any]
    begun: float
    futures: list[Any]


class _Stage:
    """One stage's tasks.

    Args:
        crew: does them.
        name: of the stage.
        key: that no other stage of the run has.
        function: of a task's items; gives what became of each.
        gpu: share of a GPU that a task takes.
    """

    def __init__(self, crew: _Crew, name: str, key: str, function: Callable[[Any], list[Called]], gpu: float) -> None:
        self._crew = crew
        self._name = name
        self._key = key
        self._function = function
        self._gpu = gpu
        self._begun = 0
        self._under_way: dict[Any, _Attempt] = {}  # by their futures
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._seconds: deque[float] = deque(maxlen=_TIMES_KEPT)  # of items
        self._done_items = 0
        self._left = 0  # items, if their number is known
        self._slots = 0
        self._next_look = 0.0
        self._deserted_since: float | None = None
        self._idle_since: float | None = None

    def go_over(self, items: Iterable[Item]) -> Outcomes[Item]:
        """Begins items and gives their outcomes.

        When a worker dies, what waited beside the culprit is suspect as well. So an item whose workers died time and
        again is set aside and begun alone in the end: if they die then, too, it is to blame.
        """
        suspects: list[Item] = []
        try:
            yield from self._go_over(items, suspects)
            for item in suspects:
                yield from self._go_over([item], None)
        finally:
            with suppress(*_losses()), self._crew.asking() as client:
                client.cancel(list(self._under_way))

    def _go_over(self, items: Iterable[Item], suspects: list[Item] | None) -> Outcomes[Item]:
        """The same; without a list for suspects, one after the other."""
        waiting, all_begun = iter(items), False
        self._left = length_hint(items)
        died = widest = 0
        self._look_around()
        while True:
            most = 1 if suspects is None else _IN_FLIGHT_PER_SLOT * self._slots
            widest = max(widest, most)
            all_begun = all_begun or not self._fill(waiting, most, 1 if suspects is None else self._size())
            if all_begun and not self._under_way:
                return
            future = self._next()
            if future is None:
                self._look_around()
                if all_begun and suspects is not None:
                    self._help_stragglers()
                continue
            items, found = self._outcome(future)
            if not items:
                continue
            if not _is_death(found):
                died = 0
                yield from _each(items, found)
                continue
            died += 1
            if suspects is None:
                why = f"it ended every worker that did it, also alone: {self._crew.death(found)}"
                yield items[0], None, ChunkError(why)
                continue
            suspects += items
            if died > _HOPELESS * widest:
                raise self._hopeless(found)

    def _fill(self, waiting: Iterator[Any], most: int, size: int) -> bool:
        """Begins tasks until so many are under way; returns whether there may be more items."""
        for _ in range(most - len(self._under_way)):
            items = list(islice(waiting, size))
            self._left -= len(items)
            if items:
                self._begin(_Attempt(items, time.monotonic(), []))
            if len(items) < size:
                return False
        return True

    def _size(self) -> int:
        """How many items to a task: none takes long, and nobody waits for long for the last ones.

        A share of those that are left (C. D. Polychronopoulos and D. J. Kuck, *Guided Self-Scheduling*, 1987,
        https://doi.org/10.1109/TC.1987.5009495), and no more than of those that are done, whose times are known.
        """
        if not self._seconds:
            return 1
        enough = _TASK_S / max(statistics.median(self._seconds), _TASK_S / _MOST_ITEMS)
        fewest = min(self._done_items, self._left) if self._left > 0 else self._done_items
        return max(1, int(min(enough, fewest / (_IN_FLIGHT_PER_SLOT * max(1, self._slots)))))

    def _hopeless(self, killed: Any) -> ChunkError:
        return ChunkError(
            f"workers die under every chunk in stage {self._name}: {self._crew.death(killed)}; the finished chunks are "
            "kept, run the same command again to resume"
        )

    def _begin(self, attempt: _Attempt, *, instead_of: Any = None) -> None:
        """Begins a task: for the first time, or once more elsewhere, perhaps instead of a future without an answer."""
        self._begun += 1
        key = f"{self._key}-{self._begun}"
        there = attempt.futures[0] if attempt.futures else instead_of
        future = self._crew.submit(key, self._function, attempt.items, gpu=self._gpu, other_than=there)
        attempt.futures.append(future)
        self._under_way[future] = attempt
        future.add_done_callback(self._done.put)

    def _next(self) -> Any:
        """Waits for a future; ``None`` when it is time to look around."""
        try:
            return self._done.get(timeout=max(0.0, self._next_look - time.monotonic()))
        except queue.Empty:
            return None

    def _outcome(self, future: Any) -> tuple[list[Any], list[Called] | BaseException]:
        """Items with what became of each, or with what became of their task; none if there is nothing yet."""
        attempt = self._under_way.pop(future, None)
        if attempt is None:  # the other was quicker
            return [], []
        attempt.futures.remove(future)
        found: list[Called] | BaseException
        try:
            with self._crew.asking():
                found = future.exception() if future.status == "error" else future.result(timeout=_ANSWER_S)
        except _LostError as lost:
            if not isinstance(lost.__cause__, TimeoutError):
                raise
            # its worker died just now, or hangs: whatever it has is done again elsewhere
            self._begin(attempt, instead_of=future)
            return [], []
        if attempt.futures and not (isinstance(found, list) and all(one.error is None for one in found)):
            return [], []  # it may end well elsewhere
        for other in attempt.futures:
            del self._under_way[other]
        if attempt.futures:
            with self._crew.asking() as client:
                client.cancel(attempt.futures)
        if isinstance(found, list):
            self._seconds += [one.seconds for one in found if one.error is None]
            self._done_items += len(found)
        return attempt.items, found

    def _look_around(self) -> None:
        """Counts the workers; gives up when there have been none for a while, instead of waiting for ever."""
        now = time.monotonic()
        self._next_look = now + _LOOK_AROUND_S
        self._slots = self._crew.slots(self._gpu)
        if self._slots:
            self._deserted_since = None
            return
        self._deserted_since = self._deserted_since or now
        if now - self._deserted_since >= self._crew.patience_s:
            raise ChunkError(
                f"all Dask workers are gone in stage {self._name}; see their logs for the reason (often memory); "
                "the finished chunks are kept, run the same command again to resume"
            )

    def _help_stragglers(self) -> None:
        """Begins once more, elsewhere, what takes far longer than the rest did, while workers have nothing to do."""
        idle = self._crew.idle(self._gpu)
        if not idle or not self._seconds:
            self._idle_since = None
            return
        now = time.monotonic()
        self._idle_since = self._idle_since or now  # before, it may have waited for others
        usual_s = statistics.median(self._seconds)
        alone = [attempt for attempt in self._under_way.values() if len(attempt.futures) == 1]
        for attempt in alone[:idle]:
            limit_s = max(_STRAGGLES_S, _STRAGGLES * usual_s * len(attempt.items))
            if now - max(attempt.begun, self._idle_since) > limit_s:
                self._begin(attempt)


class _LostError(Exception):
    """The scheduler is gone."""


def _each(items: list[Any], found: list[Called] | BaseException) -> Iterator[tuple[Any, Any, BaseException | None]]:
    """What became of each item of a task."""
    for index, item in enumerate(items):
        yield (item, found[index].result, found[index].error) if isinstance(found, list) else (item, None, found)


def _is_death(found: list[Called] | BaseException) -> bool:
    from distributed import KilledWorker

    return isinstance(found, KilledWorker)


def _losses() -> tuple[type[BaseException], ...]:
    """What Dask raises when the scheduler is gone."""
    from distributed import CancelledError
    from distributed.client import ClosedClientError
    from distributed.comm.core import CommClosedError

    return CancelledError, ClosedClientError, CommClosedError, _LostError


@contextmanager
def _naming_loss(when: str) -> Iterator[None]:
    try:
        yield
    except _losses() as error:
        raise ChunkError(
            f"lost the Dask scheduler {when}; the finished chunks are kept, run the same command again to resume"
        ) from error


def _gib(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB"

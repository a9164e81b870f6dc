"""Work that is done ahead of who asks for its results (floor 1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from geoseg.machine import count_cores

__all__ = ["do_ahead"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST = 4


def do_ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Does the work on a few items at once, on threads; gives what came out in their order.

    Args:
        work: it should let other threads run.
        items: taken by the calling thread, a few before the one whose result is next.
    """
    threads = min(count_cores(), _MOST)
    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[Future[Result]] = deque()
        for item in items:
            under_way.append(pool.submit(work, item))
            if len(under_way) > threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()

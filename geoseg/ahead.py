"""Work that is done ahead of who asks for its results (floor 1)."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

from geoseg.machine import count_cores

__all__ = ["do_ahead", "meanwhile"]

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


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Does some work on a thread while something else goes on, and waits for its end, also where that fails.

    The interpreter must not end while libraries compile, or load what they compiled. What goes wrong is told by who
    needs what was to be made.

    Args:
        work: is given an event that is set when nobody will need what it makes.
    """
    in_vain = threading.Event()

    def run() -> None:
        with suppress(Exception):
            work(in_vain)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        in_vain.set()
        raise
    finally:
        thread.join()

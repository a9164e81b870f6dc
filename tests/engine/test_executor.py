from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest

from geoseg.engine import cluster, dask_executor
from geoseg.engine import executor as rooms
from geoseg.engine.dask_executor import DaskExecutor
from geoseg.engine.executor import open_executor
from geoseg.errors import ChunkError, SceneError, SettingsError, WriteError
from geoseg.settings import Execution


def make_kernels():
    """Kernels defined inside a function travel by value: workers cannot import a test module."""

    def square(job, item):
        return job["offset"] + item * item

    def process(job, item):
        return os.getpid()

    def fail_on_three(job, item):
        if item == 3:
            raise OSError("no space left")
        return item

    def refuse(job, item):
        raise SceneError("the file has changed")

    def fill(job, item):
        raise OSError(errno.ENOSPC, "no space")

    return square, process, fail_on_three, refuse, fill


def make_frail_kernels():
    """The same, of kernels that fail, die or hang."""

    def die(job, item):
        time.sleep(0.3)  # one that dies while it begins is started anew by others, and later
        os._exit(1)

    def fail_twice(job, item):
        """Of the item's tries, each of which leaves a file, the third succeeds."""
        tries = len(list(job.glob(f"{item}-*")))
        (job / f"{item}-{tries}").touch()
        if item == 3 and tries < 2:
            raise OSError("the server is away")
        return tries

    def die_on_ninety(job, item):
        time.sleep(0.02)
        if item == 90:
            with (job / "deaths").open("a") as log:
                log.write(".")
            os._exit(1)
        return item

    def hang_once(job, item):
        """Whoever comes first to item 5 is slow."""
        if item == 5:
            try:
                (job / "hangs").touch(exist_ok=False)
            except FileExistsError:
                return os.getpid()
            time.sleep(60)
        return os.getpid()

    return die, fail_twice, die_on_ninety, hang_once


def make_quick_kernels():
    """The same, of kernels that Dask does several of in a task."""

    class FullError(Exception):
        """One that cannot be sent."""

        def __init__(self, first, second):
            super().__init__(f"{first} and {second}")

    def task(job, item):
        from distributed import get_worker

        return get_worker().get_current_task()

    def nap(job, item):
        time.sleep(0.6)
        return task(job, item)

    def fail_on_some(job, item):
        if item % 7 == 3:
            raise OSError("the server is away") if item % 2 else FullError("no", "never")
        return item

    return task, nap, fail_on_some


square, process, fail_on_three, refuse, fill = make_kernels()
die, fail_twice, die_on_ninety, hang_once = make_frail_kernels()
task, nap, fail_on_some = make_quick_kernels()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(rooms, "_PAUSES_S", (0.0, 0.1))


WAYS = {"serial": Execution(threads=1), "threads": Execution(threads=3), "dask": Execution(workers=2)}


@pytest.fixture(scope="module", params=WAYS)
def executor(request):
    with open_executor(WAYS[request.param]) as opened:
        yield opened


def test_every_item_once_from_a_generator(executor):
    found = {}
    executor.run("square", square, {"offset": 1}, (item for item in range(40)), found.__setitem__)
    assert found == {item: item * item + 1 for item in range(40)}


def test_no_items(executor):
    executor.run("square", square, {"offset": 1}, [], lambda *_: pytest.fail("there is no result"))


def test_a_failure_keeps_the_rest(executor):
    found = []
    with pytest.raises(ChunkError, match=r"1 of 6 chunks failed in stage work.*OSError: no space left.*again"):
        executor.run("work", fail_on_three, {}, range(6), lambda item, _: found.append(item))
    assert sorted(found) == [0, 1, 2, 4, 5]


def test_a_full_disk_ends_it_at_once(executor):
    told = []
    with pytest.raises(WriteError, match="No space left on device"):
        executor.run("write", fill, {}, range(40), lambda *_: None, on_failure=lambda *failure: told.append(failure))
    assert not told


def test_failures_may_be_seen_in_place_of_an_error(executor):
    found, failed = [], {}
    executor.run("work", fail_on_three, {}, range(6), lambda item, _: found.append(item), on_failure=failed.__setitem__)
    assert sorted(found) == [0, 1, 2, 4, 5]
    assert list(failed) == [3]
    assert "no space left" in str(failed[3])


def test_what_fails_is_tried_again_twice(executor, tmp_path):
    found = {}
    executor.run("work", fail_twice, tmp_path, range(6), found.__setitem__)
    assert found == {item: 2 if item == 3 else 0 for item in range(6)}


def test_bad_input_ends_it_at_once(executor):
    with pytest.raises(SceneError, match="has changed"):
        executor.run("refuse", refuse, {}, range(6), lambda *_: None)


def test_dask_works_in_other_processes(executor):
    found = set()
    executor.run("process", process, {}, range(12), lambda _, pid: found.add(pid))
    dask = isinstance(executor, DaskExecutor)
    assert (found == {os.getpid()}) != dask
    assert len(found) == (2 if dask else 1)


def test_threads_are_all_at_work_at_once():
    together = threading.Barrier(3, timeout=20)  # breaks unless three kernels wait there together
    with open_executor(Execution(threads=3)) as opened:
        opened.run("wait", lambda job, item: together.wait(), {}, range(6), lambda *_: None)


@pytest.mark.parametrize(("threads", "how"), [(2, {"waits": True}), (2, {"needs_gpu": True}), (1, {"needs_gpu": True})])
def test_more_are_begun_where_kernels_wait(threads, how):
    """For a network that another uses, or a GPU that all feed."""
    together = threading.Barrier(2 * threads, timeout=20)
    with open_executor(Execution(threads=threads)) as opened:
        opened.run("predict", lambda job, item: together.wait(), {}, range(4 * threads), lambda *_: None, **how)


def test_one_thread_takes_one_after_the_other_whatever_waits():
    here = threading.get_ident()
    found = []
    with open_executor(Execution(threads=1)) as opened:
        opened.run(
            "predict", lambda job, item: threading.get_ident(), {}, range(3), lambda *r: found.append(r), waits=True
        )
    assert found == [(0, here), (1, here), (2, here)]


def test_interrupted_threads_finish_what_is_under_way_and_leave_the_rest():
    begun, finished = [], []

    def kernel(job, item):
        begun.append(item)
        time.sleep(0.05)
        finished.append(item)

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_executor(Execution(threads=2)) as opened:
        opened.run("work", kernel, {}, range(100), interrupt)
    assert sorted(begun) == sorted(finished)
    assert len(begun) < 10


def test_items_are_drawn_as_work_goes_on(executor):
    """A scene may have a million chunks; so many are drawn as are under way at most."""
    drawn, most = 0, 0

    def items():
        nonlocal drawn
        for item in range(1000):
            drawn += 1
            yield item

    seen = 0

    def count(*_):
        nonlocal seen, most
        seen += 1
        most = max(most, drawn - seen)

    executor.run("square", square, {"offset": 0}, items(), count)
    assert most <= (2 * 2 * 32 if isinstance(executor, DaskExecutor) else 6) + 1


def test_what_takes_moments_shares_a_task():
    """Dask takes longer for a task than such a kernel does; what takes long has one for itself."""
    tasks = {}
    with open_executor(Execution(workers=2)) as opened:
        opened.run("quick", task, {}, range(400), tasks.__setitem__)
        assert sorted(tasks) == list(range(400))
        sizes = Counter(tasks.values())
        assert max(sizes.values()) == 32
        assert len(sizes) < 60  # it took so many to find out
        tasks.clear()
        opened.run("slow", nap, {}, range(8), tasks.__setitem__)
        assert len(set(tasks.values())) == 8


def test_failures_in_a_shared_task_are_told_apart(executor):
    found, failed = set(), {}
    executor.run("work", fail_on_some, {}, range(200), lambda item, _: found.add(item), on_failure=failed.__setitem__)
    assert found == {item for item in range(200) if item % 7 != 3}
    assert sorted(failed) == [item for item in range(200) if item % 7 == 3]
    assert all(("server is away" if item % 2 else "no and never") in str(error) for item, error in failed.items())


def test_no_scheduler_at_the_address(monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_TIMEOUT_S", 1)
    with (
        pytest.raises(SettingsError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9"),
        open_executor(Execution(scheduler="tcp://127.0.0.1:9")),
    ):
        pass


def test_a_running_scheduler_is_joined_and_left_running():
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster:
        found = []
        for _ in range(2):
            with open_executor(Execution(scheduler=cluster.scheduler_address)) as joined:
                joined.run("square", square, {"offset": 0}, range(3), lambda _, result: found.append(result))
        assert sorted(found) == [0, 0, 1, 1, 4, 4]


def test_a_scheduler_without_workers_is_refused():
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        pytest.raises(SettingsError, match="has no workers"),
        open_executor(Execution(scheduler=cluster.scheduler_address)),
    ):
        pass


def test_a_chunk_that_ends_its_workers_is_found_out_and_the_rest_is_done(tmp_path):
    """Also what waited beside it each time, and what was in the same task."""
    found, failed = [], {}
    with open_executor(Execution(workers=2)) as opened:
        opened.run(
            "work",
            die_on_ninety,
            tmp_path,
            range(120),
            lambda item, _: found.append(item),
            on_failure=failed.__setitem__,
        )
    assert sorted(found) == [item for item in range(120) if item != 90]
    assert list(failed) == [90]
    assert "it ended every worker that did it, also alone" in str(failed[90])
    assert len((tmp_path / "deaths").read_text()) == 8  # Dask's allowed failures and one more, twice


def test_workers_that_die_whatever_they_do_end_the_stage(monkeypatch):
    """One that is hardly ever there, for it begins slowly and dies at once, counts as gone."""
    monkeypatch.setattr(dask_executor, "_HOPELESS", 1)
    died = r"(die under every|Dask workers are gone).*resume"
    with open_executor(Execution(workers=1)) as opened, pytest.raises(ChunkError, match=died):
        opened.run("die", die, {}, range(100), lambda *_: None)


def test_no_workers_end_the_run(monkeypatch):
    monkeypatch.setattr(dask_executor, "_LOOK_AROUND_S", 0.2)
    monkeypatch.setattr(cluster, "_LOCAL_PATIENCE_S", 1.0)
    with open_executor(Execution(workers=1)) as opened:
        workers = opened._crew.client.cluster
        with pytest.raises(ChunkError, match=r"are gone.*resume"):
            opened.run("work", square, {"offset": 0}, range(1000), lambda *_: workers.scale(0))


def test_a_local_worker_that_is_gone_for_good_is_started_anew(monkeypatch):
    """Its nanny was killed, too."""
    monkeypatch.setattr(dask_executor, "_LOOK_AROUND_S", 0.2)
    monkeypatch.setattr(cluster, "_REVIVE_S", 0.5)
    with open_executor(Execution(workers=1)) as opened:
        nanny = opened._crew.client.cluster.workers[0].process.pid
        killed, found = [], set()

        def kill_once(_, pid):
            found.add(pid)
            if not killed:
                killed.append(nanny)
                os.kill(nanny, signal.SIGKILL)

        opened.run("process", process, {}, range(1000), kill_once)
    assert len(found) == 2


def test_a_straggler_is_begun_once_more_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setattr(dask_executor, "_LOOK_AROUND_S", 0.2)
    monkeypatch.setattr(dask_executor, "_STRAGGLES_S", 1.0)
    found = []
    with open_executor(Execution(workers=2)) as opened:
        start = time.monotonic()
        opened.run("work", hang_once, tmp_path, range(12), lambda *result: found.append(result))
        assert time.monotonic() - start < 20
        assert sorted(item for item, _ in found) == list(range(12))
        assert (tmp_path / "hangs").exists()


def test_small_scenes_run_in_this_process_and_large_ones_on_the_machine(monkeypatch):
    monkeypatch.setattr(rooms, "_fitting_kernels", lambda: 8)
    assert rooms.fit(Execution(), 700, 700, core=768) == (Execution(threads=1, chunk=768), 1)
    assert rooms.fit(Execution(), 2048, 2048, core=768) == (Execution(threads=8, chunk=768), 8)
    assert rooms.fit(Execution(), 100_000, 100_000, core=768) == (Execution(threads=8, chunk=1536), 8)
    assert rooms.fit(Execution(), 100_000, 100_000, core=768, gpus=1) == (Execution(threads=8, chunk=1536), 8)
    assert rooms.fit(Execution(), 100_000, 100_000, core=768, gpus=2) == (Execution(workers=8, chunk=1536), 8)
    assert rooms.fit(Execution(), 700, 700, core=768, gpus=2) == (Execution(workers=2, chunk=768), 2)
    assert rooms.fit(Execution(workers=3, chunk=800), 700, 700, core=768) == (Execution(workers=3, chunk=1536), 3)
    for elsewhere in (Execution(scheduler="tcp://x:1"), Execution(cluster="slurm.yaml")):
        assert rooms.fit(elsewhere, 100_000, 100_000, core=1) == (replace(elsewhere, chunk=2048), 0)
        assert rooms.fit(elsewhere, 3000, 3000, core=1) == (replace(elsewhere, chunk=599), 0)  # 36 for some 16 workers

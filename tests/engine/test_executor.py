from __future__ import annotations

import os

import pytest

from geoseg.engine import executor as rooms
from geoseg.engine.executor import SerialExecutor, open_executor
from geoseg.errors import ChunkError, SceneError, SettingsError
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

    def die(job, item):
        os._exit(1)

    return square, process, fail_on_three, refuse, die


square, process, fail_on_three, refuse, die = make_kernels()


@pytest.fixture(scope="module", params=["serial", "dask"])
def executor(request):
    with open_executor(Execution(serial=True) if request.param == "serial" else Execution(workers=2)) as opened:
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


def test_bad_input_ends_it_at_once(executor):
    with pytest.raises(SceneError, match="has changed"):
        executor.run("refuse", refuse, {}, range(6), lambda *_: None)


def test_dask_works_in_other_processes(executor):
    found = set()
    executor.run("process", process, {}, range(12), lambda _, pid: found.add(pid))
    serial = isinstance(executor, SerialExecutor)
    assert (found == {os.getpid()}) == serial
    assert len(found) == (1 if serial else 2)


def test_no_scheduler_at_the_address():
    with (
        pytest.raises(SettingsError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9"),
        open_executor(Execution(scheduler="tcp://127.0.0.1:9")),
    ):
        pass


def test_a_running_scheduler_is_joined_and_left_running():
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        found = []
        for _ in range(2):
            with open_executor(Execution(scheduler=cluster.scheduler_address)) as joined:
                joined.run("square", square, {"offset": 0}, range(3), lambda _, result: found.append(result))
        assert sorted(found) == [0, 0, 1, 1, 4, 4]


def test_a_scheduler_without_workers_is_refused():
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=0, dashboard_address=None) as cluster,
        pytest.raises(SettingsError, match="has no workers"),
        open_executor(Execution(scheduler=cluster.scheduler_address)),
    ):
        pass


def test_workers_that_all_die_end_the_run(monkeypatch):
    monkeypatch.setattr(rooms, "_LOOK_AROUND_S", 0.5)
    monkeypatch.setattr(rooms, "_GIVE_UP_S", 2.0)
    with open_executor(Execution(workers=1)) as opened, pytest.raises(ChunkError, match="again to resume"):
        opened.run("die", die, {}, range(2), lambda *_: None)


def test_small_scenes_run_in_this_process_and_large_ones_on_the_machine(monkeypatch):
    monkeypatch.setattr(rooms, "fitting_workers", lambda: 8)
    assert rooms.fit(Execution(), 700, 700, core=768) == (Execution(serial=True, chunk=768), 1)
    assert rooms.fit(Execution(), 2048, 2048, core=768) == (Execution(workers=8, chunk=768), 8)
    assert rooms.fit(Execution(), 100_000, 100_000, core=768) == (Execution(workers=8, chunk=1536), 8)
    assert rooms.fit(Execution(workers=3, chunk=800), 700, 700, core=768) == (Execution(workers=3, chunk=1536), 3)
    assert rooms.fit(Execution(scheduler="tcp://x:1"), 10_000, 10_000, core=1)[1] == 0

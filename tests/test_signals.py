"""Stopping: what it ends with, however often it is told."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from geoseg import signals

_LATE = """
import os, signal, sys
from geoseg.signals import stoppable

class Late:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGINT):
        kill(process, number)

signal.late = Late()
try:
    with stoppable(lambda text, last: text):
        if "stopped" in sys.argv:
            os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_a_signal_in_the_interpreters_last_moments_changes_nothing():
    """It ends a process that was not stopped, as ever, which shows that the moment is right."""
    codes = [subprocess.run([sys.executable, "-c", _LATE, *how], check=False).returncode for how in ([], ["stopped"])]
    assert codes == [-2, 130]


_DROPPED = """
import os, signal, sys
from geoseg.signals import stop_if_asked, stoppable

class Dropping:
    def __del__(self, kill=os.kill):
        kill(os.getpid(), signal.SIGINT)

try:
    with stoppable(lambda text, last: text):
        for _ in range(1000):
            Dropping()
            stop_if_asked()
        print("went on")
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_a_stop_that_python_drops_is_raised_again():
    done = subprocess.run([sys.executable, "-c", _DROPPED], check=False, capture_output=True, text=True)
    assert done.returncode == 130
    assert not done.stdout


def test_every_child_is_killed_though_some_have_ended(monkeypatch):
    """A Ctrl-C reaches them, too: one may be gone between the look at them and its turn."""
    ended, going_on = (subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2))
    children = [psutil.Process(ended.pid), psutil.Process(going_on.pid)]
    ended.communicate(b"\n")
    monkeypatch.setattr(psutil.Process, "children", lambda *_, **__: children)
    with going_on:
        signals._kill_children()
        assert going_on.wait(timeout=30) != 0


def test_a_system_may_hide_processes(monkeypatch):
    def hidden(*_, **__):
        raise psutil.AccessDenied(1)

    monkeypatch.setattr(psutil.Process, "children", hidden)
    signals._kill_children()

"""Stopping: what it ends with, however often it is told."""

from __future__ import annotations

import subprocess
import sys

import pytest

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

"""What a run tells while it goes on, and how it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from geoseg.console import Bars

STAGES = ("predict", "sieve", "label", "trace", "join", "export")


@pytest.fixture
def options(subject, tiny_card):
    """A command line without its directory."""
    formats = ["--formats", "geojson,parquet,fgb,gpkg", "--min-area", "9", "--fill-holes", "9"]
    return ["run", subject.scene, "--model", tiny_card, "--chunk", "64", *formats]


def test_lines_of_json(geoseg, options, tmp_path):
    code, _, err = geoseg(*options, "-o", tmp_path / "layers", "--threads=1", "--progress", "json")
    assert code == 0
    events = [json.loads(line) for line in err.splitlines()]
    told = [(event["event"], event.get("stage")) for event in events if event["event"] in {"begin", "end"}]
    assert told == [(event, stage) for stage in STAGES for event in ("begin", "end")]
    of_predict = [event for event in events if event.get("stage") == "predict"]
    assert of_predict[0]["pixels"] == 320 * 384
    assert of_predict[0]["chunks"] == {"total": 30, "reused": 0, "done": 0, "failed": 0}
    assert of_predict[-1]["chunks"] == {"total": 30, "reused": 0, "done": 30, "failed": 0}
    for event in of_predict[1:-1]:
        assert event["event"] == "advance"
        assert 0 < event["pixels"] <= event["of"] == 320 * 384
        assert event["seconds_left"] >= 0
        assert event["pixels_per_second"] > 0
    assert events[-1]["event"] == "result"
    assert set(events[-1]["layers"]) == {"water", "road", "field"}
    assert "water.geojson" in events[-1]["files"]
    code, _, err = geoseg(*options, "-o", tmp_path / "layers", "--progress", "json", "--min-width", "3")
    assert code == 2
    last = json.loads(err.splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("failure", 2)
    assert "min_width_m is" in last["message"]


@pytest.mark.parametrize("how", [["--progress", "none"], ["--progress", "json", "--quiet"]])
def test_nothing_is_told(geoseg, options, tmp_path, how):
    assert geoseg(*options, "-o", tmp_path / "layers", "--threads=1", *how) == (0, "", "")


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # it may hit where a file was just opened
def test_stopped_in_the_middle_of_every_stage(geoseg, options, tmp_path, monkeypatch, subject):
    home = tmp_path / "layers"
    for now in STAGES:

        class Stopping(Bars):
            """Somebody presses Ctrl-C as a stage goes on."""

            stopped_in = now

            def stage(self, name, pixels, chunks=None):
                if name == self.stopped_in:
                    signal.setitimer(signal.ITIMER_REAL, 0.02)
                return super().stage(name, pixels, chunks)

        with monkeypatch.context() as patched:
            patched.setattr("geoseg.console.Bars", Stopping)
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
            code, _, err = geoseg(*options, "-o", home, "--threads=2")
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        assert code == 130, now
        assert err.splitlines()[-1] == "geoseg: stopped; what was finished is kept, the same command again resumes"
        assert "Traceback" not in err
        assert not (home / "run.json").exists()
    assert geoseg(*options, "-o", home, "--threads=2", "--quiet") == (0, "", "")
    subject.assert_whole(home)


@pytest.mark.parametrize("how", ["bar", "json"])
def test_stopped_where_compiled_code_makes_another_error_of_it(geoseg, options, tmp_path, monkeypatch, how):
    class Stopping(Bars):
        def stage(self, name, pixels, chunks=None):
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt as interrupt:
                raise SystemError("returned a result with an exception set") from interrupt

    monkeypatch.setattr("geoseg.console.Bars", Stopping)
    monkeypatch.setattr("geoseg.events.Events.stage", Stopping.stage)
    code, _, err = geoseg(*options, "-o", tmp_path / "layers", "--threads=2", "--progress", how)
    assert code == 130
    assert "stopped; what was finished is kept" in err.splitlines()[-1]
    assert "SystemError" not in err


def _began_with(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("GEOSEG_TEST") == mark and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@pytest.mark.parametrize(("how", "times"), [("--threads=2", 2), ("--workers=2", 1), ("--workers=2", 2)])
def test_ctrl_c_in_a_terminal(options, tmp_path, how, times):
    """Where it reaches the workers, too, and may come twice."""
    command = [sys.executable, "-m", "geoseg", *map(str, options), "-o", str(tmp_path / "layers"), how]
    ours = os.environ | {"GEOSEG_TEST": str(tmp_path)}
    with subprocess.Popen(
        [*command, "--progress", "json"], stderr=subprocess.PIPE, text=True, start_new_session=True, env=ours
    ) as process:
        for line in process.stderr:
            event = json.loads(line)
            if event["event"] == "advance" or (event["event"], event.get("stage")) == ("begin", "trace"):
                break
        for _ in range(times):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.05)
        rest = process.stderr.read()
        assert process.wait(timeout=30) == 130
    told = [json.loads(line) for line in rest.splitlines()]
    assert any("stopping as soon as" in event.get("text", "") for event in told)
    assert (told[-1]["event"], told[-1]["exit_code"]) == ("failure", 130)
    assert "the same command again resumes" in told[-1]["message"]
    deadline = time.monotonic() + 20
    while any(_began_with(process, str(tmp_path)) for process in psutil.process_iter()):  # no worker stays behind
        assert time.monotonic() < deadline
        time.sleep(0.1)

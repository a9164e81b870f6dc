"""The workflows that users copy: Python is run, shell scripts run beside stand-ins for SLURM, YAML is parsed."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine

WORKFLOWS = Path(__file__).parents[2] / "workflows"


@pytest.fixture
def scenes(tmp_path):
    """Two small RGB scenes that overlap."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    random = np.random.default_rng(0)
    pixels = np.kron(random.integers(20, 230, (3, 8, 12)), np.ones((12, 12))).astype(np.uint8)
    for name, col in (("west", 0), ("east", 48)):
        with rasterio.open(
            folder / f"{name}.tif",
            "w",
            driver="GTiff",
            count=3,
            height=96,
            width=96,
            dtype="uint8",
            photometric="RGB",
            crs="EPSG:32633",
            transform=Affine(1, 0, 456_000 + col, 0, -1, 5_402_000),
        ) as raster:
            raster.write(pixels[:, :, col : col + 96])
    return folder


def run(*command: object, code: int = 0, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | environment,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def load(name: str) -> dict[str, Any]:
    """The names that a script defines."""
    return runpy.run_path(str(WORKFLOWS / name))


def test_catalogue(scenes, tmp_path, capsys):
    main = load("catalogue.py")["main"]
    assert main(str(tmp_path / "layers"), str(scenes)) == 0
    assert "west: done" in capsys.readouterr().out
    assert (tmp_path / "layers" / "water.geojson").exists()
    (scenes / "bad.tif").write_bytes(b"")
    assert main(str(tmp_path / "layers"), str(scenes)) == 1
    assert "1 of 3 scenes failed (bad: " in capsys.readouterr().err


def test_gpu_box(scenes, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GEOSEG_DEVICE", "cpu")
    load("gpu_box.py")["main"](str(tmp_path / "layers"), str(scenes / "west.tif"))
    assert "predict: " in capsys.readouterr().out


@pytest.fixture
def slurm(tmp_path):
    """Stand-ins on the PATH: `srun` runs its command here, `sbatch` the script; both note how they were called."""
    programs = tmp_path / "bin"
    programs.mkdir()
    stubs = {
        "srun": 'echo "$@" >> "$CALLS"; while [[ $1 == -* ]]; do shift; done; exec "$@"',
        "sbatch": 'echo "$@" >> "$CALLS"; while [[ $1 == -* ]]; do shift; done; SLURM_JOB_ID=7 exec bash "$@"',
        "geoseg": f'exec {sys.executable} -m geoseg "$@"',
        "dask": f'exec {sys.executable} -m dask "$@"',
        "python": f'exec {sys.executable} "$@"',
    }
    for name, text in stubs.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "CALLS": str(tmp_path / "calls"), "GEOSEG_SHARED": str(tmp_path)}


@pytest.mark.skipif(sys.platform == "win32", reason="SLURM runs on Linux")
def test_slurm_job(scenes, tmp_path, slurm):
    script = WORKFLOWS / "slurm" / "job.sh"
    run("bash", "-n", script)
    layers = tmp_path / "layers"
    slurm |= {"GEOSEG_WORKERS_PER_NODE": "1"}
    (scenes / "bad.tif").write_bytes(b"")
    options = ["--model", "ndwi", "--bands", "1,2", "--quiet"]
    out = run("sbatch", "--nodes=4", script, scenes, "-o", layers, *options, code=1, **slurm)
    assert "1 of 3 scenes failed (bad: " in out
    record = json.loads((layers / "run.json").read_text())
    assert record["executor"] == "1 Dask worker"
    assert [scene["state"] for scene in record["scenes"]] == ["failed", "done", "done"]
    submitted, step = Path(slurm["CALLS"]).read_text().splitlines()
    assert submitted.startswith("--nodes=4")
    assert "dask worker --scheduler-file" in step
    assert not list(tmp_path.glob(".geoseg-scheduler-*")), "the scheduler's file is left"


def test_cluster_files():
    """Each names a kind of cluster that geoseg knows, and options that the kind's class takes."""
    for path, kind in (("slurm", "slurm"), ("kubernetes", "kubernetes")):
        content = yaml.safe_load((WORKFLOWS / path / "cluster.yaml").read_text())
        assert content["cluster"] == kind
        assert content["workers"] > 0
        assert set(content) == {"cluster", "workers", "options"}


def test_kubernetes_job():
    claim, job = yaml.safe_load_all((WORKFLOWS / "kubernetes" / "job.yaml").read_text())
    assert (claim["kind"], job["kind"], job["apiVersion"]) == ("PersistentVolumeClaim", "Job", "batch/v1")
    spec = job["spec"]["template"]["spec"]
    assert spec["restartPolicy"] == "Never"
    (container,) = spec["containers"]
    assert container["args"][0] == "run"
    (volume,) = spec["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert container["volumeMounts"][0]["name"] == volume["name"]
    first = job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert (first["containerName"], first["values"]) == (container["name"], [2]), "bad input is not tried again"


def test_the_image_runs_geoseg():
    lines = (WORKFLOWS / "kubernetes" / "Dockerfile").read_text().splitlines()
    assert any(line.startswith("FROM python:3.") for line in lines)
    assert 'ENTRYPOINT ["geoseg"]' in lines
    assert any("/src[openvino]" in line for line in lines)


def test_readme_shows_each_workflow():
    readme = (WORKFLOWS.parent / "README.md").read_text(encoding="utf-8")
    for name in (
        "one_scene.py",
        "catalogue.py",
        "gpu_box.py",
        "slurm/job.sh",
        "slurm/cluster.yaml",
        "kubernetes/job.yaml",
    ):
        assert f"workflows/{name}" in readme, name

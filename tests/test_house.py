"""The rooms of the house: imports point strictly down, heavy packages stay in their rooms, public names are pinned."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import geoseg

PACKAGE = Path(geoseg.__file__).parent
FLOORS = {
    "ahead": 1,
    "errors": 0,
    "settings": 0,
    "lattice": 0,
    "machine": 0,
    "codes": 0,
    "remote": 0,
    "components": 1,
    "atomic": 1,
    "histograms": 1,
    "resample": 0,
    "signals": 0,
    "rings": 0,
    "scene": 1,
    "grids": 2,
    "shapes": 2,
    "stages": 2,
    "export": 3,
    "models": 3,
    "training": 3,
    "evaluation": 3,
    "engine": 4,
    "console": 5,
    "events": 5,
    "cli": 5,
    "__main__": 6,
}
ROOMS_OF = {
    "dask": {"engine/cluster.py"},
    "distributed": {"engine/admission.py", "engine/cluster.py", "engine/dask_executor.py"},
    "rasterio": {"scene.py", "export/cog.py"},
    "fsspec": {"remote.py", "engine/object_arrays.py", "engine/scenes.py"},
    "zarr": {"engine/arrays.py", "engine/object_arrays.py"},
    "torch": {
        "stages/refine.py",
        "models/architectures.py",
        "models/card.py",
        "models/decision.py",
        "models/download.py",
        "models/folding.py",
        "models/graphs.py",
        "models/heads.py",
        "models/lanes.py",
        "models/quantization.py",
        "models/reach.py",
        "models/rounding.py",
        "models/runtime_graph.py",
        "models/runtime_torch.py",
        "models/runtimes.py",
        "models/tiramisu.py",
        "models/upsampling.py",
        "training/",
        "engine/quantize.py",
    },
    "onnx": {"models/runtime_graph.py"},
    "onnxruntime": {"models/runtime_onnx.py"},
    "openvino": {"models/runtime_openvino.py"},
    "click": {"cli.py"},
    "rich": {"console.py"},
    "cv2": {"training/"},
    "kornia": {"training/augment.py"},
    "pytorch_lightning": {"training/"},
    "PIL": {"training/"},
}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names of all that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "__init__.py"], ids=str)
def test_imports_point_down(path):
    here = FLOORS[room(path)]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "geoseg" and len(parts) > 1 and parts[1] in FLOORS and parts[1] != room(path):
            assert FLOORS[parts[1]] < here or {parts[1], room(path)} in ALLOWED_ON_ONE_FLOOR, f"{path} imports {name}"


ALLOWED_ON_ONE_FLOOR = (
    {"errors", "settings"},
    {"errors", "lattice"},
    {"errors", "remote"},
    {"cli", "console"},
    {"cli", "events"},
    {"training", "models"},
    {"training", "evaluation"},
)


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[0] == "stages"], ids=str)
def test_no_stage_imports_another(path):
    others = {name for name in imports(path) if name.startswith("geoseg.stages")}
    assert not others


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_packages_stay_in_their_rooms(path):
    roots = {name.split(".")[0] for name in imports(path)}
    for package, rooms in ROOMS_OF.items():
        if package in roots:
            assert any(str(path.as_posix()).startswith(allowed) for allowed in rooms), f"{path} imports {package}"


def test_public_names_are_pinned_and_there():
    assert geoseg.__all__ == [
        "Card",
        "CatalogueResult",
        "EvaluationSettings",
        "Execution",
        "GeosegError",
        "Plan",
        "Result",
        "RunSettings",
        "Scene",
        "Trained",
        "VectorSettings",
        "evaluate",
        "make_plan",
        "models",
        "run",
        "run_catalogue",
        "train",
        "vectorize",
    ]
    for name in geoseg.__all__:
        assert getattr(geoseg, name) is not None
    with pytest.raises(AttributeError, match="nonesuch"):
        geoseg.nonesuch  # noqa: B018


def test_command_line_starts_without_heavy_packages():
    code = "import sys, geoseg.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "rasterio", "torch", "dask", "distributed", "geopandas", "numba", "rich"} & set(loaded)

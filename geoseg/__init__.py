"""geoseg: a GeoTIFF of any size in, georeferenced polygon layers out.

>>> import geoseg
>>> result = geoseg.run("scene.tif", "layers")        # doctest: +SKIP
>>> result.layers["water"].area_m2                    # doctest: +SKIP
>>> fields = result.layer("field")  # a GeoDataFrame  # doctest: +SKIP
>>> geoseg.run_catalogue("scenes/", "layers")         # doctest: +SKIP

Heavy packages are imported when a name is first used, so ``import geoseg`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from geoseg.machine import place_kernels

if TYPE_CHECKING:
    from geoseg.engine.catalogue import CatalogueResult, run_catalogue
    from geoseg.engine.plan import Plan, make_plan
    from geoseg.engine.result import Result
    from geoseg.engine.workflow import run, vectorize
    from geoseg.errors import GeosegError
    from geoseg.evaluation.evaluate import evaluate
    from geoseg.models.card import Card
    from geoseg.models.zoo import available as models
    from geoseg.scene import Scene
    from geoseg.settings import EvaluationSettings, Execution, RunSettings, VectorSettings
    from geoseg.training.train import Trained, train

__all__ = [
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

place_kernels()  # before anything loads numba

_ROOMS = {
    "Card": ("geoseg.models.card", "Card"),
    "CatalogueResult": ("geoseg.engine.catalogue", "CatalogueResult"),
    "EvaluationSettings": ("geoseg.settings", "EvaluationSettings"),
    "Execution": ("geoseg.settings", "Execution"),
    "GeosegError": ("geoseg.errors", "GeosegError"),
    "Plan": ("geoseg.engine.plan", "Plan"),
    "Result": ("geoseg.engine.result", "Result"),
    "RunSettings": ("geoseg.settings", "RunSettings"),
    "Scene": ("geoseg.scene", "Scene"),
    "Trained": ("geoseg.training.train", "Trained"),
    "VectorSettings": ("geoseg.settings", "VectorSettings"),
    "evaluate": ("geoseg.evaluation.evaluate", "evaluate"),
    "make_plan": ("geoseg.engine.plan", "make_plan"),
    "models": ("geoseg.models.zoo", "available"),
    "run": ("geoseg.engine.workflow", "run"),
    "run_catalogue": ("geoseg.engine.catalogue", "run_catalogue"),
    "train": ("geoseg.training.train", "train"),
    "vectorize": ("geoseg.engine.workflow", "vectorize"),
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'geoseg' has no attribute {name!r}")
    room, word = _ROOMS[name]
    value = getattr(import_module(room), word)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

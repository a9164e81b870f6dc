"""Masks and confidences of a run as files, written while the vector half goes on (floor 4)."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from geoseg.codes import NODATA
from geoseg.engine.plan import Pass, Plan
from geoseg.engine.store import PREDICTED, Store
from geoseg.export.cog import write_cog
from geoseg.remote import Place

__all__ = ["writing_rasters"]

_AT_ONCE = 2  # mask and confidence; GDAL compresses without holding the interpreter


@contextmanager
def writing_rasters(plan: Plan, stores: Mapping[str, Store], directory: Place) -> Iterator[Callable[[], list[Place]]]:
    """Writes the rasters of all passes on threads of their own.

    Args:
        plan: of the run.
        stores: of the passes, whose predictions are complete.
        directory: where the files go.

    Yields:
        A function that waits for them and returns their paths; it raises what went wrong. Without waiting for it, what
        has begun is finished when the context ends, and the rest is left.
    """
    writers = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="geoseg-write")
    try:
        begun = [
            writers.submit(_write, plan, part, array, stores[part.name], directory)
            for part in plan.passes
            for array in PREDICTED
        ]
        yield lambda: [path for future in begun for path in future.result()]
    finally:
        writers.shutdown(cancel_futures=True)


def _write(plan: Plan, part: Pass, array: str, store: Store, directory: Place) -> list[Place]:
    """Writes one raster; returns its path, and that of its side file if it has one."""
    path = directory / plan.raster_name(part, array)
    write_cog(
        path,
        store.array(array),
        transform=part.grid.transform,
        crs=part.grid.crs,
        nodata=NODATA,
        tags={
            "MODEL": f"{part.name} {part.card.version}",
            "GENERATOR": f"geoseg {importlib.metadata.version('geoseg')}",
        },
        **(_of_mask(part) if array == "mask" else _OF_CONFIDENCE),
    )
    beside = path.with_name(f"{path.name}.aux.xml")
    return [path, *([beside] if beside.exists() else [])]


_OF_CONFIDENCE: dict[str, Any] = {"overview_resampling": "average", "description": "confidence (0-254 = 0-1)"}


def _of_mask(part: Pass) -> dict[str, Any]:
    return {
        "colours": {0: (0, 0, 0, 0)} | {entry.code: (*entry.colour, 255) for entry in part.card.classes},
        "categories": {0: "background"} | {entry.code: entry.name for entry in part.card.classes},
        "overview_resampling": "mode",
        "description": "class",
    }

"""The windows of a run that could not be predicted: what is told of them, and where they lie (floor 4)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import shapely

from geoseg.atomic import staged
from geoseg.codes import NODATA
from geoseg.engine.faults import reason_of
from geoseg.engine.plan import Pass
from geoseg.engine.result import FAILED, FailedWindow
from geoseg.engine.store import PREDICTED, Store
from geoseg.errors import InputError
from geoseg.export.lonlat import to_lonlat
from geoseg.lattice import Chunk, Window
from geoseg.remote import Place

__all__ = ["blank", "failed_windows", "write_failed"]


def blank(store: Store, failures: Mapping[Chunk, BaseException]) -> None:
    """Makes chunks that failed nodata: one of them may have been written in part."""
    for chunk in failures:
        for name in PREDICTED:
            pixels = store.read(name, chunk.window)
            if (pixels != NODATA).any():
                pixels.fill(NODATA)
                store.write(chunk, {name: pixels})


def failed_windows(part: Pass, failures: Mapping[Chunk, BaseException]) -> list[FailedWindow]:
    """What is told of the chunks that a pass could not predict, in row-major order."""
    return [
        FailedWindow(
            stage="predict",
            model=part.name,
            window=(chunk.window.col_off, chunk.window.row_off, chunk.window.width, chunk.window.height),
            bounds=_bounds(part, chunk.window),
            reason=reason_of(failures[chunk]),
        )
        for chunk in sorted(failures, key=lambda chunk: (chunk.row, chunk.col))
    ]


def _bounds(part: Pass, window: Window) -> tuple[float, float, float, float] | None:
    west, south, east, north = (round(degrees, 7) for degrees in part.grid.crop(window).bounds_lonlat)
    return (west, south, east, north) if all(map(math.isfinite, (west, south, east, north))) else None


def write_failed(directory: Place, passes: Sequence[Pass], failed: Sequence[FailedWindow]) -> Place:
    """Writes where windows failed as GeoJSON (RFC 7946), a polygon for each, and returns its path.

    Properties are those of :class:`FailedWindow`, the window as (col_off, row_off, width, height).
    """
    grids = {part.name: part.grid for part in passes}
    features = []
    for window in failed:
        grid = grids[window.model]
        col, row, width, height = window.window
        corners = ((col, row), (col, row + height), (col + width, row + height), (col + width, row))
        geometry = _on_the_globe(shapely.Polygon([grid.transform @ corner for corner in corners]), grid.crs)
        about = {"stage": window.stage, "model": window.model, "window": window.window, "reason": window.reason}
        features.append({"type": "Feature", "properties": about, "geometry": geometry})
    text = ",\n".join(json.dumps(feature, ensure_ascii=False) for feature in features)
    path = directory / FAILED
    with staged(path) as inside:
        inside.write_text(
            f'{{"type": "FeatureCollection", "name": "failed", "features": [\n{text}\n]}}\n', encoding="utf-8"
        )
    return path


def _on_the_globe(polygon: shapely.Polygon, crs: Any) -> dict[str, Any] | None:
    """A polygon as GeoJSON; nothing where it lies off the earth."""
    try:
        geometry = to_lonlat([polygon], crs)[0]
    except InputError:
        return None
    return None if geometry is None else dict(shapely.geometry.mapping(geometry))

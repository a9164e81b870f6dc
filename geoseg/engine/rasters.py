"""Masks and confidences of a run as files, written while it predicts and while the vector half goes on (floor 4)."""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.codes import NODATA
from geoseg.engine.plan import Pass, Plan
from geoseg.engine.store import PREDICTED, Store
from geoseg.lattice import Chunk
from geoseg.remote import Place

__all__ = ["Rasters", "writing_rasters"]

_AT_ONCE = 2  # mask and confidence; GDAL compresses without holding the interpreter


class Rasters:
    """The files that are being written. Writers wait for each chunk until it is told to be settled.

    Args:
        passes: by name, how many chunks lie in a column and in a row.
    """

    def __init__(self, passes: Mapping[str, tuple[int, int]]) -> None:
        self._settled = {name: np.zeros(shape, np.bool_) for name, shape in passes.items()}
        self._changed = threading.Condition()
        self._stopped = False
        self._begun: list[Future[list[Place]]] = []

    def settle(self, parts: Sequence[str], chunks: Iterable[Chunk]) -> None:
        """These chunks of some passes are predicted."""
        with self._changed:
            for chunk in chunks:
                for part in parts:
                    self._settled[part][chunk.row, chunk.col] = True
            self._changed.notify_all()

    def settle_rest(self) -> None:
        """All others will be no more than they are."""
        with self._changed:
            for settled in self._settled.values():
                settled[:] = True
            self._changed.notify_all()

    def finish(self) -> list[Place]:
        """Waits for the files and returns their paths.

        Raises:
            OutputError: one cannot be written.
        """
        return [path for future in self._begun for path in future.result()]

    def begin(self, future: Future[list[Place]]) -> None:
        """Something more to wait for in the end."""
        self._begun.append(future)

    def stop(self) -> None:
        """Nothing more will be settled: who waits is let go, with an error."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def wait(self, part: str, chunks: tuple[slice, slice]) -> None:
        """Waits until chunks are settled, given by rows and columns."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._settled[part][chunks].all())
            if not self._settled[part][chunks].all():
                raise _StoppedError


class _StoppedError(Exception):
    """The run ended before."""


@dataclass(frozen=True, slots=True)
class _Coming:
    """An array of a store, of which a window can be read once its chunks are settled."""

    rasters: Rasters
    part: str
    array: Any
    chunk: int

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.array.shape
        return rows, cols

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return np.dtype(np.uint8)

    @property
    def chunks(self) -> tuple[int, int]:
        return self.chunk, self.chunk

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[np.uint8]:
        rows, cols = (slice(axis.start // self.chunk, -(-axis.stop // self.chunk)) for axis in window)
        self.rasters.wait(self.part, (rows, cols))
        pixels: NDArray[np.uint8] = np.asarray(self.array[window])
        return pixels


@contextmanager
def writing_rasters(plan: Plan, stores: Mapping[str, Store], directory: Place) -> Iterator[Rasters]:
    """Writes the rasters of all passes on threads of their own.

    Args:
        plan: of the run.
        stores: of the passes.
        directory: where the files go.

    Yields:
        What they are told and asked by. If the context ends before all chunks are settled, no file appears that was
        not complete.
    """
    rasters = Rasters({part.name: part.lattice.chunk_shape for part in plan.passes})
    writers = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="geoseg-write")
    try:
        for part in plan.passes:
            for array in PREDICTED:
                data = _Coming(rasters, part.name, stores[part.name].array(array), part.lattice.chunk)
                rasters.begin(writers.submit(_write, plan, part, array, data, directory))
        yield rasters
    finally:
        rasters.stop()
        writers.shutdown(cancel_futures=True)


def _write(plan: Plan, part: Pass, array: str, data: _Coming, directory: Place) -> list[Place]:
    """Writes one raster; returns its path, and that of its side file if it has one."""
    from geoseg.export.cog import write_cog

    path = directory / plan.raster_name(part, array)
    write_cog(
        path,
        data,
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

"""What a worker does with one chunk: read a window, call a stage, write the chunk (floor 4).

Every kernel takes a job (what all chunks share) and an item (coordinates and small metadata) and returns small
metadata. The same functions run in this process and on Dask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from geoseg.codes import NODATA
from geoseg.engine.store import Store
from geoseg.errors import ModelError, SceneError
from geoseg.lattice import Chunk, Lattice, Window
from geoseg.models.card import Card
from geoseg.models.runtimes import TorchRuntime
from geoseg.scene import Scene
from geoseg.stages.instances import Border, Faces, find_faces
from geoseg.stages.predict import predict_chunk
from geoseg.stages.trace import trace_chunk

__all__ = ["MaskSource", "PredictJob", "SceneMask", "TraceItem", "VectorJob", "label", "predict", "trace"]


@dataclass(frozen=True, slots=True)
class PredictJob:
    """What every chunk of a prediction shares.

    Attributes:
        scene: on the grid of the run.
        within: pixels outside it are nodata (a ``--bbox``); ``None`` for the whole scene.
        bands: 1-based indexes, in the card's order.
        scale: see ``stages.predict.to_uint8``.
        model: the card's path.
        model_digest: the card's digest, as the run was planned with it.
        lattice: of the run.
        device: resolved.
        precision: resolved.
        store: where results go.
    """

    scene: Scene
    within: Window | None
    bands: tuple[int, ...]
    scale: tuple[float, float] | None
    model: Path
    model_digest: str
    lattice: Lattice
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    store: Store


@lru_cache(maxsize=2)
def _runtime(
    model: Path, digest: str, device: Literal["cpu", "cuda"], precision: Literal["fp32", "bf16"], halo: int
) -> tuple[Card, TorchRuntime]:
    """The model, loaded once per process.

    Raises:
        ModelError: the file is not the model that the run was planned with.
    """
    card = Card.read(model)
    if card.digest != digest:
        raise ModelError(f"{model} is another model here than where the run began; give all workers the same one")
    return card, TorchRuntime(card, device=device, precision=precision, halo=halo)


def predict(job: PredictJob, chunk: Chunk) -> int:
    """Predicts a chunk into the store.

    Returns:
        pixels with data.
    """
    card, infer = _runtime(job.model, job.model_digest, job.device, job.precision, job.lattice.halo)
    mask, confidence = predict_chunk(
        job.lattice.tiles(chunk),
        chunk.window,
        read=lambda window: job.scene.read(window, job.bands),
        infer=infer,
        batch=infer.batch,
        fill=np.array(card.mean).round().astype(np.uint8),
        scale=job.scale,
    )
    if job.within is not None:
        outside = np.ones(mask.shape, dtype=bool)
        inside = job.within.intersection(chunk.window)
        if inside is not None:
            outside[inside.slices(chunk.window)] = False
        mask[outside] = confidence[outside] = NODATA
    job.store.write(chunk, mask, confidence)
    return int(np.count_nonzero(mask != NODATA))


class MaskSource(Protocol):
    """Where the vector half reads: the store of a run, or a mask raster."""

    def read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Mask and confidence of a window, each (rows, cols) uint8."""
        ...


@dataclass(frozen=True, slots=True)
class SceneMask:
    """A mask raster of any tool: one band of class codes 0-254; nodata becomes 255."""

    scene: Scene

    def read(self, window: Window) -> tuple[NDArray[np.uint8], None]:
        """See :meth:`MaskSource.read`.

        Raises:
            SceneError: a code outside 0-254, or one that is not a whole number.
        """
        pixels, valid = self.scene.read(window, (1,))
        codes = np.where(valid, pixels[0], 0)
        mask = codes.astype(np.uint8)
        if not np.array_equal(mask, codes) or (mask == NODATA).any():
            raise SceneError(
                f"{self.scene.shown} holds values from {codes.min()} to {codes.max()} that are no class codes; "
                "give a mask of whole numbers 0-254 with its nodata value declared"
            )
        mask[~valid] = NODATA
        return mask, None


@dataclass(frozen=True, slots=True)
class VectorJob:
    """What every chunk of a vectorization shares.

    Attributes:
        source: where mask and confidence come from.
        scene_shape: (rows, cols) of the whole mask.
        store: where fragments go.
    """

    source: MaskSource
    scene_shape: tuple[int, int]
    store: Store


def label(job: VectorJob, chunk: Chunk) -> tuple[Faces, int]:
    """Labels a chunk; returns what touches its edges, and how many pixels have data."""
    mask, _ = job.source.read(chunk.window)
    return find_faces(mask, chunk.window, job.scene_shape), int(np.count_nonzero(mask != NODATA))


TraceItem: TypeAlias = tuple[Chunk, Border]


def trace(job: VectorJob, item: TraceItem) -> int:
    """Traces a chunk's boundaries into the store.

    Returns:
        pixels of the chunk.
    """
    chunk, border = item
    mask, confidence = job.source.read(chunk.window)
    fragment = trace_chunk(mask, confidence, border, chunk.window, job.scene_shape)
    job.store.write_fragment(chunk, fragment.to_arrays())
    return chunk.window.area

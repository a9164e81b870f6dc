"""What a worker does with one chunk of a prediction: read its tiles, ask the networks, write the chunk (floor 4).

Networks are opened once in a process, and all of its threads share them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from geoseg.ahead import meanwhile
from geoseg.codes import NODATA
from geoseg.engine.store import PREDICTED, Store
from geoseg.errors import ModelError
from geoseg.lattice import Chunk, Lattice, Tile, Window
from geoseg.machine import count_cores
from geoseg.models.card import Card, InputType
from geoseg.models.runtimes import Resolved, Runtime, open_decision, open_runtime, open_scorer
from geoseg.scene import Scene
from geoseg.settings import Arithmetic, Refinement, Stitch, Tta
from geoseg.stages.blend import Blend, tile_weights
from geoseg.stages.predict import Network, converter, predict_chunk

__all__ = ["PredictJob", "PredictShare", "fill_of", "forget_networks", "opening_networks", "predict"]


@dataclass(frozen=True, slots=True)
class PredictShare:
    """What one pass adds to a prediction.

    Attributes:
        model: the card's path.
        model_digest: the card's digest, as the run was planned with it.
        runtime: resolved.
        precision: resolved.
        tta: views of a tile whose scores are averaged.
        thresholds: of the scene, for models that need them.
        store: where mask and confidence go.
    """

    model: Path
    model_digest: str
    runtime: Resolved
    precision: Arithmetic
    tta: Tta
    thresholds: tuple[float, ...] | None
    store: Store


@dataclass(frozen=True, slots=True)
class PredictJob:
    """What every chunk of a prediction shares. Passes that are shown the same pixels are predicted together.

    Attributes:
        scene: on the grid of the passes.
        within: pixels outside it are nodata (a ``--bbox``); ``None`` for the whole scene.
        bands: 1-based indexes, in the cards' order.
        dtype: of the values that the models take.
        scale: see ``stages.predict.to_uint8``.
        lattice: of the passes.
        device: resolved.
        stitch: how tiles become one mask.
        refine: how scores are refined.
        shares: of the passes.
        at_once: calls of each network that run at the same time in a process, on a CPU; 0 is one for each core.
        spare: how many networks of other jobs stay loaded, because these will come again.
    """

    scene: Scene
    within: Window | None
    bands: tuple[int, ...]
    dtype: InputType
    scale: tuple[float, float] | None
    lattice: Lattice
    device: Literal["cpu", "cuda"]
    stitch: Stitch
    refine: Refinement
    shares: tuple[PredictShare, ...]
    at_once: int
    spare: int = 0

    def tiles(self, chunk: Chunk) -> Iterator[Tile]:
        """What is predicted for a chunk: its own tiles, or with blending all that hold a pixel of it."""
        lattice = self.lattice
        return lattice.tiles(chunk) if self.stitch == "crop" else lattice.tiles_reaching(chunk, self.within)

    def lacking(self, chunk: Chunk) -> list[PredictShare]:
        """The shares that have not predicted a chunk yet."""
        return [share for share in self.shares if not share.store.is_predicted(chunk)]


_Key: TypeAlias = tuple[Callable[..., Runtime], Path, str, int, tuple[tuple[str, Any], ...]]
"""what opens a network (``open_runtime`` or ``open_scorer``), card, digest, tile, and arguments by name"""

# of this process, the one asked for last at the end; all threads share them
_networks: dict[_Key, tuple[Card, Runtime]] = {}
_opening = threading.Lock()


def forget_networks(but: Collection[_Key] = (), spare: int = 0) -> None:
    """Frees the memory of the networks of this process, but for some and a few of those that were used last."""
    if set(_networks) <= set(but):  # not to wait for one that is being opened
        return
    with _opening:
        others = [key for key in _networks if key not in but]
        for key in others[: max(len(others) - spare, 0)]:
            del _networks[key]


def _key(job: PredictJob, share: PredictShare) -> _Key:
    how: dict[str, Any] = {"runtime": share.runtime, "device": job.device, "precision": share.precision}
    how |= {"refine": job.refine, "tta": share.tta, "at_once": job.at_once or count_cores()}
    opens: Callable[..., Runtime] = open_scorer
    if job.stitch == "crop":
        opens, how = open_runtime, how | {"halo": job.lattice.halo, "thresholds": share.thresholds}
    return opens, share.model, share.model_digest, job.lattice.tile_size, tuple(how.items())


def _open(key: _Key) -> tuple[Card, Runtime]:
    """A network, loaded once in a process.

    Raises:
        ModelError: the file is not the model that the run was planned with.
    """
    with _opening:
        if key not in _networks:
            opens, model, digest, tile, how = key
            card = Card.read(model)
            if card.digest != digest:
                raise ModelError(
                    f"{model} is another model here than where the run began; give all workers the same one"
                )
            _networks[key] = card, opens(replace(card, tile=tile), **dict(how))
        _networks[key] = network = _networks.pop(key)
        return network


@contextmanager
def opening_networks(job: PredictJob) -> Iterator[None]:
    """Opens a job's networks on a thread while the caller gets ready for its chunks.

    What goes wrong is told by the chunk that asks for the network. What was opened for a caller that fails is freed.
    """

    def prepare(in_vain: threading.Event) -> None:
        _forget_others(job)
        for share in job.shares:
            if not in_vain.is_set():
                _open(_key(job, share))

    try:
        with meanwhile(prepare):
            yield
    except BaseException:
        if not job.spare:
            forget_networks()
        raise


def _forget_others(job: PredictJob) -> None:
    forget_networks(but=[_key(job, share) for share in job.shares], spare=job.spare)


def _network(job: PredictJob, share: PredictShare) -> Network:
    card, infer = _open(_key(job, share))
    if job.stitch == "crop":
        return Network(infer, infer.batch, fill_of(card))
    blend = partial(
        Blend,
        weights=tile_weights(job.stitch, job.lattice.tile_size, job.lattice.core),
        core=job.lattice.core,
        planes=card.planes,
        decide=open_decision(card),
    )
    return Network(infer, infer.batch, fill_of(card), blend)


def fill_of(card: Card) -> NDArray[Any]:
    """What a model sees where there is no data: the mean of what it was trained on, (bands,) of the type it takes."""
    mean = np.array(card.mean)
    return mean.round().astype(np.uint8) if card.dtype == "uint8" else mean.astype(np.float32)


def predict(job: PredictJob, chunk: Chunk) -> None:
    """Predicts a chunk into the stores of the passes that lack it; each tile is read once for all of them."""
    shares = job.lacking(chunk)
    if not shares:  # a retry of what another worker finished
        return
    _forget_others(job)
    results = predict_chunk(
        job.tiles(chunk),
        chunk.window,
        read=lambda window: job.scene.read(window, job.bands),
        convert=converter(job.dtype, job.scale),
        networks=(_network(job, share) for share in shares),
    )
    for share, (mask, confidence) in zip(shares, results, strict=True):
        if job.within is not None:
            outside = np.ones(mask.shape, dtype=bool)
            inside = job.within.intersection(chunk.window)
            if inside is not None:
                outside[inside.slices(chunk.window)] = False
            mask[outside] = confidence[outside] = NODATA
        share.store.write(chunk, dict(zip(PREDICTED, (mask, confidence), strict=True)))
        share.store.mark_predicted(chunk)

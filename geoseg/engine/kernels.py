"""What a worker does with one chunk: read a window, call a stage, write the chunk (floor 4).

Every kernel takes a job (what all chunks share) and an item (coordinates and small metadata) and returns small
metadata. The same functions run in this process and on Dask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
from affine import Affine
from numpy.typing import NDArray

from geoseg.codes import NODATA
from geoseg.engine.store import Store
from geoseg.errors import SceneError
from geoseg.export.rows import make_rows, with_lonlat, write_rows
from geoseg.lattice import Chunk, Window
from geoseg.remote import Place
from geoseg.rings import Arcs, Polygons
from geoseg.scene import Scene
from geoseg.settings import SimplifyMethod
from geoseg.stages.assemble import Rings, assemble
from geoseg.stages.confidence import count_confidence
from geoseg.stages.cores import grow_cores
from geoseg.stages.instances import Border, Faces, find_faces, label_chunk, merge_faces
from geoseg.stages.join import Domain, Fragment, Instances, Joiner, finished_arcs, share_out
from geoseg.stages.opening import halo_px, open_classes
from geoseg.stages.polygons import Ground
from geoseg.stages.sieve import SieveDecision, SieveFaces, SieveRules, find_small, merge_small, sieve_chunk
from geoseg.stages.simplify import reach_px, simplify_arcs
from geoseg.stages.trace import trace_chunk

__all__ = [
    "LABEL",
    "Changes",
    "CleanJob",
    "FindItem",
    "Labelled",
    "MaskSource",
    "SceneMask",
    "SieveItem",
    "StoredMask",
    "TraceItem",
    "VectorJob",
    "check",
    "find_small_components",
    "label",
    "label_window",
    "open_mask",
    "prepare",
    "sieve",
    "trace",
    "vectorize_window",
]


LABEL = "label"
"""The step of :func:`label`; cleaning has several, see :class:`CleanJob`."""


class MaskSource(Protocol):
    """Where the vector half reads: a mask raster, or a mask in the store."""

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Class codes of a window, (rows, cols) uint8; 255 is nodata."""
        ...

    def read_confidence(self, window: Window) -> NDArray[np.uint8] | None:
        """Confidence of the same pixels, 0-254; 255 and None are unknown."""
        ...

    def cleaned(self, store: Store, array: str) -> StoredMask:
        """The same scene after a stage rewrote the mask into an array of the store."""
        ...


@dataclass(frozen=True, slots=True)
class StoredMask:
    """A mask in the store: as predicted, or as a stage rewrote it.

    Attributes:
        store: of the run.
        array: name of the mask.
        confidence: name of the confidence, if there is one.
    """

    store: Store
    array: str
    confidence: str | None

    def read(self, window: Window) -> NDArray[np.uint8]:
        """See :meth:`MaskSource.read`."""
        return self.store.read(self.array, window)

    def read_confidence(self, window: Window) -> NDArray[np.uint8] | None:
        """See :meth:`MaskSource.read_confidence`."""
        return None if self.confidence is None else self.store.read(self.confidence, window)

    def cleaned(self, store: Store, array: str) -> StoredMask:
        """See :meth:`MaskSource.cleaned`."""
        return StoredMask(store, array, self.confidence)


@dataclass(frozen=True, slots=True)
class SceneMask:
    """A mask raster of any tool: one band of class codes 0-254; nodata becomes 255."""

    scene: Scene

    def read(self, window: Window) -> NDArray[np.uint8]:
        """See :meth:`MaskSource.read`.

        Raises:
            SceneError: a code outside 0-254, or one that is not a whole number.
        """
        pixels, valid = self.scene.read(window, (1,))
        codes = pixels[0]
        gaps = None if valid.all() else ~valid
        if gaps is not None:
            codes[gaps] = 0
        mask: NDArray[np.uint8] = codes.astype(np.uint8, copy=False)
        if (mask is not codes and not np.array_equal(mask, codes)) or mask.max() == NODATA:
            raise SceneError(
                f"{self.scene.shown} holds values from {codes.min()} to {codes.max()} that are no class codes; "
                "give a mask of whole numbers 0-254 with its nodata value declared"
            )
        if gaps is not None:
            mask[gaps] = NODATA
        return mask

    def read_confidence(self, window: Window) -> None:
        """See :meth:`MaskSource.read_confidence`: a mask raster has none."""

    def cleaned(self, store: Store, array: str) -> StoredMask:
        """See :meth:`MaskSource.cleaned`."""
        return StoredMask(store, array, None)


@dataclass(frozen=True, slots=True)
class CleanJob:
    """What every chunk of a cleaning pass shares.

    Attributes:
        source: the mask before.
        store: where the mask after goes, and what is found out.
        step: under which name: of the array, and of what was found.
        rules: what is small.
        width_px: least width of a class's parts, pixels.
    """

    source: MaskSource
    store: Store
    step: str
    rules: SieveRules
    width_px: int

    @property
    def cleaned(self) -> StoredMask:
        """The mask after."""
        return self.source.cleaned(self.store, self.step)


def open_mask(job: CleanJob, chunk: Chunk) -> None:
    """Gives what is too narrow in a chunk to its neighbours."""
    rows, cols = job.rules.scene_shape
    window = chunk.window
    around = window.pad(halo_px(job.width_px)).intersection(Window(0, 0, cols, rows)) or window
    mask = job.source.read(around)
    opened = open_classes(mask, job.width_px, job.rules.boundaries)
    job.store.write(chunk, {job.step: opened[window.slices(around)]})
    job.store.write_found(job.step, chunk, {})


FindItem: TypeAlias = tuple[Chunk, NDArray[np.int64] | None]


def find_small_components(job: CleanJob, item: FindItem) -> SieveFaces:
    """Finds what is small in a chunk, or may be; in later turns, of what waits there."""
    chunk, waiting = item
    faces = find_small(job.source.read(chunk.window), chunk.window, job.rules, waiting)
    job.store.write_found(job.step, chunk, faces.to_arrays())
    return faces


SieveItem: TypeAlias = tuple[Chunk, SieveDecision | None]


class Changes(NamedTuple):
    """What a turn did to a chunk.

    Attributes:
        pixels: how many of them changed, int64 ``()``.
        waiting: what waits inside for the next turn, see :class:`geoseg.stages.sieve.Sieved`.
    """

    pixels: NDArray[np.int64]
    waiting: NDArray[np.int64]


def sieve(job: CleanJob, item: SieveItem) -> Changes:
    """Rewrites a chunk without what is small.

    Args:
        job: the turn.
        item: the chunk, and what was decided about it: ``None`` if nothing in it is small.
    """
    chunk, decision = item
    mask = job.source.read(chunk.window)
    if decision is None:
        changes = Changes(np.array(0), np.zeros(0, np.int64))
    else:
        mask, changed, waiting = sieve_chunk(mask, decision, job.rules)
        changes = Changes(np.array(changed), waiting)
    job.store.write(chunk, {job.step: mask})
    job.store.write_found(job.step, chunk, changes._asdict())
    return changes


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorJob:
    """What every chunk of a vectorization shares.

    Attributes:
        source: where mask and confidence come from.
        store: where rows and fragments go.
        ground: of the scene.
        tolerance_px: of the simplification, pixels; 0 keeps every vertex.
        method: of the simplification.
        smooth: whether pixel stairs become slanted lines first.
        boundaries: code of each split class, to the code of its boundary.
        growth_px: how far cores grow into their boundary.
        lonlat: whether rows are written with longitudes and latitudes.
    """

    source: MaskSource
    store: Store
    ground: Ground
    tolerance_px: float
    method: SimplifyMethod
    smooth: bool
    boundaries: tuple[tuple[int, int], ...]
    growth_px: int
    lonlat: bool

    @property
    def scene_shape(self) -> tuple[int, int]:
        """(rows, cols) of the scene."""
        return self.ground.shape

    @property
    def reach_px(self) -> int:
        """How far from an arc other boundaries matter to it, pixels."""
        return reach_px(self.tolerance_px, self.method) if self.tolerance_px else 0

    def simplify(self, arcs: Arcs, chosen: NDArray[np.bool_], obstacles: NDArray[np.int32]) -> Arcs:
        """Simplifies the chosen arcs, see :func:`geoseg.stages.simplify.simplify_arcs`."""
        if not (self.tolerance_px or self.smooth):
            return arcs
        return simplify_arcs(
            arcs, chosen, obstacles, tolerance_px=self.tolerance_px, method=self.method, smooth=self.smooth
        )

    def assemble(
        self, arcs: Arcs, darts: NDArray[np.int64], following: NDArray[np.int64], owner: NDArray[np.int64]
    ) -> Rings:
        """Closes rings, see :func:`geoseg.stages.assemble.assemble`; unsimplified ones are GDAL's."""
        return assemble(arcs, darts, following, owner, keep_straight=bool(self.tolerance_px or self.smooth))

    def write(self, name: str, polygons: Polygons) -> Place:
        """Writes the rows of finished polygons to the store, see :func:`geoseg.export.rows.write_rows`."""
        path = self.store.rows_path(name)
        write_rows(path, polygons, self.ground, lonlat=self.lonlat)
        return path

    def joiner(self) -> Joiner:
        """Joins what the chunks could not finish."""
        return Joiner(self.simplify, self.assemble, self.reach_px, self.scene_shape[1])

    def read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Class codes of a window, and with split classes the parents of grown pixels, each (rows, cols) uint8."""
        if not self.boundaries:
            return self.source.read(window), None
        rows, cols = self.scene_shape
        around = window.pad(self.growth_px).intersection(Window(0, 0, cols, rows)) or window
        codes, parent = grow_cores(self.source.read(around), dict(self.boundaries), self.growth_px)
        inside = window.slices(around)
        return codes[inside], parent[inside]


@dataclass(frozen=True, slots=True)
class _Example:
    """A mask in memory."""

    mask: NDArray[np.uint8]

    def read(self, _: Window) -> NDArray[np.uint8]:
        return self.mask

    def read_confidence(self, _: Window) -> NDArray[np.uint8]:
        return np.zeros_like(self.mask)

    def cleaned(self, store: Store, array: str) -> StoredMask:
        return StoredMask(store, array, None)


def prepare() -> pa.RecordBatch:
    """Loads the compiled loops of the stages, or compiles them, by way of a mask of a few pixels; returns its rows."""
    mask = np.kron([[1, 2], [2, 1]], np.ones((4, 4))).astype(np.uint8)
    mask[1, 1] = 2
    window, shape = Window(0, 0, 8, 8), (8, 8)
    ground = Ground(Affine(1, 0, 5e5, 0, -1, 5e6), "EPSG:32632", shape)
    rules = SieveRules(shape, {1: 2.0, 2: 2.0}, ground.pixel_area_m2)
    decided = merge_small([find_small(mask, window, rules)], rules, 1)
    example = _Example(sieve_chunk(mask, decided.decision(window), rules).mask)
    job = VectorJob(
        source=example,
        store=Store(Path(), ""),
        ground=ground,
        tolerance_px=1.0,
        method="visvalingam",
        smooth=False,
        boundaries=(),
        growth_px=0,
        lonlat=True,
    )
    border = merge_faces([find_faces(example.mask, None, window, shape)], shape).border(window)
    polygons, _ = vectorize_window(job, border)
    return with_lonlat(make_rows(polygons, ground), ground.crs)


def check(job: VectorJob, chunk: Chunk) -> None:
    """Reads a chunk, so that what is no mask is refused before anything is written."""
    job.source.read(chunk.window)


class Labelled(NamedTuple):
    """What labelling tells of a chunk.

    Attributes:
        faces: what touches its edges.
        valid_px: how many of its pixels have data.
    """

    faces: Faces
    valid_px: int

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """By name, as ``np.savez`` wants it."""
        return {**self.faces.to_arrays(), "valid_px": np.array(self.valid_px)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], window: Window) -> Labelled:
        """The inverse of :meth:`to_arrays`."""
        return cls(Faces.from_arrays(arrays, window), int(arrays["valid_px"]))


def label_window(job: VectorJob, window: Window) -> Labelled:
    """Labels one chunk."""
    codes, parent = job.read(window)
    faces = find_faces(codes, parent, window, job.scene_shape)
    return Labelled(faces, int(np.count_nonzero(codes != NODATA)))


def label(job: VectorJob, chunk: Chunk) -> Labelled:
    """Labels a chunk, and keeps what that tells."""
    labelled = label_window(job, chunk.window)
    job.store.write_found(LABEL, chunk, labelled.to_arrays())
    return labelled


def vectorize_window(job: VectorJob, border: Border) -> tuple[Polygons, Fragment]:
    """Labels, traces and simplifies one chunk.

    Args:
        job: of the scene.
        border: the chunk's, from the merge.

    Returns:
        the polygons that are finished there, sorted by id, and what goes on elsewhere.
    """
    window, shape = border.window, job.scene_shape
    codes, parent = job.read(window)
    labels = label_chunk(codes, parent, border, window, shape)
    histograms = count_confidence(labels.labels, job.source.read_confidence(window), labels.area_px)
    traced = trace_chunk(labels.labels, window, shape)
    domain = Domain(window, shape, job.reach_px)
    finished = finished_arcs(traced, domain)
    simplified = job.simplify(traced.arcs, finished, np.zeros((0, 2), np.int32))
    instances = Instances(labels.id, labels.code, labels.area_px, labels.edge)
    share = share_out(traced, simplified, finished, labels.labels, instances, histograms, domain)
    coords, ring_offsets, polygon_offsets, ids = job.assemble(simplified, share.darts, share.following, share.owner)
    closed = share.closed[np.argsort(labels.id[share.closed])]
    mean, p10 = histograms.take(closed).summary()
    polygons = Polygons(
        coords=coords,
        ring_offsets=ring_offsets,
        polygon_offsets=polygon_offsets,
        id=ids,
        code=labels.code[closed],
        area_px=labels.area_px[closed],
        confidence=mean,
        confidence_p10=p10,
        edge=labels.edge[closed],
    )
    return polygons, share.fragment


TraceItem: TypeAlias = tuple[Chunk, Border]


def trace(job: VectorJob, item: TraceItem) -> int:
    """Traces a chunk: what is finished there goes to the store as rows, the rest as a fragment.

    Returns:
        pixels of the chunk.
    """
    chunk, border = item
    polygons, fragment = vectorize_window(job, border)
    job.write(chunk.key, polygons)
    job.store.write_fragment(chunk, fragment.to_arrays())  # the mark that the chunk is done, so it comes last
    return chunk.window.area

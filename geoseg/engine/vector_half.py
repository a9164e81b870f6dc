"""From a mask to the rows of its layers: the second half of a run, in order (floor 4).

::

    clean -> label -> trace -> join

Only coordinates, face labels and borders move between this process and the workers; arrays and polygons pass through
the store.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.codes import BACKGROUND, NODATA
from geoseg.engine import kernels
from geoseg.engine.executor import Executor
from geoseg.engine.result import ChunkCount, LayerSummary
from geoseg.engine.store import Store
from geoseg.engine.watch import Watch
from geoseg.errors import InputError
from geoseg.export.rows import Layer, write_rows
from geoseg.lattice import Chunk, Lattice, Window
from geoseg.remote import Place
from geoseg.scene import Scene
from geoseg.settings import VectorSettings
from geoseg.stages.instances import Merge, merge_faces
from geoseg.stages.join import Fragment
from geoseg.stages.polygons import Ground
from geoseg.stages.sieve import SieveFaces, SieveRules, merge_small

__all__ = ["VectorHalf", "open_half"]


@dataclass(frozen=True, slots=True)
class VectorHalf:
    """What becomes of one mask.

    Attributes:
        job: reads the mask, as it was given or cleaned.
        lattice: its chunks.
        settings: what shapes its layers.
        gsd_m: of its pixels.
        watch: times the stages.
        valid_pixels: of the mask, once they are counted.
    """

    job: kernels.VectorJob
    lattice: Lattice
    settings: VectorSettings
    gsd_m: float
    watch: Watch
    valid_pixels: int = 0

    def clean_label_trace(self, executor: Executor) -> VectorHalf:
        """All of it that workers do."""
        half = _clean(self, executor)
        merge, valid_pixels = _label(half, executor)
        _trace(half, merge, executor)
        return replace(half, valid_pixels=valid_pixels)

    def join(self) -> list[Place]:
        """Sweeps over the rows of chunks and finishes what they could not; returns the files of all rows."""
        job, lattice, store = self.job, self.lattice, self.job.store
        files = []
        with self.watch.stage("join", lattice.window.area) as advance:
            joiner = job.joiner()
            for row, in_row in groupby(lattice.chunks(), key=lambda chunk: chunk.window.row_off):
                chunks = list(in_row)
                files += [store.rows_path(chunk.key) for chunk in chunks]
                row_stop = chunks[0].window.row_stop
                fragments = [Fragment.from_arrays(arrays) for arrays in store.read_fragments(chunks)]
                polygons = joiner.add(fragments, row_stop, last=row_stop == lattice.height)
                files.append(store.rows_path(f"join-{row}"))
                write_rows(files[-1], polygons, job.ground)
                advance(sum(chunk.window.area for chunk in chunks))
        return files

    def summarise(self, layers: Mapping[str, Layer]) -> dict[str, LayerSummary]:
        """What the layers of one mask hold."""
        ground = self.job.ground
        rows, cols = ground.shape
        try:
            ground_m2 = self.valid_pixels / (rows * cols) * ground.scene_area_m2()
        except InputError:  # corners of the scene lie off the earth: a full disk
            ground_m2 = math.nan
        return {
            name: LayerSummary(len(layer), round(layer.area_m2, 2), _share(layer.area_m2, ground_m2))
            for name, layer in layers.items()
        }


def open_half(
    source: kernels.MaskSource, store: Store, grid: Scene, lattice: Lattice, settings: VectorSettings, watch: Watch
) -> VectorHalf:
    """The stages that are to come of a mask.

    Args:
        source: reads the mask.
        store: where what is made of it goes.
        grid: of its pixels.
        lattice: its chunks.
        settings: what shapes its layers.
        watch: times the stages.
    """
    job = kernels.VectorJob(
        source=source,
        store=store,
        ground=Ground(grid.transform, grid.crs, (grid.height, grid.width)),
        tolerance_px=(settings.simplify_m or 0) / grid.gsd_m,
        method=settings.simplify_method,
        smooth=settings.smooth,
        boundaries=settings.boundaries,
        growth_px=settings.growth_px,
    )
    return VectorHalf(job, lattice, settings, grid.gsd_m, watch)


def _clean(half: VectorHalf, executor: Executor) -> VectorHalf:
    """Gives what is too narrow or too small to its neighbours; from then on that mask is read.

    Each turn reads one array and writes another, so a run that is stopped in between can begin again.
    """
    job, lattice, settings = half.job, half.lattice, half.settings
    rules = SieveRules(
        scene_shape=job.scene_shape,
        least_m2=_least_areas(settings),
        pixel_area_m2=job.ground.pixel_area_m2,
        boundaries=dict(settings.boundaries),
    )
    width_px = settings.width_px(half.gsd_m)
    cleaning = kernels.CleanJob(job.source, job.store, "mask", rules, width_px)
    chunks = list(lattice.chunks())
    if (array := job.store.cleaned()) is not None:
        return replace(half, job=replace(job, source=job.source.cleaned(job.store, array)))

    def rewriting(array: str) -> kernels.CleanJob:
        """The next turn, which reads what the last one wrote."""
        job.store.add_array(array, chunk=lattice.chunk, shape=job.scene_shape)
        return replace(cleaning, array=array)

    if width_px > 1:
        with half.watch.stage("open", lattice.window.area, ChunkCount(len(chunks), 0)) as advance:
            opening = rewriting("opened")
            executor.run("open", kernels.open_mask, opening, chunks, lambda chunk, _: advance(chunk.window.area))
            cleaning = replace(cleaning, source=opening.cleaned)
    if rules.least_m2:
        with half.watch.stage("sieve"):
            cleaning = replace(cleaning, source=_sieve(cleaning, rewriting, chunks, executor))
    if isinstance(cleaning.source, kernels.StoredMask) and cleaning.source != job.source:
        job.store.mark_cleaned(cleaning.source.array)
    return replace(half, job=replace(job, source=cleaning.source))


def _sieve(
    cleaning: kernels.CleanJob,
    rewriting: Callable[[str], kernels.CleanJob],
    chunks: Sequence[Chunk],
    executor: Executor,
) -> kernels.MaskSource:
    """Turns of giving what is small to its neighbours, see :mod:`geoseg.stages.sieve`; returns the mask after them."""
    faces: dict[Window, SieveFaces] = {}
    done: dict[Chunk, tuple[int, NDArray[np.int64]]] = {}
    to_find: list[kernels.FindItem] = [(chunk, None) for chunk in chunks]
    source, rules = cleaning.source, cleaning.rules
    turn, waiting = 1, None
    for number in count():
        executor.run(
            "find small",
            kernels.find_small_components,
            replace(cleaning, source=source),
            to_find,
            lambda item, found: faces.update({item[0].window: found}),
        )
        decided = merge_small(faces.values(), rules, turn, waiting)
        todo = set(decided.todo)
        if not todo:
            break
        sieving = replace(rewriting(f"sieved-{number}"), source=source)
        items = ((chunk, decided.decision(chunk.window) if chunk.window in todo else None) for chunk in chunks)
        executor.run("sieve", kernels.sieve, sieving, items, lambda item, result: done.update({item[0]: result}))
        source = sieving.cleaned
        if not decided.waiting.size and not any(inside.size for _, inside in done.values()):
            break
        moved = any(changed for changed, _ in done.values())
        turn, waiting = turn + 1 if moved else rules.turns, decided.waiting  # if not, the last turn comes now
        to_find = [(chunk, done[chunk][1]) for chunk in chunks if chunk.window in todo]
    return source


def _least_areas(settings: VectorSettings) -> dict[int, float]:
    """Area below which a component is small, square metres, by code."""
    boundaries = {boundary for _, boundary in settings.boundaries}
    least = {code: settings.least_area_m2(code) for code in range(1, NODATA) if code not in boundaries}
    return {code: area for code, area in ({BACKGROUND: settings.fill_holes_m2} | least).items() if area}


def _label(half: VectorHalf, executor: Executor) -> tuple[Merge, int]:
    """Labels all chunks and merges their faces; also counts the pixels with data."""
    job, lattice = half.job, half.lattice
    found = {}
    rows, cols = lattice.chunk_shape
    with half.watch.stage("label", lattice.window.area, ChunkCount(rows * cols, 0)) as advance:

        def keep(chunk: Chunk, result: tuple[Any, int]) -> None:
            found[chunk.key] = result
            advance(chunk.window.area)

        executor.run("label", kernels.label, job, lattice.chunks(), keep)
        faces = [found[chunk.key][0] for chunk in lattice.chunks()]
        return merge_faces(faces, job.scene_shape), sum(valid for _, valid in found.values())


def _trace(half: VectorHalf, merge: Merge, executor: Executor) -> None:
    traced = half.job.store.traced(half.lattice.chunks())
    chunks = [chunk for chunk in half.lattice.chunks() if chunk not in traced]
    rows, cols = half.lattice.chunk_shape
    count = ChunkCount(rows * cols, rows * cols - len(chunks))
    with half.watch.stage("trace", sum(chunk.window.area for chunk in chunks), count) as advance:
        items = ((chunk, merge.border(chunk.window)) for chunk in chunks)
        executor.run("trace", kernels.trace, half.job, items, lambda item, _: advance(item[0].window.area))


def _share(area_m2: float, ground_m2: float) -> float | None:
    if math.isnan(ground_m2):
        return None
    return round(area_m2 / ground_m2, 6) if ground_m2 else 0.0

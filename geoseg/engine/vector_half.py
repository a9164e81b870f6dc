"""From a mask to the rows of its layers: the second half of a run, in order (floor 4).

::

    clean -> label -> trace -> join

Only coordinates, face labels and borders move between this process and the workers; arrays and polygons pass through
the store.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, groupby
from typing import TypeVar

from geoseg.ahead import do_ahead
from geoseg.codes import BACKGROUND, NODATA
from geoseg.engine import kernels
from geoseg.engine.executor import Drawn, Executor
from geoseg.engine.result import ChunkCount, LayerSummary
from geoseg.engine.store import Store
from geoseg.engine.watch import Watch
from geoseg.errors import InputError
from geoseg.export.rows import Layer
from geoseg.lattice import Chunk, Lattice
from geoseg.remote import Place
from geoseg.rings import Polygons
from geoseg.scene import Scene
from geoseg.settings import VectorSettings, in_lonlat
from geoseg.stages.instances import Merge, merge_faces
from geoseg.stages.join import Fragment
from geoseg.stages.polygons import Ground
from geoseg.stages.sieve import SieveFaces, SieveRules, merge_small

__all__ = ["VectorHalf", "open_half"]

Result = TypeVar("Result")


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
        job, lattice = self.job, self.lattice
        files = [job.store.rows_path(chunk.key) for chunk in lattice.chunks()]
        with self.watch.stage("join", lattice.window.area) as advance:
            return files + list(do_ahead(lambda piece: job.write(*piece), self._joined(advance)))

    def _joined(self, advance: Callable[[int], None]) -> Iterator[tuple[str, Polygons]]:
        """What each row of chunks finishes of the rows before, and a name for it."""
        job, lattice = self.job, self.lattice
        joiner = job.joiner()
        for row, in_row in groupby(lattice.chunks(), key=lambda chunk: chunk.window.row_off):
            chunks = list(in_row)
            row_stop = chunks[0].window.row_stop
            fragments = [Fragment.from_arrays(arrays) for arrays in job.store.read_fragments(chunks)]
            yield f"join-{row}", joiner.add(fragments, row_stop, last=row_stop == lattice.height)
            advance(sum(chunk.window.area for chunk in chunks))

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
        lonlat=in_lonlat(settings.formats),
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
    cleaning = kernels.CleanJob(job.source, job.store, "found", rules, width_px)
    chunks = list(lattice.chunks())
    if (array := job.store.cleaned()) is not None:
        return replace(half, job=replace(job, source=job.source.cleaned(job.store, array)))

    if width_px > 1:
        opening = _rewriting(cleaning, "opened", lattice)
        opened = job.store.read_found(opening.step, chunks)
        todo = [chunk for chunk in chunks if chunk not in opened]
        with half.watch.stage("open", _area(todo), ChunkCount(len(chunks), len(opened))) as advance:
            executor.run("open", kernels.open_mask, opening, todo, lambda chunk, _: advance(chunk.window.area))
        cleaning = replace(cleaning, source=opening.cleaned)
    if rules.least_m2:
        with half.watch.stage("sieve"):
            cleaning = replace(cleaning, source=_sieve(cleaning, lattice, executor))
    if isinstance(cleaning.source, kernels.StoredMask) and cleaning.source != job.source:
        job.store.mark_cleaned(cleaning.source.array)
    return replace(half, job=replace(job, source=cleaning.source))


def _sieve(cleaning: kernels.CleanJob, lattice: Lattice, executor: Executor) -> kernels.MaskSource:
    """Turns of giving what is small to its neighbours, see :mod:`geoseg.stages.sieve`; returns the mask after them."""
    faces: dict[Chunk, SieveFaces] = {}
    chunks = list(lattice.chunks())
    to_find: list[kernels.FindItem] = [(chunk, None) for chunk in chunks]
    store, rules = cleaning.store, cleaning.rules
    turn, waiting = 1, None
    for number in count():
        finding = replace(cleaning, step=f"found-{number}")
        store.begin(finding.step)
        found = store.read_found(finding.step, [chunk for chunk, _ in to_find])
        faces.update((chunk, SieveFaces.from_arrays(arrays, chunk.window)) for chunk, arrays in found.items())
        items = [item for item in to_find if item[0] not in found]
        executor.run("find small", kernels.find_small_components, finding, items, partial(_keep, faces))
        decided = merge_small(faces.values(), rules, turn, waiting)
        todo = set(decided.todo)
        if not todo:
            break
        sieving = _rewriting(cleaning, f"sieved-{number}", lattice)
        done = {chunk: kernels.Changes(**arrays) for chunk, arrays in store.read_found(sieving.step, chunks).items()}
        to_sieve = [chunk for chunk in chunks if chunk not in done]
        decisions = ((chunk, decided.decision(chunk.window) if chunk.window in todo else None) for chunk in to_sieve)
        executor.run("sieve", kernels.sieve, sieving, Drawn(len(to_sieve), decisions), partial(_keep, done))
        cleaning = replace(cleaning, source=sieving.cleaned)
        if not decided.waiting.size and not any(changes.waiting.size for changes in done.values()):
            break
        moved = any(changes.pixels for changes in done.values())
        turn, waiting = turn + 1 if moved else rules.turns, decided.waiting  # if not, the last turn comes now
        to_find = [(chunk, done[chunk].waiting) for chunk in chunks if chunk.window in todo]
    return cleaning.source


def _keep(results: dict[Chunk, Result], item: tuple[Chunk, object], result: Result) -> None:
    results[item[0]] = result


def _rewriting(cleaning: kernels.CleanJob, step: str, lattice: Lattice) -> kernels.CleanJob:
    """A step that reads the mask as it is and writes the next one."""
    cleaning.store.add_array(step, chunk=lattice.chunk, shape=cleaning.rules.scene_shape)
    cleaning.store.begin(step)
    return replace(cleaning, step=step)


def _least_areas(settings: VectorSettings) -> dict[int, float]:
    """Area below which a component is small, square metres, by code."""
    boundaries = {boundary for _, boundary in settings.boundaries}
    least = {code: settings.least_area_m2(code) for code in range(1, NODATA) if code not in boundaries}
    return {code: area for code, area in ({BACKGROUND: settings.fill_holes_m2} | least).items() if area}


def _label(half: VectorHalf, executor: Executor) -> tuple[Merge, int]:
    """Labels all chunks and merges their faces; also counts the pixels with data."""
    job, lattice = half.job, half.lattice
    chunks = list(lattice.chunks())
    job.store.begin(kernels.LABEL)
    labelled = {
        chunk: kernels.Labelled.from_arrays(arrays, chunk.window)
        for chunk, arrays in job.store.read_found(kernels.LABEL, chunks).items()
    }
    todo = [chunk for chunk in chunks if chunk not in labelled]
    with half.watch.stage("label", _area(todo), ChunkCount(len(chunks), len(labelled))) as advance:

        def keep(chunk: Chunk, result: kernels.Labelled) -> None:
            labelled[chunk] = result
            advance(chunk.window.area)

        executor.run("label", kernels.label, job, todo, keep)
        faces = [labelled[chunk].faces for chunk in chunks]
        return merge_faces(faces, job.scene_shape), sum(one.valid_px for one in labelled.values())


def _trace(half: VectorHalf, merge: Merge, executor: Executor) -> None:
    chunks = list(half.lattice.chunks())
    traced = half.job.store.traced(chunks)
    todo = [chunk for chunk in chunks if chunk not in traced]
    with half.watch.stage("trace", _area(todo), ChunkCount(len(chunks), len(traced))) as advance:
        items = Drawn(len(todo), ((chunk, merge.border(chunk.window)) for chunk in todo))
        executor.run("trace", kernels.trace, half.job, items, lambda item, _: advance(item[0].window.area))


def _area(chunks: Sequence[Chunk]) -> int:
    return sum(chunk.window.area for chunk in chunks)


def _share(area_m2: float, ground_m2: float) -> float | None:
    if math.isnan(ground_m2):
        return None
    return round(area_m2 / ground_m2, 6) if ground_m2 else 0.0

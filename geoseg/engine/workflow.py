"""The order of the stages: the only file that knows it (floor 4).

::

    predict -> clean -> label -> trace -> join -> export

``run`` goes through all of them, ``vectorize`` from *clean* on. Each model of a run is a *pass* with a mask of its own:
passes that are shown the same pixels predict together, from one read of each tile; then every mask goes through the
vector half alone, and the layers of all are written side by side. Only coordinates, face labels and borders move
between this process and the workers; arrays and polygons pass through the store.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import count, groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.codes import BACKGROUND, NODATA
from geoseg.engine import kernels
from geoseg.engine.directory import RunDirectory
from geoseg.engine.executor import Executor, fit, open_executor, peak_bytes
from geoseg.engine.plan import Pass, Plan, make_plan
from geoseg.engine.progress import Advance, Progress, Silent
from geoseg.engine.rasters import raster_name, writing_rasters
from geoseg.engine.result import LayerSummary, PassSummary, Result, StageTime
from geoseg.engine.store import PREDICTED, Store
from geoseg.errors import InputError, SceneError, SettingsError
from geoseg.export.rows import Layer, read_layers, write_rows
from geoseg.export.vectors import check_formats, write_layers
from geoseg.lattice import Chunk, Lattice, Window
from geoseg.models.runtimes import packages_of
from geoseg.scene import Scene
from geoseg.settings import Execution, RunSettings, VectorSettings, require_layer_names
from geoseg.stages.instances import Merge, merge_faces
from geoseg.stages.join import Fragment
from geoseg.stages.polygons import Ground
from geoseg.stages.sieve import SieveFaces, SieveRules, merge_small
from geoseg.stages.trace import has_compiled

__all__ = ["run", "vectorize"]

_ROUNDING = 1e-6  # three pixels are three, whatever a division made of them
_WIDEST_PX = 64  # of openings, whose work grows with the width
_GIVEN = "mask"  # what a mask is called that no model made
_PACKAGES = (
    "geoseg",
    "torch",
    "segmentation-models-pytorch",
    "rasterio",
    "numpy",
    "numba",
    "shapely",
    "dask",
)


def run(
    scene: str | Path,
    directory: str | Path,
    *,
    settings: RunSettings | None = None,
    execution: Execution | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Turns a scene into polygon layers.

    Args:
        scene: path or URL of any raster that GDAL reads.
        directory: where the layers go; made if it is not there. The same directory, scene and settings resume.
        settings: what to do.
        execution: how to cut the work and who does it; never changes the layers.
        overwrite: replace what an earlier run left there.
        progress: sees the run go by; silent by default.

    Raises:
        InputError: bad input or usage; nothing was written.
        ChunkError: some chunks failed; the rest is kept, run again to resume.
    """
    settings, execution, progress = settings or RunSettings(), execution or Execution(), progress or Silent()
    check_formats(settings.vector.formats)
    plan = make_plan(str(scene), settings, execution)
    for part in plan.passes:
        _width_px(part.vector, part.grid.gsd_m)
    identity = {"verb": "run", **plan.identity()}
    with RunDirectory(Path(directory), identity, source=plan.scene.path, overwrite=overwrite) as output:
        if (finished := output.finished()) is not None:
            progress.note(f"{output.path} holds this run already, complete: nothing to do")
            return finished
        plan = plan.with_chunks(output.chunks({part.name: part.lattice.chunk for part in plan.passes}))
        for note in plan.notes:
            progress.note(note)
        _warn_of_compilation(progress)
        watch = _Watch(progress)
        with _opened(plan.execution, progress, gpus=plan.gpus) as executor:
            stores = output.open_stores({part.name: part.lattice for part in plan.passes}, PREDICTED)
            for together in plan.reads:
                _predict(_predict_job(plan, together, stores), executor, _watch_of(plan, together, watch))
            with writing_rasters(plan, stores, output.path) as rasters:
                halves = [_vector_half_of(plan, part, stores[part.name], watch) for part in plan.passes]
                halves = [_clean_label_trace(half, executor) for half in halves]
                worker_bytes = executor.peak_worker_bytes()
                rows = [_join(half) for half in halves]
                with watch.stage("export"):
                    layers = [
                        read_layers(files, part.codes, crs=part.grid.crs, datetime=part.grid.datetime, model=part.name)
                        for part, files in zip(plan.passes, rows, strict=True)
                    ]
                    named = {name: layer for found in layers for name, layer in found.items()}
                    files = write_layers(output.path, named, settings.vector.formats) + rasters()
        result = Result(
            directory=output.path,
            passes=tuple(_summary_of_pass(plan, part, half) for part, half in zip(plan.passes, halves, strict=True)),
            layers={
                name: layer
                for found, half in zip(layers, halves, strict=True)
                for name, layer in _summaries(found, half).items()
            },
            stages=watch.stages,
            files=tuple(path.name for path in files),
            executor=executor.name,
        )
        packages = [name for part in plan.passes for name in packages_of(part.runtime)]
        output.finish(result, _facts(asdict(settings), plan.execution, worker_bytes, packages))
    return result


def vectorize(
    mask: str | Path,
    directory: str | Path,
    *,
    classes: Mapping[str, int] | None = None,
    settings: VectorSettings | None = None,
    execution: Execution | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Turns any class mask into polygon layers: the vector half of :func:`run`, alone.

    Args:
        mask: raster of one band of class codes 0-254; 0 is background, nodata is left out.
        directory: where the layers go.
        classes: layer name to code; ``None`` takes every code found and calls it ``class_<code>``.
        settings: what shapes the layers.
        execution: how to cut the work and who does it; the chunk is taken as it is.
        overwrite: replace what an earlier run left there.
        progress: sees the run go by.

    Raises:
        InputError: bad input or usage; nothing was written.
        ChunkError: some chunks failed; the rest is kept, run again to resume.
    """
    settings, execution, progress = (
        settings or VectorSettings(),
        execution or Execution(),
        progress or Silent(),
    )
    check_formats(settings.formats)
    if classes is not None:
        _check_classes(classes, settings)
    scene = Scene.open(str(mask))
    if len(scene.bands) != 1:
        raise SceneError(f"{scene.shown} has {len(scene.bands)} bands; a mask has one band of class codes")
    if settings.simplify_m is None:
        settings = replace(settings, simplify_m=round(scene.gsd_m, 6))
    _width_px(settings, scene.gsd_m)
    identity = {
        "verb": "vectorize",
        "mask": scene.shown,
        "mask_fingerprint": scene.fingerprint(),
        "classes": dict(classes) if classes is not None else None,
        **settings.identity(),
    }
    with RunDirectory(Path(directory), identity, source=scene.path, overwrite=overwrite) as output:
        if (finished := output.finished()) is not None:
            progress.note(f"{output.path} holds these layers already, complete: nothing to do")
            return finished
        execution, _ = fit(execution, scene.height, scene.width, core=1)
        chunk = output.chunks({_GIVEN: execution.chunk or 1})[_GIVEN]
        lattice = Lattice(scene.height, scene.width, core=chunk, halo=0, chunk=chunk)
        _warn_of_compilation(progress)
        watch = _Watch(progress)
        half = _vector_half(kernels.SceneMask(scene), output.store(_GIVEN), scene, lattice, settings, watch)
        with _opened(execution, progress, gpus=0) as executor:
            if not output.resumes:  # refuses what is no mask, before anything is written
                executor.run("check", kernels.check, half.job, lattice.chunks(), lambda *_: None)
            output.open_stores({_GIVEN: lattice}, arrays=())
            half = _clean_label_trace(half, executor)
            worker_bytes = executor.peak_worker_bytes()
        rows = _join(half)
        with watch.stage("export"):
            layers = read_layers(rows, classes, crs=scene.crs, datetime=scene.datetime, model=None)
            files = write_layers(output.path, layers, settings.formats)
        result = Result(
            directory=output.path,
            passes=(),
            layers=_summaries(layers, half),
            stages=watch.stages,
            files=tuple(path.name for path in files),
            executor=executor.name,
        )
        facts = _facts(asdict(settings), replace(execution, chunk=chunk), worker_bytes)
        output.finish(result, facts | {"lattice": asdict(lattice), "valid_pixels": half.valid_pixels})
    return result


def _warn_of_compilation(progress: Progress) -> None:
    if not has_compiled():
        progress.note("first run here: the kernels are compiled now and kept, which takes a minute or so")


def _check_classes(classes: Mapping[str, int], settings: VectorSettings) -> None:
    """Refuses layers that no mask can have."""
    require_layer_names(tuple(classes))
    bounds = {boundary: code for code, boundary in settings.boundaries}
    if len(set(classes.values())) < len(classes):
        raise SettingsError("--classes gives two layers one code; give each layer a code of its own")
    for name, code in classes.items():
        if not 1 <= code <= NODATA - 1:
            raise SettingsError(f"--classes gives {name} the code {code}; layers have codes 1-254")
        if code in bounds:
            raise SettingsError(
                f"--classes names {name}={code}, but --boundaries makes {code} the boundary of {bounds[code]}; "
                "a boundary is given back to the instances it bounds and has no layer of its own"
            )


class _Watch:
    """Times the stages and shows them; what a stage took is summed over the passes.

    Args:
        progress: sees them.
        of: the passes, in words; empty where there is one.
        times: of the stages so far.
    """

    def __init__(self, progress: Progress, of: str = "", times: dict[str, StageTime] | None = None) -> None:
        self._progress = progress
        self._of = of
        self._times: dict[str, StageTime] = {} if times is None else times

    @property
    def stages(self) -> tuple[StageTime, ...]:
        """What each stage took, in order."""
        return tuple(self._times.values())

    def of(self, passes: str) -> _Watch:
        """The same watch, for the stages of some passes."""
        return _Watch(self._progress, passes, self._times)

    @contextmanager
    def stage(self, name: str, pixels: int = 0) -> Iterator[Advance]:
        start = time.perf_counter()
        with self._progress.stage(f"{name} {self._of}".rstrip(), pixels) as advance:
            yield advance
        before = self._times.get(name, StageTime(name, 0.0, 0))
        seconds = before.seconds + time.perf_counter() - start
        self._times[name] = StageTime(name, round(seconds, 3), before.pixels + pixels)


def _watch_of(plan: Plan, passes: Sequence[Pass], watch: _Watch) -> _Watch:
    return watch if len(plan.passes) == 1 else watch.of(", ".join(part.name for part in passes))


@contextmanager
def _opened(execution: Execution, progress: Progress, *, gpus: int) -> Iterator[Executor]:
    with open_executor(execution, gpus=gpus) as executor:
        if executor.dashboard:
            progress.note(f"dashboard: {executor.dashboard}")
        yield executor


def _predict_job(plan: Plan, together: Sequence[Pass], stores: Mapping[str, Store]) -> kernels.PredictJob:
    """The job of passes that are shown the same pixels."""
    shown = together[0]
    return kernels.PredictJob(
        scene=shown.grid,
        within=shown.within,
        bands=shown.bands,
        dtype=shown.card.dtype,
        scale=shown.scale,
        lattice=shown.lattice,
        device=plan.device,
        stitch=shown.stitch,
        refine=plan.settings.refine,
        shares=tuple(
            kernels.PredictShare(
                model=part.card.path,
                model_digest=part.card.digest,
                runtime=part.runtime,
                precision=part.precision,
                tta=part.tta,
                thresholds=part.thresholds,
                store=stores[part.name],
            )
            for part in together
        ),
        at_once=plan.execution.threads or 0,
    )


def _predict(job: kernels.PredictJob, executor: Executor, watch: _Watch) -> None:
    pixels = {chunk: chunk.window.area * len(job.lacking(chunk)) for chunk in job.lattice.chunks()}
    chunks = [chunk for chunk in pixels if pixels[chunk]]
    with watch.stage("predict", sum(pixels.values())) as advance:
        executor.run(
            "predict",
            kernels.predict,
            job,
            chunks,
            lambda chunk, _: advance(pixels[chunk]),
            waits=True,
            needs_gpu=job.device == "cuda",
        )
    kernels.forget_networks()


@dataclass(frozen=True, slots=True)
class _VectorHalf:
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
    watch: _Watch
    valid_pixels: int = 0


def _vector_half(
    source: kernels.MaskSource, store: Store, grid: Scene, lattice: Lattice, settings: VectorSettings, watch: _Watch
) -> _VectorHalf:
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
    return _VectorHalf(job, lattice, settings, grid.gsd_m, watch)


def _vector_half_of(plan: Plan, part: Pass, store: Store, watch: _Watch) -> _VectorHalf:
    predicted = kernels.StoredMask(store, *PREDICTED)
    return _vector_half(predicted, store, part.grid, part.lattice, part.vector, _watch_of(plan, [part], watch))


def _clean_label_trace(half: _VectorHalf, executor: Executor) -> _VectorHalf:
    """All of the vector half that workers do."""
    half = _clean(half, executor)
    merge, valid_pixels = _label(half, executor)
    _trace(half, merge, executor)
    return replace(half, valid_pixels=valid_pixels)


def _clean(half: _VectorHalf, executor: Executor) -> _VectorHalf:
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
    width_px = _width_px(settings, half.gsd_m)
    cleaning = kernels.CleanJob(job.source, job.store, "mask", rules, width_px)
    chunks = list(lattice.chunks())
    if (array := job.store.cleaned()) is not None:
        return replace(half, job=replace(job, source=job.source.cleaned(job.store, array)))

    def rewriting(array: str) -> kernels.CleanJob:
        """The next turn, which reads what the last one wrote."""
        job.store.add_array(array, chunk=lattice.chunk, shape=job.scene_shape)
        return replace(cleaning, array=array)

    if width_px > 1:
        with half.watch.stage("open", lattice.window.area) as advance:
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


def _width_px(settings: VectorSettings, gsd_m: float) -> int:
    """Least width of a class's parts, pixels.

    Raises:
        SettingsError: it is more than a chunk can see.
    """
    width_px = math.ceil(settings.min_width_m / gsd_m - _ROUNDING)
    if width_px > _WIDEST_PX:
        raise SettingsError(
            f"--min-width is {settings.min_width_m:g} m, which is {width_px} pixels; "
            f"give at most {_WIDEST_PX} pixels, here {_WIDEST_PX * gsd_m:g} m"
        )
    return width_px


def _least_areas(settings: VectorSettings) -> dict[int, float]:
    """Area below which a component is small, square metres, by code."""
    boundaries = {boundary for _, boundary in settings.boundaries}
    least = {code: settings.least_area_m2(code) for code in range(1, NODATA) if code not in boundaries}
    return {code: area for code, area in ({BACKGROUND: settings.fill_holes_m2} | least).items() if area}


def _label(half: _VectorHalf, executor: Executor) -> tuple[Merge, int]:
    """Labels all chunks and merges their faces; also counts the pixels with data."""
    job, lattice = half.job, half.lattice
    found = {}
    with half.watch.stage("label", lattice.window.area) as advance:

        def keep(chunk: Chunk, result: tuple[Any, int]) -> None:
            found[chunk.key] = result
            advance(chunk.window.area)

        executor.run("label", kernels.label, job, lattice.chunks(), keep)
        faces = [found[chunk.key][0] for chunk in lattice.chunks()]
        return merge_faces(faces, job.scene_shape), sum(valid for _, valid in found.values())


def _trace(half: _VectorHalf, merge: Merge, executor: Executor) -> None:
    chunks = [chunk for chunk in half.lattice.chunks() if not half.job.store.is_traced(chunk)]
    with half.watch.stage("trace", sum(chunk.window.area for chunk in chunks)) as advance:
        items = ((chunk, merge.border(chunk.window)) for chunk in chunks)
        executor.run("trace", kernels.trace, half.job, items, lambda item, _: advance(item[0].window.area))


def _join(half: _VectorHalf) -> list[Path]:
    """Sweeps over the rows of chunks and finishes what they could not; returns the files of all rows."""
    job, lattice, store = half.job, half.lattice, half.job.store
    files = []
    with half.watch.stage("join", lattice.window.area) as advance:
        joiner = job.joiner()
        for row, in_row in groupby(lattice.chunks(), key=lambda chunk: chunk.window.row_off):
            chunks = list(in_row)
            files += [store.rows_path(chunk.key) for chunk in chunks]
            row_stop = chunks[0].window.row_stop
            fragments = [Fragment.from_arrays(store.read_fragment(chunk)) for chunk in chunks]
            polygons = joiner.add(fragments, row_stop, last=row_stop == lattice.height)
            files.append(store.rows_path(f"join-{row}"))
            write_rows(files[-1], polygons, job.ground)
            advance(sum(chunk.window.area for chunk in chunks))
    return files


def _summary_of_pass(plan: Plan, part: Pass, half: _VectorHalf) -> PassSummary:
    return PassSummary(
        model=part.name,
        version=part.card.version,
        classes=tuple(part.codes),
        gsd_m=part.grid.gsd_m,
        runtime=part.runtime,
        precision=part.precision,
        stitch=part.stitch,
        refine=plan.settings.refine,
        tta=part.tta,
        lattice=asdict(part.lattice),
        valid_pixels=half.valid_pixels,
        mask=raster_name(plan, part),
    )


def _summaries(layers: Mapping[str, Layer], half: _VectorHalf) -> dict[str, LayerSummary]:
    """What the layers of one mask hold."""
    ground = half.job.ground
    rows, cols = ground.shape
    try:
        ground_m2 = half.valid_pixels / (rows * cols) * ground.scene_area_m2()
    except InputError:  # corners of the scene lie off the earth: a full disk
        ground_m2 = math.nan
    return {
        name: LayerSummary(len(layer), round(layer.area_m2, 2), _share(layer.area_m2, ground_m2))
        for name, layer in layers.items()
    }


def _share(area_m2: float, ground_m2: float) -> float | None:
    if math.isnan(ground_m2):
        return None
    return round(area_m2 / ground_m2, 6) if ground_m2 else 0.0


def _facts(
    settings: Mapping[str, Any], execution: Execution, worker_bytes: int, packages: Sequence[str] = ()
) -> dict[str, Any]:
    """What ``run.json`` tells beyond the result."""
    return {
        "settings": dict(settings),
        "execution": asdict(execution),
        "peak_memory_bytes": {"worker": worker_bytes, "driver": peak_bytes()},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in dict.fromkeys((*_PACKAGES, *packages))},
    }

"""The order of the stages: the only file that knows it (floor 4).

::

    predict -> clean -> label -> trace -> join -> export

``run`` goes through all of them, ``vectorize`` from *clean* on. Chunks that cannot be predicted are left out: the rest
goes on without them, and they are told in the end. Each model of a run is a *pass* with a mask of its own:
passes that are shown the same pixels predict together, from one read of each tile; then every mask goes through the
vector half alone, and the layers of all are written side by side. Only coordinates, face labels and borders move
between this process and the workers; arrays and polygons pass through the store.
"""

from __future__ import annotations

import importlib.metadata
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from geoseg.ahead import meanwhile
from geoseg.atomic import local_copies
from geoseg.codes import NODATA
from geoseg.engine import prediction
from geoseg.engine.admission import Terms
from geoseg.engine.directory import RunDirectory
from geoseg.engine.executor import Executor, fit, open_executor, peak_bytes
from geoseg.engine.faults import keeping, reason_of
from geoseg.engine.plan import Pass, Plan, make_plan
from geoseg.engine.progress import Progress, Silent
from geoseg.engine.rasters import Rasters, writing_rasters
from geoseg.engine.result import FAILED, ChunkCount, FailedWindow, PassSummary, Result
from geoseg.engine.store import PREDICTED, Store
from geoseg.engine.watch import Watch
from geoseg.errors import ChunkError, SceneError, SettingsError
from geoseg.lattice import Chunk, Lattice
from geoseg.models.runtimes import packages_of
from geoseg.remote import Place, Where, place_of
from geoseg.scene import Scene
from geoseg.settings import Execution, RunSettings, VectorSettings, require_layer_names

if TYPE_CHECKING:
    from geoseg.engine.kernels import VectorJob
    from geoseg.engine.vector_half import VectorHalf
    from geoseg.export.rows import Layer

__all__ = ["Opener", "run", "vectorize"]


class Opener(Protocol):
    """What gives an executor: ``open_executor``, or who keeps one for many runs."""

    def __call__(
        self, execution: Execution, *, gpus: int = 0, note: Callable[[str], None] = ...
    ) -> AbstractContextManager[Executor]:
        """See ``open_executor``."""
        ...


_KEPT_BYTES = 3 << 30  # of networks that wait for the next scene
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
    directory: Where,
    *,
    settings: RunSettings | None = None,
    execution: Execution | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    opened: Opener | None = None,
) -> Result:
    """Turns a scene into polygon layers.

    Args:
        scene: path or URL of any raster that GDAL reads.
        directory: where the layers go: a folder, made if it is not there, or the URL of one in an object store
            (``s3://bucket/run``). The same directory, scene and settings resume.
        settings: what to do.
        execution: how to cut the work and who does it; never changes the layers.
        overwrite: replace what an earlier run left there.
        progress: sees the run go by; silent by default.
        opened: gives an executor that other runs use, too; so networks stay loaded. ``None`` opens and closes one.

    A chunk that cannot be predicted (a damaged block, a source that is away for longer than some seconds) is nodata in
    the mask and in no layer; all others are finished and written, and then there is a ``ChunkError``. ``run.json`` and
    ``failed.geojson`` tell which windows these are and why. The same call again predicts only them; once all succeed,
    every file is what it would have been without the failure, and ``failed.geojson`` is gone.

    Raises:
        InputError: bad input or usage; nothing was written.
        ChunkError: some chunks failed; the rest is kept, run again to do them.
        WriteError: a disk is full, or may not be written; what was finished is kept, run again to resume.
    """
    settings, execution, progress = settings or RunSettings(), execution or Execution(), progress or Silent()
    plan = make_plan(str(scene), settings, execution)
    for part in plan.passes:
        part.vector.width_px(part.grid.gsd_m)
    identity = {"verb": "run", **plan.identity()}
    with RunDirectory(place_of(directory), identity, source=plan.scene.path, overwrite=overwrite) as output:
        if (finished := output.finished()) is not None:
            progress.note(f"{output.path} holds this run already, complete: nothing to do")
            return finished
        plan = plan.with_chunks(output.chunks({part.name: part.lattice.chunk for part in plan.passes}))
        for note in plan.notes:
            progress.note(note)
        watch = Watch(progress)
        output.require_reach(plan.execution)
        with (
            _opened(plan.execution, progress, gpus=plan.gpus, opener=opened or open_executor) as executor,
            _opening_networks(plan, output, keep=opened is not None),
        ):
            if plan.device == "cuda":
                executor.require_gpu()
            stores = output.open_stores({part.name: part.lattice for part in plan.passes}, PREDICTED)
            here = plan.execution.threads or plan.execution.workers
            terms = _terms(output, plan.scene, plan.passes, on_cpus=plan.device == "cpu" and not here)
            executor.admit(terms, output.logs)
            _warn_of_compilation(progress)
            with keeping(output.path), writing_rasters(plan, stores, output.path) as rasters:
                with meanwhile(_prepare_the_rest):
                    chunks, failed = _predict_all(plan, stores, executor, watch, rasters, keep=opened is not None)
                if failed:
                    _go_on_without(output, failed, watch)
                rasters.settle_rest()
                halves, layers, files = _make_layers(plan, stores, output.path, executor, watch, rasters)
                if failed:
                    from geoseg.engine.failures import write_failed

                    files.append(write_failed(output.path, plan.passes, failed))
            worker_bytes = executor.peak_worker_bytes()
        result = Result(
            directory=output.path,
            passes=tuple(
                _summary_of_pass(plan, part, half, chunks[part.name])
                for part, half in zip(plan.passes, halves, strict=True)
            ),
            layers={
                name: layer
                for found, half in zip(layers, halves, strict=True)
                for name, layer in half.summarise(found).items()
            },
            stages=watch.stages,
            files=tuple(path.name for path in files),
            executor=executor.name,
            failed=tuple(failed),
        )
        packages = [name for part in plan.passes for name in packages_of(part.runtime)]
        with keeping(output.path):
            output.finish(result, _facts(asdict(settings), plan.execution, worker_bytes, packages))
    if failed:
        raise _incomplete(output.path, failed, watch)
    return result


def vectorize(
    mask: str | Path,
    directory: Where,
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
        directory: where the layers go, as in :func:`run`.
        classes: layer name to code; ``None`` takes every code found and calls it ``class_<code>``.
        settings: what shapes the layers.
        execution: how to cut the work and who does it; the chunk is taken as it is.
        overwrite: replace what an earlier run left there.
        progress: sees the run go by.

    Raises:
        InputError: bad input or usage; nothing was written.
        ChunkError: some chunks failed; the rest is kept, run again to resume.
        WriteError: a disk is full, or may not be written; what was finished is kept, run again to resume.
    """
    from geoseg.engine import kernels
    from geoseg.engine.vector_half import open_half
    from geoseg.export.rows import read_layers
    from geoseg.export.vectors import write_layers

    settings, execution, progress = settings or VectorSettings(), execution or Execution(), progress or Silent()
    if classes is not None:
        _check_classes(classes, settings)
    scene = Scene.open(str(mask))
    if len(scene.bands) != 1:
        raise SceneError(f"{scene.shown} has {len(scene.bands)} bands; a mask has one band of class codes")
    if settings.simplify_m is None:
        settings = replace(settings, simplify_m=round(scene.gsd_m, 6))
    settings.width_px(scene.gsd_m)
    identity = {
        "verb": "vectorize",
        "geoseg": importlib.metadata.version("geoseg"),
        "mask": scene.shown,
        "mask_fingerprint": scene.fingerprint(),
        "classes": dict(classes) if classes is not None else None,
        **settings.identity(),
    }
    with RunDirectory(place_of(directory), identity, source=scene.path, overwrite=overwrite) as output:
        if (finished := output.finished()) is not None:
            progress.note(f"{output.path} holds these layers already, complete: nothing to do")
            return finished
        execution, _ = fit(execution, scene.height, scene.width, core=1)
        chunk = output.chunks({_GIVEN: execution.chunk or 1})[_GIVEN]
        lattice = Lattice(scene.height, scene.width, core=chunk, halo=0, chunk=chunk)
        output.require_reach(execution)
        _warn_of_compilation(progress)
        watch = Watch(progress)
        half = open_half(kernels.SceneMask(scene), output.store(_GIVEN), scene, lattice, settings, watch)
        with meanwhile(_prepare_the_rest), _opened(execution, progress, gpus=0) as executor:
            if not output.resumes:  # refuses what is no mask, before anything is written
                _check(executor, half.job, list(lattice.chunks()))
            output.open_stores({_GIVEN: lattice}, arrays=())
            executor.admit(_terms(output, scene), output.logs)
            with keeping(output.path):
                half = half.clean_label_trace(executor)
            worker_bytes = executor.peak_worker_bytes()
        with keeping(output.path):
            rows = half.join()
            with watch.stage("export"), local_copies(rows) as copies:
                layers = read_layers(copies, classes, crs=scene.crs, datetime=scene.datetime, model=None)
                files = write_layers(output.path, layers, settings.formats)
        result = Result(
            directory=output.path,
            passes=(),
            layers=half.summarise(layers),
            stages=watch.stages,
            files=tuple(path.name for path in files),
            executor=executor.name,
        )
        facts = _facts(asdict(settings), replace(execution, chunk=chunk), worker_bytes)
        with keeping(output.path):
            output.finish(result, facts | {"lattice": asdict(lattice), "valid_pixels": half.valid_pixels})
    return result


def _check(executor: Executor, job: VectorJob, chunks: Sequence[Chunk]) -> None:
    """Refuses what is no mask.

    Raises:
        InputError: so it is.
        ChunkError: some of it cannot be read.
    """
    from geoseg.engine import kernels

    failures: list[BaseException] = []
    executor.run(
        "check", kernels.check, job, chunks, lambda *_: None, on_failure=lambda _, error: failures.append(error)
    )
    if failures:
        raise ChunkError(
            f"{len(failures):,} of {len(chunks):,} chunks cannot be read, the first with: "
            f"{reason_of(failures[0])}; nothing was written, run again once the file was repaired"
        )


def _prepare_the_rest(in_vain: threading.Event) -> None:
    """Loads what comes after the first stage."""
    from geoseg.engine import (
        kernels,
        vector_half,  # noqa: F401
    )
    from geoseg.export import vectors

    if not in_vain.is_set():
        vectors.prepare(kernels.prepare())


def _warn_of_compilation(progress: Progress) -> None:
    from geoseg.stages.trace import has_compiled

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


def _watch_of(plan: Plan, passes: Sequence[Pass], watch: Watch) -> Watch:
    return watch if len(plan.passes) == 1 else watch.of(", ".join(part.name for part in passes))


@contextmanager
def _opened(
    execution: Execution, progress: Progress, *, gpus: int, opener: Opener = open_executor
) -> Iterator[Executor]:
    with opener(execution, gpus=gpus, note=progress.note) as executor:
        if executor.dashboard:
            progress.note(f"dashboard: {executor.dashboard}")
        yield executor


def _terms(output: RunDirectory, scene: Scene, passes: Sequence[Pass] = (), *, on_cpus: bool = False) -> Terms:
    """What all workers must have; ``on_cpus``: these are other machines', and run the passes' networks."""
    packages = dict.fromkeys(name for part in passes for name in packages_of(part.runtime))
    return Terms(
        directory=output.path,
        token=output.token,
        models=tuple((part.card.path, part.card.digest) for part in passes),
        packages=tuple((name, importlib.metadata.version(name)) for name in packages),
        precisions=tuple(dict.fromkeys(part.precision for part in passes if part.card.weights)) if on_cpus else (),
        scene=scene,
        bounds=scene.bounds_lonlat,
    )


def _predict_job(
    plan: Plan, together: Sequence[Pass], stores: Mapping[str, Store], *, keep: bool
) -> prediction.PredictJob:
    """The job of passes that are shown the same pixels; others' networks are kept for the next scene, if small."""
    small = sum(part.worker_bytes for part in plan.passes) <= _KEPT_BYTES
    shown = together[0]
    return prediction.PredictJob(
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
            prediction.PredictShare(
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
        spare=len(plan.passes) - len(together) if keep and small else 0,
    )


def _opening_networks(plan: Plan, output: RunDirectory, *, keep: bool) -> AbstractContextManager[None]:
    """Opens the first networks while the run begins, where this process will ask for them."""
    if not plan.execution.threads or output.resumes:
        return nullcontext()
    stores = {part.name: output.store(part.name) for part in plan.passes}
    return prediction.opening_networks(_predict_job(plan, plan.reads[0], stores, keep=keep))


def _predict_all(
    plan: Plan, stores: Mapping[str, Store], executor: Executor, watch: Watch, rasters: Rasters, *, keep: bool
) -> tuple[dict[str, ChunkCount], list[FailedWindow]]:
    """Predicts what is missing; returns the chunks of each pass, and the windows that are missing still.

    With ``keep`` networks stay loaded, for the next scene.
    """
    counts: dict[str, ChunkCount] = {}
    failed: list[FailedWindow] = []
    for together in plan.reads:
        job = _predict_job(plan, together, stores, keep=keep)
        done = [share.store.predicted(job.lattice.chunks()) for share in job.shares]
        lacking = {
            chunk: [share for share, there in zip(job.shares, done, strict=True) if chunk not in there]
            for chunk in job.lattice.chunks()
        }
        for share in job.shares:
            if any(share in shares for shares in lacking.values()):
                share.store.drop_intermediates()  # of a mask with windows that were missing
                share.store.make_folders()
        for part, there in zip(together, done, strict=True):
            rasters.settle([part.name], there)
        settle = partial(rasters.settle, [part.name for part in together])
        failures = _predict(job, lacking, executor, _watch_of(plan, together, watch), settle)
        if not keep:
            prediction.forget_networks()
        for part, share in zip(together, job.shares, strict=True):
            todo = [chunk for chunk, shares in lacking.items() if share in shares]
            own = {chunk: error for chunk, error in failures.items() if not share.store.is_predicted(chunk)}
            if own:
                from geoseg.engine.failures import blank, failed_windows

                blank(share.store, own)
                failed += failed_windows(part, own)
            counts[part.name] = ChunkCount(len(lacking), len(lacking) - len(todo), len(own))
    return counts, failed


def _predict(
    job: prediction.PredictJob,
    lacking: Mapping[Chunk, Sequence[prediction.PredictShare]],
    executor: Executor,
    watch: Watch,
    settle: Callable[[Sequence[Chunk]], None],
) -> dict[Chunk, BaseException]:
    """Predicts the chunks that shares lack, telling each; returns those that failed, and with what."""
    pixels = {chunk: chunk.window.area * len(shares) for chunk, shares in lacking.items() if shares}
    failures: dict[Chunk, BaseException] = {}
    count = ChunkCount(len(lacking), len(lacking) - len(pixels))
    with watch.stage("predict", sum(pixels.values()), count) as advance:

        def succeed(chunk: Chunk, _: None) -> None:
            settle([chunk])
            advance(pixels[chunk])

        def fail(chunk: Chunk, error: BaseException) -> None:
            failures[chunk] = error
            advance(pixels[chunk], failed=True)

        executor.run(
            "predict",
            prediction.predict,
            job,
            list(pixels),
            succeed,
            waits=True,
            needs_gpu=job.device == "cuda",
            on_failure=fail,
        )
    return failures


def _go_on_without(output: RunDirectory, failed: Sequence[FailedWindow], watch: Watch) -> None:
    """Stops a run that has nothing to make layers of, or none but those that are there.

    Raises:
        ChunkError: so it is.
    """
    predicted = watch.stages[0].chunks
    if predicted is not None and predicted.failed == predicted.total:
        raise ChunkError(
            f"all {predicted.total:,} chunks failed in stage predict, the first with: {failed[0].reason}; no layers "
            "were written, run the same command again to try again, or with --overwrite once the file was repaired"
        )
    if output.lacks_only(failed):
        raise _incomplete(output.path, failed, watch)


def _incomplete(directory: Place, failed: Sequence[FailedWindow], watch: Watch) -> ChunkError:
    """What a run ends with whose layers lack some windows."""
    predicted = watch.stages[0].chunks or ChunkCount(len(failed), 0, len(failed))
    return ChunkError(
        f"{predicted.failed:,} of {predicted.total:,} chunks failed in stage predict, the first with: "
        f"{failed[0].reason}; the layers lack these windows, which {directory / FAILED} shows; run the same command "
        "again to predict just those, or with --overwrite once the file was repaired"
    )


def _make_layers(
    plan: Plan, stores: Mapping[str, Store], directory: Place, executor: Executor, watch: Watch, rasters: Rasters
) -> tuple[list[VectorHalf], list[dict[str, Layer]], list[Place]]:
    """All that comes after the prediction: the half of each pass, its layers, and the files of all."""
    from geoseg.engine.kernels import StoredMask
    from geoseg.engine.vector_half import open_half
    from geoseg.export.rows import read_layers
    from geoseg.export.vectors import write_layers

    halves = []
    for part in plan.passes:
        predicted = StoredMask(stores[part.name], *PREDICTED)
        own = _watch_of(plan, [part], watch)
        halves.append(open_half(predicted, stores[part.name], part.grid, part.lattice, part.vector, own))
    halves = [half.clean_label_trace(executor) for half in halves]
    rows = [half.join() for half in halves]
    with watch.stage("export"), ExitStack() as copies:
        layers = [
            read_layers(
                copies.enter_context(local_copies(files)),
                part.codes,
                crs=part.grid.crs,
                datetime=part.grid.datetime,
                model=part.name,
            )
            for part, files in zip(plan.passes, rows, strict=True)
        ]
        named = {name: layer for found in layers for name, layer in found.items()}
        return halves, layers, write_layers(directory, named, plan.settings.vector.formats) + rasters.finish()


def _summary_of_pass(plan: Plan, part: Pass, half: VectorHalf, predicted: ChunkCount) -> PassSummary:
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
        mask=plan.raster_name(part),
        chunks=half.watch.chunks | {"predict": predicted},
        kept_apart=tuple(name for name, code in part.codes.items() if code in dict(part.vector.boundaries)),
    )


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

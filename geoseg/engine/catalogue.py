"""Many scenes in one run: a layer set of each, and a merged one without doubles (floor 4).

::

    DIR/water.geojson, ...   the merged layers
    DIR/run.json             what became of every scene
    DIR/scenes/NAME/         the run of each scene, as `run` leaves it
    DIR/.geoseg/             manifest and lock

Every scene is a run of its own, so what a stopped catalogue has finished is found finished, chunk by chunk. Scenes may
be added to a catalogue's list, and files may change: running it again does these, and merges anew.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from geoseg.engine.directory import RECORD, RunDirectory, read_record
from geoseg.engine.executor import Executor, open_executor
from geoseg.engine.plan import make_plan
from geoseg.engine.prediction import forget_networks
from geoseg.engine.progress import Advance, Progress, Silent
from geoseg.engine.result import ChunkCount, LayerSummary, Result, StageTime
from geoseg.engine.scenes import Listed, list_scenes
from geoseg.engine.watch import Watch
from geoseg.engine.workflow import run
from geoseg.errors import CatalogueError, ChangedError, GeosegError, InputError, OutputError, SceneError, WriteError
from geoseg.remote import Place, RemotePath, Where, place_of
from geoseg.settings import Execution, RunSettings, in_lonlat
from geoseg.signals import stop_if_asked

__all__ = ["CatalogueResult", "SceneOutcome", "run_catalogue"]

_SCENES = "scenes"
_NEEDED = "parquet"  # what scenes are merged from
_NAMED = 3  # failed scenes that an error names


@dataclass(frozen=True, slots=True)
class SceneOutcome:
    """What became of a scene.

    Attributes:
        name: of its folder.
        source: path or URL, without a URL's query.
        state: ``done`` in this run, ``reused`` from an earlier one, or ``failed``, wholly or in a part.
        reason: why it failed, in one line.
        polygons: by layer, as far as it was done.
    """

    name: str
    source: str
    state: Literal["done", "reused", "failed"]
    reason: str | None
    polygons: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CatalogueResult(Result):
    """What a catalogue left behind: the merged layers, and each scene's outcome.

    Attributes:
        scenes: in the order in which they were given.
    """

    scenes: tuple[SceneOutcome, ...] = ()

    def scene(self, name: str) -> Result:
        """The result of one scene.

        Raises:
            InputError: there is no such scene, or it is not done.
        """
        folder = self.directory / _SCENES / name
        if (record := read_record(folder)) is None:
            raise InputError(
                f"{folder} holds no finished scene; there are {', '.join(one.name for one in self.scenes)}"
            )
        return Result.from_json(folder, record)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; what ``geoseg info`` reads as a result has the scenes besides."""
        record = Result.to_json(self)
        return record | {_SCENES: [asdict(scene) for scene in self.scenes]}

    @classmethod
    def from_json(cls, directory: Place, record: Mapping[str, Any]) -> CatalogueResult:
        """Reads what :meth:`to_json` gave."""
        result = Result.from_json(directory, record)
        facts = {field.name: getattr(result, field.name) for field in fields(result)}
        return cls(**facts, scenes=tuple(SceneOutcome(**scene) for scene in record[_SCENES]))


def run_catalogue(
    scenes: str | Path | Sequence[str | Path],
    directory: Where,
    *,
    settings: RunSettings | None = None,
    execution: Execution | None = None,
    asset: str | None = None,
    datetime: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> CatalogueResult:
    """Turns many scenes into polygon layers: one set of each scene, and a merged one.

    Args:
        scenes: paths or URLs of rasters, folders, globs, CSVs, STAC files or APIs, see
            :func:`geoseg.engine.scenes.list_scenes`.
        directory: where all goes; made if it is not there. The same directory and settings resume.
        settings: what to do with each scene; with `bounds`, scenes beyond them fail, but STAC items are left out.
        execution: how to cut the work and who does it; opened once for all scenes.
        asset: of STAC items.
        datetime: interval of STAC items, ``START/END``.
        overwrite: replace what an earlier run left there.
        progress: sees the run go by; silent by default.

    Raises:
        InputError: bad usage, or no scene that could be run; nothing was written.
        WriteError: a disk is full, or may not be written; what was finished is kept, run again to resume.
        CatalogueError: some scenes failed; the others are done and merged, run again for the rest.
    """
    settings, execution, progress = settings or RunSettings(), execution or Execution(), progress or Silent()
    given = [str(one) for one in ([scenes] if isinstance(scenes, str | Path) else scenes)]
    listed = list_scenes(given, asset=asset, datetime=datetime, bounds=settings.bounds)
    home = place_of(directory)
    _refuse_own_output(listed, home)
    _require_a_plan(listed, settings, execution)
    formats = settings.vector.formats
    each = replace(settings, vector=replace(settings.vector, formats=tuple(dict.fromkeys((*formats, _NEEDED)))))
    identity = {"verb": "run", "of": "a catalogue", "geoseg": importlib.metadata.version("geoseg"), **_facts(settings)}
    with RunDirectory(home, identity, source=listed[0].path, overwrite=overwrite) as output:
        output.require_reach(execution)
        output.open_stores({}, ())
        outcomes, results, notes = [], {}, set[str]()
        with _Crew() as crew:
            for number, scene in enumerate(listed, 1):
                told = _Told(progress, f"scene {number} of {len(listed)}: {scene.name}", notes)
                own = output.path / _SCENES / scene.name
                outcome, result = _run_one(scene, own, each, execution, overwrite=overwrite, told=told, crew=crew)
                outcomes.append(outcome)
                if result is not None:
                    results[scene.name] = result
        _tell_of_others(output.path / _SCENES, {scene.name for scene in listed}, progress)
        merged = _merged(output, outcomes, results, formats, progress)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if failed:
        named = "; ".join(f"{one.name}: {one.reason}" for one in failed[:_NAMED])
        more = f"; and {len(failed) - _NAMED} more, see {output.path / RECORD}" if len(failed) > _NAMED else ""
        raise CatalogueError(
            f"{len(failed)} of {len(outcomes)} scenes failed ({named}{more}); the others are done and merged; "
            "run the same command again to do the missing ones"
        )
    return merged


def _refuse_own_output(listed: Sequence[Listed], directory: Place) -> None:
    """Refuses scenes that lie where the catalogue is written."""
    for scene in listed:
        if isinstance(directory, RemotePath):
            inside = directory.holds(scene.path)
        else:
            inside = "://" not in scene.path and directory.resolve() in Path(scene.path).resolve().parents
        if inside:
            raise OutputError(f"{scene.path} lies inside {directory}, which the run would write to; give another -o")


def _require_a_plan(listed: Sequence[Listed], settings: RunSettings, execution: Execution) -> None:
    """Refuses what can be done with no scene at all, before anything is written."""
    first: InputError | None = None
    for scene in listed:
        try:
            _plan(scene, settings, execution)
        except InputError as error:
            first = first or error
        else:
            return
    raise first or SceneError("no scene was given")


def _plan(scene: Listed, settings: RunSettings, execution: Execution) -> None:
    if scene.problem is not None:
        raise SceneError(scene.problem)
    make_plan(scene.path, _own(settings, scene), execution)


def _own(settings: RunSettings, scene: Listed) -> RunSettings:
    """A scene's settings: all have the same, but for what a list says of each."""
    return replace(settings, datetime=scene.datetime) if scene.datetime else settings


def _run_one(
    scene: Listed,
    home: Place,
    settings: RunSettings,
    execution: Execution,
    *,
    overwrite: bool,
    told: _Told,
    crew: _Crew,
) -> tuple[SceneOutcome, Result | None]:
    """Runs a scene; whatever is wrong with it becomes a line, and the others go on."""
    source = scene.path.split("?", 1)[0] if "://" in scene.path else scene.path
    try:
        if scene.problem is not None:
            raise SceneError(scene.problem)  # noqa: TRY301 - as if it had been found on opening it
        if isinstance(home, Path):
            home.parent.mkdir(parents=True, exist_ok=True)
        own = _own(settings, scene)
        again = partial(run, scene.path, home, settings=own, execution=execution, progress=told, opened=crew.open)
        try:
            result = again(overwrite=overwrite)
        except ChangedError:
            told.note(f"{scene.name} has changed since it was done, and is done anew")
            result = again(overwrite=True)
    except WriteError:  # the other scenes are written to the same disk
        raise
    except Exception as error:  # noqa: BLE001 - a bug on one scene must not lose the others
        stop_if_asked()  # compiled code may make another error of an interrupt
        crew.look_after(error)
        why = str(error) if isinstance(error, GeosegError) else f"{type(error).__name__}: {error}"
        reason = " ".join(why.split())
        told.fail(reason)
        left = _left(home, error)
        return SceneOutcome(scene.name, source, "failed", reason, _polygons(left)), left
    return SceneOutcome(scene.name, source, "done" if told.ran else "reused", None, _polygons(result)), result


def _tell_of_others(scenes: Place, listed: Collection[str], progress: Progress) -> None:
    """Tells of scenes of an earlier list, which are kept but in no merged layer."""
    there = scenes.iterdir() if isinstance(scenes, RemotePath) or scenes.exists() else ()
    others = sorted({place.name for place in there} - set(listed))
    if others:
        named = ", ".join(others[:_NAMED]) + (", ..." if len(others) > _NAMED else "")
        progress.note(
            f"{len(others)} of the scenes in {scenes} are not in this list and not in the merged layers: {named}"
        )


def _left(home: Place, error: Exception) -> Result | None:
    """What a run wrote although some of its windows failed; of a scene that was refused, nothing counts."""
    record = None if isinstance(error, InputError) else read_record(home)
    return None if record is None else Result.from_json(home, record)


def _polygons(result: Result | None) -> dict[str, int]:
    return {} if result is None else {name: layer.polygons for name, layer in result.layers.items()}


def _merged(
    output: RunDirectory,
    outcomes: Sequence[SceneOutcome],
    results: Mapping[str, Result],
    formats: Sequence[str],
    progress: Progress,
) -> CatalogueResult:
    """Merges what is done, unless that is there already, and writes the record."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(results):
        digest.update(name.encode() + (results[name].directory / RECORD).read_bytes())
    merge_of, record = digest.hexdigest(), read_record(output.path)
    if record and record.get("merge_of") == merge_of and all((output.path / name).exists() for name in record["files"]):
        progress.note(f"{output.path} holds the merged layers of these {len(results)} scenes already")
        kept = CatalogueResult.from_json(output.path, record)
        layers, files, watch = kept.layers, kept.files, Watch(progress)
    else:
        watch = Watch(progress)
        layers, files = _merge(output.path, results, formats, watch) if results else ({}, ())
        for name in set(record["files"] if record else ()) - set(files):
            (output.path / name).unlink(missing_ok=True)
    times = _summed([results[one.name].stages for one in outcomes if one.state == "done"], watch.stages)
    executors = dict.fromkeys(result.executor for result in results.values())
    merged = CatalogueResult(
        directory=output.path,
        passes=(),
        layers=layers,
        stages=times,
        files=tuple(files),
        executor=", ".join(executors),
        scenes=tuple(outcomes),
    )
    output.finish(merged, {"merge_of": merge_of})
    return merged


def _merge(
    directory: Place, results: Mapping[str, Result], formats: Sequence[str], watch: Watch
) -> tuple[Mapping[str, LayerSummary], tuple[str, ...]]:
    from geoseg.engine.merge import FinishedScene, merge_layers
    from geoseg.export.vectors import write_layers

    (directory / RECORD).unlink(missing_ok=True)  # from here on the merged layers are others
    with _work_folder(directory) as work:
        with watch.stage("merge"):
            scenes = [FinishedScene(name, _at_hand(result, work / name)) for name, result in results.items()]
            rows = work / "rows"
            rows.mkdir()
            layers, summaries = merge_layers(scenes, rows, lonlat=in_lonlat(formats))
        with watch.stage("export"):
            files = write_layers(directory, layers, formats)
        del layers
    return summaries, tuple(path.name for path in files)


@contextmanager
def _work_folder(directory: Place) -> Iterator[Path]:
    """An empty local folder for as long as scenes are merged; beside the run if that is local, where there is room."""
    if isinstance(directory, RemotePath):
        with tempfile.TemporaryDirectory(prefix="geoseg-", ignore_cleanup_errors=True) as name:
            yield Path(name)
        return
    work = directory / ".geoseg" / "merge"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    yield work
    shutil.rmtree(work, ignore_errors=True)


def _at_hand(result: Result, folder: Path) -> Result:
    """A result whose files are local, copied to a folder if they were not."""
    directory = result.directory
    if isinstance(directory, RemotePath):
        folder.mkdir()
        for name in (*(part.mask for part in result.passes), *(f"{name}.{_NEEDED}" for name in result.layers)):
            (directory / name).download(folder / name)
        return replace(result, directory=folder)
    return result


def _summed(scenes: Sequence[Sequence[StageTime]], own: Sequence[StageTime]) -> tuple[StageTime, ...]:
    """What each stage took over all scenes."""
    times: dict[str, StageTime] = {}
    for stage in (*(stage for stages in scenes for stage in stages), *own):
        before = times.get(stage.name, StageTime(stage.name, 0.0, 0))
        times[stage.name] = StageTime(
            stage.name, round(before.seconds + stage.seconds, 3), before.pixels + stage.pixels
        )
    return tuple(times.values())


def _facts(settings: RunSettings) -> dict[str, Any]:
    """The settings as plain values, by name."""
    facts = asdict(settings)
    vector: dict[str, Any] = facts.pop("vector")
    return facts | vector | {"formats": sorted(set(settings.vector.formats))}


class _Told:
    """The progress of one scene: its name is told once it has work to do, and nothing that was told of another.

    Args:
        progress: of the catalogue.
        title: of the scene.
        before: notes on other scenes.
    """

    def __init__(self, progress: Progress, title: str, before: set[str]) -> None:
        self._progress = progress
        self._title = title
        self._before = before
        self._notes: list[str] = []
        self.ran = False

    def note(self, text: str) -> None:
        """See :meth:`Progress.note`."""
        if not self.ran:
            self._notes.append(text)
        elif text not in self._before:
            self._before.add(text)
            self._progress.note(text)

    def stage(self, name: str, pixels: int, chunks: ChunkCount | None = None) -> AbstractContextManager[Advance]:
        """See :meth:`Progress.stage`."""
        if not self.ran:
            self.ran = True
            for text in (self._title, *self._notes):
                self.note(text)
        return self._progress.stage(name, pixels, chunks)

    def fail(self, reason: str) -> None:
        """Tells that the scene failed."""
        self._progress.note(f"{self._title} failed: {reason}")


class _Crew:
    """Opens an executor when it is first asked for, and keeps it for all scenes."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._open: dict[str, Executor] = {}
        self._refused: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @contextmanager
    def open(
        self, execution: Execution, *, gpus: int = 0, note: Callable[[str], None] = lambda _: None
    ) -> Iterator[Executor]:
        """See ``open_executor``; the same request gets the same executor."""
        key = json.dumps([asdict(replace(execution, chunk=None)), gpus], sort_keys=True, default=str)
        if key not in self._open:
            try:
                self._open[key] = self._stack.enter_context(open_executor(execution, gpus=gpus, note=note))
            except Exception as error:
                self._refused = error
                raise
        yield self._open[key]

    def look_after(self, error: Exception) -> None:
        """After a scene failed: no executor at all ends the catalogue; one that may be broken is opened anew."""
        if error is self._refused:
            raise error
        if not isinstance(error, InputError):
            self._close()

    def _close(self) -> None:
        forget_networks()
        self._open.clear()
        self._stack.close()

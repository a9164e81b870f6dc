"""A run's directory: may it be written, is it done already, what it holds in the end (floor 4).

::

    DIR/run.json             what the run was, written last
    DIR/.geoseg/
        manifest.json        its identity and its chunks; without it the rest is nothing
        lock                 held by the process that writes, see :mod:`geoseg.engine.lock`
        masks/town/          the working state of each mask, see :mod:`geoseg.engine.store`
        logs/                what each Dask worker did, see :mod:`geoseg.engine.calls`

DIR is a folder on a file system or in an object store.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from geoseg.atomic import remove_leftovers, staged
from geoseg.engine import lock
from geoseg.engine.result import FAILED, FailedWindow, Result
from geoseg.engine.store import Store
from geoseg.errors import ChangedError, OutputError, SettingsError
from geoseg.lattice import Lattice
from geoseg.remote import Place, RemotePath
from geoseg.settings import Execution

__all__ = ["RECORD", "RunDirectory", "read_record", "read_token"]

RECORD = "run.json"
_STORE = ".geoseg"
_LOCK = "lock"
_MANIFEST = "manifest.json"
_FORMAT = 2
_FINGERPRINTS = {"scene_fingerprint", "mask_fingerprint"}


def read_record(directory: Place) -> dict[str, Any] | None:
    """The ``run.json`` of a finished run, or ``None`` where there is none.

    Raises:
        OutputError: a file of that name that is not one.
    """
    path = directory / RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        Result.from_json(directory, record)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{path} is not the record of a geoseg run ({error}); give another -o, or --overwrite"
        ) from None
    return record


def read_token(directory: Place) -> str | None:
    """What tells this run's directory from every other; ``None`` where there is no run."""
    try:
        manifest = json.loads((directory / _STORE / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(manifest.get("run", ""))


class RunDirectory:
    """The directory that a run was told to write to.

    Nothing is written before :meth:`open_stores`, which also keeps other runs out until the context ends (in an object
    store, a small object is written and removed, to see whether that will work).

    Args:
        path: of the directory; need not exist.
        identity: all facts that decide the layers, as plain JSON values.
        source: path of what the run reads.
        overwrite: replace what an earlier run left.

    Raises:
        ChangedError: the directory holds a run of the same settings, of a file that has changed since.
        OutputError: the directory holds a run of other settings, files of no run at all, or the run's own input; or it
            lies in an object store that cannot be written.
    """

    def __init__(self, path: Place, identity: Mapping[str, Any], *, source: str, overwrite: bool) -> None:
        self.path: Place = path.absolute() if isinstance(path, Path) else path
        self._root = self.path / _STORE
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))
        self._overwrite = overwrite
        self._source = source
        self._lock: lock.Lock | None = None
        for place in (path, *path.parents) if isinstance(path, Path) else ():
            if place.exists() and not place.is_dir():
                raise OutputError(f"{place} is a file; -o takes a directory")
        if _holds(self.path, source):
            raise OutputError(f"{source} lies inside {path}, which the run would write to; give another -o")
        self._manifest = None if overwrite else self._read_manifest()
        if self._manifest is not None:
            self._refuse_other_settings(self._manifest)
        elif not overwrite and _holds_other_than(self.path, _STORE):
            raise OutputError(
                f"{path} is not empty and holds no geoseg run; give a new directory, or --overwrite to write into it"
            )
        self._run: str = uuid.uuid4().hex if self._manifest is None else self._manifest.get("run", "")
        if self.finished() is None:
            _require_writable(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def _manifest_path(self) -> Place:
        return self._root / _MANIFEST

    def _read_manifest(self) -> dict[str, Any] | None:
        """What the run is that the directory holds, or ``None`` where there is none."""
        try:
            content: dict[str, Any] = json.loads(self._manifest_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and isinstance(self.path, RemotePath):
                raise _out_of_reach(self.path, "read", error) from None
            raise OutputError(
                f"{self._manifest_path} cannot be read: {error}; give another -o, or --overwrite"
            ) from None
        return content

    def _refuse_other_settings(self, manifest: Mapping[str, Any]) -> None:
        if manifest.get("format") != _FORMAT:
            raise OutputError(f"{self.path} holds a run of another geoseg version; give another -o, or --overwrite")
        held, wanted = manifest["identity"], self._identity
        if _kind_of(held) != _kind_of(wanted):
            raise OutputError(f"{self.path} holds layers of {_kind_of(held)}; give another -o, or --overwrite")
        different = [
            key for key in (*wanted, *(key for key in held if key not in wanted)) if held.get(key) != wanted.get(key)
        ]
        if different and set(different) <= _FINGERPRINTS:
            raise ChangedError(
                f"{self._source} is not the file of which {self.path} holds a run ({', '.join(different)}): its size "
                "or the time of its writing changed since; give --overwrite to do it anew, or another -o"
            )
        if different:
            differences = [
                f"{key} is {_short(held.get(key))} there, {_short(wanted.get(key))} now" for key in different
            ]
            raise OutputError(
                f"{self.path} holds a run of other settings: {'; '.join(differences)}; "
                "give another -o, the same settings, or --overwrite"
            )

    def finished(self) -> Result | None:
        """The result of this very run, if it is complete already."""
        written = self._written()
        return None if written is None or written.failed else written

    def lacks_only(self, failed: Sequence[FailedWindow]) -> bool:
        """Whether this very run has left all that there can be while these windows are missing."""
        written = self._written()
        return written is not None and _places(written.failed) == _places(failed)

    def _written(self) -> Result | None:
        if self._manifest is None or (record := read_record(self.path)) is None:
            return None
        there = {entry.name for entry in self.path.iterdir()}
        if not there.issuperset(record["files"]):
            return None
        return Result.from_json(self.path, record)

    @property
    def resumes(self) -> bool:
        """Whether a run of the same settings was begun here before."""
        return self._manifest is not None

    @property
    def token(self) -> str:
        """Another for every run; a worker that reads the same one in this directory writes to the same place.

        To be read there once the stores are open.
        """
        return self._run

    @property
    def logs(self) -> Path | None:
        """Folder of the workers' logs; in an object store there is none, for nothing can be appended there."""
        return self._root / "logs" if isinstance(self._root, Path) else None

    def chunks(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Side of each mask's chunks: those of the run which is continued, else those wanted."""
        return dict(wanted) if self._manifest is None else dict(self._manifest["chunks"])

    def store(self, mask: str) -> Store:
        """Where the working state of a mask goes; nothing is there before :meth:`open_stores`."""
        return Store(self._root / "masks" / mask, self._run)

    def require_reach(self, execution: Execution) -> None:
        """Makes sure that those who do the work see the directory.

        Raises:
            SettingsError: it lies in the memory of this process, and others are to write to it.
        """
        if isinstance(self.path, RemotePath) and not self.path.shared and (execution.workers or execution.scheduler):
            raise SettingsError(
                f"{self.path} lies in the memory of this process, where Dask workers do not reach; give --threads, "
                "or another -o"
            )

    def open_stores(self, lattices: Mapping[str, Lattice], arrays: tuple[str, ...]) -> dict[str, Store]:
        """Makes the directory and a store for each mask, or keeps those of the run that is continued.

        Args:
            lattices: of the masks, by their names.
            arrays: names of the arrays that a store holds from the start.

        Raises:
            OutputError: the directory cannot be written, or another run is writing it.
        """
        stores = {mask: self.store(mask) for mask in lattices}
        try:
            if isinstance(self._root, Path):
                self._root.mkdir(parents=True, exist_ok=True)
            self._lock = lock.take(self._root / _LOCK, self.path)
            if self._manifest is None:
                if self._overwrite:
                    self._remove_earlier()
                self._discard()
                for mask, lattice in lattices.items():
                    stores[mask].create(chunk=lattice.chunk, shape=(lattice.height, lattice.width), arrays=arrays)
                chunks = {mask: lattice.chunk for mask, lattice in lattices.items()}
                manifest = {"format": _FORMAT, "identity": self._identity, "chunks": chunks, "run": self._run}
                _write_json(self._manifest_path, manifest)  # last: from now on this is a run
            elif self._read_manifest() != self._manifest:
                raise OutputError(f"{self.path} was changed by another run just now; look at it and run again")
            remove_leftovers(self.path)
            for store in stores.values():
                store.make_folders()
                store.remove_leftovers()
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror}; give another -o") from None
        return stores

    def _discard(self) -> None:
        """Empties the working state; the manifest goes first, so that nobody takes what is left for a run."""
        self._manifest_path.unlink(missing_ok=True)
        for entry in self._root.iterdir():
            if entry.name == _LOCK:
                continue
            if isinstance(entry, RemotePath):
                entry.remove_tree()
            elif entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _remove_earlier(self) -> None:
        """Removes what an earlier run wrote, and nothing else."""
        try:
            record = read_record(self.path)
        except OutputError:
            return
        if record is None:
            return
        (self.path / RECORD).unlink()
        for name in record["files"]:
            (self.path / Path(name).name).unlink(missing_ok=True)

    def finish(self, result: Result, facts: Mapping[str, Any]) -> None:
        """Writes ``run.json``, the last file of a run, and drops what only the run needed."""
        if self._lock is not None:
            self._lock.require()
        if not result.failed:
            (self.path / FAILED).unlink(missing_ok=True)
        _write_json(self.path / RECORD, {"identity": self._identity, **facts, **result.to_json()})
        masks = self._root / "masks"
        for folder in masks.iterdir() if isinstance(masks, RemotePath) or masks.exists() else ():
            self.store(folder.name).drop_intermediates()


def _places(failed: Sequence[FailedWindow]) -> set[tuple[str, tuple[int, int, int, int]]]:
    return {(window.model, window.window) for window in failed}


def _write_json(path: Place, content: Mapping[str, Any]) -> None:
    """Writes a JSON object, atomically."""
    with staged(path) as inside:
        inside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _holds(folder: Place, source: str) -> bool:
    """Whether what a run reads lies in the folder that it writes."""
    if isinstance(folder, RemotePath):
        return folder.holds(source)
    return folder.resolve() in Path(source).resolve().parents


def _holds_other_than(folder: Place, name: str) -> bool:
    """Whether there is anything in a folder but one name."""
    try:
        if isinstance(folder, Path) and not folder.exists():
            return False
        return any(entry.name != name for entry in folder.iterdir())
    except OSError as error:
        if isinstance(folder, Path):
            raise
        raise _out_of_reach(folder, "read", error) from None


def _kind_of(identity: Mapping[str, Any]) -> str:
    """What a run makes layers of."""
    return "a mask" if identity["verb"] == "vectorize" else str(identity.get("of", "a scene"))


def _require_writable(folder: Place) -> None:
    """Refuses a place in an object store that cannot be written, before any work is done."""
    if isinstance(folder, Path):
        return
    probe = folder / _STORE / f"probe-{uuid.uuid4().hex}"
    try:
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise _out_of_reach(folder, "written", error) from None


def _out_of_reach(folder: RemotePath, verb: str, error: OSError) -> OutputError:
    why = (error.strerror or str(error)).rstrip(".")
    return OutputError(f"{folder} cannot be {verb}: {why}; look at the bucket, the address and your access")


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:16]}…{text[-8:]}"

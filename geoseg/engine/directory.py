"""A run's directory: may it be written, is it done already, what it holds in the end (floor 4).

::

    DIR/run.json             what the run was, written last
    DIR/.geoseg/
        manifest.json        its identity and its chunks; without it the rest is nothing
        lock                 held by the process that writes
        masks/town/          the working state of each mask, see :mod:`geoseg.engine.store`
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

from geoseg.atomic import remove_leftovers, staged
from geoseg.engine.result import Result
from geoseg.engine.store import Store
from geoseg.errors import OutputError
from geoseg.lattice import Lattice

__all__ = ["RECORD", "RunDirectory", "read_record"]

RECORD = "run.json"
_STORE = ".geoseg"
_LOCK = "lock"
_FORMAT = 2


def read_record(directory: Path) -> dict[str, Any] | None:
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


class RunDirectory:
    """The directory that a run was told to write to.

    Nothing is written before :meth:`open_stores`, which also keeps other runs out until the context ends.

    Args:
        path: of the directory; need not exist.
        identity: all facts that decide the layers, as plain JSON values.
        source: path of what the run reads.
        overwrite: replace what an earlier run left.

    Raises:
        OutputError: the directory holds a run of other settings, files of no run at all, or the run's own input.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], *, source: str, overwrite: bool) -> None:
        self.path = path.absolute()
        self._root = self.path / _STORE
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))
        self._overwrite = overwrite
        self._lock: IO[str] | None = None
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is a file; -o takes a directory")
        if self.path.resolve() in Path(source).resolve().parents:
            raise OutputError(f"{source} lies inside {path}, which the run would write to; give another -o")
        self._manifest = None if overwrite else self._read_manifest()
        if self._manifest is not None:
            self._refuse_other_settings(self._manifest)
        elif not overwrite and path.exists() and any(entry.name != _STORE for entry in path.iterdir()):
            raise OutputError(
                f"{path} is not empty and holds no geoseg run; give a new directory, or --overwrite to write into it"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def _manifest_path(self) -> Path:
        return self._root / "manifest.json"

    def _read_manifest(self) -> dict[str, Any] | None:
        """What the run is that the directory holds, or ``None`` where there is none."""
        try:
            content: dict[str, Any] = json.loads(self._manifest_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{self._manifest_path} cannot be read: {error}; give another -o, or --overwrite"
            ) from None
        return content

    def _refuse_other_settings(self, manifest: Mapping[str, Any]) -> None:
        if manifest.get("format") != _FORMAT:
            raise OutputError(f"{self.path} holds a run of another geoseg version; give another -o, or --overwrite")
        held, wanted = manifest["identity"], self._identity
        differences = [
            f"{key} is {_short(held.get(key))} there, {_short(wanted.get(key))} now"
            for key in (*wanted, *(key for key in held if key not in wanted))
            if held.get(key) != wanted.get(key)
        ]
        if differences:
            raise OutputError(
                f"{self.path} holds a run of other settings: {'; '.join(differences)}; "
                "give another -o, the same settings, or --overwrite"
            )

    def finished(self) -> Result | None:
        """The result of this very run, if it is complete already."""
        if self._manifest is None or (record := read_record(self.path)) is None:
            return None
        if not all((self.path / name).exists() for name in record["files"]):
            return None
        return Result.from_json(self.path, record)

    @property
    def resumes(self) -> bool:
        """Whether a run of the same settings was begun here before."""
        return self._manifest is not None

    def chunks(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Side of each mask's chunks: those of the run which is continued, else those wanted."""
        return dict(wanted) if self._manifest is None else dict(self._manifest["chunks"])

    def store(self, mask: str) -> Store:
        """Where the working state of a mask goes; nothing is there before :meth:`open_stores`."""
        return Store(self._root / "masks" / mask)

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
            self._root.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            if self._manifest is None:
                if self._overwrite:
                    self._remove_earlier()
                self._discard()
                for mask, lattice in lattices.items():
                    stores[mask].create(chunk=lattice.chunk, shape=(lattice.height, lattice.width), arrays=arrays)
                chunks = {mask: lattice.chunk for mask, lattice in lattices.items()}
                manifest = {"format": _FORMAT, "identity": self._identity, "chunks": chunks}
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
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != _LOCK:
                entry.unlink()

    def _take_lock(self) -> None:
        """Keeps other runs out. The system lets go of the lock when this process ends, however it ends."""
        self._lock = (self._root / _LOCK).open("a", encoding="utf-8")
        try:
            _lock_file(self._lock)
        except OSError:
            raise OutputError(f"another run is writing {self.path}; wait for its end, or give another -o") from None

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
        _write_json(self.path / RECORD, {"identity": self._identity, **facts, **result.to_json()})
        for folder in (self._root / "masks").glob("*"):
            Store(folder).drop_intermediates()


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object, atomically."""
    with staged(path) as inside:
        inside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _lock_file(file: IO[str]) -> None:
    """Takes an exclusive lock or raises OSError at once."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:16]}…{text[-8:]}"

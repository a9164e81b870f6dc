"""A run's directory: may it be written, is it done already, what it holds in the end (floor 4)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geoseg.engine.result import Result
from geoseg.engine.store import Store, write_json
from geoseg.errors import OutputError
from geoseg.export.atomic import remove_leftovers

__all__ = ["RECORD", "RunDirectory", "read_record"]

RECORD = "run.json"
_STORE = ".geoseg"


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

    Nothing is written before :meth:`open_store`.

    Args:
        path: of the directory; need not exist.
        identity: all facts that decide the layers, as plain JSON values.
        overwrite: replace what an earlier run left.

    Raises:
        OutputError: the directory holds a run of other settings, or files of no run at all.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], *, overwrite: bool) -> None:
        self.path = path
        self.store = Store(path / _STORE)
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))
        self._overwrite = overwrite
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is a file; -o takes a directory")
        self._manifest = None if overwrite else self.store.manifest()
        if self._manifest is not None:
            self._refuse_other_settings(self._manifest["identity"])
        elif not overwrite and path.exists() and any(path.iterdir()):
            raise OutputError(
                f"{path} is not empty and holds no geoseg run; give a new directory, or --overwrite to write into it"
            )

    def _refuse_other_settings(self, held: Mapping[str, Any]) -> None:
        wanted = self._identity
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
        """Whether an earlier, unfinished run of the same identity is continued."""
        return self._manifest is not None

    def chunk(self, wanted: int) -> int:
        """Side of a chunk: that of the run which is continued, else the one wanted."""
        return wanted if self._manifest is None else int(self._manifest["chunk"])

    def open_store(self, *, chunk: int, shape: tuple[int, int], arrays: tuple[str, ...]) -> Store:
        """Makes the directory and its store, or keeps those of the run that is continued.

        Raises:
            OutputError: the directory cannot be written.
        """
        if self._manifest is None:
            if self._overwrite:
                self._remove_earlier()
            self.store.create({"identity": self._identity, "chunk": chunk}, chunk=chunk, shape=shape, arrays=arrays)
        else:
            remove_leftovers(self.path)
            self.store.remove_leftovers()
        return self.store

    def _remove_earlier(self) -> None:
        """Removes what an earlier run wrote, and nothing else."""
        try:
            record = read_record(self.path)
        except OutputError:
            record = None
        for name in (record or {}).get("files", []):
            (self.path / Path(name).name).unlink(missing_ok=True)
        (self.path / RECORD).unlink(missing_ok=True)
        shutil.rmtree(self.store.root, ignore_errors=True)

    def finish(self, result: Result, facts: Mapping[str, Any]) -> None:
        """Writes ``run.json``, the last file of a run, and drops what only the run needed."""
        write_json(self.path / RECORD, {"identity": self._identity, **facts, **result.to_json()})
        self.store.drop_fragments()


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:16]}…{text[-8:]}"

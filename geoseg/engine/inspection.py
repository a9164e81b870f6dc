"""Finds out what a path is: a finished run, a model, or a scene (floor 4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geoseg.engine.catalogue import CatalogueResult
from geoseg.engine.directory import RECORD, read_record, read_token
from geoseg.engine.result import Result
from geoseg.errors import InputError, OutputError
from geoseg.models import zoo
from geoseg.models.card import Card
from geoseg.remote import Place, RemotePath, place_of
from geoseg.scene import Scene

__all__ = ["inspect"]


def inspect(path: str) -> Scene | Card | Result:
    """Opens whatever the path leads to.

    Args:
        path: a run's directory, a model's name or card, or a scene; a directory or a scene may be a URL.

    Raises:
        InputError: none of these.
    """
    if (run := _remote_run(path)) is not None:
        return run
    local = Path(path)
    if local.is_dir():
        record = read_record(local)
        if record is None and read_token(local) is not None:
            raise InputError(f"{path} holds a run that is not finished; the command that began it goes on with it")
        if record is None:
            raise InputError(f"{path} is a directory without {RECORD}; give a finished run, a scene or a model")
        return _result_of(local, record)
    if local.suffix == ".json" or path in zoo.names():
        return zoo.load(path)
    return Scene.open(path)


def _remote_run(path: str) -> Result | None:
    """A finished run in an object store."""
    try:
        directory = place_of(path)
        record = read_record(directory) if isinstance(directory, RemotePath) else None
    except OutputError:  # of a kind that nobody writes to, but a scene may lie there
        return None
    return None if record is None else _result_of(directory, record)


def _result_of(directory: Place, record: Mapping[str, Any]) -> Result:
    return (CatalogueResult if "scenes" in record else Result).from_json(directory, record)

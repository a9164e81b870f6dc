"""The arrays of a store: zarr, one zarr chunk per chunk, on a file system or in an object store (floor 4).

zarr is loaded with the first array: that takes a fifth of a second, in which networks are opened.
"""

from __future__ import annotations

import functools
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from geoseg.remote import Place

if TYPE_CHECKING:
    import zarr

__all__ = ["Array", "create", "names", "opened"]

Array: TypeAlias = "zarr.Array[Any]"

_METADATA = "zarr.json"
_opening = threading.Lock()


def create(folder: Place, name: str, chunk: int, shape: tuple[int, int]) -> None:
    """Makes an array in a folder of arrays, 255 at first, unless there is one of that name.

    Args:
        folder: made if it is not there.
        name: of the array.
        chunk: side of a chunk, pixels.
        shape: (rows, cols).
    """
    import zarr

    group = zarr.open_group(_where(folder), mode="a", zarr_format=3)
    if name not in group:
        chunks = (min(chunk, shape[0]), min(chunk, shape[1]))
        group.create_array(name, shape=shape, chunks=chunks, dtype="uint8", fill_value=255)


def names(folder: Place) -> set[str]:
    """Names of the arrays in a folder of arrays; none where there is no such folder."""
    if isinstance(folder, Path) and not folder.exists():
        return set()
    return {entry.name for entry in folder.iterdir()} - {_METADATA}


def opened(path: Place, run: str) -> Array:
    """An array to read and write: opened once in a process, and all of its threads share it.

    Args:
        path: of the array.
        run: name of the run that it belongs to: another run may have made another array of the same path.

    Raises:
        FileNotFoundError: there is none.
    """
    return _opened(path, run, os.getpid())


@functools.lru_cache(maxsize=32)
def _opened(path: Place, run: str, pid: int) -> Array:  # noqa: ARG001 - they tell one array from another
    import zarr

    # else zarr looks whether chunks are empty, which takes three times as long as to write them; an array keeps the
    # setting that it was opened with, which is one for all threads
    with _opening, zarr.config.set({"array.write_empty_chunks": True}):
        return zarr.Array.open(_where(path, complete=True))


def _where(place: Place, *, complete: bool = False) -> Any:
    """What zarr takes for a place; ``complete``: every chunk is there, so one that is missing was taken away."""
    if isinstance(place, Path):
        return str(place)
    from geoseg.engine.object_arrays import open_store

    return open_store(place.url, complete=complete)

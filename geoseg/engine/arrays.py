"""The arrays of a store: zarr, one zarr chunk per chunk, on a file system or in an object store (floor 4)."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from pathlib import Path
from typing import Any, TypeAlias

import zarr
from fsspec.asyn import AsyncFileSystem
from zarr.storage import FsspecStore

from geoseg.remote import Place, RemotePath

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
    where = str(folder) if isinstance(folder, Path) else FsspecStore(_Patient(asynchronous=True), path=folder.url)
    group = zarr.open_group(where, mode="a", zarr_format=3)
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
    # every chunk is written, so one that is missing was taken away by somebody, and is no nodata
    where = (
        str(path)
        if isinstance(path, Path)
        else FsspecStore(_Patient(asynchronous=True), path=path.url, allowed_exceptions=())
    )
    # else zarr looks whether chunks are empty, which takes three times as long as to write them; an array keeps the
    # setting that it was opened with, which is one for all threads
    with _opening, zarr.config.set({"array.write_empty_chunks": True}):
        return zarr.Array.open(where)


class _Patient(AsyncFileSystem):  # type: ignore[misc]
    """What zarr asks of a file system, by URL, as :class:`RemotePath` does it and with its patience."""

    cachable = False

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        content = await asyncio.to_thread(RemotePath(path).read_bytes)
        return content[start:end]

    async def _pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        await asyncio.to_thread(RemotePath(path).write_bytes, value)

    async def _exists(self, path: str, **_: Any) -> bool:
        return await asyncio.to_thread(RemotePath(path).exists)

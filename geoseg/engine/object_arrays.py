"""Arrays in an object store: what zarr asks of it, with our patience (floor 4)."""

from __future__ import annotations

import asyncio
from typing import Any

from fsspec.asyn import AsyncFileSystem
from zarr.storage import FsspecStore

from geoseg.remote import RemotePath

__all__ = ["open_store"]


def open_store(url: str, *, complete: bool) -> FsspecStore:
    """A folder of arrays, or an array, as zarr takes it.

    Args:
        url: of the folder.
        complete: every chunk is there: one that is missing was taken away by somebody, and is no nodata.
    """
    files = _Patient(asynchronous=True)
    return FsspecStore(files, path=url, allowed_exceptions=()) if complete else FsspecStore(files, path=url)


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

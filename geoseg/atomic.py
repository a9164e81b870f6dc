"""Files that appear whole or not at all: written in a hidden folder beside their place, then moved there.

What goes to an object store is written in a temporary folder of this machine and sent there whole; what comes from one
is copied to such a folder, for readers that need a local file.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from geoseg.errors import OutputError
from geoseg.remote import Place, RemotePath

__all__ = ["local_copies", "remove_leftovers", "remove_tree", "staged"]

PREFIX = ".partial-"
_REQUESTS = 16  # at once


@contextmanager
def staged(path: Place) -> Iterator[Path]:
    """Give a path to write to, and move what was written to `path` when the block ends well.

    The staging folder lies beside `path`, so the move stays in one file system (`os.replace`, atomic). Side
    files (`mask.tif.aux.xml`) are moved with the file and before it. On an exception nothing is moved, a file
    that was at `path` stays as it was, and the staging folder goes. Only a killed process leaves the folder
    behind (see `remove_leftovers`).

    A `path` in an object store is staged in the machine's temporary folder and uploaded, its side files before it.

    Args:
        path: the file to be; its folder must exist.

    Yields:
        A path with the same file name in the staging folder.

    Raises:
        OutputError: there is no such folder, or the file cannot be put there.
        OSError: the object store does not take it.
    """
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory(prefix="geoseg-", ignore_cleanup_errors=True) as name:
            inside = Path(name) / path.name
            yield inside
            if not inside.exists():
                raise OutputError(f"cannot write {path}: nothing was written")
            for side in sorted(inside.parent.glob("*"), key=lambda side: (side == inside, side)):
                path.with_name(side.name).upload(side)
        return
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}; create it first")
    try:
        folder = tempfile.TemporaryDirectory(prefix=PREFIX, dir=path.parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror} in folder {path.parent}") from error
    with folder as name:
        inside = Path(name) / path.name
        yield inside
        try:
            for side in sorted(inside.parent.glob("*")):
                if side != inside:
                    side.replace(path.parent / side.name)
            inside.replace(path)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}; is it a folder, or open elsewhere?") from error


@contextmanager
def local_copies(paths: Sequence[Place]) -> Iterator[list[Path]]:
    """Give the files on the local file system, in order: as they are, or copies of objects that last for the block.

    Raises:
        OSError: an object cannot be read, or the temporary folder is full.
    """
    if not any(isinstance(path, RemotePath) for path in paths):
        yield [path for path in paths if isinstance(path, Path)]
        return
    with tempfile.TemporaryDirectory(prefix="geoseg-", ignore_cleanup_errors=True) as name:

        def copied(number: int, path: Place) -> Path:
            if isinstance(path, Path):
                return path
            folder = Path(name) / str(number)  # names may repeat
            folder.mkdir()
            path.download(folder / path.name)
            return folder / path.name

        with ThreadPoolExecutor(_REQUESTS) as pool:
            copies = list(pool.map(copied, range(len(paths)), paths))
        yield copies


def remove_tree(path: Place) -> None:
    """Delete a folder and all that it holds, if it is there. Locally, what cannot be deleted stays."""
    if isinstance(path, RemotePath):
        path.remove_tree()
    else:
        shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(folder: Place) -> list[Path]:
    """Delete the staging folders that killed processes left in `folder`; in an object store nothing is left.

    Only for a caller that knows that nobody else is writing there, such as the holder of a run's lock.

    Args:
        folder: the folder of the outputs; subfolders are not searched.

    Returns:
        The folders that were deleted, sorted.
    """
    if isinstance(folder, RemotePath):
        return []
    found = sorted(entry for entry in folder.glob(f"{PREFIX}*") if entry.is_dir() and not entry.is_symlink())
    for entry in found:
        shutil.rmtree(entry)
    return found

"""Files that appear whole or not at all: written in a hidden folder beside their place, then moved there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geoseg.errors import OutputError

__all__ = ["remove_leftovers", "staged"]

PREFIX = ".partial-"


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Give a path to write to, and move what was written to `path` when the block ends well.

    The staging folder lies beside `path`, so the move stays in one file system (`os.replace`, atomic). Side
    files (`mask.tif.aux.xml`) are moved with the file and before it. On an exception nothing is moved, a file
    that was at `path` stays as it was, and the staging folder goes. Only a killed process leaves the folder
    behind (see `remove_leftovers`).

    Args:
        path: the file to be; its folder must exist.

    Yields:
        A path with the same file name in the staging folder.

    Raises:
        OutputError: there is no such folder, or the file cannot be put there.
    """
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


def remove_leftovers(folder: Path) -> list[Path]:
    """Delete the staging folders that killed processes left in `folder`.

    Only for a caller that knows that nobody else is writing there, such as the holder of a run's lock.

    Args:
        folder: the folder of the outputs; subfolders are not searched.

    Returns:
        The folders that were deleted, sorted.
    """
    found = sorted(entry for entry in folder.glob(f"{PREFIX}*") if entry.is_dir() and not entry.is_symlink())
    for entry in found:
        shutil.rmtree(entry)
    return found

"""What takes long to make, kept in the cache folder under all that decides it (floor 3).

A name stands for facts, of which geoseg's own code is one; what is kept is checked before it is used, and made anew if
it is spoilt. Where nothing can be kept it is only made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from geoseg.atomic import staged
from geoseg.errors import OutputError
from geoseg.models.download import cache_folder

__all__ = ["find_kept", "keep"]

_MOST = 16  # of a kind
_MOST_BYTES = 512 * 1024**2  # of all of a kind, but for the newest
_DIGEST_BYTES = 32


def find_kept(kind: str, facts: Sequence[Any]) -> bytes | None:
    """What was kept under these facts; ``None`` where there is nothing, or something spoilt.

    Args:
        kind: name of a folder within the cache folder.
        facts: that decide the content, plain JSON values.
    """
    path = _place(kind, facts)
    with suppress(OSError):
        content = path.read_bytes()
        if hashlib.sha256(content[_DIGEST_BYTES:]).digest() == content[:_DIGEST_BYTES]:
            with suppress(OSError):
                path.touch()  # those that were not used for longest go first
            return content[_DIGEST_BYTES:]
    return None


def keep(kind: str, facts: Sequence[Any], content: bytes) -> None:
    """Keeps a content, if the cache folder takes it; those of the same kind go that were not used for longest.

    Args:
        kind: see :func:`find_kept`.
        facts: that decide the content.
        content: whatever it is.
    """
    path = _place(kind, facts)
    with suppress(OSError, OutputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged(path) as inside:
            inside.write_bytes(hashlib.sha256(content).digest() + content)
        files = [(file.stat(), file) for file in path.parent.iterdir() if file.is_file()]
        size = 0
        for number, (facts_of_it, file) in enumerate(sorted(files, key=lambda pair: pair[0].st_mtime_ns, reverse=True)):
            size += facts_of_it.st_size
            if number and (number >= _MOST or size > _MOST_BYTES):
                file.unlink(missing_ok=True)


def _place(kind: str, facts: Sequence[Any]) -> Path:
    name = hashlib.sha256(json.dumps([*facts, _code()]).encode()).hexdigest()
    return cache_folder() / kind / f"{name[:_DIGEST_BYTES]}.kept"


@cache
def _code() -> str:
    """Digest of the code that makes what is kept, so that whoever changes it is not given an old one."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()

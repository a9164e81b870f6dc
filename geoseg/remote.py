"""Paths in an object store, with pathlib's verbs: ``s3://bucket/run`` is used like a folder (floor 0).

An object appears whole or not at all, so every write here is atomic. There are no folders to make: a folder is what the
names of its objects begin with. This is the one place that talks to a store, and the one that is patient with it: what
may pass (a busy or failing server, a connection that broke, a slow answer) is tried again for two minutes, ever more
slowly; what will not (no such bucket, no permission) is an :class:`OSError` at once, with its reason in one line.

Credentials and endpoints are those of the store's own package, from its usual environment and files (``AWS_PROFILE``,
``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS``, fsspec's configuration); workers on other machines need the
same. They are never written anywhere.
"""

from __future__ import annotations

import datetime as dt
import errno
import functools
import io
import os
import random
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from geoseg.errors import OutputError

__all__ = ["Place", "RemotePath", "Where", "place_of", "version_of"]

Found = TypeVar("Found")

PATIENCE_S = 120.0
"""for how long what may pass is tried again"""

FIRST_PATIENCE_S = 20.0
"""the same until a store has answered once: its address may be wrong"""

_FIRST_ANSWER_S = 20.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 15.0
_PACKAGES = {
    "s3": ("s3fs", "s3"),
    "s3a": ("s3fs", "s3"),
    "gs": ("gcsfs", "gs"),
    "gcs": ("gcsfs", "gs"),
    "memory": ("fsspec", ""),
}
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 509, 529}  # HTTP statuses
_CONNECTION_TROUBLE = {"HTTPClientError", "ConnectionError", "ClientConnectionError", "ClientPayloadError"}
_NO_LOGIN = {"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "DefaultCredentialsError"}


@dataclass(frozen=True, slots=True, order=True)
class RemotePath:
    """An object, or the folder that the names of some objects begin with. Small; travels to workers.

    Its verbs mean what those of :class:`pathlib.Path` do. All but the names raise :class:`OSError` where the store does
    not do as asked.

    Attributes:
        url: without a slash at the end.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    @property
    def protocol(self) -> str:
        """What the URL begins with."""
        return self.url.partition("://")[0]

    @property
    def key(self) -> str:
        """The path as the store's package knows it."""
        return str(_store(self.protocol, os.getpid())._strip_protocol(self.url))  # noqa: SLF001 - fsspec's own way

    @property
    def name(self) -> str:
        """What follows the last slash."""
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return Path(self.name).stem

    @property
    def parent(self) -> RemotePath:
        """The folder that holds it."""
        return RemotePath(self.url.rpartition("/")[0])

    def with_name(self, name: str) -> RemotePath:
        """Another in the same folder."""
        return self.parent / name

    @property
    def shared(self) -> bool:
        """Whether other processes see it."""
        return self.protocol != "memory"

    def holds(self, url: str) -> bool:
        """Whether it is a folder that something lies in, by its URL."""
        return url.startswith(f"{self.url}/")

    def read_bytes(self) -> bytes:
        """The object's content; one request."""
        content: bytes = self._ask(lambda store: store.cat_file(self.key))
        return content

    def read_text(self, encoding: str = "utf-8") -> str:
        """The object's content as text."""
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The object's content as a file to read, whole in memory."""
        if mode != "rb":
            raise ValueError(f"objects are opened to read bytes, not {mode!r}")
        return io.BytesIO(self.read_bytes())

    def write_bytes(self, content: bytes) -> None:
        """Writes the object, whole; one request."""
        self._ask(lambda store: store.pipe_file(self.key, content))

    def create(self, content: bytes) -> None:
        """Writes the object where there is none yet, else raises :class:`FileExistsError`."""
        self._ask(lambda store: store.pipe_file(self.key, content, mode="create"))

    def touch(self) -> None:
        """Writes an empty object."""
        self.write_bytes(b"")

    def upload(self, path: Path) -> None:
        """Makes a local file the object; a large one goes up in parts and appears when all are there."""
        self._ask(lambda store: store.put_file(str(path), self.key))

    def download(self, path: Path) -> None:
        """Copies the object to a local file."""
        self._ask(lambda store: store.get_file(self.key, str(path)))

    def exists(self) -> bool:
        """Whether there is such an object."""
        try:
            return bool(self._ask(lambda store: store.info(self.key))["type"] == "file")
        except FileNotFoundError:
            return False

    def modified(self) -> dt.datetime:
        """When the object was written, by the store's clock."""
        moment: dt.datetime = self._ask(lambda store: store.modified(self.key))
        return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)

    def facts(self) -> list[str]:
        """Size and ETag of the object, or the time of its writing where the store gives no ETag."""
        found = self._ask(lambda store: store.info(self.key))
        written = found.get("ETag") or found.get("etag") or found.get("LastModified") or found.get("created")
        return [str(found.get("size")), str(written)]

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies directly inside, objects and folders; nothing where there is nothing. One listing."""
        try:
            found = self._ask(lambda store: store.ls(self.key, detail=False, refresh=True))
        except FileNotFoundError:
            return
        names = (name.rstrip("/") for name in found)
        # some tools mark a folder by an object of its name
        yield from (self / name.rpartition("/")[2] for name in names if name != self.key)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Removes the object."""
        try:
            self._ask(lambda store: store.rm_file(self.key))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Removes the object and all that its folder holds, if there is anything; raises where some of it stays."""
        for _ in range(_REMOVALS):  # stores tell nothing of what they failed to remove
            names = self._ask(lambda store: list(store.find(self.key)))
            if not names:
                return
            with suppress(FileNotFoundError):
                self._ask(functools.partial(_remove, names))
        raise OSError(errno.EIO, "the store does not remove all of it", self.url)

    def _ask(self, request: Callable[[Any], Found]) -> Found:
        return _patiently(lambda: request(_store(self.protocol, os.getpid())), self.url)


def _remove(names: list[str], store: Any) -> None:
    store.rm(names)


_REMOVALS = 5

Place: TypeAlias = Path | RemotePath
"""where a file or folder is: on a file system, or in an object store"""

Where: TypeAlias = str | os.PathLike[str] | RemotePath
"""what :func:`place_of` takes"""


def place_of(where: Where) -> Place:
    """A local path, or a path in an object store if it is the URL of one.

    Raises:
        OutputError: a URL of a kind that geoseg does not write to, or whose package is not installed.
    """
    if isinstance(where, RemotePath):
        return where
    text = os.fspath(where)
    if isinstance(where, Path) and (url := re.match(rf"({'|'.join(_PACKAGES)}):/(?!/)", text)):
        raise OutputError(f"{text} was a URL before it became a Path; give {url[1]}://… as text")
    protocol, known, rest = text.partition("://")
    if not known:
        return Path(text)
    if protocol in {"file", "local"}:
        return Path(unquote(urlsplit(text).path))
    if protocol not in _PACKAGES:
        kinds = ", ".join(f"{name}://" for name in _PACKAGES)
        raise OutputError(f"geoseg does not write to {protocol}://; give a folder, or a URL of {kinds}")
    if not rest.strip("/"):
        raise OutputError(f"{text} names no bucket; give one like {protocol}://bucket/folder")
    try:
        _store(protocol, os.getpid())
    except ImportError:
        package, extra = _PACKAGES[protocol]
        raise OutputError(
            f'{text} needs the package {package}; install it with `pip install "geoseg[{extra}]"`'
        ) from None
    return RemotePath(text.rstrip("/"))


def version_of(url: str) -> str:
    """Size and ETag (or time) of what lies behind a URL, as text; "" where nobody tells.

    Args:
        url: ``http(s)://`` or that of an object store, also in GDAL's words (``/vsicurl/https://``, ``/vsis3/bucket``).
    """
    for theirs, ours in (("/vsicurl/", ""), ("/vsis3/", "s3://"), ("/vsigs/", "gs://")):
        if url.startswith(theirs):
            url = ours + url.removeprefix(theirs)
    try:
        if url.startswith(("http://", "https://")):
            facts = _patiently(lambda: _http_facts(url), url)
        else:
            place = place_of(url)
            facts = place.facts() if isinstance(place, RemotePath) else []
    except (OSError, OutputError):
        return ""
    return repr(facts) if any(facts) else ""


def _http_facts(url: str) -> list[str]:
    # for its first byte: a signed URL is good for GET alone
    request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})  # noqa: S310 - http(s), see above
    with urllib.request.urlopen(request, timeout=_FIRST_ANSWER_S) as answer:  # noqa: S310
        told = answer.headers
        size = (told.get("Content-Range") or "").rpartition("/")[2] or told.get("Content-Length") or ""
        return [size, told.get("ETag") or told.get("Last-Modified") or ""]


@functools.cache
def _store(protocol: str, pid: int) -> Any:  # noqa: ARG001 - a child that was forked needs connections of its own
    """The store's package at work: one for a process, whose threads share its connections."""
    import fsspec

    store = fsspec.filesystem(protocol, skip_instance_cache=True, use_listings_cache=False)
    if protocol.startswith("s3"):
        # Patience is ours alone, or every wait would be waited many times over. And to read an object it would first
        # ask for its size, to fetch large ones in parts; ours are small.
        store.retries = 1
        store.config_kwargs.setdefault("retries", {"total_max_attempts": 1})
        store.cat_file = functools.partial(store.cat_file, max_concurrency=1)
    return store


_answered = threading.Event()  # by any store, in this process


def _patiently(request: Callable[[], Found], url: str) -> Found:
    """Makes a request, again and again while its failure may pass."""
    begun, pause = time.monotonic(), _FIRST_PAUSE_S
    while True:
        try:
            answer = request()
        except Exception as error:
            if _status(error) is not None:
                _answered.set()
            patience = PATIENCE_S if _answered.is_set() else FIRST_PATIENCE_S
            if not _may_pass(error) or time.monotonic() + pause > begun + patience:
                raise _told(error, url) from error
        else:
            _answered.set()
            return answer
        time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - so that workers do not come back in step
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)):
        return False
    if (status := _status(error)) is not None:
        return status in _PASSING
    return isinstance(error, (OSError, TimeoutError)) or bool(_kinds(error) & _CONNECTION_TROUBLE)


def _kinds(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error of any package stands for."""
    while error is not None:
        response = getattr(error, "response", None)
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
        for value in (found, getattr(error, "status", None), getattr(error, "code", None)):
            if str(value).isdecimal():
                return int(str(value))
        error = error.__cause__
    return None


def _told(error: Exception, url: str) -> OSError:
    """Any package's error as an OSError whose ``strerror`` is one line."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    text = " ".join(str(reason).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, text, url)
    if isinstance(error, FileExistsError) or _status(error) == 412:
        return FileExistsError(errno.EEXIST, text, url)
    if isinstance(error, PermissionError) or _status(error) in {401, 403} or _kinds(error) & _NO_LOGIN:
        return PermissionError(errno.EACCES, text, url)
    return OSError(error.errno if isinstance(error, OSError) and error.errno else errno.EIO, text, url)

"""Fetches the weights of a model of the zoo into a cache, checks them, and makes them safe to load (floor 3).

A transfer goes to a file beside its place and is taken up where it was cut, if the server says that the file is still
the same. Only a whole file whose SHA-256 is right gets its name. Where nobody has published a hash, that of the first
download is kept beside the model and later downloads must have it (trust on first use). Pickles are opened with
``torch.load(weights_only=True)`` alone, which runs no code, and are kept as safetensors.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import pickle
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import ModelError
from geoseg.models.card import Card, write_model

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["cache_folder", "download", "fetch"]

_BLOCK = 1 << 20
_TIMEOUT_S = 30.0
_SAFETENSORS = ".safetensors"


def cache_folder() -> Path:
    """Where downloaded models lie: ``GEOSEG_CACHE``, else the user's cache folder of this system."""
    if named := os.environ.get("GEOSEG_CACHE"):
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_cache_dir("geoseg", appauthor=False))


def download(card: Card, *, source: str | None = None, note: Callable[[str], None] = lambda _: None) -> Card:
    """Fetches a model of the zoo.

    Args:
        card: as the zoo lists it, with ``download`` facts: ``url``; ``sha256``, if it was published; ``prefix`` of the
            names of weights that belong to the network, if there are others.
        source: another URL, or a path, to take the file from.
        note: told what a user should know.

    Returns:
        the card in the cache, its weights beside it.

    Raises:
        ModelError: the file cannot be fetched, is not the one that was published, holds code, or does not fit.
    """
    facts = dict(card.download)
    if "url" not in facts:
        raise ModelError(f"model {card.name} is at hand already, or is fetched by nobody: its card names no download")
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"cannot make the cache {folder}: {error.strerror}; set GEOSEG_CACHE to another") from None
    url = facts["url"] if source is None else _as_url(source)
    pinned = folder / f"{card.name}.sha256"
    expected = facts.get("sha256") or (pinned.read_text(encoding="ascii").split()[0] if pinned.is_file() else None)
    raw = folder / f"{card.name}.download{Path(facts['url']).suffix}"
    note(f"fetching {url}")
    digest = fetch(url, raw, sha256=expected)
    try:
        network = _filled(card, raw, url)
    finally:
        raw.unlink()
    known = tuple(sorted((facts | {"sha256": digest}).items()))
    made = write_model(folder, replace(card, download=known), network.state_dict(), half=False)
    pinned.write_text(f"{digest}  {url}\n", encoding="ascii")
    if expected is None:
        note(f"nobody has published a hash of this file: its sha256 {digest} is kept in {pinned} and trusted now")
    note(f"{made.name} is ready: {made.weights_path}")
    return made


def fetch(url: str, path: Path, *, sha256: str | None) -> str:
    """Fetches a file, going on where an earlier transfer was cut.

    Args:
        url: http, https or file.
        path: the file to be; its folder is there.
        sha256: what it must hash to, hexadecimal; ``None`` if that is not known.

    Returns:
        its SHA-256, hexadecimal.

    Raises:
        ModelError: out of reach, cut, or with another hash.
    """
    part, tag = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.etag")
    try:
        _transfer(url, part, tag)
    except urllib.error.HTTPError as error:
        raise ModelError(f"{url} answers {error.code} {error.reason}; try later, or give a copy with --from") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ModelError(f"cannot fetch {url}: {reason}; try again, or give a copy with --from") from None
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    tag.unlink(missing_ok=True)
    if sha256 is not None and digest != sha256.lower():
        part.unlink()
        raise ModelError(
            f"{url} has sha256 {digest}, expected {sha256}: it was damaged or replaced, and is not kept; "
            "try again, or ask its publisher"
        )
    part.replace(path)
    return digest


def _transfer(url: str, part: Path, tag: Path) -> None:
    """Completes ``part``.

    Raises:
        OSError, HTTPException: out of reach, or cut.
        ModelError: cut, with a server that closes politely.
    """
    if not url.startswith(("http://", "https://", "file:")):
        raise ValueError("expected an http, https or file URL")
    have = part.stat().st_size if part.is_file() and tag.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "geoseg"})  # noqa: S310 - schemes are checked above
    if have:  # the server sends the rest if the file is still the same, else all of it
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag.read_text(encoding="ascii"))
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310 - see above
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        tag.unlink()  # nothing is left to fetch, or the file has changed: all of it again
        _transfer(url, part, tag)
        return
    with response:
        resumes = getattr(response, "status", None) == http.HTTPStatus.PARTIAL_CONTENT
        same = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if same and not same.startswith("W/") and url.startswith("http"):
            tag.write_text(same, encoding="ascii")
        else:
            tag.unlink(missing_ok=True)
        length = response.headers.get("Content-Length")
        total = None if length is None else int(length) + (have if resumes else 0)
        with part.open("ab" if resumes else "wb") as file:
            while block := response.read(_BLOCK):
                file.write(block)
            size = file.tell()
    if total is not None and size != total:
        raise ModelError(f"{url} was cut after {size:,} of {total:,} bytes; run the same command again to go on")


def _filled(card: Card, path: Path, url: str) -> Module:
    """The card's network with the weights in a file that came from there.

    Raises:
        ModelError: they do not fit, or are refused.
    """
    from geoseg.models.architectures import build

    state = _state(path, dict(card.download).get("prefix", ""))
    network = build(card.architecture, classes=card.planes, bands=card.channels, options=dict(card.options))
    try:
        network.load_state_dict(dict(state))
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"what {url} holds does not fit the architecture {card.architecture}: {' '.join(str(error).split())[:200]}"
        ) from None
    return network


def _state(path: Path, prefix: str) -> Mapping[str, Tensor]:
    """The weights in a file of safetensors or a pickle, by the names that the network has for them."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        loaded: Any = (
            load_file(path) if path.suffix == _SAFETENSORS else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ModelError(
            f"{path.name} is refused: it is damaged, or holds more than weights and would run code when opened "
            f"({type(error).__name__})"
        ) from None
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):  # a checkpoint of Lightning
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ModelError(f"{path.name} is refused: it holds no table of weights")
    return {key.removeprefix(prefix): value for key, value in loaded.items() if key.startswith(prefix)}


def _as_url(source: str) -> str:
    return source if "://" in source else Path(source).absolute().as_uri()

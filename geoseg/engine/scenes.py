"""Which scenes are meant: a folder, a glob, a CSV, a STAC file or API, or the paths themselves (floor 4).

STAC is read as plain JSON: an Item, an ItemCollection (or what an API's ``/items`` and ``/search`` answer), a
Collection or a Catalog, whose links ``item``, ``items``, ``child`` and ``next`` are followed.
"""

from __future__ import annotations

import csv
import datetime as dt
import glob
import hashlib
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geoseg.errors import SceneError, SettingsError

__all__ = ["Listed", "is_one_scene", "list_scenes"]

_RASTERS = frozenset({".tif", ".tiff", ".gtiff", ".vrt", ".jp2", ".img", ".kea", ".png", ".jpg", ".jpeg", ".bip"})
_JSON = frozenset({".json", ".geojson"})
_PREFERRED = ("visual", "data", "image", "analytic", "mosaic")
_NO_IMAGE = frozenset({"thumbnail", "overview", "metadata", "data-mask", "cloud", "snow-ice"})
_LONGEST_NAME = 80
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})
_TIMEOUT_S = 60
_TRIES = 4
_MOST_PAGES = 100_000


@dataclass(frozen=True, slots=True)
class Listed:
    """A scene of a catalogue.

    Attributes:
        name: unique in the catalogue; a file name on every system.
        path: path or URL of the raster.
        datetime: when it was taken, if the list says so; else the raster's own.
        problem: why the list does not lead to a raster, in one line, if it does not.
    """

    name: str
    path: str
    datetime: str | None = None
    problem: str | None = None


def is_one_scene(given: Sequence[str]) -> bool:
    """Whether what was given is one raster, and no list of scenes."""
    return len(given) == 1 and _kind(given[0]) == "scene"


def list_scenes(
    given: Sequence[str],
    *,
    asset: str | None = None,
    datetime: str | None = None,
    bounds: Sequence[float] | None = None,
) -> list[Listed]:
    """Lists the scenes that are meant, each once, in the order in which they were given; a folder's by name.

    Names come from the list (a CSV's column, STAC's ids), else from file names. Where two are alike, all that are get
    a digest of their path, so that names do not depend on the order.

    Args:
        given: paths and URLs of rasters; folders, globs, CSVs (a column ``path``, ``url``, ``href`` or ``scene``;
            perhaps ``name`` and ``datetime``; paths are relative to the CSV) and STAC files or URLs.
        asset: of a STAC item; by default `visual`, `data` and the like, else the first GeoTIFF with the role `data`.
        datetime: of a STAC item: an interval ``START/END``, either open as ``..``, or a moment or day.
        bounds: west, south, east, north in degrees: STAC items beyond them are left out.

    Raises:
        SceneError: a list that cannot be read, or holds no scene.
        SettingsError: a datetime that is none; an asset or datetime where there are no STAC items.
    """
    wanted = _Wanted(asset, None if datetime is None else _interval(datetime), datetime, bounds)
    named = [name for name, value in (("--asset", asset), ("--datetime", datetime)) if value is not None]
    if named and not any(_kind(one) == "stac" for one in given):
        raise SettingsError(f"{' and '.join(named)} choose among STAC items, but no STAC file or collection is given")
    found: dict[str, Listed] = {}
    for one in given:
        of_one = list(_list(one, wanted))
        if not of_one:
            raise SceneError(f"{_shown(one)} holds no scene{wanted.in_words()}")
        for scene in of_one:
            found.setdefault(scene.path, scene)
    return _with_unique_names(list(found.values()))


def _kind(given: str) -> str:
    """What a word of the command line is: scene, folder, glob, csv or stac."""
    if "://" in given:
        address = urllib.parse.urlsplit(given).path
        suffix = Path(address).suffix.lower()
        served = re.search(r"/collections/[^/]+(/items)?/?$|/search/?$", address)
        return "csv" if suffix == ".csv" else "stac" if suffix in _JSON or served else "scene"
    path, suffix = Path(given), Path(given).suffix.lower()
    if path.is_dir():
        return "folder" if not (path / ".zgroup").exists() and suffix not in {".zarr", ".safe"} else "scene"
    if not path.exists() and re.search(r"[*?\[]", given) and not given.startswith("/vsi"):
        return "glob"
    return "csv" if suffix == ".csv" else "stac" if suffix in _JSON else "scene"


def _list(given: str, wanted: _Wanted) -> Iterator[Listed]:
    kind = _kind(given)
    if kind == "scene":
        yield Listed(_stem(given), given)
    elif kind == "folder":
        yield from (Listed(_stem(path), path) for path in _rasters_in(Path(given)))
    elif kind == "glob":
        yield from (Listed(_stem(path), path) for path in _globbed(given))
    elif kind == "csv":
        yield from _of_csv(given)
    else:
        yield from _of_stac(given, wanted)


def _globbed(pattern: str) -> list[str]:
    return sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())  # noqa: PTH207 - with **


def _rasters_in(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _RASTERS and path.is_file() and not path.name.startswith("."):
            yield str(path)


def _of_csv(given: str) -> Iterator[Listed]:
    lines = _read(given).decode("utf-8-sig").splitlines()
    table = csv.DictReader(lines)
    names = {name.strip().lower(): name for name in table.fieldnames or () if name}
    column = next((names[known] for known in ("path", "url", "href", "scene") if known in names), None)
    if column is None:
        raise SceneError(
            f"{_shown(given)} has the columns {', '.join(names) or '(none)'}; a first line that names a column path, "
            "url, href or scene is expected"
        )
    for row in table:
        if not (path := (row[column] or "").strip()):
            continue
        own, taken = ((row.get(names.get(key, "")) or "").strip() for key in ("name", "datetime"))
        path = _beside(path, given)
        yield Listed(own or _stem(path), path, taken or None)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is wanted of STAC items."""

    asset: str | None
    interval: tuple[dt.datetime | None, dt.datetime | None] | None
    datetime: str | None
    bounds: Sequence[float] | None

    def in_words(self) -> str:
        words = [f"--datetime {self.datetime}"] if self.datetime else []
        words += [f"--bbox {','.join(f'{value:g}' for value in self.bounds)}"] if self.bounds else []
        return f" within {' and '.join(words)}" if words else ""

    def takes(self, item: Mapping[str, Any]) -> bool:
        return self._in_time(item) and self._in_bounds(item)

    def _in_time(self, item: Mapping[str, Any]) -> bool:
        if self.interval is None:
            return True
        facts = item.get("properties", {})
        ends = [facts.get(key) or facts.get("datetime") for key in ("start_datetime", "end_datetime")]
        if not all(ends):
            return False
        start, end = (_moment(str(value)) for value in ends)
        low, high = self.interval
        return (high is None or start <= high) and (low is None or end >= low)

    def _in_bounds(self, item: Mapping[str, Any]) -> bool:
        box = item.get("bbox")
        if self.bounds is None or not box:
            return True
        west, south, east, north = self.bounds
        left, bottom, right, top = box if len(box) == 4 else (box[0], box[1], box[3], box[4])
        ours = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
        theirs = [(left, right)] if left <= right else [(left, 180.0), (-180.0, right)]
        across = any(a < d and c < b for a, b in ours for c, d in theirs)
        return bool(across and bottom < north and south < top)


def _of_stac(given: str, wanted: _Wanted) -> Iterator[Listed]:
    """Goes through STAC objects and the links between them; every object is read once."""
    waiting, seen = [_with_query(given, wanted)], set()
    while waiting:
        place = waiting.pop(0)
        if place in seen:
            continue
        seen.add(place)
        if len(seen) > _MOST_PAGES:
            raise SceneError(f"{_shown(given)} leads to more than {_MOST_PAGES} files; give a part of it")
        content = _json(place)
        items = [content] if content.get("type") == "Feature" else content.get("features", ())
        for item in items:
            if "assets" not in item:
                raise SceneError(
                    f"{_shown(place)} is GeoJSON without assets; a STAC Item or ItemCollection is expected"
                )
            if wanted.takes(item):
                yield _of_item(item, place, wanted.asset)
        waiting += [_with_query(_beside(href, place), wanted) for href in _leads_to(content, place)]


def _leads_to(content: Mapping[str, Any], place: str) -> list[str]:
    """The links of a STAC object that lead to its items."""
    links: dict[str, list[str]] = {}
    for link in content.get("links", ()):
        links.setdefault(str(link.get("rel")), []).append(str(link["href"]))
    match content.get("type"):
        case "Feature":
            return []
        case "FeatureCollection":
            return links.get("next", [])
        case "Catalog" if content.get("conformsTo"):
            raise SceneError(
                f"{_shown(place)} is the first page of a STAC API; give one of its collections, …/collections/NAME, "
                "or a search, …/search?collections=NAME"
            )
        case "Collection" | "Catalog":
            return links.get("items") or [*links.get("item", []), *links.get("child", [])]
        case other:
            raise SceneError(
                f"{_shown(place)} is of type {other!r}; a STAC Item, ItemCollection, Collection or Catalog is expected"
            )


def _with_query(place: str, wanted: _Wanted) -> str:
    """The address of an API's items with what is wanted of them, unless it says so itself."""
    parts = urllib.parse.urlsplit(place)
    if "://" not in place or not re.search(r"/items/?$|/search/?$", parts.path):
        return place
    query = dict(urllib.parse.parse_qsl(parts.query))
    if wanted.bounds:
        query.setdefault("bbox", ",".join(f"{value:.9g}" for value in wanted.bounds))
    if wanted.datetime:
        query.setdefault("datetime", wanted.datetime)
    return urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode(query, safe=",:/")))


def _of_item(item: Mapping[str, Any], place: str, asset: str | None) -> Listed:
    facts = item.get("properties", {})
    own = next((str(link["href"]) for link in item.get("links", ()) if link.get("rel") == "self"), place)
    assets: Mapping[str, Mapping[str, Any]] = item.get("assets", {})
    name = asset or _asset_of(assets)
    if name not in assets or not assets[name].get("href"):
        lacks, there = f"asset {asset}" if asset else "GeoTIFF of data", ", ".join(assets) or "(none)"
        problem = (
            f"{_shown(place)}: item {item.get('id')} has no {lacks}; its assets are {there}, name one with --asset"
        )
        return Listed(str(item.get("id") or ""), f"{place}#{item.get('id')}", None, problem)
    # what an item says of itself is right where it was published; a copy of it lies where it was found
    near = place if "://" not in place or "://" not in own else own
    taken = facts.get("datetime") or facts.get("start_datetime")
    return Listed(str(item.get("id") or ""), _beside(str(assets[name]["href"]), near), taken)


def _asset_of(assets: Mapping[str, Mapping[str, Any]]) -> str:
    """The asset that is the scene, or nothing."""
    tiffs = [
        name
        for name, asset in assets.items()
        if "tiff" in str(asset.get("type", "")).lower() or Path(_path_of(asset)).suffix.lower() in {".tif", ".tiff"}
    ]
    named = [name for name in _PREFERRED if name in tiffs]
    with_role = [name for name in tiffs if {"data", "visual"} & set(assets[name].get("roles") or ())]
    others = [name for name in tiffs if not _NO_IMAGE & {name, *(assets[name].get("roles") or ())}]
    return next(iter((*named, *with_role, *others)), "")


def _path_of(asset: Mapping[str, Any]) -> str:
    return urllib.parse.urlsplit(str(asset.get("href", ""))).path


def _beside(path: str, place: str) -> str:
    """A path as it is meant in a file: relative to where that lies."""
    if "://" in path or path.startswith("/vsi"):
        return path
    if "://" in place:
        return urllib.parse.urljoin(place, path)
    return str(path if Path(path).is_absolute() else (Path(place).parent / path))


def _interval(given: str) -> tuple[dt.datetime | None, dt.datetime | None]:
    parts = given.split("/")
    try:
        if len(parts) == 1:
            return _moment(given), _moment(given, end=True)
        start, end = (None if part in {"", ".."} else part for part in parts)
        return None if start is None else _moment(start), None if end is None else _moment(end, end=True)
    except ValueError:
        raise SettingsError(
            f"--datetime is {given!r}: give START/END, e.g. 2024-05-01/2024-09-30, either of them perhaps as '..'"
        ) from None


def _moment(given: str, *, end: bool = False) -> dt.datetime:
    moment = dt.datetime.fromisoformat(given)
    if end and len(given) == len("2024-05-01"):
        moment += dt.timedelta(days=1, microseconds=-1)
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def _json(place: str) -> dict[str, Any]:
    try:
        content = json.loads(_read(place))
    except ValueError as error:
        raise SceneError(f"{_shown(place)} is no JSON ({error}); a STAC file or API is expected") from None
    if not isinstance(content, dict):
        raise SceneError(f"{_shown(place)} is a JSON list; a STAC Item, ItemCollection or Collection is expected")
    return content


def _read(place: str) -> bytes:
    """A small file or an API's answer; what a server cannot answer for the moment is asked again."""
    if "://" not in place:
        try:
            return Path(place).read_bytes()
        except OSError as error:
            raise SceneError(f"{place}: {(error.strerror or 'cannot be read').lower()}") from None
    if urllib.parse.urlsplit(place).scheme not in {"http", "https"}:
        import fsspec

        try:
            with fsspec.open(place, "rb") as file:
                content: bytes = file.read()
                return content
        except (OSError, ValueError, ImportError) as error:
            raise SceneError(f"{_shown(place)} cannot be read: {error}") from None
    return _fetch(place)


def _fetch(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "geoseg"})  # noqa: S310 - http and https alone
    for attempt in range(1, _TRIES + 1):
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310 - see above
                content: bytes = response.read()
                return content
        except (OSError, urllib.error.URLError) as error:
            code = getattr(error, "code", None)
            if attempt == _TRIES or (code is not None and code != 429 and code < 500):
                raise SceneError(f"{_shown(url)} cannot be read: {error}") from None
        time.sleep(2.0 ** (attempt - 2))
    raise AssertionError


def _shown(path: str) -> str:
    """Without a URL's query, which may hold a signature."""
    return path.split("?", 1)[0] if "://" in path else path


def _stem(path: str) -> str:
    """A scene's name by its file: what comes before the suffix, in whatever folder."""
    return Path(urllib.parse.unquote(_shown(path).rstrip("/"))).stem


def _with_unique_names(scenes: list[Listed]) -> list[Listed]:
    named = [replace(scene, name=_file_name(scene.name)) for scene in scenes]
    alike = Counter(scene.name.lower() for scene in named)
    return [
        replace(scene, name=f"{scene.name}-{_digest(scene.path)}") if alike[scene.name.lower()] > 1 else scene
        for scene in named
    ]


def _file_name(name: str) -> str:
    """A name that every file system takes; what was cut or replaced leaves a digest."""
    fit = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).strip("._-")[:_LONGEST_NAME]
    if fit == name and fit.split(".")[0].lower() not in _RESERVED:
        return fit
    return f"{fit or 'scene'}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


def _digest(path: str) -> str:
    place = _shown(path) if "://" in path else str(Path(path).absolute())
    return hashlib.blake2b(place.encode(), digest_size=4).hexdigest()

"""From the layers of overlapping scenes to one set of layers without doubles (floor 4).

What scenes share is decided in :mod:`geoseg.stages.overlap`. Here their layers are read, two scenes at a time, and
written on: a polygon that no other scene saw goes through as it is, to the last bit unless its CRS is another. Held in
memory are a few recently read layers of scenes, about five hundred bytes for each polygon that shares ground with
another scene's, and the parts of one object while they are joined.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage

from geoseg.engine.result import LayerSummary, Result
from geoseg.errors import InputError, OutputError
from geoseg.export.rows import Column, Layer, read_layer, row_schema, with_lonlat, write_batch
from geoseg.rings import run_offsets
from geoseg.scene import Scene
from geoseg.stages.overlap import (
    DROPPED,
    Candidates,
    Decision,
    Pairs,
    View,
    decide,
    find_pairs,
    join,
    overruled,
    trim,
)
from geoseg.stages.polygons import hilbert_places

__all__ = ["FinishedScene", "merge_layers"]

_MORE: Final = {
    "scene": Column(pa.string(), "the scene whose polygon it is; of a joined one, that of its best part"),
    "scene_id": Column(pa.int64(), "the polygon's id in that scene's layer"),
    "scenes": Column(pa.int32(), "of how many scenes it has parts"),
}
_SCHEMA: Final = row_schema(_MORE)
_SEEN_PX = 512  # side of the grid on which nodata is looked at
_CACHE_BYTES = 1 << 28  # of geometries, beyond those of two scenes
_JOINED_BYTES = 1 << 25  # of joined geometries, before they are written
_WIDEST_DEG = 18.0  # a catalogue that reaches farther is no place for one scene's projection
_WORLD: Final = "EPSG:6933"  # equal-area, of the whole earth
_ORDER = 31


@dataclass(frozen=True, slots=True)
class FinishedScene:
    """A scene of a catalogue that is done.

    Attributes:
        name: in the catalogue.
        result: of its run, in a local folder.
    """

    name: str
    result: Result


def merge_layers(
    scenes: Sequence[FinishedScene], work: Path, *, lonlat: bool
) -> tuple[dict[str, Layer], dict[str, LayerSummary]]:
    """Merges the layers of scenes, which must have been written as GeoParquet, too.

    Args:
        scenes: at least one; in any order.
        work: an empty folder for rows; it must stay while the layers are in use.
        lonlat: whether the rows of the merged layers hold longitudes and latitudes.

    Returns:
        Layers and what they hold, by class.

    Raises:
        OutputError: a scene's layer that cannot be read.
        InputError: no CRS reaches all scenes.
    """
    scenes = sorted(scenes, key=lambda scene: scene.name)
    ground = _Ground.of(scenes)
    layers: dict[str, Layer] = {}
    for name in dict.fromkeys(name for scene in scenes for name in scene.result.layers):
        found = [layer for scene in ground.scenes if (layer := scene.layer(name)) is not None]
        merge = _Merge(name, found, ground, lonlat=lonlat)
        files = merge.write(work)
        layers[name] = read_layer(name, files, crs=ground.crs, more=_MORE)
    area_m2 = ground.area_m2()
    summaries = {
        name: LayerSummary(len(layer), round(layer.area_m2, 2), round(layer.area_m2 / area_m2, 6) if area_m2 else 0.0)
        for name, layer in layers.items()
    }
    return layers, summaries


# --- the ground -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _SceneLayer:
    """One class of one scene.

    Attributes:
        scene: its name.
        path: of its GeoParquet.
        view: of the ground, as the mask has it in which the class was found.
        crs: of the file.
        gsd_m: of the mask.
        apart: whether touching instances are kept apart.
    """

    scene: str
    path: Path
    view: View
    crs: pyproj.CRS
    gsd_m: float
    apart: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    """A finished scene with its layers."""

    name: str
    layers: dict[str, _SceneLayer]

    def layer(self, name: str) -> _SceneLayer | None:
        return self.layers.get(name)


@dataclass(frozen=True, slots=True, eq=False)
class _Ground:
    """Where all scenes lie, in one CRS.

    Attributes:
        crs: of the merged layers.
        scenes: by name, in order.
    """

    crs: pyproj.CRS
    scenes: tuple[_Placed, ...]

    @classmethod
    def of(cls, scenes: Sequence[FinishedScene]) -> _Ground:
        masks = {
            (scene.name, part.mask): Scene.open(str(scene.result.directory / part.mask))
            for scene in scenes
            for part in scene.result.passes
        }
        crs = _common_crs(list(masks.values()))
        placed = []
        for scene in scenes:
            layers: dict[str, _SceneLayer] = {}
            for part in scene.result.passes:
                mask = masks[scene.name, part.mask]
                view, own = _view(mask, crs), pyproj.CRS.from_user_input(mask.crs)
                layers |= {
                    name: _SceneLayer(
                        scene.name,
                        Path(str(scene.result.directory / f"{name}.parquet")),
                        view,
                        own,
                        part.gsd_m,
                        name in part.kept_apart,
                    )
                    for name in part.classes
                }
            placed.append(_Placed(scene.name, layers))
        return cls(crs, tuple(placed))

    def views(self) -> list[View]:
        """Of all scenes and masks."""
        return list({id(layer.view): layer.view for scene in self.scenes for layer in scene.layers.values()}.values())

    def area_m2(self) -> float:
        """Of the ground that some scene saw."""
        seen = shapely.union_all([view.seen for view in self.views()])
        dense = shapely.segmentize(seen, max(view.px for view in self.views()) * 256)
        return float(sum(_measure(part, self.crs)[0] for part in shapely.get_parts(dense)))


def _common_crs(masks: Sequence[Scene]) -> pyproj.CRS:
    """The scenes' own CRS, that of most of them, or one for the whole earth."""
    texts = [mask.crs.to_wkt() for mask in masks]
    most = max(sorted(set(texts)), key=texts.count)
    if len(set(texts)) > 1:
        boxes = [mask.bounds_lonlat for mask in masks]
        west, east = min(box[0] for box in boxes), max(box[2] for box in boxes)
        if any(box[0] > box[2] for box in boxes) or east - west > _WIDEST_DEG:
            return pyproj.CRS.from_user_input(_WORLD)
    return pyproj.CRS.from_wkt(most)


def _view(mask: Scene, crs: pyproj.CRS) -> View:
    """The ground of a mask in a CRS."""
    own = pyproj.CRS.from_user_input(mask.crs)
    frame = _on_ground(np.array([[0, 0, mask.width, mask.height]]), mask.transform)[0]
    seen = _seen(mask, frame)
    if own != crs:
        cell = shapely.length(frame) / 256
        frame, seen = (_carried(np.array([shapely.segmentize(part, cell)]), own, crs)[0] for part in (frame, seen))
    px = float(np.sqrt(shapely.area(frame) / (mask.width * mask.height)))
    if not np.isfinite(px):
        raise InputError(f"{mask.shown} lies where the CRS of the other scenes does not reach; run it into another DIR")
    return View(frame, seen, px)


def _on_ground(windows: NDArray[np.int64], transform: Affine) -> NDArray[np.object_]:
    """Windows (left, top, right, bottom) in pixels, as polygons."""
    col, row = windows[:, [0, 2, 2, 0]], windows[:, [1, 1, 3, 3]]
    a, b, c, d, e, f = tuple(transform)[:6]
    polygons: NDArray[np.object_] = shapely.polygons(np.stack([c + a * col + b * row, f + d * col + e * row], axis=-1))
    return polygons


def _seen(mask: Scene, frame: shapely.Polygon) -> shapely.Geometry:
    """Where a mask has data, by a glance at it: a cell beside one without data is left out."""
    ratio = max(1.0, max(mask.height, mask.width) / _SEEN_PX)
    small = mask.at_gsd(mask.gsd_m * ratio)
    _, valid = small.read(small.window, (1,))
    if valid.all():
        return frame
    inner = ndimage.binary_erosion(valid, np.ones((3, 3)), border_value=1)
    windows = [np.zeros((0, 4), np.int64)]
    for top, bottom in itertools.pairwise(run_offsets(_row_numbers(inner))):
        row = np.concatenate([[False], inner[top], [False]])
        ends = np.flatnonzero(row[1:] != row[:-1])
        rows = np.full((ends.size // 2, 1), top), np.full((ends.size // 2, 1), bottom)
        windows.append(np.concatenate([ends[::2, None], rows[0], ends[1::2, None], rows[1]], axis=1))
    return shapely.intersection(shapely.union_all(_on_ground(np.concatenate(windows), small.transform)), frame)


def _row_numbers(rows: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A number for each row that changes where the row is another than the one before."""
    changes = (rows[1:] != rows[:-1]).any(axis=1)
    return np.concatenate([[0], np.cumsum(changes)])


def _carried(geometries: NDArray[np.object_], own: pyproj.CRS, crs: pyproj.CRS) -> NDArray[np.object_]:
    """Geometries in another CRS, valid again if that needs anything."""
    transformer = pyproj.Transformer.from_crs(own, crs, always_xy=True)
    carried: NDArray[np.object_] = shapely.transform(geometries, transformer.transform, interleaved=False)
    broken = np.flatnonzero(~shapely.is_valid(carried))
    carried[broken] = shapely.make_valid(carried[broken], method="structure")
    return carried


# --- one class ------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Content:
    """A scene's layer in memory."""

    table: pa.Table
    geometry: NDArray[np.object_]
    cut: NDArray[np.bool_]  # by the edge of what the scene saw
    size: int


@dataclass(slots=True, eq=False)
class _Merge:
    """The merge of one class.

    Attributes:
        name: of the class.
        layers: of the scenes that have it, by the scenes' names in order.
        ground: of all scenes.
        lonlat: whether rows are written with longitudes and latitudes.
    """

    name: str
    layers: Sequence[_SceneLayer]
    ground: _Ground
    lonlat: bool
    _cache: OrderedDict[int, _Content] = field(default_factory=OrderedDict)
    _left_out: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))  # rows by scene

    def content(self, number: int) -> _Content:
        """A scene's layer, carried to the common CRS; kept for a while."""
        if number not in self._cache:
            while len(self._cache) > 1 and sum(one.size for one in self._cache.values()) > _CACHE_BYTES:
                self._cache.popitem(last=False)
            self._cache[number] = self._read(number)
        self._cache.move_to_end(number)
        return self._cache[number]

    def _read(self, number: int) -> _Content:
        layer = self.layers[number]
        try:
            with layer.path.open("rb") as file:
                table = pq.read_table(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise OutputError(f"{layer.path} cannot be read: {error}; remove its folder and run again") from None
        wkb = table["geometry"].combine_chunks()
        geometry = shapely.from_wkb(wkb.to_numpy(zero_copy_only=False))
        if layer.crs != self.ground.crs:
            geometry = _carried(geometry, layer.crs, self.ground.crs)
        # ground without data is an edge, too
        cut = np.asarray(table["touches_edge"]).astype(bool) | ~shapely.contains_properly(layer.view.seen, geometry)
        return _Content(table, geometry, cut, wkb.nbytes)

    def write(self, work: Path) -> list[Path]:
        """Writes the rows of the merged layer; returns their files."""
        nodes = self._candidates()
        decision = self._decide(nodes)
        files = self._write_untouched(nodes, decision, work)
        return files + self._write_others(nodes, decision, work)

    # Candidates are numbered by scene and by row in its layer.

    def _candidates(self) -> _Nodes:
        """All polygons that share ground with another scene's, and their pairs."""
        views = [layer.view for layer in self.layers]
        frames = np.array([view.frame for view in views], object)
        tree = shapely.STRtree(frames)
        near = max((view.px for view in views), default=0.0)
        first, second = tree.query(frames, predicate="dwithin", distance=near)
        found: list[tuple[int, int, Pairs]] = []
        for here, there in sorted(zip(first.tolist(), second.tolist(), strict=True)):
            if here < there:
                ours, theirs = self.content(here), self.content(there)
                self._left_out[here].update(np.flatnonzero(overruled(ours.geometry, ours.cut, views[there])).tolist())
                self._left_out[there].update(
                    np.flatnonzero(overruled(theirs.geometry, theirs.cut, views[here])).tolist()
                )
                if ours.geometry.size and theirs.geometry.size:
                    found.append((here, there, find_pairs(ours.geometry, theirs.geometry, views[here], views[there])))
        return _Nodes.of([(here, there, self._without(here, there, pairs)) for here, there, pairs in found])

    def _without(self, here: int, there: int, pairs: Pairs) -> Pairs:
        """Pairs without what was left out."""
        keep = ~np.isin(pairs.ours, list(self._left_out[here])) & ~np.isin(pairs.theirs, list(self._left_out[there]))
        return Pairs(**{name: values[keep] for name, values in pairs.to_arrays().items()})

    def _decide(self, nodes: _Nodes) -> Decision:
        columns: dict[str, list[NDArray[Any]]] = defaultdict(list)
        for number, rows in nodes.by_scene():
            content, layer = self.content(number), self.layers[number]
            geometry = content.geometry[rows]
            columns["scene"].append(np.full(rows.size, number))
            columns["id"].append(content.table["id"].to_numpy()[rows])
            columns["area"].append(shapely.area(geometry))
            columns["cut"].append(content.cut[rows])
            confidence = content.table["confidence"].to_numpy().astype(np.float64)
            columns["confidence"].append(confidence[rows])
            columns["gsd_m"].append(np.full(rows.size, layer.gsd_m))
        if not columns:
            return Decision(np.zeros(0, np.int64), ())
        candidates = Candidates(**{name: np.concatenate(parts) for name, parts in columns.items()})
        return decide(
            candidates,
            nodes.pairs,
            apart=any(layer.apart for layer in self.layers),
            views=[layer.view for layer in self.layers],
            geometry=lambda node: self._geometry(nodes, node),
        )

    def _geometry(self, nodes: _Nodes, node: int) -> shapely.Geometry:
        return self.content(int(nodes.scene[node])).geometry[nodes.row[node]]

    def _write_untouched(self, nodes: _Nodes, decision: Decision, work: Path) -> list[Path]:
        """Writes what is kept as its scene has it, a file for each scene."""
        members = np.bincount(decision.group[decision.group != DROPPED], minlength=len(nodes))
        changed = (decision.group == DROPPED) | (members[np.maximum(decision.group, 0)] > 1)
        changed[[node for node, _ in decision.cuts]] = True
        files = []
        for number, layer in enumerate(self.layers):
            content = self.content(number)
            keep = np.ones(len(content.table), bool)
            of_scene = nodes.scene == number
            keep[nodes.row[of_scene & changed]] = False
            keep[list(self._left_out[number])] = False
            rows = np.flatnonzero(keep)
            files.append(work / f"{self.name}-{number}.arrow")
            table = content.table.take(pa.array(rows))
            geometry = content.geometry[rows]
            wkb = shapely.to_wkb(geometry) if layer.crs != self.ground.crs else None
            columns = {name: table[name] for name in ("area_m2", "perimeter_m", "confidence", "confidence_p10")}
            columns |= {name: table[name] for name in ("class", "datetime", "model")}
            columns |= {"scene_id": table["id"], "touches_edge": self._touches_edge(geometry, table["touches_edge"])}
            columns["id"] = [_id_of(layer.scene, one, 0) for one in table["id"].to_pylist()]
            columns |= {"scene": [layer.scene] * len(rows), "scenes": [1] * len(rows)}
            self._write_rows(files[-1], columns, geometry, table["geometry"] if wkb is None else wkb)
        return files

    def _touches_edge(self, geometry: NDArray[np.object_], flags: Any) -> NDArray[np.bool_]:
        """Of polygons that touched the edge of their scene, those that touch the edge of all ground that was seen."""
        on_edge = np.asarray(flags).astype(bool)
        edge, px = self._edge()
        at = np.flatnonzero(on_edge)
        on_edge[at] = shapely.dwithin(geometry[at], edge, px)
        return on_edge

    _edge_of_all: tuple[shapely.Geometry, float] | None = None

    def _edge(self) -> tuple[shapely.Geometry, float]:
        if self._edge_of_all is None:
            px = max(layer.view.px for layer in self.layers)
            # closing the hair's breadth between scenes that touch
            frames = [shapely.buffer(layer.view.frame, px / 4, join_style="mitre") for layer in self.layers]
            edge = shapely.boundary(shapely.union_all(frames))
            shapely.prepare(edge)
            self._edge_of_all = edge, px
        return self._edge_of_all

    def _write_others(self, nodes: _Nodes, decision: Decision, work: Path) -> list[Path]:
        """Writes what was joined or cut, in several files so that few are held."""
        cuts = dict(decision.cuts)
        order = np.argsort(decision.group, kind="stable")
        order = order[decision.group[order] != DROPPED]
        rows: list[dict[str, Any]] = []
        geometries: list[shapely.Polygon] = []
        files: list[Path] = []

        def flush() -> None:
            files.append(work / f"{self.name}-joined-{len(files)}.arrow")
            columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
            array = np.array(geometries, object)
            columns["touches_edge"] = self._touches_edge(array, columns["touches_edge"])
            self._write_rows(files[-1], columns, array, shapely.to_wkb(array))
            rows.clear()
            geometries.clear()

        held = 0
        for start, stop in itertools.pairwise(run_offsets(decision.group[order])):
            members = order[start:stop].tolist()
            if len(members) == 1 and members[0] not in cuts:
                continue
            best = int(decision.group[members[0]])
            polygons = self._outlines(nodes, members, cuts)
            for part, polygon in enumerate(polygons):
                rows.append(self._joined_row(nodes, best, members, polygon, part))
                geometries.append(polygon)
                held += 16 * shapely.get_num_coordinates(polygon)
            if held > _JOINED_BYTES:
                flush()
                held = 0
        if rows:
            flush()
        return files

    def _outlines(
        self, nodes: _Nodes, members: Sequence[int], cuts: dict[int, tuple[int, ...]]
    ) -> list[shapely.Polygon]:
        px = max(self.layers[int(nodes.scene[node])].view.px for node in members)
        parts: list[shapely.Geometry] = []
        for node in members:
            whole = self._geometry(nodes, node)
            others = [self._geometry(nodes, other) for other in cuts.get(node, ())]
            parts += trim(whole, others, px) if others else [whole]
        return join(parts, px) if len(members) > 1 else parts

    def _joined_row(
        self, nodes: _Nodes, best: int, members: Sequence[int], polygon: shapely.Polygon, part: int
    ) -> dict[str, Any]:
        """Attributes of a polygon that was put together."""
        facts = [self._facts(nodes, node) for node in members]
        own = self._facts(nodes, best)
        area_m2, perimeter_m = _measure(polygon, self.ground.crs)
        known = [one for one in facts if one["confidence"] is not None]
        weights = [one["area_m2"] for one in known]
        mean = sum(one["confidence"] * one["area_m2"] for one in known) / sum(weights) if known else None
        lowest = [one["confidence_p10"] for one in known if one["confidence_p10"] is not None]
        scene = self.layers[int(nodes.scene[best])].scene
        times = {one["datetime"] for one in facts}
        return {
            "id": _id_of(scene, own["id"], part),
            "class": own["class"],
            "area_m2": round(area_m2, 3),
            "perimeter_m": round(perimeter_m, 3),
            "confidence": None if mean is None else round(mean, 4),
            "confidence_p10": min(lowest, default=None),
            "touches_edge": any(one["touches_edge"] for one in facts),
            "datetime": times.pop() if len(times) == 1 else None,
            "model": own["model"],
            "scene": scene,
            "scene_id": own["id"],
            "scenes": len({int(nodes.scene[node]) for node in members}),
        }

    def _facts(self, nodes: _Nodes, node: int) -> dict[str, Any]:
        names = ["id", "class", "area_m2", "confidence", "confidence_p10", "touches_edge", "datetime", "model"]
        row = self.content(int(nodes.scene[node])).table.select(names).slice(int(nodes.row[node]), 1)
        facts: dict[str, Any] = row.to_pylist()[0]
        return facts

    def _write_rows(self, path: Path, columns: dict[str, Any], geometry: NDArray[np.object_], wkb: Any) -> None:
        bounds = shapely.bounds(geometry).reshape(-1, 4)
        columns["code"] = np.zeros(len(geometry), np.uint8)
        columns["hilbert"] = self._hilbert(bounds)
        columns["geometry"] = wkb
        columns["bbox"] = pa.StructArray.from_arrays(
            [pa.array(corner) for corner in bounds.T], fields=list(_SCHEMA.field("bbox").type)
        )
        arrays = []
        for name in _SCHEMA.names:
            values = columns[name]
            if isinstance(values, pa.ChunkedArray):
                values = values.combine_chunks()
            arrays.append(
                values.cast(_SCHEMA.field(name).type)
                if isinstance(values, pa.Array)
                else pa.array(values, type=_SCHEMA.field(name).type)
            )
        rows = pa.record_batch(arrays, schema=_SCHEMA)
        write_batch(path, with_lonlat(rows, self.ground.crs) if self.lonlat else rows)

    def _hilbert(self, bounds: NDArray[np.float64]) -> NDArray[np.int64]:
        """Places of the centres of bounds on a curve over all scenes."""
        frames = np.array([view.frame for view in self.ground.views()], object)
        left, bottom, right, top = shapely.total_bounds(frames)
        side = max(right - left, top - bottom)
        last = (1 << _ORDER) - 1
        cols = ((bounds[:, 0] + bounds[:, 2]) / 2 - left) / side
        rows = (top - (bounds[:, 1] + bounds[:, 3]) / 2) / side
        x, y = (np.clip(np.floor(part * last), 0, last).astype(np.int64) for part in (cols, rows))
        return hilbert_places(x, y, _ORDER)


@dataclass(frozen=True, slots=True, eq=False)
class _Nodes:
    """Candidates: which polygon of which scene each is, and the pairs of them."""

    scene: NDArray[np.int64]
    row: NDArray[np.int64]
    pairs: Pairs

    def __len__(self) -> int:
        return self.scene.size

    @classmethod
    def of(cls, found: Sequence[tuple[int, int, Pairs]]) -> _Nodes:
        """Numbers the polygons that are in a pair, by scene and row."""
        empty = np.zeros((0, 2), np.int64)
        ours = [np.stack([np.full(len(part.ours), here), part.ours], axis=1) for here, _, part in found]
        theirs = [np.stack([np.full(len(part.theirs), there), part.theirs], axis=1) for _, there, part in found]
        ends = np.concatenate([empty, *ours, empty, *theirs])
        nodes, number = np.unique(ends, axis=0, return_inverse=True)
        number = number.reshape(-1)
        half = len(ends) // 2
        columns = {
            name: np.concatenate([kind(0), *(getattr(part, name) for _, _, part in found)])
            for name, kind in (
                ("shared", _floats),
                ("ours_there", _floats),
                ("theirs_here", _floats),
                ("touching", lambda n: np.zeros(n, bool)),
                ("px", _floats),
            )
        }
        return cls(nodes[:, 0], nodes[:, 1], Pairs(ours=number[:half], theirs=number[half:], **columns))

    def by_scene(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Scenes in order, and the rows of their candidates."""
        for start, stop in itertools.pairwise(run_offsets(self.scene)):
            yield int(self.scene[start]), self.row[start:stop]


def _floats(count: int) -> NDArray[np.float64]:
    return np.zeros(count)


def _id_of(scene: str, number: int, part: int) -> int:
    """An id from where a polygon comes from, the same whatever other scenes there are.

    53 bits, which every reader of JSON keeps: of a million polygons two share one once in twenty thousand catalogues.
    """
    text = f"{scene}/{number}" + (f"/{part}" if part else "")
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 11


@lru_cache(maxsize=8)
def _globe(crs: pyproj.CRS) -> tuple[pyproj.Geod, pyproj.Transformer]:
    geod = crs.get_geod()
    if geod is None:
        raise InputError(f"the CRS {crs.name} has no ellipsoid; give scenes another one")
    return geod, pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)


def _measure(polygon: shapely.Polygon, crs: pyproj.CRS) -> tuple[float, float]:
    """Geodesic area and perimeter of a polygon, as :meth:`geoseg.stages.polygons.Ground.measure` has them."""
    geod, to_lonlat = _globe(crs)
    area_m2 = perimeter_m = 0.0
    for number, ring in enumerate(shapely.get_rings(polygon)):
        lon, lat = to_lonlat.transform(*shapely.get_coordinates(ring).T)
        area, length = geod.polygon_area_perimeter(lon, lat)
        area_m2 += abs(area) if number == 0 else -abs(area)
        perimeter_m += length
    return area_m2, perimeter_m

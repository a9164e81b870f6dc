"""Rows: the features of a scene as Arrow files, one per chunk, and the layers that are read from them.

Workers write what they finish with :func:`write_rows`, with all that takes long to know of it; the driver reads layers
with :func:`read_layers`, in one order for any way of cutting the scene, and the writers in `geoseg.export.vectors` go
through them batch by batch. A layer holds sixteen bytes per feature in memory, never the features.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyproj
from numpy.typing import NDArray

from geoseg.atomic import staged
from geoseg.errors import OutputError, SettingsError
from geoseg.export.columns import numbers_of, of_numbers, repeated
from geoseg.export.lonlat import pack_lonlat
from geoseg.remote import Place
from geoseg.rings import Polygons
from geoseg.stages.polygons import Ground, ground_bounds, hilbert_keys, to_wkb

__all__ = [
    "BATCH_ROWS",
    "LAYER_SCHEMA",
    "Column",
    "Layer",
    "attributes",
    "make_rows",
    "read_layer",
    "read_layers",
    "row_schema",
    "to_utc",
    "with_lonlat",
    "write_batch",
    "write_rows",
]

BATCH_ROWS = 32_768
BATCH_BYTES = 1 << 24  # of geometries: a batch of rivers has fewer rows
_OPEN_FILES = 64

_BBOX: Final = pa.struct([(corner, pa.float64()) for corner in ("xmin", "ymin", "xmax", "ymax")])


class Column(NamedTuple):
    """A column of every layer."""

    type: pa.DataType
    meaning: str


LAYER_SCHEMA: Final[Mapping[str, Column]] = {
    "id": Column(pa.int64(), "the polygon's number: its first pixel in row-major order, plus 1; the same in every run"),
    "class": Column(pa.string(), "water, road, field or parking"),
    "area_m2": Column(pa.float64(), "geodesic area in square metres, to 0.001"),
    "perimeter_m": Column(pa.float64(), "geodesic length of all rings in metres, to 0.001"),
    "confidence": Column(pa.float64(), "mean confidence of the polygon's pixels, 0-1, to 0.0001; null if unknown"),
    "confidence_p10": Column(pa.float64(), "confidence that 90 % of the pixels reach, 0-1, to 0.0001; null if unknown"),
    "touches_edge": Column(pa.bool_(), "whether it reaches the edge of the scene, and so perhaps goes on beyond it"),
    "datetime": Column(pa.timestamp("ms", tz="UTC"), "when the scene was taken; null if unknown"),
    "model": Column(pa.string(), "the model that found the polygon; null if unknown"),
    "geometry": Column(pa.binary(), "polygon in the scene's CRS, exterior ring counter-clockwise"),
}

# What a row holds that is not the same for a whole layer, as it stands in a layer.
_OWN: Final = ("id", "area_m2", "perimeter_m", "confidence", "confidence_p10", "touches_edge")
_ROW_SCHEMA: Final = pa.schema(
    [
        ("code", pa.uint8()),
        ("hilbert", pa.int64()),
        *((name, LAYER_SCHEMA[name].type) for name in _OWN),
        ("geometry", pa.large_binary()),
        ("bbox", _BBOX),
    ]
)
_LONLAT: Final = pa.field("lonlat", pa.large_binary())


def attributes(schema: pa.Schema) -> list[str]:
    """The columns of a layer without those that say where its features are."""
    return [name for name in schema.names if name not in ("geometry", "bbox", "lonlat")]


def write_rows(path: Place, polygons: Polygons, ground: Ground, *, lonlat: bool) -> None:
    """Measure polygons and write them as one Arrow file, whole or not at all.

    Args:
        path: the file to be, ``.arrow``; its folder must exist.
        polygons: finished instances of the scene; each in one file only.
        ground: of the scene.
        lonlat: whether a format asks for longitudes and latitudes, see :func:`with_lonlat`.

    Raises:
        InputError: the CRS does not reach the polygons.
        OutputError: nor does WGS 84.
        OSError: the file cannot be written.
    """
    rows = make_rows(polygons, ground)
    write_batch(path, with_lonlat(rows, ground.crs) if lonlat else rows)


def make_rows(polygons: Polygons, ground: Ground) -> pa.RecordBatch:
    """Measure polygons and make rows of them, see :func:`write_rows`.

    Attributes are rounded here, once, so that every format holds the same figures.
    """
    area_m2, perimeter_m = ground.measure(polygons)
    data, offsets = to_wkb(polygons, ground.transform)
    bounds = ground_bounds(polygons, ground.transform).T
    columns: dict[str, NDArray[Any]] = {
        "code": polygons.code,
        "hilbert": hilbert_keys(polygons, ground.shape),
        "id": polygons.id,
        "area_m2": np.round(area_m2, 3),
        "perimeter_m": np.round(perimeter_m, 3),
        "confidence": np.round(polygons.confidence, 4),
        "confidence_p10": np.round(polygons.confidence_p10, 4),
        "touches_edge": polygons.edge,
    }
    arrays = [of_numbers(values) for values in columns.values()]
    arrays.append(
        pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(polygons), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        )
    )
    arrays.append(pa.StructArray.from_arrays([of_numbers(corner) for corner in bounds], fields=list(_BBOX)))
    return pa.record_batch(arrays, schema=_ROW_SCHEMA)


def with_lonlat(rows: pa.RecordBatch, crs: pyproj.CRS) -> pa.RecordBatch:
    """Add geometries in longitude and latitude, see :func:`geoseg.export.lonlat.pack_lonlat`."""
    return rows.append_column(_LONLAT, pack_lonlat(rows["geometry"], crs))


def row_schema(more: Mapping[str, Column]) -> pa.Schema:
    """The columns of row files in which `class`, `datetime`, `model` and further columns differ from row to row."""
    named = {name: column for name, column in LAYER_SCHEMA.items() if name not in _ROW_SCHEMA.names} | dict(more)
    return pa.schema([*_ROW_SCHEMA, *((name, column.type) for name, column in named.items())])


def write_batch(path: Place, batch: pa.RecordBatch) -> None:
    """Write rows as one Arrow file, whole or not at all."""
    with staged(path) as inside, pa.OSFile(str(inside), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One class's features, along a Hilbert curve over the scene, ties by id: the order in all formats but FlatGeobuf.

    Attributes:
        name: of the class.
        crs: of the geometries; None where unknown, which no writer takes.
        schema: of the batches: columns as in `LAYER_SCHEMA`, perhaps more, and last ``bbox``, each geometry's bounds.
        geometry_types: of its features, sorted, in GeoParquet's words.
        bounds: xmin, ymin, xmax, ymax of all geometries; None without features.
        area_m2: of all features, to 0.001.
        sizes: of each geometry, bytes.
        read: gives some columns of the features from one number up to another.
    """

    name: str
    crs: pyproj.CRS | None
    schema: pa.Schema
    geometry_types: tuple[str, ...]
    bounds: tuple[float, float, float, float] | None
    area_m2: float
    sizes: NDArray[np.int64]
    read: Callable[[int, int, Sequence[str]], pa.RecordBatch]

    def __len__(self) -> int:
        return len(self.sizes)

    def batches(self, columns: Sequence[str] | None = None, size: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """All features in order, some at a time; may be called again.

        Args:
            columns: some of the schema's, which are all given by default; and ``lonlat``, if the rows hold it.
            size: rows of a batch at most; it has fewer when 16 MiB of geometries have come together.
        """
        names = self.schema.names if columns is None else columns
        ends = np.cumsum(self.sizes)
        start = 0
        while start < len(self):
            before = ends[start - 1] if start else 0
            full = int(np.searchsorted(ends, before + BATCH_BYTES, side="right"))
            stop = min(start + size, max(full, start + 1))
            yield self.read(start, stop, names)
            start = stop


def read_layers(
    files: Iterable[Path],
    classes: Mapping[str, int] | None,
    *,
    crs: Any,
    datetime: str | dt.datetime | None,
    model: str | None,
) -> dict[str, Layer]:
    """Make layers of row files. The files must stay where they are while the layers are in use.

    Args:
        files: of :func:`write_rows`, in any order; together they hold each polygon once.
        classes: layer name -> code, in the order wanted; None takes every code found and calls it ``class_<code>``.
        crs: of the scene: anything that ``pyproj.CRS.from_user_input`` takes.
        datetime: when the scene was taken, ISO 8601; without an offset it is taken as UTC.
        model: name of the model; None where the mask came from elsewhere.

    Returns:
        A layer for each class, also for those without features; the same for the same polygons in any files.

    Raises:
        SettingsError: a datetime that is not ISO 8601.
        ValueError: a polygon given twice.
    """
    paths = [str(path) for path in files]
    opened = lru_cache(maxsize=_OPEN_FILES)(lambda file: _open_rows(paths[file]))
    found: dict[int, list[_Keys]] = {} if classes is None else {code: [] for code in classes.values()}
    for file, path in enumerate(paths):
        rows = _open_rows(path)
        codes = numbers_of(rows["code"])
        for code in np.unique(codes).tolist():
            if classes is None:
                found.setdefault(code, [])
            if code in found:
                found[code].append(_Keys.of(rows, file, np.flatnonzero(codes == code)))
    if classes is None:
        classes = {f"class_{code}": code for code in sorted(found)}
    taken = None if datetime is None else to_utc(datetime)
    place = pyproj.CRS.from_user_input(crs)
    return {
        name: _layer_of(name, found[code], opened, place, {"class": name, "datetime": taken, "model": model})
        for name, code in classes.items()
    }


def read_layer(name: str, files: Iterable[Path], *, crs: pyproj.CRS, more: Mapping[str, Column]) -> Layer:
    """Make one layer of row files of :func:`row_schema`, as :func:`read_layers` does.

    Args:
        name: of the class; all rows are taken.
        files: in any order; together they hold each polygon once.
        crs: of the geometries.
        more: the further columns.
    """
    paths = [str(path) for path in files]
    keys = []
    for file, path in enumerate(paths):
        rows = _open_rows(path)
        if len(rows):
            keys.append(_Keys.of(rows, file, np.arange(len(rows))))
    return _layer_of(name, keys, lru_cache(maxsize=_OPEN_FILES)(lambda file: _open_rows(paths[file])), crs, {}, more)


class _Keys(NamedTuple):
    """What is kept of one code's rows in one file, to sort and sum them."""

    hilbert: NDArray[np.int64]
    id: NDArray[np.int64]
    file: NDArray[np.int32]
    row: NDArray[np.int32]
    size: NDArray[np.int64]
    bounds: NDArray[np.float64]
    area_mm2: int

    @classmethod
    def of(cls, rows: pa.RecordBatch, file: int, chosen: NDArray[np.int64]) -> _Keys:
        corners = [numbers_of(rows["bbox"].field(corner))[chosen] for corner in range(4)]
        return cls(
            hilbert=numbers_of(rows["hilbert"])[chosen],
            id=numbers_of(rows["id"])[chosen],
            file=np.full(chosen.size, file, np.int32),
            row=chosen.astype(np.int32),
            size=numbers_of(pc.binary_length(rows["geometry"]))[chosen],
            bounds=np.array([corners[0].min(), corners[1].min(), corners[2].max(), corners[3].max()]),
            # in integers, so that the sum does not depend on the order
            area_mm2=int(np.rint(numbers_of(rows["area_m2"])[chosen] * 1000).astype(np.int64).sum()),
        )


def _layer_of(
    name: str,
    keys: list[_Keys],
    opened: Callable[[int], pa.RecordBatch],
    crs: pyproj.CRS,
    constants: Mapping[str, Any],
    more: Mapping[str, Column] = MappingProxyType({}),
) -> Layer:
    """Sort the rows of one class; their columns are those of a layer but for the constants."""
    named = {name: LAYER_SCHEMA[name] for name in LAYER_SCHEMA if name != "geometry"} | dict(more)
    types = {name: column.type for name, column in named.items()}
    schema = pa.schema([*types.items(), ("geometry", LAYER_SCHEMA["geometry"].type), ("bbox", _BBOX)])
    if keys:
        hilbert, ids, file, row, sizes = (np.concatenate(parts) for parts in list(zip(*keys, strict=True))[:5])
        order = np.lexsort((ids, hilbert))
        if ((np.diff(hilbert[order]) == 0) & (np.diff(ids[order]) == 0)).any():
            raise ValueError(f"a polygon of layer {name} is given twice")
        file, row, sizes = file[order], row[order], sizes[order]
        if sizes.max() > np.iinfo(np.int32).max:
            raise OutputError(
                f"polygon {ids[sizes.argmax()]} of layer {name} has {sizes.max() / 2**30:.1f} GiB of vertices; "
                "vector formats hold less than 2 GiB: simplify more, or leave its class out"
            )
        bounds = np.array([part.bounds for part in keys])
        extent = (*bounds[:, :2].min(axis=0).tolist(), *bounds[:, 2:].max(axis=0).tolist())
    else:
        file, row, sizes, extent = np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64), None

    def read(start: int, stop: int, names: Sequence[str]) -> pa.RecordBatch:
        own = [name for name in names if name not in constants]
        files, rows = file[start:stop], row[start:stop]
        by_file = np.argsort(files, kind="stable")
        parts = [
            opened(int(files[part[0]])).select(own).take(of_numbers(rows[part]))
            for part in np.split(by_file, np.flatnonzero(np.diff(files[by_file])) + 1)
        ]
        together = parts[0]
        if len(parts) > 1:
            back = np.empty_like(by_file)
            back[by_file] = np.arange(by_file.size)
            together = pa.Table.from_batches(parts).combine_chunks().to_batches()[0].take(of_numbers(back))
        columns = {column: together[column] for column in own}
        if "geometry" in columns:
            columns["geometry"] = columns["geometry"].cast(pa.binary())
        for column in constants.keys() & names:
            columns[column] = repeated(constants[column], stop - start, types[column])
        return pa.record_batch({column: columns[column] for column in names})

    return Layer(
        name=name,
        crs=crs,
        schema=schema,
        geometry_types=("Polygon",) if len(sizes) else (),
        bounds=extent,
        area_m2=sum(part.area_mm2 for part in keys) / 1000,
        sizes=sizes,
        read=read,
    )


def _open_rows(path: str) -> pa.RecordBatch:
    """One file's rows, mapped into memory: only what is touched is read."""
    return pa.ipc.open_file(pa.memory_map(path)).get_batch(0)


def to_utc(value: str | dt.datetime) -> dt.datetime:
    """Read an ISO 8601 time; one without an offset is UTC.

    Raises:
        SettingsError: it is not ISO 8601.
    """
    try:
        moment = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError as error:
        raise SettingsError(f"datetime {value!r} is not ISO 8601; give one like 2024-06-30T10:15:00Z") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)

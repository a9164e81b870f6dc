"""Layers as GeoJSON, GeoParquet, GeoPackage and FlatGeobuf.

Every writer goes through a layer batch by batch, so its memory does not grow with the layer. It makes its file whole or
not at all, and the same bytes for the same layer (a GeoPackage holds the same content, but notes when it was written).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pyproj

from geoseg.ahead import do_ahead
from geoseg.atomic import staged
from geoseg.errors import OutputError
from geoseg.export.geojson import features_text, json_text
from geoseg.export.rows import BATCH_ROWS, Layer, attributes
from geoseg.machine import count_cores
from geoseg.remote import Place, Where, place_of
from geoseg.settings import require_formats

__all__ = [
    "FORMATS",
    "Format",
    "prepare",
    "write_flatgeobuf",
    "write_geojson",
    "write_geojsonseq",
    "write_geoparquet",
    "write_gpkg",
    "write_layers",
]

_AT_ONCE = 4  # files
_TEXT_ROWS = 4096  # a thread has several copies of its batch in memory


def write_geojson(path: Where, layer: Layer) -> None:
    """Write a layer as GeoJSON (RFC 7946): longitude and latitude, which its rows must hold.

    Every feature has its id twice, as the feature's `id` and as a property, because many readers show only
    the properties. The collection has one further member, `name`, the file's name without its suffix. The
    text is made here and not by GDAL, whose driver takes several times as long and may turn a slender polygon
    into a line.

    Raises:
        OutputError: a layer without a CRS, or a file that cannot be written.
    """
    before = f'{{"type": "FeatureCollection", "name": {json_text(place_of(path).stem)}, "features": [\n'
    _write_features(place_of(path), layer, before, ",\n", "\n]}\n" if len(layer) else "]}\n")


def write_geojsonseq(path: Where, layer: Layer) -> None:
    """Write a layer as a sequence of GeoJSON features, one a line, as in :func:`write_geojson`.

    This is RFC 8142 without its record separators: GDAL reads both, but tools for lines of JSON (jq, DuckDB,
    tippecanoe, BigQuery) stumble over the separators, and lines can be cut, joined and read in parallel.

    Raises:
        OutputError: a layer without a CRS, or a file that cannot be written.
    """
    _write_features(place_of(path), layer, "", "\n", "\n" if len(layer) else "")


def _write_features(path: Place, layer: Layer, before: str, between: str, after: str) -> None:
    """Write the text of features one after the other."""
    _crs(layer, path)
    with staged(path) as inside:
        try:
            with inside.open("wb") as file:
                file.write(before.encode())
                gap = b""
                batches = layer.batches([*attributes(layer.schema), "lonlat"], _TEXT_ROWS)
                for text in do_ahead(lambda batch: features_text(batch, between), batches):
                    file.write(gap)
                    file.write(text.data)
                    gap = between.encode()
                file.write(after.encode())
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error}") from error


def write_flatgeobuf(path: Where, layer: Layer) -> None:
    """Write a layer as FlatGeobuf in the scene's CRS, with its spatial index (which sets the order of the features).

    Raises:
        OutputError: a layer without a CRS, or a file that cannot be written.
    """
    _write_with_gdal(place_of(path), {place_of(path).stem: layer}, driver="FlatGeobuf")


def write_gpkg(path: Where, layers: Mapping[str, Layer]) -> None:
    """Write layers as one GeoPackage in the scene's CRS: a table with a spatial index per layer.

    The same layers give the same content; the file also notes when each table was written.

    Args:
        path: the file to write; its folder must exist.
        layers: table name -> layer, at least one.

    Raises:
        OutputError: no layer, a layer without a CRS, or a file that cannot be written.
    """
    if not layers:
        raise OutputError(f"cannot write {path}: given no layer, a GeoPackage needs at least one")
    _write_with_gdal(place_of(path), layers, driver="GPKG")


def _write_with_gdal(path: Place, layers: Mapping[str, Layer], *, driver: str) -> None:
    """Write layers with one of GDAL's drivers; the first one makes the file, the others join it."""
    import pyogrio  # loads pandas, which other formats need not wait for
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

    places = {name: _crs(layer, path) for name, layer in layers.items()}
    with staged(path) as inside:
        for name, layer in layers.items():
            schema = layer.schema.remove(layer.schema.get_field_index("bbox"))
            batches = layer.batches(schema.names)
            kinds = layer.geometry_types or ("Polygon",)
            epsg = places[name].to_epsg()
            try:
                pyogrio.write_arrow(
                    pa.RecordBatchReader.from_batches(schema, batches),
                    inside,
                    layer=name,
                    driver=driver,
                    geometry_name="geometry",
                    geometry_type=kinds[0] if len(kinds) == 1 else "Unknown",
                    crs=f"EPSG:{epsg}" if epsg else places[name].to_wkt("WKT1_GDAL"),
                )
            except (DataSourceError, DataLayerError, FeatureError) as error:
                raise OutputError(f"cannot write {path}: {error}") from error
            _require_whole(inside, name, len(layer), path)


def _require_whole(inside: Path, name: str, features: int, path: Place) -> None:
    """Read a layer once more: GDAL does not tell when a disk is full as it writes the last bytes, or the index."""
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

    try:
        with pyogrio.open_arrow(inside, layer=name, columns=[], batch_size=BATCH_ROWS, use_pyarrow=True) as (_, reader):
            found = sum(len(batch) for batch in reader)
        indexed = pyogrio.read_info(inside, layer=name)["capabilities"]["fast_spatial_filter"]
    except (OSError, DataSourceError, DataLayerError, FeatureError) as error:
        raise OutputError(f"cannot write {path}: not all of it is on the disk ({error})") from error
    if found != features or (features and not indexed):
        lost = OSError(f"{found} of {features} features, {'with' if indexed else 'without'} an index")
        raise OutputError(f"cannot write {path}: not all of it is on the disk ({lost})") from lost


def write_geoparquet(path: Where, layer: Layer) -> None:
    """Write a layer as GeoParquet 1.1 in the scene's CRS.

    WKB geometries, CRS as PROJJSON, exterior rings counter-clockwise (and stated to be), a `bbox` column that
    covers each geometry, rows along a Hilbert curve, zstd. Readers can so skip row groups by place. See
    https://geoparquet.org/releases/v1.1.0/.

    Raises:
        OutputError: a layer without a CRS, or a file that cannot be written.
    """
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": list(layer.geometry_types),
        "crs": _crs(layer, path).to_json_dict(),
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": {"bbox": {field.name: ["bbox", field.name] for field in layer.schema.field("bbox").type}},
    }
    if layer.bounds is not None:
        column["bbox"] = list(layer.bounds)
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    schema = layer.schema.with_metadata({"geo": json.dumps(geo, ensure_ascii=False)})
    with staged(place_of(path)) as inside:
        try:
            with pq.ParquetWriter(
                inside,
                schema,
                compression="zstd",
                use_dictionary=[field.name for field in schema if _repeats(field.type)],
                write_statistics=[*attributes(schema), *(f"bbox.{field.name}" for field in schema.field("bbox").type)],
            ) as writer:
                for batch in layer.batches():
                    writer.write_batch(batch, row_group_size=BATCH_ROWS)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error}") from error


def _repeats(kind: pa.DataType) -> bool:
    """Tell whether a column of this type has few different values (geometries and measures do not)."""
    return bool(pa.types.is_string(kind) or pa.types.is_timestamp(kind))


def _crs(layer: Layer, path: Where) -> pyproj.CRS:
    """Return the layer's CRS."""
    if layer.crs is None:
        raise OutputError(f"cannot write {path}: the layer has no CRS; set the scene's")
    return layer.crs


class Format(NamedTuple):
    """A file format of layers: its suffix, its writer, and whether one file holds all layers."""

    suffix: str
    write: Callable[..., None]
    combined: bool


FORMATS: Final[Mapping[str, Format]] = {
    "geojson": Format(".geojson", write_geojson, combined=False),
    "geojsonl": Format(".geojsonl", write_geojsonseq, combined=False),
    "parquet": Format(".parquet", write_geoparquet, combined=False),
    "gpkg": Format(".gpkg", write_gpkg, combined=True),
    "fgb": Format(".fgb", write_flatgeobuf, combined=False),
}


def prepare(rows: pa.RecordBatch) -> None:
    """Loads the compiled loops of writers, or compiles them, by way of some rows with ``lonlat``."""
    features_text(rows, ",")


def write_layers(directory: Place, layers: Mapping[str, Layer], formats: Sequence[str]) -> list[Place]:
    """Write layers in some formats: `<layer>.<suffix>` each, `layers.gpkg` for all together.

    Args:
        directory: an existing folder.
        layers: layer name -> layer; layers may be empty.
        formats: names from `FORMATS`.

    Returns:
        The files written, in the order of `formats` and `layers`.

    Raises:
        SettingsError: an unknown format; nothing was written.
        OutputError: a file that cannot be written.
    """
    require_formats(tuple(formats))
    stops = threading.Event()
    layers = {name: _until(stops, layer) for name, layer in layers.items()}
    files: dict[Place, tuple[Callable[..., None], Layer | Mapping[str, Layer]]] = {}
    for name in dict.fromkeys(formats):
        suffix, write, combined = FORMATS[name]
        todo = layers if not combined else {"layers": layers} if layers else {}
        files |= {directory / f"{stem}{suffix}": (write, content) for stem, content in todo.items()}
    with ThreadPoolExecutor(min(count_cores(), _AT_ONCE)) as pool:
        writing = [pool.submit(write, path, content) for path, (write, content) in files.items()]
        try:
            done, _ = wait(writing, return_when=FIRST_EXCEPTION)
            for one in done:
                one.result()
        except BaseException:
            stops.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return list(files)


def _until(stops: threading.Event, layer: Layer) -> Layer:
    """A layer that is read no further once the event is set, so that nobody waits for files that are not wanted."""

    def read(start: int, stop: int, columns: Sequence[str]) -> pa.RecordBatch:
        if stops.is_set():
            raise OutputError(f"layer {layer.name} is not written to its end, since something else failed")
        return layer.read(start, stop, columns)

    return replace(layer, read=read)

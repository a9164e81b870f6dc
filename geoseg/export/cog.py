"""Masks and confidences as Cloud Optimized GeoTIFFs.

GDAL's COG driver copies a finished raster; it cannot be written to by windows. So the array goes by once, window by
window. Overviews are made on the way, GDAL compresses the blocks of all levels in memory, and they wait in a draft
until the directories that belong before them can be written. Memory stays bounded by a few block rows, whatever the
size of the raster, and the draft takes no more room than the file.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol, Self
from xml.etree import ElementTree as ET

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from geoseg.atomic import staged
from geoseg.errors import OutputError, SettingsError
from geoseg.export import tiff
from geoseg.export.overviews import make_levels, shapes_of
from geoseg.remote import Place, Where, place_of

__all__ = ["BLOCK", "OVERVIEW_RESAMPLINGS", "Raster", "write_cog"]

BLOCK = 512
OVERVIEW_RESAMPLINGS = ("mode", "average")
_READ_PIXELS = 32 * 1024 * 1024
# Of a confidence, level 6 takes twice the time of 5 for 4 % less, and level 1 seven tenths of it for 11 % more. Masks
# take the same time from 1 to 5, and shrink. Differences of neighbours (PREDICTOR=2) bring nothing.
_LEVEL = 5
_PROFILE: dict[str, Any] = {
    "driver": "GTiff",
    "count": 1,
    "dtype": "uint8",
    "tiled": True,
    "blockxsize": BLOCK,
    "blockysize": BLOCK,
    "compress": "DEFLATE",
    "zlevel": _LEVEL,
    "endianness": "LITTLE",
    "bigtiff": "NO",
}


class Raster(Protocol):
    """What `write_cog` reads: a 2-D uint8 array or anything that slices like one (a zarr array, a memory map)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, cols)."""

    @property
    def dtype(self) -> Any:
        """uint8."""

    def __getitem__(self, key: tuple[slice, slice], /) -> Any:
        """Return the pixels of a window."""


def write_cog(  # noqa: PLR0913
    path: Where,
    data: Raster,
    *,
    transform: Affine,
    crs: Any,
    nodata: int = 255,
    colours: Mapping[int, tuple[int, int, int, int]] | None = None,
    categories: Mapping[int, str] | None = None,
    overview_resampling: str = "mode",
    description: str = "",
    tags: Mapping[str, str] | None = None,
) -> None:
    """Write a 2-D uint8 raster as a Cloud Optimized GeoTIFF with internal overviews.

    512-pixel blocks, DEFLATE, BigTIFF when it is needed. The file appears whole or not at all, and its bytes
    depend only on the arguments. The colour table lies inside the file. GDAL keeps category names in a side
    file, `<path>.aux.xml`, where GDAL and QGIS find them; they are also in the band's tags
    (`CATEGORY_1=water`), so that the file tells them without its side file. A CRS that GeoTIFF has no keys for
    lies in the side file only. An older side file of the same name is replaced or removed.

    Args:
        path: the file to write; its folder must exist.
        data: (rows, cols) uint8; read in windows of whole blocks, never whole.
        transform: pixel corner to CRS coordinates.
        crs: anything that `rasterio.crs.CRS.from_user_input` takes.
        nodata: the code that means "no data"; overviews leave it out.
        colours: code -> (red, green, blue, alpha), 0-255. TIFF keeps no alpha; GDAL shows nodata as
            transparent.
        categories: code -> name.
        overview_resampling: one of `OVERVIEW_RESAMPLINGS`: "mode" for class codes, "average" for confidences.
        description: the band's description.
        tags: tags of the whole file, such as `TIFFTAG_DATETIME`.

    Raises:
        SettingsError: an unknown resampling, or a code outside 0-255.
        OutputError: data that is not 2-D uint8, or a file that cannot be written.
    """
    target = place_of(path)
    if overview_resampling not in OVERVIEW_RESAMPLINGS:
        known = ", ".join(OVERVIEW_RESAMPLINGS)
        raise SettingsError(f"overview resampling {overview_resampling!r} is not known; use one of {known}")
    wrong = [code for code in (nodata, *(colours or ()), *(categories or ())) if not 0 <= code <= 255]
    if wrong:
        raise SettingsError(f"code {wrong[0]} of {target.name} is outside 0-255; codes are uint8")
    if len(data.shape) != 2 or np.dtype(data.dtype) != np.uint8 or 0 in data.shape:
        raise OutputError(f"cannot write {target}: wanted (rows, cols) uint8, given {data.shape} {data.dtype}")

    shapes = shapes_of((data.shape[0], data.shape[1]), BLOCK)
    average = overview_resampling == "average"
    names = {code: str(name) for code, name in sorted((categories or {}).items())}
    with staged(target) as inside:
        with _told(target), MemoryFile() as memory:
            # GDAL writes the tags, of a raster of one pixel
            with memory.open(height=1, width=1, crs=crs, transform=transform, nodata=nodata, **_PROFILE) as raster:
                raster.update_tags(**(tags or {}))
                raster.update_tags(1, **{f"CATEGORY_{code}": name for code, name in names.items()})
                raster.set_band_description(1, description)
                if colours:
                    raster.write_colormap(1, {code: tuple(colour) for code, colour in colours.items()})
                wkt = raster.crs.to_wkt(version="WKT2_2019") if raster.crs else ""
            directory = tiff.read_directory(memory.read())
        with _told(target):
            draft = _Draft(inside.parent, shapes)
        with draft:
            levels = make_levels(_windows(data), shapes, block=BLOCK, nodata=nodata, average=average)
            for level, row, col, pixels in levels:
                with _told(target):
                    draft.add(level, row, col, pixels)
            with _told(target):
                draft.finish(inside, directory)
        beside = "" if tiff.holds_crs(directory) else wkt
        if names or beside:
            with _told(target):
                _write_side_file(inside.with_name(f"{inside.name}.aux.xml"), names, beside)
        else:
            target.with_name(f"{target.name}.aux.xml").unlink(missing_ok=True)


@contextmanager
def _told(target: Place) -> Iterator[None]:
    """Turn errors of GDAL and of the disk into ours. Those of reading the data are not ours: they pass beside it."""
    try:
        yield
    except (RasterioError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.__cause__
        raise OutputError(f"cannot write {target}: {reason or error}") from error


class _Draft:
    """Compressed blocks of all levels in a nameless file, in the order in which they come."""

    def __init__(self, folder: Path, shapes: Sequence[tuple[int, int]]) -> None:
        self._shapes = shapes
        grids = [(math.ceil(rows / BLOCK), math.ceil(cols / BLOCK)) for rows, cols in shapes]
        self._places = [np.zeros(grid, np.int64) for grid in grids]
        self._sizes = [np.zeros(grid, np.int64) for grid in grids]
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed on exit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # of a full disk, once more; the draft is of no use any longer
            self._file.close()

    def add(self, level: int, row: int, col: int, pixels: NDArray[np.uint8]) -> None:
        """Compress a window of whole blocks (but for the edges of the raster)."""
        rows, cols = pixels.shape
        down, across = math.ceil(rows / BLOCK), math.ceil(cols / BLOCK)
        with MemoryFile() as memory:
            # rasterio warns of a raster that lies nowhere
            with memory.open(height=rows, width=cols, transform=Affine.scale(2), **_PROFILE) as raster:
                raster.write(pixels, 1)
            blocks = tiff.read_blocks(memory.read(), down * across)
        sizes = np.reshape([len(block) for block in blocks], (down, across))
        window = (slice(row // BLOCK, row // BLOCK + down), slice(col // BLOCK, col // BLOCK + across))
        framed = sizes + tiff.FRAME_BYTES
        self._places[level][window] = self._file.tell() + np.cumsum(framed).reshape(framed.shape) - framed
        self._sizes[level][window] = sizes
        self._file.writelines(tiff.frame(block) for block in blocks)

    def finish(self, path: Path, directory: Mapping[int, tiff.Value]) -> None:
        """Write the file: what belongs before the blocks, then the blocks, level by level and row by row."""
        if not all(sizes.all() for sizes in self._sizes):
            raise OSError("there are blocks without pixels")
        levels = [tiff.Level(shape, sizes) for shape, sizes in zip(self._shapes, self._sizes, strict=True)]
        head = tiff.make_head(directory, levels, block=BLOCK)
        with path.open("wb") as file:
            file.write(head)
            for places, sizes in zip(reversed(self._places), reversed(self._sizes), strict=True):
                for place, size in zip(places.ravel().tolist(), sizes.ravel().tolist(), strict=True):
                    self._file.seek(place)
                    file.write(self._file.read(size + tiff.FRAME_BYTES))
        whole = len(head) + sum(int(sizes.sum()) + sizes.size * tiff.FRAME_BYTES for sizes in self._sizes)
        if path.stat().st_size != whole:
            raise OSError(f"{path.stat().st_size} of {whole} bytes are on the disk")


def _windows(data: Raster) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """Read the raster in windows of whole blocks that hold whole chunks, if it has any: (row, col, pixels)."""
    rows, cols = data.shape
    chunk_rows, chunk_cols = getattr(data, "chunks", None) or (BLOCK, BLOCK)
    height = math.ceil(min(chunk_rows, rows) / BLOCK) * BLOCK
    width = math.ceil(max(min(chunk_cols, cols), _READ_PIXELS // height) / BLOCK) * BLOCK
    for row in range(0, rows, height):
        for col in range(0, cols, width):
            window = (slice(row, min(row + height, rows)), slice(col, min(col + width, cols)))
            yield row, col, np.asarray(data[window])


def _write_side_file(path: Path, names: Mapping[int, str], crs: str) -> None:
    """Write GDAL's side file.

    Args:
        path: of the side file.
        names: for every code up to the largest one there will be a name ("" where there is none).
        crs: as WKT, or "".
    """
    root = ET.Element("PAMDataset")
    if crs:
        ET.SubElement(root, "SRS").text = crs
    if names:
        categories = ET.SubElement(ET.SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
        for code in range(max(names) + 1):
            ET.SubElement(categories, "Category").text = names.get(code, "")
    # GDAL ignores a side file whose first element is not PAMDataset, and takes an XML declaration for one.
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=False)

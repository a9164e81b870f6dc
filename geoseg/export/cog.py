"""Masks and confidences as Cloud Optimized GeoTIFFs.

GDAL's COG driver copies a finished raster; it cannot be written to by windows. So the array goes block by
block into a tiled draft, and the driver makes the overviews and the final layout from that draft. Memory
stays bounded by a few block rows, whatever the size of the raster.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from xml.etree import ElementTree as ET

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what rasterio.shutil.copy lets through, e.g. on a full disk
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from geoseg.atomic import staged
from geoseg.errors import OutputError, SettingsError

__all__ = ["BLOCK", "OVERVIEW_RESAMPLINGS", "Raster", "write_cog"]

BLOCK = 512
OVERVIEW_RESAMPLINGS = ("nearest", "mode", "average", "bilinear", "cubic", "cubicspline", "lanczos", "rms")
# These only pick among the values that are there, which is all that class codes allow.
_CODES = ("nearest", "mode")
_READ_PIXELS = 32 * 1024 * 1024


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
    path: str | os.PathLike[str],
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
    threads: int = 1,
) -> None:
    """Write a 2-D uint8 raster as a Cloud Optimized GeoTIFF with internal overviews.

    512-pixel blocks, DEFLATE, BigTIFF when it may be needed. The file appears whole or not at all, and its
    bytes depend only on the arguments (not on `threads`). The colour table lies inside the file. GDAL keeps
    category names in a side file, `<path>.aux.xml`, where GDAL and QGIS find them; they are also in the
    band's tags (`CATEGORY_1=water`), so that the file tells them without its side file. An older side file of
    the same name is replaced or removed.

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
        threads: GDAL threads that compress.

    Raises:
        SettingsError: an unknown resampling, or a code outside 0-255.
        OutputError: data that is not 2-D uint8, or a file that cannot be written.
    """
    target = Path(path)
    if overview_resampling not in OVERVIEW_RESAMPLINGS:
        known = ", ".join(OVERVIEW_RESAMPLINGS)
        raise SettingsError(f"overview resampling {overview_resampling!r} is not known; use one of {known}")
    wrong = [code for code in (nodata, *(colours or ()), *(categories or ())) if not 0 <= code <= 255]
    if wrong:
        raise SettingsError(f"code {wrong[0]} of {target.name} is outside 0-255; codes are uint8")
    if len(data.shape) != 2 or np.dtype(data.dtype) != np.uint8 or 0 in data.shape:
        raise OutputError(f"cannot write {target}: wanted (rows, cols) uint8, given {data.shape} {data.dtype}")

    names = {code: str(name) for code, name in sorted((categories or {}).items())}
    with staged(target) as inside:
        with tempfile.TemporaryDirectory(dir=inside.parent, ignore_cleanup_errors=True) as scratch:
            draft = Path(scratch) / "draft.tif"
            try:
                with rasterio.open(
                    draft,
                    "w",
                    driver="GTiff",
                    height=data.shape[0],
                    width=data.shape[1],
                    count=1,
                    dtype="uint8",
                    crs=crs,
                    transform=transform,
                    nodata=nodata,
                    tiled=True,
                    blockxsize=BLOCK,
                    blockysize=BLOCK,
                    compress="DEFLATE",
                    zlevel=1,
                    bigtiff="IF_SAFER",
                ) as raster:
                    raster.update_tags(**(tags or {}))
                    raster.update_tags(1, **{f"CATEGORY_{code}": name for code, name in names.items()})
                    raster.set_band_description(1, description)
                    if colours:
                        raster.write_colormap(1, {code: tuple(colour) for code, colour in colours.items()})
                    for row, col, block in _windows(data):
                        window = RasterWindow(col, row, block.shape[1], block.shape[0])
                        raster.write(block, 1, window=window)
                if names:
                    _write_category_names(draft.with_name("draft.tif.aux.xml"), names)
                rasterio.shutil.copy(
                    draft,
                    inside,
                    driver="COG",
                    BLOCKSIZE=BLOCK,
                    COMPRESS="DEFLATE",
                    PREDICTOR="NO" if overview_resampling in _CODES else "STANDARD",
                    OVERVIEW_RESAMPLING=overview_resampling.upper(),
                    BIGTIFF="IF_SAFER",
                    NUM_THREADS=threads,
                )
            except (RasterioError, CPLE_BaseError) as error:
                raise OutputError(f"cannot write {target}: {error.__cause__ or error}") from error
        if not inside.with_name(f"{inside.name}.aux.xml").exists():
            target.with_name(f"{target.name}.aux.xml").unlink(missing_ok=True)


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


def _write_category_names(path: Path, names: Mapping[int, str]) -> None:
    """Write GDAL's side file with a name for every code up to the largest one ("" where there is none)."""
    root = ET.Element("PAMDataset")
    categories = ET.SubElement(ET.SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    for code in range(max(names) + 1):
        ET.SubElement(categories, "Category").text = names.get(code, "")
    # GDAL ignores a side file whose first element is not PAMDataset, and takes an XML declaration for one.
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=False)

"""What every test may ask for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, settings
from rasterio.enums import ColorInterp, Resampling

# deadlines are for quiet machines; the first example of a test also pays for compiling its kernel
settings.register_profile("geoseg", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "geoseg"))

WriteRaster = Callable[..., Path]
TRANSFORM = Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000)  # half a metre, in North Dakota


@pytest.fixture
def write_raster(tmp_path: Path) -> WriteRaster:
    """Write a small GeoTIFF in the test's own folder."""

    def write(
        pixels: np.ndarray,
        name: str = "scene.tif",
        *,
        transform: Affine | None = TRANSFORM,
        crs: str | None = "EPSG:32614",
        nodata: float | None = None,
        descriptions: tuple[str, ...] = (),
        colours: tuple[ColorInterp, ...] = (),
        tags: dict[str, str] | None = None,
        mask: np.ndarray | None = None,
        overviews: tuple[int, ...] = (),
        **profile: Any,
    ) -> Path:
        """Write (bands, rows, cols) or (rows, cols) pixels; `mask` is (rows, cols) bool, kept inside the file."""
        pixels = pixels[None] if pixels.ndim == 2 else pixels
        path = tmp_path / name
        facts = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
        facts |= {"driver": "GTiff", "crs": crs, "transform": transform, "nodata": nodata}
        if not colours and "photometric" not in profile:
            facts["photometric"] = "MINISBLACK"  # else GDAL calls 3 and 4 bytes RGB and RGBA
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            with rasterio.open(path, "w", **facts | profile) as dataset:
                if colours:
                    dataset.colorinterp = colours
                for band, text in enumerate(descriptions, start=1):
                    dataset.set_band_description(band, text)
                if tags:
                    dataset.update_tags(**tags)
                dataset.write(pixels)  # last, so that the header stands first in the file
                if mask is not None:
                    dataset.write_mask(mask.astype(np.uint8) * 255)
            if overviews:
                with rasterio.open(path, "r+") as dataset:
                    dataset.build_overviews(overviews, Resampling.average)
        return path

    return write

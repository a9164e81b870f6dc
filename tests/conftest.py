"""What every test may ask for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import HealthCheck, settings
from rasterio.enums import ColorInterp, Resampling

from geoseg.rings import Polygons, offsets_of

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


@pytest.fixture(scope="session")
def as_polygons() -> Callable[..., Polygons]:
    """Make polygons of shapely polygons in pixels, with rings turned and begun as geoseg has them, sorted by id."""

    def ring_of(ring: shapely.LinearRing) -> np.ndarray:
        vertices = np.rint(2 * shapely.get_coordinates(ring)[:-1]).astype(np.int32)
        vertices = np.roll(vertices, -np.lexsort(vertices.T)[0], axis=0)
        return np.concatenate([vertices, vertices[:1]])

    def make(shapes: Any, width: int, *, codes: Any = 1, seed: int = 0) -> Polygons:
        rings = []
        for shape in shapely.orient_polygons(np.asarray(shapes, object)):  # counter-clockwise where rows go up
            shell, *holes = (ring_of(ring) for ring in shapely.get_rings(shape))
            rings.append([shell, *sorted(holes, key=lambda ring: (ring[0, 1], ring[0, 0]))])
        ids = np.array([shell[0, 1] // 2 * width + shell[0, 0] // 2 + 1 for shell, *_ in rings], np.int64)
        order = np.argsort(ids, kind="stable")
        flat = [ring for polygon in order for ring in rings[polygon]]
        random = np.random.default_rng(seed)
        return Polygons(
            coords=np.concatenate([np.zeros((0, 2), np.int32), *flat]),
            ring_offsets=offsets_of(np.array([len(ring) for ring in flat], np.int64)),
            polygon_offsets=offsets_of(np.array([len(rings[polygon]) for polygon in order], np.int64)),
            id=ids[order],
            code=np.broadcast_to(np.asarray(codes, np.uint8), len(ids))[order],
            area_px=np.array([round(shape.area) for shape in shapes], np.int64)[order],
            confidence=random.random(len(ids)),
            confidence_p10=np.where(np.arange(len(ids)) % 3, random.random(len(ids)), np.nan),
            edge=random.random(len(ids)) < 0.2,
        )

    return make

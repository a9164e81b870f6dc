from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from scipy import ndimage

TRANSFORM = Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000)  # that of write_raster
CRS = "EPSG:32614"

WriteBoxes = Callable[..., Path]


@pytest.fixture
def write_boxes(tmp_path: Path) -> WriteBoxes:
    """Write rectangles of pixels (row, col, rows, cols) as a vector layer of the format that the name says."""

    def write(
        boxes: list[tuple[float, float, float, float]], name: str = "truth.gpkg", crs: str = CRS, **columns: list
    ) -> Path:
        shapes = [
            shapely.box(*(TRANSFORM @ (col, row + rows)), *(TRANSFORM @ (col + cols, row)))
            for row, col, rows, cols in boxes
        ]
        frame = gpd.GeoDataFrame(columns, geometry=shapes, crs=CRS).to_crs(crs)
        path = tmp_path / name
        if path.suffix == ".parquet":
            frame.to_parquet(path)
        else:
            frame.to_file(path)
        return path

    return write


def random_mask(seed: int, shape: tuple[int, int] = (150, 170), *, unknown: bool = False) -> np.ndarray:
    """Blobs of the classes 1-3, and some unknown ground."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.random((4, *shape)), (0, 4, 4)).argmax(axis=0).astype(np.uint8)
    if unknown:
        field[ndimage.gaussian_filter(rng.random(shape), 5) > 0.53] = 255
    return field


@pytest.fixture(scope="session")
def make_mask() -> Callable[..., np.ndarray]:
    return random_mask

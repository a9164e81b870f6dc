"""A small model and small scenes for the engine's tests: the shipped weights on small tiles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from geoseg.models import zoo

TILE, HALO = 128, 32
CORE = TILE - 2 * HALO


@pytest.fixture(scope="session")
def write_card(tmp_path_factory):
    """Returns a function that writes a card of the shipped weights with small tiles, and gives its path."""
    folder = tmp_path_factory.mktemp("models")
    shipped = zoo.load("landscape")
    (folder / shipped.weights).write_bytes(shipped.weights_path.read_bytes())

    def write(
        name: str,
        *,
        gsd_m: tuple[float, float] = (0.3, 5.0),
        classes: tuple[str, str, str, str] = ("water", "road", "field", "parking"),
        mean: float | None = None,
        bands: tuple[str, str, str] = ("red", "green", "blue"),
        tile: int = TILE,
    ) -> Path:
        item = shipped.to_item()
        properties = item["properties"]
        item["assets"].pop("int8", None)
        properties.pop("geoseg:precisions", None)
        properties |= {"mlm:name": name, "geoseg:halo": HALO, "geoseg:gsd_range_m": list(gsd_m), "geoseg:upsampling": 2}
        tiles, scores = properties["mlm:input"][0], properties["mlm:output"][0]
        tiles["input"]["shape"][-2:] = [tile, tile]
        tiles["bands"] = [{"name": band} for band in bands]
        if mean is not None:
            tiles["value_scaling"][0]["mean"] = mean
        plain = [
            {"value": code, "name": known, "description": known, "color_hint": entry["color_hint"]}
            for code, (entry, known) in enumerate(zip(scores["classification:classes"][1:], classes, strict=True), 1)
        ]
        scores["classification:classes"][1:] = plain
        path = folder / f"{len(list(folder.iterdir()))}.card.json"
        path.write_text(json.dumps(item), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def small_card(write_card) -> Path:
    """The default model's card with 128-px tiles; its weights lie beside it."""
    return write_card("small")


def paint(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Something like land: smooth blobs of green, brown and blue with grain, (3, rows, cols) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(3, -(-height // 24) + 2, -(-width // 24) + 2))
    smooth = np.kron(coarse, np.ones((24, 24)))[:, :height, :width]
    land = np.array([90.0, 105.0, 80.0])[:, None, None] + 35 * smooth + rng.normal(0, 6, (3, height, width))
    return land.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def write_scene(tmp_path_factory):
    """Returns a function that writes (bands, rows, cols) as a GeoTIFF and gives its path."""
    folder = tmp_path_factory.mktemp("scenes")

    def write(pixels: np.ndarray, name: str, *, gsd_m: float = 1.0, **profile) -> Path:
        path = folder / f"{name}.tif"
        options = {
            "driver": "GTiff",
            "count": pixels.shape[0],
            "height": pixels.shape[1],
            "width": pixels.shape[2],
            "dtype": pixels.dtype,
            "crs": "EPSG:32614",
            "transform": Affine(gsd_m, 0, 500_000, 0, -gsd_m, 5_000_000),
            **({"photometric": "RGB"} if pixels.shape[0] == 3 else {}),
        } | profile
        with rasterio.open(path, "w", **options) as raster:
            raster.write(pixels)
        return path

    return write


@pytest.fixture(scope="session")
def land(write_scene) -> Path:
    """A 3-band uint8 scene of 211 x 330 px: no multiple of anything, with a nodata corner."""
    pixels = paint(211, 330)
    pixels[:, :50, :70] = 0
    return write_scene(pixels, "land", nodata=0)

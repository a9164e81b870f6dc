"""Make ten small labelled scenes and one more to test on: `python workflows/first_training/render_scenes.py FOLDER`.

The land is invented: geoseg's renderer lays it out and paints it. FOLDER then holds what a user with imagery of their
own would bring: ``images/`` (GeoTIFFs), ``labels.gpkg`` (a polygon for each field and each water, with an attribute
``class``), the configuration ``train.yaml``, and for later ``test.tif`` with its truth ``test.gpkg``.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import geopandas as gpd
import pandas as pd
import rasterio
from rasterio.transform import from_origin
from shapely.affinity import affine_transform

from geoseg.training.renderer import Rendering, render

SEEDS = (210, 211, 212, 213, 214, 215, 216, 217, 218, 219)
TEST_SEED = 220
SIZE = 768
GSD_M = 1.0
CRS = "EPSG:32633"
LEFT_M, TOP_M, APART_M = 450_000.0, 5_400_000.0, 5_000.0
LAYERS = ("water", "field")


def write_image(path: Path, scene: Rendering, left_m: float) -> None:
    """The picture as a GeoTIFF."""
    facts = {"driver": "GTiff", "width": SIZE, "height": SIZE, "count": 3, "dtype": "uint8", "crs": CRS}
    place = from_origin(left_m, TOP_M, GSD_M, GSD_M)
    with rasterio.open(path, "w", transform=place, photometric="RGB", compress="DEFLATE", tiled=True, **facts) as tif:
        tif.write(scene.image)


def to_frame(scene: Rendering, left_m: float) -> gpd.GeoDataFrame:
    """The polygons of a scene on the ground."""
    to_land = [GSD_M, 0, 0, -GSD_M, left_m, TOP_M]
    names = [name for name in LAYERS for _ in scene.polygons[name]]
    shapes = [affine_transform(shape, to_land) for name in LAYERS for shape in scene.polygons[name]]
    return gpd.GeoDataFrame({"class": names}, geometry=shapes, crs=CRS)


def main(folder: Path) -> None:
    """Write everything."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    frames = []
    for number, seed in enumerate((*SEEDS, TEST_SEED)):
        scene = render(seed, size=SIZE, gsd_m=GSD_M)
        left_m = LEFT_M + number * APART_M
        frame = to_frame(scene, left_m)
        if seed == TEST_SEED:
            write_image(folder / "test.tif", scene, left_m)
            frame.to_file(folder / "test.gpkg")
        else:
            write_image(folder / "images" / f"scene_{number + 1:02}.tif", scene, left_m)
            frames.append(frame)
    pd.concat(frames, ignore_index=True).to_file(folder / "labels.gpkg")
    shutil.copy(Path(__file__).with_name("train.yaml"), folder)
    print(f"{folder}: images/ (10), labels.gpkg, train.yaml; test.tif and its truth test.gpkg")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Our own renderer: land seen from above, with exact truth.

Geometry comes first (`layout`: rivers and lakes, roads, settlements, lots, fields, woods), in metres. The truth is cut
from it (`truth`), and the picture is painted over the same shapes (`ground`, `built`, `trees`), lit by one sun and
taken by one camera (`sensor`). Nothing is read from disk, and everything follows from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon

from geoseg.errors import SettingsError
from geoseg.training.renderer import built, ground, sensor, trees
from geoseg.training.renderer.canvas import Canvas
from geoseg.training.renderer.land import Land, Season
from geoseg.training.renderer.layout import lay_out
from geoseg.training.renderer.palette import make_palette
from geoseg.training.renderer.truth import Truth, choose_view, cut_truth

__all__ = ["LAYERS", "Rendering", "render"]

LAYERS = ("water", "road", "field", "parking")
_LEAST_EXTENT_M = 700.0


@dataclass(frozen=True)
class Rendering:
    """A picture of invented land, and what is truly there.

    Attributes:
        image: uint8 (3, rows, cols), RGB.
        mask: uint8 (rows, cols): 0 background, 1 water, 2 road, 3 field, 4 parking, by pixel centres.
        polygons: of each layer, in pixels (x = col, y = row, pixel corners are integers); they do not overlap. One
            per field and per lot; roads and water as merged areas; islands are holes.
        stalls: of the lots, in pixels; those cut by the picture's edge are left out.
        taken: one bool per stall: a car stands on it.
        cars: outlines, in pixels.
        gsd_m: metres per pixel.
        season: which palette painted it.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    polygons: dict[str, list[Polygon]]
    stalls: list[Polygon]
    taken: list[bool]
    cars: list[Polygon]
    gsd_m: float
    season: Season


def render(seed: int, *, size: int = 2048, gsd_m: float = 0.5) -> Rendering:
    """Render a square scene.

    The land depends on the seed and the extent alone: the same seed at half the size and twice the GSD shows the same
    land. Pictures of less than 700 m show the liveliest part of a larger piece of land.

    Args:
        seed: 0 or more; the same seed gives the same bytes.
        size: rows and columns, 32 or more.
        gsd_m: metres per pixel, 0.1 to 5.

    Returns:
        The picture with its truth.

    Raises:
        SettingsError: for a seed, size or GSD out of range.
    """
    if seed < 0 or size < 32 or not 0.1 <= gsd_m <= 5:
        raise SettingsError(
            f"cannot render seed {seed}, size {size}, {gsd_m} m: expected seed >= 0, size >= 32, GSD 0.1 to 5 m"
        )
    for_land, for_paint = np.random.default_rng(seed).spawn(2)
    extent_m = size * gsd_m
    land = lay_out(for_land, max(extent_m, _LEAST_EXTENT_M))
    origin = choose_view(for_land, land, extent_m)
    truth = cut_truth(land, origin, size, gsd_m)
    image = _paint(for_paint, land, truth, origin, size, gsd_m)
    return Rendering(image, truth.mask, truth.polygons, truth.stalls, truth.taken, truth.cars, gsd_m, land.season)


def _paint(
    rng: np.random.Generator, land: Land, truth: Truth, origin: NDArray[np.float64], size: int, gsd_m: float
) -> NDArray[np.uint8]:
    """Paint from the ground up, then shine and expose."""
    canvas = Canvas(rng, size, gsd_m, origin)
    palette = make_palette(rng, land.season)
    ground.paint_grass(canvas, palette)
    ground.paint_places(canvas, palette, land)
    ground.paint_fields(canvas, palette, truth.fields, truth.polygons["field"])
    ground.paint_water(canvas, palette, list(canvas.outlines(land.water)))
    built.paint_roads(canvas, palette, land)
    built.paint_lots(canvas, palette, land, truth.polygons["parking"])
    built.paint_cars(canvas, land.cars)
    built.paint_buildings(canvas, land.buildings)
    orchards = ground.grow_orchards(land.fields, rng)
    trees.paint_trees(canvas, palette, np.concatenate([land.trees, orchards]))
    canvas.cast_shadows()
    return sensor.expose(canvas, palette)

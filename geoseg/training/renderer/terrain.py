"""Rivers, lakes and ponds."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import LineString, MultiPoint, Point, Polygon
from shapely.geometry.base import BaseGeometry

from geoseg.training.renderer.land import areas

__all__ = ["blob", "draw_lake", "draw_river"]


def blob(rng: np.random.Generator, centre: NDArray[np.float64], radius_m: float, *, rough: float = 0.35) -> Polygon:
    """A closed smooth shape, larger and smaller than its radius by chance."""
    angle = np.linspace(0, 2 * np.pi, 160, endpoint=False)
    radius = np.zeros_like(angle)
    for order in range(1, 14):
        radius += rng.normal() * np.cos(order * angle + rng.uniform(0, 2 * np.pi)) / order**1.15
    radius = radius_m * np.exp(rough * radius / 1.1)
    stretch = rng.uniform(0.65, 1.0)
    turn = rng.uniform(0, np.pi)
    x, y = radius * np.cos(angle), radius * np.sin(angle) * stretch
    points = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=1)
    return max(areas(Polygon(points + centre).buffer(0)), key=lambda part: part.area)


def _meander(rng: np.random.Generator, extent_m: float, width_m: float) -> NDArray[np.float64]:
    """A sine-generated curve (Langbein and Leopold 1966) across the land: float64 (n, 2)."""
    step = 4.0
    count = int(3.4 * extent_m / step) + 200
    s = np.arange(count) * step
    wave = width_m * rng.uniform(9, 15)
    phase = 2 * np.pi * s / wave + 1.3 * np.sin(2 * np.pi * s / (3.1 * wave) + rng.uniform(0, 6)) + rng.uniform(0, 6)
    swing = rng.uniform(0.45, 1.15) * (0.75 + 0.25 * np.sin(2 * np.pi * s / (2.3 * wave) + rng.uniform(0, 6)))
    drift = 0.35 * np.sin(2 * np.pi * s / (1.7 * extent_m) + rng.uniform(0, 6))
    turn = rng.uniform(0, 2 * np.pi)
    heading = turn + swing * np.sin(phase) + drift
    points = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1) * step, axis=0)
    middle = points[count // 2]
    through = extent_m * rng.uniform(0.2, 0.8, 2)
    points = points - middle + through
    return np.asarray(points[::2])


def draw_river(rng: np.random.Generator, extent_m: float) -> tuple[LineString, Polygon]:
    """A river with a varying width, and sometimes islands.

    Returns:
        Its axis and its area, both sticking out of the land.
    """
    width_m = float(np.exp(rng.uniform(np.log(9), np.log(48)))) * (0.8 if extent_m < 700 else 1.0)
    points = _meander(rng, extent_m, width_m)
    inside = np.asarray(((points > -150) & (points < extent_m + 150)).all(axis=1))
    middle = len(points) // 2
    before = np.flatnonzero(~inside[:middle])
    after = np.flatnonzero(~inside[middle:])
    start = before[-1] if len(before) else 0
    stop = middle + after[0] if len(after) else len(points)
    points = points[start : stop + 1]
    s = np.arange(len(points)) * 8.0
    wobble = sum(
        np.sin(2 * np.pi * s / wave + rng.uniform(0, 6)) * weight
        for wave, weight in ((width_m * 7, 0.16), (width_m * 2.9, 0.1), (23.0, 0.05), (11.0, 0.03))
    )
    half = width_m / 2 * np.exp(wobble)
    discs = shapely.buffer(shapely.points(points), half, quad_segs=6)
    pairs = [MultiPoint(np.concatenate([shapely.get_coordinates(discs[i : i + 2])])) for i in range(len(discs) - 1)]
    area = shapely.union_all(shapely.convex_hull(pairs)).simplify(0.15)
    for _ in range(rng.integers(0, 3) if width_m > 22 else 0):
        at = int(rng.integers(len(points) // 5, 4 * len(points) // 5))
        island = blob(rng, points[at], half[at] * rng.uniform(0.2, 0.42), rough=0.25)
        if area.buffer(-2).contains(island):
            area = area.difference(island)
    return LineString(points), max(areas(area), key=lambda part: part.area)


def draw_lake(
    rng: np.random.Generator, extent_m: float, taken: BaseGeometry, *, largest_m: float, islands: bool
) -> Polygon | None:
    """A lake where there is most room.

    Args:
        rng: the source of chance.
        extent_m: edge of the land.
        taken: where it may not be.
        largest_m: bound on its mean radius.
        islands: try to leave islands in it.

    Returns:
        Its area, islands as holes; None where no lake of 12 m fits.
    """
    places = rng.uniform(0.08 * extent_m, 0.92 * extent_m, (60, 2))
    room = shapely.distance(shapely.points(places), taken)
    best = int(np.argmax(np.minimum(room, largest_m * 1.3) + rng.uniform(0, 12, len(places))))
    radius = min(float(room[best]) / 1.25, largest_m)
    if radius < 12:
        return None
    lake = blob(rng, places[best], radius * 0.8).difference(taken.buffer(8))
    lake = max(areas(lake.buffer(-4).buffer(4)), key=lambda part: part.area, default=None)
    if lake is None:
        return None
    for _ in range(40 if islands else 0):
        centre = places[best] + rng.normal(0, radius * 0.3, 2)
        island = blob(rng, centre, radius * rng.uniform(0.12, 0.24), rough=0.3)
        if lake.buffer(-4).contains(island) and Point(centre).within(island):
            lake = Polygon(lake.exterior, [*(ring.coords for ring in lake.interiors), island.exterior.coords])
            if len(lake.interiors) >= 2:
                break
    return lake if lake.is_valid else None

"""Fields, farm tracks, hedges, woods and scrub: what fills the rest."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import LineString, Point, Polygon
from shapely.geometry.base import BaseGeometry

from geoseg.training.renderer.land import Field, Land, Road, Season, areas, half_plane, wavy_line
from geoseg.training.renderer.network import ribbons

__all__ = ["CROPS", "divide", "line_with_trees", "plant_woods"]

# chances of each crop by season
CROPS: dict[Season, dict[str, float]] = {
    "summer": {
        "maize": 4,
        "beans": 3,
        "wheat": 2,
        "stubble": 1.5,
        "meadow": 1.5,
        "bare": 0.6,
        "orchard": 0.4,
        "vines": 0.3,
        "fallow": 0.5,
    },
    "spring": {
        "young": 4,
        "bare": 2,
        "ploughed": 1.5,
        "cereal": 3,
        "rape": 1.2,
        "meadow": 1.5,
        "orchard": 0.4,
        "vines": 0.3,
    },
    "autumn": {
        "stubble": 3,
        "ploughed": 3,
        "bare": 2,
        "cereal": 1.5,
        "ripe": 2,
        "meadow": 1,
        "orchard": 0.3,
        "fallow": 1,
    },
    "dry": {
        "stubble": 2,
        "bare": 3,
        "maize": 1.5,
        "meadow": 1.2,
        "fallow": 1.5,
        "vines": 0.5,
        "orchard": 0.5,
        "ploughed": 1,
    },
}


def _split(rng: np.random.Generator, piece: Polygon, heading: float, swing_m: float) -> LineString | None:
    """A line across the longer side of a piece, along or across the general direction."""
    axis = np.array([np.cos(heading), np.sin(heading)])
    side = np.array([-axis[1], axis[0]])
    points = shapely.get_coordinates(piece.exterior)
    u, v = points @ axis, points @ side
    wide, high = np.ptp(u), np.ptp(v)
    if min(wide, high) < 1:
        return None
    at = rng.uniform(0.34, 0.66)
    lean = rng.normal(0, 0.02)
    if wide * rng.uniform(0.75, 1.35) > high:
        along, across, low, size, middle = side + lean * axis, axis, u.min(), wide, v.mean()
    else:
        along, across, low, size, middle = axis + lean * side, side, v.min(), high, u.mean()
    reach = wide + high + 50
    centre = across * (low + at * size) + (along / np.hypot(*along)) * middle
    return wavy_line(rng, centre - along * reach, centre + along * reach, swing_m)


def _trim(line: LineString, ground: BaseGeometry, roads: BaseGeometry) -> LineString | None:
    """The longest part of a track on its ground, ends led to a road that is near."""
    parts = [
        part for part in getattr(line.intersection(ground), "geoms", [line.intersection(ground)]) if part.length > 30
    ]
    if not parts:
        return None
    points = shapely.get_coordinates(max(parts, key=lambda part: part.length))
    for end, inner in ((0, 1), (-1, -2)):
        away = points[end] - points[inner]
        gap = Point(points[end]).distance(roads)
        if gap < 9:
            points[end] = points[end] + away / max(float(np.hypot(*away)), 1e-9) * (gap * 1.3 + 1.5)
    return LineString(points)


def _use_of(rng: np.random.Generator, piece: Polygon) -> str:
    compact = 4 * np.pi * piece.area / piece.length**2
    if piece.area < 1500 or compact < 0.14:
        return "wood" if rng.random() < 0.3 else "scrub"
    draw = rng.random()
    if draw < 0.06:
        return "wood"
    return "scrub" if draw < 0.12 else "field"


def line_with_trees(
    rng: np.random.Generator, line: LineString, *, every_m: float, radius: tuple[float, float]
) -> NDArray[np.float64]:
    """A row of trees, or a hedge when they stand close: float64 (n, 4)."""
    cells = ribbons(line, width_m=0.1, on_m=every_m)
    points = cells.mean(axis=1) + rng.normal(0, every_m * 0.12, (len(cells), 2))
    size = rng.uniform(*radius, len(points))
    # stretches without trees
    gaps = np.sin(np.arange(len(points)) * every_m / rng.uniform(20, 90) + rng.uniform(0, 6)) > rng.uniform(-1.2, 0.75)
    return np.asarray(np.column_stack([points, size, size * rng.uniform(1.3, 2.2, len(points))])[gaps])


def divide(rng: np.random.Generator, land: Land, blocks: list[Polygon], roads: BaseGeometry) -> None:
    """Cut blocks of open land into parcels that touch, or leave a margin, a hedge or a track between them.

    Args:
        rng: the source of chance.
        land: gets fields, woods, scrub, tracks and hedges.
        blocks: open land between roads and water.
        roads: the paved area so far.
    """
    target_m2 = float(np.exp(rng.uniform(np.log(6000), np.log(45000))))
    custom = rng.choice([0.25, 0.6])  # how often neighbours touch
    crops = CROPS[land.season]
    names, weights = list(crops), np.array(list(crops.values()))
    weights = weights * rng.gamma(1.2, 1.0, len(weights))
    weights /= weights.sum()
    tracks: list[Polygon] = []
    circles = land.season == "dry" and rng.random() < 0.6
    target_m2 *= 2.5 if circles else 1.0
    for block in blocks:
        heading = land.heading + rng.normal(0, 0.05)
        swing = float(rng.choice([0.0, 0.0, 2.0, 7.0]))
        wish = target_m2 * rng.lognormal(0, 0.35)
        stack = [(block, 0)]
        while stack:
            piece, depth = stack.pop()
            if piece.area > wish * rng.uniform(1.0, 2.2) and depth < 12:
                cut = _split(rng, piece, heading, swing)
                if cut is not None:
                    stack += [
                        (part, depth + 1) for part in _cut_piece(rng, land, piece, cut, (custom, depth), roads, tracks)
                    ]
                    continue
            use = _use_of(rng, piece)
            if use == "wood":
                land.woods.append(piece)
            elif use == "scrub":
                land.scrub.append(piece)
            elif (
                circles
                and piece.area > 15000
                and shapely.maximum_inscribed_circle(piece).length ** 2 > 0.19 * piece.area
            ):
                _irrigate(rng, land, piece)
            else:
                box = shapely.get_coordinates(shapely.oriented_envelope(piece))
                edge = max(box[1] - box[0], box[2] - box[1], key=lambda e: float(np.hypot(*e)))
                rows = float(np.arctan2(edge[1], edge[0])) + (np.pi / 2 if rng.random() < 0.08 else 0.0)
                land.fields.append(Field(piece, str(rng.choice(names, p=weights)), rows))


def _irrigate(rng: np.random.Generator, land: Land, piece: Polygon) -> None:
    """A circle under a centre pivot, scrub in the corners."""
    radius = shapely.maximum_inscribed_circle(piece)
    centre, rim = (np.array(point) for point in radius.coords)
    circle = Point(centre).buffer(float(np.hypot(*(rim - centre))) - rng.uniform(0.5, 4), quad_segs=40)
    crop = str(rng.choice(["maize", "beans", "cereal", "wheat", "stubble"], p=[0.4, 0.2, 0.2, 0.1, 0.1]))
    land.fields.append(Field(circle, crop, 0.0, circle=True))
    land.scrub += areas(piece.difference(circle.buffer(1.5)), least_m2=60)


def _cut_piece(
    rng: np.random.Generator,
    land: Land,
    piece: Polygon,
    cut: LineString,
    custom: tuple[float, int],
    roads: BaseGeometry,
    tracks: list[Polygon],
) -> list[Polygon]:
    """Both sides of a cut, with what lies between them."""
    touching, depth = custom
    reach = 2 * land.extent_m
    side = half_plane(cut, reach)
    draw = rng.random()
    gap = 0.0
    if depth <= 2 and draw < 0.3:
        track = _trim(cut, piece, roads)
        if track is not None and track.length > 70:
            road = Road(track, float(rng.uniform(3.2, 4.6)), "track")
            land.roads.append(road)
            tracks.append(road.area)
            gap = road.width_m + rng.uniform(0.8, 3.0)
            if rng.random() < 0.25:
                hedge = track.offset_curve(road.width_m / 2 + 2.5)
                if isinstance(hedge, LineString) and hedge.length > 20:
                    land.plant(line_with_trees(rng, hedge, every_m=rng.choice([3.0, 9.0]), radius=(1.2, 3.0)))
                    gap += 6.0
    elif rng.random() > touching:
        gap = float(rng.choice([0.6, 1.2, 2.0, 3.5, 7.0], p=[0.3, 0.25, 0.2, 0.15, 0.1]))
        hedge = cut.intersection(piece)
        if gap >= 2 and isinstance(hedge, LineString) and rng.random() < 0.6:
            land.plant(line_with_trees(rng, hedge, every_m=rng.choice([1.5, 3.0, 7.0]), radius=(0.8, 1.2 + gap * 0.3)))
    strip = cut.buffer(gap / 2, cap_style="flat") if gap else None
    parts = [*areas(piece.intersection(side)), *areas(piece.difference(side))]
    if strip is not None:
        parts = [rest for part in parts for rest in areas(part.difference(strip))]
    return [part for part in parts if part.area > 60]


def plant_woods(rng: np.random.Generator, land: Land) -> None:
    """Fill woods with crowns, and scatter bushes and trees over scrub."""
    spacing = rng.uniform(4.6, 6.6)
    view = shapely.box(-30, -30, land.extent_m + 30, land.extent_m + 30)
    for shape, gap, radius, share, tall in (
        (shapely.union_all(land.woods), spacing, (2.2, 5.2), 0.95, 2.6),
        (shapely.union_all(land.scrub), 9.0, (0.8, 3.6), rng.uniform(0.05, 0.4), 1.3),
    ):
        for part in areas(shape.intersection(view)):
            x0, y0, x1, y1 = part.bounds
            xs, ys = np.meshgrid(np.arange(x0, x1 + gap, gap), np.arange(y0, y1 + gap, gap))
            points = np.stack([xs.ravel(), ys.ravel()], axis=1)
            points += rng.normal(0, gap * 0.33, points.shape)
            inner = part.buffer(-1.0)
            keep = shapely.contains_xy(inner, points[:, 0], points[:, 1]) & (rng.random(len(points)) < share)
            size = rng.uniform(*radius, int(keep.sum())) * (gap / 5.6 if share > 0.9 else 1)
            land.plant(np.column_stack([points[keep], size, tall * (1 + size) * rng.uniform(0.8, 1.2, len(size))]))

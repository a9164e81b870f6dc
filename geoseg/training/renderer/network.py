"""Highways, main roads, and the cars on them."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import LineString, MultiLineString, Polygon
from shapely.geometry.base import BaseGeometry

from geoseg.training.renderer.land import Land, Road, areas, wavy_line

__all__ = ["build_decks", "draw_highway", "draw_main_roads", "drive_cars", "pave", "ribbons"]

HIGHWAY_HALF_GAP_M = 9.5


def ribbons(
    line: LineString | MultiLineString, *, offset_m: float = 0.0, width_m: float, on_m: float = 6.0, off_m: float = 0.0
) -> NDArray[np.float64]:
    """Cut a strip beside a line, or its longest piece, into dashes: float64 (n, 4, 2).

    Args:
        line: the line to follow.
        offset_m: how far to the right of it (y down).
        width_m: width of the strip.
        on_m: length of a dash.
        off_m: gap after a dash; 0 makes a closed strip.
    """
    if line.length < 0.01:
        return np.zeros((0, 4, 2))
    points = shapely.get_coordinates(max(_pieces(line), key=lambda piece: piece.length))
    arc = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    start = np.arange(0, arc[-1], on_m + off_m)
    ends = np.stack([start, np.minimum(start + on_m, arc[-1])], axis=1)

    def at(s: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([np.interp(s, arc, points[:, 0]), np.interp(s, arc, points[:, 1])], axis=-1)

    tangent = at(np.minimum(ends + 0.5, arc[-1])) - at(np.maximum(ends - 0.5, 0))
    tangent /= np.maximum(np.hypot(tangent[..., 0], tangent[..., 1]), 1e-9)[..., None]
    normal = np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1)
    centre = at(ends) + normal * offset_m
    side = normal * width_m / 2
    return np.stack(
        [centre[:, 0] - side[:, 0], centre[:, 1] - side[:, 1], centre[:, 1] + side[:, 1], centre[:, 0] + side[:, 0]],
        axis=1,
    )


def _longest_overlap(line: LineString, ground: BaseGeometry) -> float:
    return max((part.length for part in _pieces(line.intersection(ground))), default=0.0)


def draw_highway(rng: np.random.Generator, extent_m: float, others: list[Road]) -> list[Road]:
    """Two carriageways of a highway across the land, a planted strip between them.

    Args:
        rng: the source of chance.
        extent_m: edge of the land.
        others: roads to cross, the more squarely the better.
    """
    crossed = shapely.union_all([road.line.buffer(15) for road in others])
    axes = []
    for _ in range(10):
        angle = rng.uniform(0, np.pi)
        direction = np.array([np.cos(angle), np.sin(angle)])
        side = np.array([-direction[1], direction[0]])
        centre = np.full(2, extent_m / 2) + side * rng.choice([-1, 1]) * extent_m * rng.uniform(0.18, 0.42)
        reach = 0.95 * extent_m + 150
        line = wavy_line(rng, centre - direction * reach, centre + direction * reach, min(45.0, extent_m * 0.03))
        axes.append(LineString(shapely.get_coordinates(line)).segmentize(12))
    axis = min(axes, key=lambda line: _longest_overlap(line, crossed))
    half_gap = HIGHWAY_HALF_GAP_M + rng.uniform(-1.5, 2.5)
    width = rng.choice([10.5, 11.5, 14.0])
    return [Road(axis.offset_curve(sign * half_gap), float(width), "highway") for sign in (-1, 1)]


def _pieces(line: LineString | MultiLineString) -> list[LineString]:
    """The simple lines of a line."""
    return [line] if isinstance(line, LineString) else list(line.geoms)


def draw_main_roads(rng: np.random.Generator, extent_m: float, heading: float) -> list[Road]:
    """A loose net of country roads along two directions, some ending at a junction."""
    across = np.array([np.cos(heading), np.sin(heading)])
    along = np.array([-across[1], across[0]])
    centre = np.full(2, extent_m / 2)
    spacing = rng.uniform(420, 800)
    reach = 0.8 * extent_m + 120
    offsets = np.arange(-reach, reach, spacing) + rng.uniform(-0.45, 0.45) * spacing
    firsts = [
        Road(
            wavy_line(
                rng,
                centre + across * at - along * reach,
                centre + across * at + along * reach,
                rng.choice([1.0, 4.0, 14.0]),
            ),
            float(rng.uniform(6.2, 8.6)),
            "main",
        )
        for at in offsets + rng.uniform(-0.12, 0.12, len(offsets)) * spacing
    ]
    roads = list(firsts)
    spacing *= rng.uniform(0.7, 1.3)
    for at in np.arange(-reach, reach, spacing) + rng.uniform(-0.4, 0.4) * spacing:
        sway = rng.choice([1.0, 4.0, 14.0])
        line = wavy_line(rng, centre + along * at - across * reach, centre + along * at + across * reach, sway)
        if rng.random() < 0.45 and len(offsets) > 2:  # ends in a T junction on one of the first roads
            pieces = _pieces(line.difference(firsts[int(rng.integers(1, len(firsts) - 1))].line))
            line = pieces[0] if rng.random() < 0.5 else pieces[-1]
        roads.append(Road(line, float(rng.uniform(5.4, 7.4)), "main"))
    return roads


def pave(roads: list[Road], *, kinds: tuple[str, ...] = ("highway", "main", "street", "track")) -> Polygon:
    """The merged area of roads, with rounded corners where they meet."""
    bodies = [road.area for road in roads if road.kind in kinds]
    merged = shapely.union_all(bodies)
    rest = shapely.union_all([road.area for road in roads if road.kind in kinds and road.kind != "highway"])
    # closing rounds the inner corners of junctions, as kerbs do; highways pass over and under without corners
    rounded = rest.buffer(5, quad_segs=6).buffer(-5, quad_segs=6)
    return shapely.union_all([merged, rounded])


def build_decks(land: Land) -> None:
    """Put bridges over water, and overpasses where roads cross a highway."""
    water = shapely.union_all(land.water)
    ways = [road for road in land.roads if road.kind in ("highway", "main")]
    for road in ways:
        for span in areas(road.area.intersection(water.buffer(5)), least_m2=20):
            land.decks.append((span, 3.0))
    lanes = shapely.union_all([road.area for road in ways if road.kind == "highway"]).buffer(16).buffer(-8)
    for road in ways:
        if road.kind == "main":
            for span in areas(
                road.line.buffer(road.width_m / 2 + 0.8, cap_style="flat").intersection(lanes), least_m2=20
            ):
                land.decks.append((span, 6.0))


def drive_cars(rng: np.random.Generator, land: Land) -> None:
    """Put traffic on the lanes."""
    spacing = {"highway": rng.uniform(35, 160), "main": rng.uniform(90, 400), "street": rng.uniform(70, 200)}
    for road in land.roads:
        if road.kind == "track":
            continue
        lanes = [-3.6, 0.0, 3.6] if road.width_m > 13 else [-road.width_m / 4, road.width_m / 4]
        if road.kind == "street":
            lanes = [-road.width_m / 2 + 1.2, road.width_m / 2 - 1.2]
        for lane in lanes:
            cells = ribbons(road.line, offset_m=lane, width_m=0.5, on_m=9.0)
            keep = rng.random(len(cells)) < 9.0 / spacing[road.kind]
            centre = cells[keep].mean(axis=1)
            step = cells[keep][:, 1] - cells[keep][:, 0]
            length = np.where(
                rng.random(len(centre)) < (0.16 if road.kind == "highway" else 0.03),
                12.0,
                rng.uniform(4.0, 5.0, len(centre)),
            )
            land.park(np.column_stack([centre, np.arctan2(step[:, 1], step[:, 0]), length]))

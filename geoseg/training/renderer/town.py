"""Streets, houses, halls, farmsteads and parking lots."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely import LineString, Polygon

from geoseg.training.renderer.land import Building, Land, Lot, Road, areas, box_at

__all__ = ["build_farmsteads", "build_town"]

STALL_WIDTH_M = 2.5
STALL_DEPTH_M = 5.0
_SIDEWALK_M = 2.2


@dataclass(frozen=True)
class _Frame:
    """Local coordinates: s along a road, t away from it."""

    origin: NDArray[np.float64]
    along: NDArray[np.float64]
    across: NDArray[np.float64]

    def world(self, points: ArrayLike) -> NDArray[np.float64]:
        """Local points (..., 2) on the land."""
        local = np.asarray(points, np.float64)
        return self.origin + local[..., :1] * self.along + local[..., 1:] * self.across

    def heading(self, local: float = 0.0) -> float:
        """Direction on the land of a local direction."""
        vector = np.cos(local) * self.along + np.sin(local) * self.across
        return float(np.arctan2(vector[1], vector[0]))

    def box(self, s0: float, t0: float, s1: float, t1: float) -> Polygon:
        """A local rectangle on the land."""
        return Polygon(self.world([(s0, t0), (s1, t0), (s1, t1), (s0, t1)]))

    def moved(self, s: float, t: float, *, turned: bool = False) -> _Frame:
        """A frame at a local point, its axes swapped when `turned`."""
        along, across = (self.across, self.along) if turned else (self.along, self.across)
        return _Frame(self.world((s, t)), along, across)


def _stall_rings(starts: NDArray[np.float64], width: float, depth: float, lean: float) -> NDArray[np.float64]:
    """Local stalls from their corners of least s and t, the far side moved by `lean`: float64 (n, 4, 2)."""
    return np.asarray(starts[:, None, :] + np.array([(0, 0), (width, 0), (width + lean, depth), (lean, depth)]))


def _stall_rows(width: float) -> tuple[list[tuple[float, bool]], float]:
    """Rows of stalls across a lot: where each starts, whether it stands inside the lot; and the aisle's width."""
    doubles = max(int((width - 2 * STALL_DEPTH_M - 5.8) / (2 * STALL_DEPTH_M + 5.8)), 0)
    aisle = (width - 2 * STALL_DEPTH_M * (1 + doubles)) / (doubles + 1)
    rows = [(0.0, False), (width - STALL_DEPTH_M, False)]
    at = STALL_DEPTH_M + aisle
    for _ in range(doubles):
        rows += [(at, True), (at + STALL_DEPTH_M, True)]
        at += 2 * STALL_DEPTH_M + aisle
    return sorted(rows), aisle


def _make_lot(rng: np.random.Generator, frame: _Frame, length: float, width: float, mouth: Polygon | None) -> Lot:
    """Lay out a lot: perimeter rows, double rows between aisles, planted islands at their ends."""
    rows, aisle = _stall_rows(width)
    if width < 2 * STALL_DEPTH_M + 5.5:  # one row only
        rows, aisle = [(0.0, False)], width - STALL_DEPTH_M
    inset = 6.8 if length > 40 else 0.6
    slanted = rng.random() < 0.25  # stalls at 60 degrees to the aisle
    pitch, lean = (
        (STALL_WIDTH_M / np.sin(np.pi / 3), STALL_DEPTH_M / np.tan(np.pi / 3)) if slanted else (STALL_WIDTH_M, 0.0)
    )
    stalls, islands, arrows = [], [], []
    planted, every = rng.random() < 0.75, int(rng.integers(9, 17))
    for t, inner in rows:
        first, last = (inset, length - inset) if inner else (0.8 + (t > 0) * 2.0, length - 0.8)
        ends = 2.8 if inner and planted else 0.0
        count = int((last - first - 2 * ends - lean) / pitch)
        first += (last - first - 2 * ends - lean - count * pitch) / 2
        places = np.arange(count)
        if planted and inner:
            islands += [(first + 0.3, t, ends - 0.6), (first + ends + count * pitch + lean + 0.3, t, ends - 0.6)]
            gap = (places % every == every - 1) & (not slanted)
            islands += [(first + ends + p * STALL_WIDTH_M + 0.2, t, STALL_WIDTH_M - 0.4) for p in places[gap]]
            places = places[~gap]
        starts = np.column_stack([first + ends + places * pitch, np.full(len(places), t)])
        stalls.append(_stall_rings(starts, pitch, STALL_DEPTH_M, lean))
    at = STALL_DEPTH_M + aisle / 2
    while at < width - STALL_DEPTH_M:
        arrows += [(s, at) for s in np.arange(12, length - 10, 28)]
        at += 2 * STALL_DEPTH_M + aisle
    beds = [
        frame.box(s, t + 0.1, s + w, t + STALL_DEPTH_M - 0.1).buffer(-0.8).buffer(0.8, quad_segs=4)
        for s, t, w in islands
        if w > 1.2
    ]
    beds = areas(shapely.union_all(beds).buffer(0.15).buffer(-0.15)) if beds else []
    ground = frame.box(0, 0, length, width).buffer(-1).buffer(1, quad_segs=4)
    if mouth is not None:
        ground = max(areas(ground.union(mouth)), key=lambda part: part.area)
    boxes = frame.world(np.concatenate(stalls))
    usual = rng.choice([0.12, 0.45, 0.7, 0.92])
    centre = boxes.mean(axis=1)
    magnet = frame.world((rng.uniform(0, length), rng.choice([0, width])))
    nearness = np.exp(-np.hypot(*(centre - magnet).T) / (0.45 * length))
    taken = rng.random(len(boxes)) < np.clip(usual * (0.35 + 1.2 * nearness), 0, 0.97)
    marks = frame.world(np.asarray(arrows).reshape(-1, 2))
    return Lot(ground, beds, boxes, taken, np.column_stack([marks, np.full(len(marks), frame.heading())]))


def _park_cars(rng: np.random.Generator, lot: Lot) -> NDArray[np.float64]:
    """Cars on the taken stalls, nose in or out, never quite straight."""
    boxes = lot.stalls[lot.taken]
    depth = boxes[:, 2] - boxes[:, 1]  # also right for slanted stalls
    heading = (
        np.arctan2(depth[:, 1], depth[:, 0]) + rng.choice([0, np.pi], len(boxes)) + rng.normal(0, 0.03, len(boxes))
    )
    centre = boxes.mean(axis=1) + rng.normal(0, 0.12, (len(boxes), 2))
    return np.column_stack([centre, heading, rng.uniform(3.9, 4.9, len(boxes))])


def _scatter_trees(
    rng: np.random.Generator, shape: Polygon, count: int, *, radius: tuple[float, float]
) -> NDArray[np.float64]:
    """Trees at random in an area: float64 (n, 4)."""
    x0, y0, x1, y1 = shape.bounds
    points = rng.uniform((x0, y0), (x1, y1), (count * 2, 2))
    points = points[shapely.contains_xy(shape, points[:, 0], points[:, 1])][:count]
    size = rng.uniform(*radius, len(points))
    return np.column_stack([points, size, size * rng.uniform(1.4, 2.4, len(points))])


def _add_lot(
    rng: np.random.Generator, land: Land, frame: _Frame, size: tuple[float, float], mouth: Polygon | None
) -> None:
    lot = _make_lot(rng, frame, *size, mouth)
    land.lots.append(lot)
    land.park(_park_cars(rng, lot))
    for bed in lot.islands:
        if rng.random() < 0.7:
            land.plant(_scatter_trees(rng, bed.buffer(-0.5), 1 + int(bed.area > 25), radius=(1.2, 2.4)))


def _retail(rng: np.random.Generator, land: Land, frame: _Frame, length: float, depth: float) -> None:
    """A shop or hall with its lot towards the road."""
    hall = float(np.clip(depth * rng.uniform(0.28, 0.42), 12, 55))
    front = depth - hall - rng.uniform(4, 8)
    if front < 17 or rng.random() < 0.15:
        hall, front = 0.0, depth
    margin = rng.uniform(1.5, 4.0)
    length -= 2 * margin
    way = float(rng.uniform(0.25, 0.75)) * length
    mouth = frame.box(margin + way - 3.4, -14, margin + way + 3.4, margin + 1)
    if hall:
        land.drives.append(frame.box(margin, front, margin + length, depth))
        pieces = int(rng.integers(1, 3))
        cuts = np.linspace(margin, margin + length, pieces + 1)
        for left, right in pairwise(cuts):
            tall, back = rng.uniform(5, 11), depth - rng.uniform(0, hall * 0.25)
            start = depth - hall
            corners = frame.world([(left, start), (right - 0.2, start), (right - 0.2, back), (left, back)])
            land.buildings.append(Building(corners, tall, rng.choice(["flat", "metal"], p=[0.75, 0.25])))
    _add_lot(rng, land, frame.moved(margin, margin), (length, front - margin), mouth)


def _houses(rng: np.random.Generator, land: Land, frame: _Frame, length: float, depth: float) -> None:
    """Houses with gardens along both long sides of a cell."""
    standing = len(land.buildings)
    sides = [(0.0, 1.0), (depth, -1.0)] if depth > 50 else [(0.0, 1.0)]
    back = rng.uniform(5, 9)
    plot = rng.uniform(15, 24)
    for edge, sign in sides:
        for s in np.arange(plot / 2, length - plot / 2 + 1, plot):
            if rng.random() < 0.1:
                continue
            long, wide = rng.uniform(9.5, 15), rng.uniform(7.5, 10.5)
            if rng.random() < 0.4:
                long, wide = min(wide, plot - 4), long
            centre = (s + rng.normal(0, 0.8), edge + sign * (back + max(wide, 8) / 2))
            turn = frame.heading(rng.choice([0, np.pi / 2]) + rng.normal(0, 0.02))
            size = (min(long, plot - 3), wide)
            land.buildings.append(Building(box_at(frame.world(centre), *size, turn), rng.uniform(4.0, 8.0), "gable"))
            way = s + rng.choice([-1, 1]) * plot * 0.36
            reach = sorted((edge - sign * 3, edge + sign * (back + rng.uniform(0, 9))))
            land.drives.append(frame.box(way - 1.5, reach[0], way + 1.5, reach[1]))
            if rng.random() < 0.35:
                car = frame.world((way, edge + sign * (back - 1)))
                land.park(np.array([*car, frame.heading(np.pi / 2) + rng.choice([0, np.pi]), rng.uniform(4, 4.9)]))
            if rng.random() < 0.3:
                shed = frame.world((s + rng.uniform(-5, 5), edge + sign * (back + wide + 10)))
                land.buildings.append(Building(box_at(shed, 4, 3, turn), 2.5, "metal"))
    garden = frame.box(1, 1, length - 1, depth - 1)
    roofs = shapely.union_all([Polygon(b.corners) for b in land.buildings[standing:]]).buffer(1.5)
    open_ground = max(areas(garden.difference(roofs)), key=lambda part: part.area, default=garden)
    land.plant(_scatter_trees(rng, open_ground, int(garden.area / rng.uniform(90, 260)), radius=(1.3, 4.2)))
    land.plant(_scatter_trees(rng, open_ground, int(garden.area / 90), radius=(0.5, 1.3)))


def _works(rng: np.random.Generator, land: Land, frame: _Frame, length: float, depth: float) -> None:
    """Halls on a paved yard, a small lot beside."""
    land.yards.append(frame.box(1, 1, length - 1, depth - 1))
    lot_width = 16.4 if length > 60 else 0.0
    if lot_width:
        mouth = frame.box(length - 14, -14, length - 8, 3)
        _add_lot(rng, land, frame.moved(length - 3, 2, turned=True).moved(0, -lot_width), (depth - 4, lot_width), mouth)
    room = length - lot_width - 6
    pieces = max(int(room / rng.uniform(30, 60)), 1)
    for left in np.arange(pieces) * room / pieces:
        s0, s1 = left + rng.uniform(3, 6), left + room / pieces - rng.uniform(1, 4)
        t0, t1 = rng.uniform(5, depth * 0.3), depth - rng.uniform(3, depth * 0.2)
        corners = frame.world([(s0, t0), (s1, t0), (s1, t1), (s0, t1)])
        if t1 - t0 > s1 - s0:
            corners = np.roll(corners, -1, axis=0)
        land.buildings.append(Building(corners, rng.uniform(6, 12), rng.choice(["flat", "metal"])))


def _find_site(rng: np.random.Generator, land: Land, size: tuple[float, float]) -> tuple[_Frame, Polygon, Road] | None:
    """A free place beside a main road, most of it on the land."""
    mains = [road for road in land.roads if road.kind == "main"]
    view = shapely.box(0, 0, land.extent_m, land.extent_m)
    taken = shapely.union_all(
        [
            *(w.buffer(9) for w in land.water),
            *(r.area.buffer(16) for r in land.roads if r.kind == "highway"),
            *land.gardens,
            *land.yards,
        ]
    )
    for _ in range(50):
        road = mains[int(rng.integers(len(mains)))]
        arc = rng.uniform(0, road.line.length)
        near = [np.array(road.line.interpolate(arc + d).coords[0]) for d in (0, size[0] / 2, size[0])]
        along = (near[2] - near[0]) / max(float(np.hypot(*(near[2] - near[0]))), 1e-9)
        across = np.array([-along[1], along[0]]) * rng.choice([-1, 1])
        frame = _Frame(near[0], along, across)
        site = frame.box(-6, 4, size[0] + 6, size[1] + 6)
        if not along.any() or site.intersection(view).area < 0.9 * site.area or site.intersects(taken):
            continue
        if not any(
            other is not road and other.kind == "main" and site.intersects(other.area.buffer(5)) for other in land.roads
        ):
            return frame, site, road
    return None


def build_town(rng: np.random.Generator, land: Land, *, shops: bool) -> None:
    """Build a settlement beside a main road: cells of houses, shops or works between streets.

    Args:
        rng: the source of chance.
        land: gets all of it.
        shops: the first cell is a shop with a lot, whatever chance says.
    """
    scale = min(1.0, land.extent_m / 900)
    columns, rows = int(rng.integers(2, 5)), int(rng.integers(1, 4))
    for _ in range(5):
        widths = rng.uniform(70, 135, columns) * max(scale, 0.7)
        depths = rng.uniform(56, 95, rows) * max(scale, 0.8)
        found = _find_site(rng, land, (float(widths.sum()), float(depths.sum())))
        if found is not None:
            break
        columns, rows = max(columns - 1, 1), max(rows - 1, 1)
    else:
        return
    frame, site, road = found
    land.gardens.append(site)
    street = float(rng.uniform(5.6, 7.4))
    s_lines = np.concatenate([[0], np.cumsum(widths)])
    t_lines = np.concatenate([[0], np.cumsum(depths)])
    for i, s in enumerate(s_lines):
        if columns == 1 or 0 < i < columns or rng.random() < 0.7:
            land.roads.append(Road(LineString(frame.world([(s, 0.0), (s, t_lines[-1])])), street, "street"))
    for t in t_lines[1:]:
        if columns > 1 or rows > 1:
            land.roads.append(Road(LineString(frame.world([(s_lines[0], t), (s_lines[-1], t)])), street, "street"))
    inset = street / 2 + _SIDEWALK_M
    kinds = [_retail, _works, _houses]
    chances = rng.dirichlet([1.6, 0.8, 2.2])
    for row in range(rows):
        for column in range(columns):
            build = kinds[int(rng.choice(3, p=chances))]
            if shops and row == 0 and column == 0:
                build = _retail
            near = road.width_m / 2 + 7.5 if row == 0 else inset
            cell = frame.moved(s_lines[column] + inset, t_lines[row] + near)
            build(rng, land, cell, float(widths[column] - 2 * inset), float(depths[row] - near - inset))


def build_farmsteads(rng: np.random.Generator, land: Land, count: int) -> None:
    """Farms by the main roads: a house, barns, silos, trees and a gravel yard."""
    for _ in range(count):
        found = _find_site(rng, land, (float(rng.uniform(38, 75)), float(rng.uniform(45, 80))))
        if found is None:
            return
        frame, site, _ = found
        outline = shapely.get_coordinates(site)
        length, depth = np.hypot(*(outline[1] - outline[0])) - 12, np.hypot(*(outline[2] - outline[1])) - 6
        land.gardens.append(site.buffer(-3).buffer(3))
        yard = frame.box(length * 0.35, 20, length * 0.9, depth * 0.85).buffer(-6).buffer(6)
        land.yards.append(yard)
        land.drives.append(frame.box(length * 0.55 - 2, 0, length * 0.55 + 2, 24))
        heading = frame.heading(rng.choice([0, np.pi / 2]))
        places = [(0.18, 0.35, 13, 9), (0.5, 0.55, 26, 13), (0.82, 0.4, 18, 11), (0.6, 0.88, 30, 12)]
        for number, (s, t, long, wide) in enumerate(places[: int(rng.integers(2, 5))]):
            centre = frame.world((s * length + rng.normal(0, 1.5), t * depth + rng.normal(0, 1.5)))
            scale = rng.uniform(0.75, 1.1)
            corners = box_at(centre, long * scale, wide * scale, heading)
            land.buildings.append(Building(corners, rng.uniform(4, 8), "gable" if number == 0 else "metal"))
        for i in range(int(rng.integers(0, 4))):
            silo = frame.world((0.78 * length + i * 8.5, 0.68 * depth))
            land.buildings.append(Building(box_at(silo, 7, 7, heading), rng.uniform(8, 14), "round"))
        ring = site.difference(yard.buffer(2)).difference(
            shapely.union_all([Polygon(b.corners).buffer(2) for b in land.buildings])
        )
        for part in areas(ring):
            land.plant(_scatter_trees(rng, part, int(part.area / rng.uniform(70, 200)), radius=(1.5, 4.5)))

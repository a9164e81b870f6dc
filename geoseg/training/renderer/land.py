"""What stands on a piece of land, in metres, before anything is painted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import LineString, MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

__all__ = ["Building", "Field", "Land", "Lot", "Road", "Season", "areas", "box_at", "half_plane", "wavy_line"]

Season = Literal["summer", "spring", "autumn", "dry"]


@dataclass(frozen=True)
class Road:
    """A carriageway: its centre line, width and kind."""

    line: LineString
    width_m: float
    kind: Literal["highway", "main", "street", "track"]

    @property
    def area(self) -> Polygon:
        """The paved or gravelled area."""
        return self.line.buffer(self.width_m / 2, cap_style="flat", quad_segs=6)


@dataclass(frozen=True)
class Building:
    """A rectangular building: corners float64 (4, 2), the first edge along the ridge."""

    corners: NDArray[np.float64]
    height_m: float
    roof: Literal["gable", "flat", "metal", "round"]


@dataclass(frozen=True)
class Field:
    """A cultivated parcel, its crop and the direction of its rows in radians; irrigated circles have round rows."""

    polygon: Polygon
    crop: str
    heading: float
    circle: bool = False


@dataclass(frozen=True)
class Lot:
    """A parking lot: area with planted islands as holes, stalls float64 (n, 4, 2), and which are taken."""

    polygon: Polygon
    islands: list[Polygon]
    stalls: NDArray[np.float64]
    taken: NDArray[np.bool_]
    arrows: NDArray[np.float64]


@dataclass
class Land:
    """A square piece of land. The house of all geometry, in metres, y down.

    Attributes:
        extent_m: edge length; shapes may stick out.
        season: which palette paints it.
        water: river, lakes and ponds, before bridges are cut out.
        cars: float64 (n, 4): x, y, heading, length in metres.
        trees: float64 (n, 4): x, y, crown radius, height in metres.
        decks: bridge and overpass areas, with their height.
    """

    extent_m: float
    season: Season
    heading: float = 0.0
    water: list[Polygon] = field(default_factory=list)
    roads: list[Road] = field(default_factory=list)
    decks: list[tuple[Polygon, float]] = field(default_factory=list)
    lots: list[Lot] = field(default_factory=list)
    fields: list[Field] = field(default_factory=list)
    woods: list[Polygon] = field(default_factory=list)
    scrub: list[Polygon] = field(default_factory=list)
    gardens: list[Polygon] = field(default_factory=list)
    yards: list[Polygon] = field(default_factory=list)
    drives: list[Polygon] = field(default_factory=list)
    buildings: list[Building] = field(default_factory=list)
    cars: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    trees: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))

    def plant(self, trees: NDArray[np.float64]) -> None:
        """Add trees: float64 (n, 4)."""
        self.trees = np.concatenate([self.trees, trees.reshape(-1, 4)])

    def park(self, cars: NDArray[np.float64]) -> None:
        """Add cars: float64 (n, 4)."""
        self.cars = np.concatenate([self.cars, cars.reshape(-1, 4)])


def areas(shape: BaseGeometry, *, least_m2: float = 0.0) -> list[Polygon]:
    """The polygons of a geometry that are larger than a least area, in its own order."""
    parts = [shape] if isinstance(shape, Polygon) else list(getattr(shape, "geoms", []))
    return [part for part in parts if isinstance(part, Polygon) and part.area > least_m2]


def box_at(centre: NDArray[np.float64], length: float, width: float, heading: float) -> NDArray[np.float64]:
    """Corners of a turned rectangle: float64 (4, 2), the first edge along its length."""
    along = np.array([np.cos(heading), np.sin(heading)]) * length / 2
    across = np.array([-np.sin(heading), np.cos(heading)]) * width / 2
    return np.stack(
        [centre - along - across, centre + along - across, centre + along + across, centre - along + across]
    )


def wavy_line(
    rng: np.random.Generator, start: NDArray[np.float64], stop: NDArray[np.float64], swing_m: float
) -> LineString:
    """A line between two points that sways smoothly by about `swing_m`."""
    length = float(np.hypot(*(stop - start)))
    t = np.linspace(0, 1, max(int(length / 12), 8))
    along = (stop - start) / max(length, 1e-9)
    sway = sum(
        (rng.normal() * np.sin(2 * np.pi * (t * length / wave + rng.uniform())) * weight)
        for wave, weight in ((1900.0, 1.0), (830.0, 0.5), (370.0, 0.15))
    )
    return LineString(start + t[:, None] * (stop - start) + swing_m * np.outer(sway, [-along[1], along[0]]))


def half_plane(cut: LineString, reach_m: float) -> Polygon:
    """The area on the right-hand side of a line that crosses the land (y down)."""
    points = shapely.get_coordinates(cut)
    along = points[-1] - points[0]
    across = np.array([-along[1], along[0]]) / np.hypot(*along) * reach_m
    return Polygon(np.concatenate([points, [points[-1] + across, points[0] + across]])).buffer(0)


def merged(shapes: list[Polygon]) -> Polygon | MultiPolygon:
    """The union of areas."""
    return shapely.union_all(shapes)

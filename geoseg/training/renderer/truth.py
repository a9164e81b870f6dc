"""Exact truth: the layers of a piece of land, cut to the picture, and the mask rasterized from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from geoseg.training.renderer.built import car_outlines
from geoseg.training.renderer.land import Field, Land, areas
from geoseg.training.renderer.network import pave
from geoseg.training.renderer.raster import edges_of, label

__all__ = ["Truth", "choose_view", "cut_truth"]

_CODES = {"water": 1, "road": 2, "field": 3, "parking": 4}
# shares of the picture that are enough of a class when a view is chosen
_ENOUGH = {"water": 0.12, "road": 0.07, "field": 0.35, "parking": 0.06}
_LEAST_PX2 = 2.0


@dataclass(frozen=True)
class Truth:
    """Polygons in pixels and the mask; `fields` has the crop of each field polygon, in the same order."""

    polygons: dict[str, list[Polygon]]
    mask: NDArray[np.uint8]
    fields: list[Field]
    stalls: list[Polygon]
    taken: list[bool]
    cars: list[Polygon]


def choose_view(rng: np.random.Generator, land: Land, extent_m: float) -> NDArray[np.float64]:
    """The corner, in metres, of the part of the land that shows most of every class."""
    room = land.extent_m - extent_m
    if room <= 0:
        return np.zeros(2)
    layers = {
        "water": shapely.union_all(land.water),
        "road": pave(land.roads),
        "field": shapely.union_all([field.polygon for field in land.fields]),
        "parking": shapely.union_all([lot.polygon for lot in land.lots]),
    }
    shapely.prepare(list(layers.values()))
    corners = rng.uniform(0, room, (40, 2))
    centres = [lot.polygon.centroid.coords[0] for lot in land.lots]
    if centres:  # half of the candidates have a lot in them
        near = np.array(centres)[rng.integers(len(centres), size=20)]
        corners[:20] = np.clip(near - extent_m * rng.uniform(0.15, 0.85, (20, 2)), 0, room)
    views = shapely.box(corners[:, 0], corners[:, 1], corners[:, 0] + extent_m, corners[:, 1] + extent_m)
    score = np.zeros(len(views))
    for name, shape in layers.items():
        share = shapely.area(shapely.intersection(views, shape)) / extent_m**2
        score += np.minimum(share / _ENOUGH[name], 1) + (share > 0.004)
    return np.asarray(corners[int(np.argmax(score))])


def _cut(shape: BaseGeometry, view: Polygon) -> list[Polygon]:
    return areas(shape.intersection(view), least_m2=_LEAST_PX2)


def cut_truth(land: Land, origin: NDArray[np.float64], size: int, gsd_m: float) -> Truth:
    """Cut the layers to the picture, roads over lots over water over fields.

    Args:
        land: in metres.
        origin: of the picture on the land.
        size: rows and columns.
        gsd_m: metres per pixel.
    """
    view = shapely.box(0, 0, size, size)

    def in_pixels(shape: BaseGeometry) -> BaseGeometry:
        moved: BaseGeometry = shapely.transform(shape, lambda points: (points - origin) / gsd_m)
        return moved

    road = in_pixels(pave(land.roads)).intersection(view)
    lots = [in_pixels(lot.polygon.difference(shapely.union_all(lot.islands))) for lot in land.lots]
    lots = [part for lot in lots for part in _cut(lot.difference(road), view)]
    lots = [lot for i, lot in enumerate(lots) if not any(lot.intersection(other).area > 0 for other in lots[:i])]
    water = in_pixels(shapely.union_all(land.water)).difference(shapely.union_all([road, *lots]))
    taken = shapely.union_all([road, *lots, water])
    fields, parcels = [], []
    for parcel in land.fields:
        for part in _cut(in_pixels(parcel.polygon).difference(taken), view):
            fields.append(part)
            parcels.append(parcel)
    polygons = {"water": _cut(water, view), "road": areas(road, least_m2=_LEAST_PX2), "field": fields, "parking": lots}
    shapes = [shape for layer in polygons.values() for shape in layer]
    codes = [code for name, code in _CODES.items() for _ in polygons[name]]
    mask = label(edges_of(shapes, np.array(codes)), size, size) if shapes else np.zeros((size, size), np.int32)
    stalls, full = [], []
    for lot in land.lots:
        for ring, used in zip((lot.stalls - origin) / gsd_m, lot.taken, strict=True):
            if ((ring >= 0) & (ring <= size)).all():
                stalls.append(Polygon(ring))
                full.append(bool(used))
    rings = (car_outlines(land.cars) - origin) / gsd_m
    cars = [Polygon(ring) for ring in rings if ((ring >= 0) & (ring <= size)).all()]
    return Truth(polygons, mask.astype(np.uint8), parcels, stalls, full, cars)

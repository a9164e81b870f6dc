"""From a seed to a piece of land: the order in which things are placed."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import shapely
from shapely import Polygon

from geoseg.training.renderer import farmland, network, terrain, town
from geoseg.training.renderer.land import Land, Road, Season, areas

__all__ = ["lay_out"]


def _water(rng: np.random.Generator, land: Land) -> None:
    """The river that crosses roads most squarely of a few, then lakes where roads leave room."""
    extent = land.extent_m
    view = shapely.box(0, 0, extent, extent)
    paved = shapely.union_all([road.line.buffer(20) for road in land.roads])
    rivers = [terrain.draw_river(rng, extent) for _ in range(5)]
    cost = [
        river.intersection(paved).area / river.area + (river.intersection(view).area < 0.006 * extent**2)
        for _, river in rivers
    ]
    _, river = rivers[int(np.argmin(cost))]
    land.water.append(river)
    lakes = 1 + int(rng.poisson((extent / 1500) ** 2))
    for number in range(lakes):
        taken = shapely.union_all([paved, *(water.buffer(25) for water in land.water)])
        largest = min(extent * 0.11, rng.uniform(45, 150)) if number == 0 else rng.uniform(14, 60)
        lake = terrain.draw_lake(rng, extent, taken, largest_m=float(largest), islands=number == 0)
        if lake is not None:
            land.water.append(lake)


def _banks(rng: np.random.Generator, land: Land, roads: Polygon, fringe_m: float) -> None:
    """Trees along the shores, their crowns within the fringe that fields keep clear of."""
    lush = rng.uniform(0.15, 0.8) * (0.4 if land.season == "dry" else 1.0)
    keep_off = shapely.union_all([roads.buffer(3), *(site.buffer(1) for site in land.gardens)])
    for water in land.water:
        rings = [water.exterior, *water.interiors]
        for ring in rings:
            for distance in (2.5, 6.0, 10.0):
                if distance + 2.5 > fringe_m or rng.random() > lush:
                    continue
                shore = Polygon(ring).buffer(distance if ring is rings[0] else -distance)
                for part in areas(shore):
                    trees = farmland.line_with_trees(rng, part.exterior, every_m=rng.uniform(4, 7), radius=(1.4, 4.2))
                    inside = shapely.contains_xy(keep_off, trees[:, 0], trees[:, 1])
                    wet = shapely.contains_xy(water, trees[:, 0], trees[:, 1])
                    land.plant(trees[~inside & ~wet])


def _clear(land: Land, roads: Polygon) -> None:
    """Take away trees that would stand on roads, lots, water or roofs, and cars that would stand in water."""
    trees = land.trees
    lots = [lot.polygon.difference(shapely.union_all(lot.islands)) for lot in land.lots]
    roofs = [Polygon(building.corners) for building in land.buildings]
    taken = shapely.union_all([roads.buffer(0.6), *lots, *roofs, *land.water])
    shapely.prepare(taken)
    land.trees = trees[~shapely.contains_xy(taken, trees[:, 0], trees[:, 1])]


def lay_out(seed: np.random.Generator, extent_m: float) -> Land:
    """Place everything on a square piece of land.

    Args:
        seed: the source of chance; the same state gives the same land.
        extent_m: edge length, at least 300 m for anything to find room.
    """
    rng = seed
    seasons = get_args(Season)
    land = Land(extent_m, seasons[int(rng.choice(4, p=[0.42, 0.24, 0.18, 0.16]))])
    land.heading = float(rng.choice([rng.normal(0, 0.05), rng.uniform(-0.7, 0.7)]))
    land.roads += network.draw_main_roads(rng, extent_m, land.heading)
    if extent_m > 450 and rng.random() < 0.7:
        land.roads += network.draw_highway(rng, extent_m, land.roads)
    _water(rng, land)
    square_km = (extent_m / 1000) ** 2
    for number in range(max(1, round(square_km * rng.uniform(1.6, 4.5)))):
        town.build_town(rng, land, shops=number == 0)
    town.build_farmsteads(rng, land, int(rng.poisson(1 + 1.5 * square_km)))
    paved = network.pave(land.roads)
    fringe = rng.uniform(5, 18)
    avenues = rng.random() < 0.4
    verge = rng.uniform(5.5, 7.5) if avenues else rng.uniform(1.5, 5.0)
    highway = shapely.union_all([road.line for road in land.roads if road.kind == "highway"]).buffer(
        rng.uniform(18, 26)
    )
    taken = [paved.buffer(verge), highway, *land.gardens, *(water.buffer(fringe) for water in land.water)]
    ground = shapely.box(-40, -40, extent_m + 40, extent_m + 40).difference(shapely.union_all(taken))
    blocks = areas(ground.buffer(-4).buffer(4, quad_segs=4), least_m2=80)
    farmland.divide(rng, land, blocks, paved)
    _finish_fields(land)
    farmland.plant_woods(rng, land)
    roads = network.pave(land.roads)
    _banks(rng, land, roads, fringe)
    if avenues:
        _avenues(rng, land)
    _clear(land, roads)
    network.build_decks(land)
    network.drive_cars(rng, land)
    return land


def _finish_fields(land: Land) -> None:
    """Cut tracks out of fields; keep one polygon per field."""
    tracks = shapely.union_all([road.area.buffer(0.4) for road in land.roads if road.kind == "track"])
    kept = []
    for parcel in land.fields:
        if parcel.polygon.intersects(tracks):
            parts = areas(parcel.polygon.difference(tracks), least_m2=150)
            kept += [replace(parcel, polygon=part) for part in parts]
        else:
            kept.append(parcel)
    land.fields = kept


def _avenues(rng: np.random.Generator, land: Land) -> None:
    """Rows of trees along some main roads."""
    mains: list[Road] = [road for road in land.roads if road.kind == "main"]
    for road in mains:
        for side in (-1, 1):
            row = road.line.offset_curve(side * (road.width_m / 2 + 3.5))
            if rng.random() < 0.5 and row.geom_type == "LineString" and row.length > 30:
                land.plant(farmland.line_with_trees(rng, row, every_m=rng.uniform(9, 16), radius=(1.8, 3.8)))

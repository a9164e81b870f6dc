"""Polygons on the ground: pixel corners to map coordinates, geodesic areas and perimeters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray

from geoseg.errors import InputError
from geoseg.rings import Polygons

__all__ = ["measure", "to_geometries"]

Floats = NDArray[np.float64]

BATCH_VERTICES = 1_000_000
LONG_EDGE_M = 50_000  # from here on a chord bent to a sphere is off by more than 1e-7


def to_geometries(polygons: Polygons, transform: Affine, *, keep_junctions: bool) -> NDArray[np.object_]:
    """Make shapely polygons in the scene's CRS.

    Args:
        polygons: rings of pixel corners.
        transform: pixel corners (col, row) to the CRS; may be rotated.
        keep_junctions: keep the vertices that stand on straight stretches where the neighbour changes. With them the
            polygons are a valid coverage, and simplified ones only so; without them they are bit for bit those of
            GDAL's polygonizer.

    Returns:
        One valid polygon each, in the same order.
    """
    coords, offsets = polygons.coords, polygons.ring_offsets
    if not keep_junctions:
        kept = polygons.junction != 2
        coords = coords[kept]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])[offsets]
    cols, rows = coords[:, 0], coords[:, 1]
    ground = np.empty(coords.shape, np.float64)
    # GDAL's order of operations: another one rounds differently
    ground[:, 0] = transform.c + transform.a * cols + transform.b * rows
    ground[:, 1] = transform.f + transform.d * cols + transform.e * rows
    return _from_ragged(ground, offsets, polygons.polygon_offsets)


def _from_ragged(
    coords: Floats, ring_offsets: NDArray[np.int64], polygon_offsets: NDArray[np.int64]
) -> NDArray[np.object_]:
    geometries: NDArray[np.object_] = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, coords, (ring_offsets, polygon_offsets)
    )
    return geometries


def measure(geometries: NDArray[np.object_], crs: Any) -> tuple[Floats, Floats]:
    """Areas and perimeters on the ellipsoid, whatever the projection does to them.

    Every edge is taken as the geodesic between its ends. Areas are planar ones in a Lambert azimuthal equal-area
    projection of the authalic sphere (J. P. Snyder, *Map Projections: A Working Manual*, USGS PP 1395, 1987, p. 187),
    centred on each ring's first vertex; perimeters are chords in space, bent back to the ellipsoid. Both are within
    1e-6 of Karney's algorithm (``pyproj.Geod``) while edges are shorter than a few tens of kilometres, at a fraction of
    its time; the length of longer edges comes from ``pyproj.Geod`` itself.

    Args:
        geometries: polygons or multipolygons; empty ones measure 0.
        crs: anything ``pyproj.CRS.from_user_input`` takes; projected or geographic.

    Returns:
        area_m2 and perimeter_m, float64, one per geometry. Holes do not count as area, their rings do as perimeter.

    Raises:
        InputError: the CRS has no ellipsoid, or does not reach the geometries.
    """
    area, perimeter = np.zeros(len(geometries)), np.zeros(len(geometries))
    to_lonlat = _LonLat(pyproj.CRS.from_user_input(crs))
    vertices = np.cumsum(shapely.get_num_coordinates(geometries))
    # in batches, so that the working memory does not grow with the scene
    batches = np.searchsorted(vertices, np.arange(0, vertices[-1] if vertices.size else 0, BATCH_VERTICES))
    for batch in np.split(np.arange(len(geometries)), batches[1:]):
        if batch.size:
            area[batch], perimeter[batch] = _measure_batch(geometries[batch], to_lonlat)
    return area, perimeter


def _measure_batch(geometries: NDArray[np.object_], to_lonlat: _LonLat) -> tuple[Floats, Floats]:
    """Areas and perimeters of some geometries."""
    kind, coords, offsets = shapely.to_ragged_array(geometries, include_z=False)
    if kind not in (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON):
        raise InputError(f"cannot measure geometries of type {kind.name}; give polygons")
    ring_offsets, polygon_offsets, *geometry_offsets = offsets
    if len(ring_offsets) < 2:
        return np.zeros(len(geometries)), np.zeros(len(geometries))
    lon, lat = to_lonlat(coords)
    ring_area = _ring_areas(lon, lat, ring_offsets, to_lonlat.geod)
    ring_length = _ring_lengths(lon, lat, ring_offsets, to_lonlat.geod)

    rings = np.arange(len(ring_offsets) - 1)
    owner = np.searchsorted(polygon_offsets, rings, side="right") - 1
    is_shell = rings == polygon_offsets[owner]
    if geometry_offsets:
        owner = np.searchsorted(geometry_offsets[0], owner, side="right") - 1
    area, perimeter = np.zeros(len(geometries)), np.zeros(len(geometries))
    np.add.at(area, owner, np.where(is_shell, ring_area, -ring_area))
    np.add.at(perimeter, owner, ring_length)
    return area, perimeter


class _LonLat:
    """From map coordinates to longitude and latitude in radians, on the same datum."""

    def __init__(self, crs: pyproj.CRS) -> None:
        geodetic = crs.geodetic_crs
        geod = crs.get_geod()
        if geodetic is None or geod is None:
            raise InputError(f"the CRS {crs.name!r} has no ellipsoid to measure on; give the scene a CRS of the earth")
        self.geod = geod
        self._radians_per_unit = geodetic.axis_info[0].unit_conversion_factor
        self._transformer = pyproj.Transformer.from_crs(crs, geodetic, always_xy=True)

    def __call__(self, coords: Floats) -> tuple[Floats, Floats]:
        lon, lat = self._transformer.transform(coords[:, 0], coords[:, 1])
        if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
            raise InputError("some vertices have no longitude and latitude; check the scene's CRS and transform")
        return lon * self._radians_per_unit, lat * self._radians_per_unit


def _ring_areas(lon: Floats, lat: Floats, offsets: NDArray[np.int64], geod: pyproj.Geod) -> Floats:
    """Areas of closed rings, >= 0."""
    q = _authalic(lat, geod.es)
    q_pole = _authalic(np.array(np.pi / 2), geod.es)
    beta = np.arcsin(q / q_pole)
    origin = np.repeat(offsets[:-1], np.diff(offsets))
    d_lon = np.remainder(lon - lon[origin] + np.pi, 2 * np.pi) - np.pi  # the short way over the antimeridian
    d_beta, beta_0 = beta - beta[origin], beta[origin]
    # written with half-angles: near the origin the textbook form is a difference of nearly equal numbers
    bulge = np.cos(beta) * np.sin(d_lon / 2) ** 2
    cos_distance = np.cos(d_beta) - 2 * np.cos(beta_0) * bulge
    scale = np.sqrt(2 / (1 + cos_distance))
    x = scale * np.cos(beta) * np.sin(d_lon)
    y = scale * (np.sin(d_beta) + 2 * np.sin(beta_0) * bulge)
    cross = np.zeros(len(lon))
    cross[:-1] = x[:-1] * y[1:] - x[1:] * y[:-1]
    cross[offsets[1:] - 1] = 0  # from one ring to the next
    areas: Floats = np.abs(np.add.reduceat(cross, offsets[:-1])) * (geod.a**2 * q_pole / 4)
    return areas


def _authalic(lat: Floats, es: float) -> Floats:
    """Snyder's q: area between the equator and a latitude, up to a factor."""
    sin, e = np.sin(lat), np.sqrt(es)
    q: Floats = (1 - es) * (sin / (1 - es * sin**2) + (np.arctanh(e * sin) / e if e else sin))
    return q


def _ring_lengths(lon: Floats, lat: Floats, offsets: NDArray[np.int64], geod: pyproj.Geod) -> Floats:
    """Lengths of closed rings."""
    normal = geod.a / np.sqrt(1 - geod.es * np.sin(lat) ** 2)
    points = np.stack(
        [
            normal * np.cos(lat) * np.cos(lon),
            normal * np.cos(lat) * np.sin(lon),
            normal * (1 - geod.es) * np.sin(lat),
        ]
    )
    chord = np.zeros(len(lon))
    chord[:-1] = np.sqrt(((points[:, 1:] - points[:, :-1]) ** 2).sum(axis=0))
    chord[offsets[1:] - 1] = 0
    long = np.flatnonzero(chord > LONG_EDGE_M)
    radius = np.sqrt(geod.a * geod.b)
    lengths = 2 * radius * np.arcsin(np.minimum(chord / (2 * radius), 1))
    if long.size:
        lengths[long] = geod.inv(lon[long], lat[long], lon[long + 1], lat[long + 1], radians=True)[2]
    total: Floats = np.add.reduceat(lengths, offsets[:-1])
    return total

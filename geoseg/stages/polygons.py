"""Polygons on the ground: half pixels to map coordinates and WKB, geodesic areas and perimeters, an order by place."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import pyproj
from affine import Affine
from numpy.typing import NDArray

from geoseg.errors import InputError
from geoseg.rings import Polygons, run_offsets

__all__ = ["Ground", "ground_bounds", "hilbert_keys", "hilbert_places", "to_wkb"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BATCH_VERTICES = 1 << 18  # 12 MiB of places
LONG_EDGE_M = 50_000  # from here on a chord bent to a sphere is off by more than 1e-7

# Between exact places, those of vertices are interpolated. A quadratic through 0, h/2, h strays from a function f by at
# most 0.008 h^3 |f'''|, and its slope by 0.083 h^2 |f'''|. On a sphere of radius R that slope is an error of 3e-8 in
# lengths for h = 4 km; projections bend a little more.
CELL_M = 4096.0
LEAST_CELL_PX = 16  # smaller cells would cost more than what they save
STRAYS = 2e-8  # of a cell's side; a cell that strays more is not interpolated

POLYGON = np.frombuffer(b"\x01\x03\x00\x00\x00", np.uint8)  # WKB: little endian, type 3


# --- map coordinates ------------------------------------------------------------------------------------------------


def to_wkb(polygons: Polygons, transform: Affine) -> tuple[NDArray[np.uint8], Integers]:
    """Write polygons as little-endian WKB in the scene's CRS, shells counter-clockwise, holes clockwise.

    Args:
        polygons: rings in half pixels, the instance on their right hand.
        transform: pixel corners (col, row) to the CRS; may be rotated or mirrored.

    Returns:
        All geometries in one uint8 array, and int64 ``(n + 1,)`` offsets of each in it.
    """
    ground = _to_ground(polygons, transform)
    rings = np.diff(polygons.polygon_offsets)
    vertices = np.diff(polygons.ring_offsets[polygons.polygon_offsets])
    offsets = np.zeros(len(polygons) + 1, np.int64)
    np.cumsum((POLYGON.size + 4) + 4 * rings + 16 * vertices, out=offsets[1:])
    data = np.empty(offsets[-1], np.uint8)
    little = ground.astype("<f8", copy=False).view(np.uint8).reshape(-1)
    _write_wkb(little, polygons.ring_offsets, polygons.polygon_offsets, offsets, POLYGON, data)
    return data, offsets


def ground_bounds(polygons: Polygons, transform: Affine) -> Floats:
    """Bounds of each polygon in the scene's CRS, float64 ``(n, 4)``: xmin, ymin, xmax, ymax."""
    bounds = np.empty((len(polygons), 4), np.float64)
    _bounds(_to_ground(polygons, transform), polygons.ring_offsets, polygons.polygon_offsets, bounds)
    return bounds


def _bounds_px(polygons: Polygons) -> Integers:
    """Bounds of each polygon in half pixels, int64 ``(n, 4)``: left, top, right, bottom."""
    bounds = np.empty((len(polygons), 4), np.int64)
    _bounds(polygons.coords, polygons.ring_offsets, polygons.polygon_offsets, bounds)
    return bounds


def hilbert_keys(polygons: Polygons, shape: tuple[int, int]) -> Integers:
    """Places along a Hilbert curve over the scene: neighbours in this order are neighbours on the ground.

    A key comes from the centre of a polygon's bounds and the scene's shape alone, all in integers. It is the index of
    the centre's quarter pixel on the curve that fills the least square of a power of two that holds the scene
    (D. Hilbert, *Ueber die stetige Abbildung einer Linie auf ein Flächenstück*, Math. Ann. 38, 1891; bit by bit as in
    H. S. Warren, *Hacker's Delight*, 2nd ed. 2012, chapter 16).

    Args:
        polygons: of the scene or a part of it.
        shape: (rows, cols) of the scene.

    Returns:
        int64 ``(n,)``, >= 0; polygons with the same centre have the same key.
    """
    order = (4 * max(shape)).bit_length()
    if order > 31:
        raise InputError(f"a scene of {shape[1]} x {shape[0]} pixels is too wide; geoseg takes sides below 2^29 pixels")
    left, top, right, bottom = _bounds_px(polygons).T
    return _hilbert(left + right, top + bottom, order)


def hilbert_places(cols: Integers, rows: Integers, order: int) -> Integers:
    """Indices of places along the Hilbert curve of :func:`hilbert_keys` that fills a square of side 2^order.

    Args:
        cols: int64 ``(n,)``, 0 to 2^order - 1.
        rows: the same.
        order: at most 31.
    """
    keys: Integers = _hilbert(cols, rows, order)
    return keys


def _to_ground(polygons: Polygons, transform: Affine) -> Floats:
    """Vertices in the CRS, float64 ``(vertices, 2)``, each ring turned the way that layers have it."""
    ground = np.empty(polygons.coords.shape, np.float64)
    # seen with rows going down, shells run clockwise; a transform that keeps this sight has a negative determinant
    reverse = transform.determinant < 0
    _transform(polygons.coords, polygons.ring_offsets, tuple(transform)[:6], reverse, ground)
    return ground


@numba.njit(cache=True, nogil=True)
def _transform(
    coords: NDArray[np.int32],
    ring_offsets: Integers,
    transform: tuple[float, float, float, float, float, float],
    reverse: bool,  # noqa: FBT001 - numba's kernels take no keywords
    ground: Floats,
) -> None:
    a, b, c, d, e, f = transform
    for ring in range(ring_offsets.size - 1):
        first, last = ring_offsets[ring], ring_offsets[ring + 1] - 1
        for vertex in range(first, last + 1):
            col, row = coords[vertex, 0] / 2, coords[vertex, 1] / 2
            to = first + last - vertex if reverse else vertex
            # GDAL's order of operations: another one rounds differently
            ground[to, 0] = c + a * col + b * row
            ground[to, 1] = f + d * col + e * row


@numba.njit(cache=True, nogil=True)
def _write_wkb(
    ground: NDArray[np.uint8],
    ring_offsets: Integers,
    polygon_offsets: Integers,
    offsets: Integers,
    head: NDArray[np.uint8],
    data: NDArray[np.uint8],
) -> None:
    for polygon in range(polygon_offsets.size - 1):
        at = offsets[polygon]
        data[at : at + head.size] = head
        at = _write_uint32(data, at + head.size, polygon_offsets[polygon + 1] - polygon_offsets[polygon])
        for ring in range(polygon_offsets[polygon], polygon_offsets[polygon + 1]):
            at = _write_uint32(data, at, ring_offsets[ring + 1] - ring_offsets[ring])
            begin, end = 16 * ring_offsets[ring], 16 * ring_offsets[ring + 1]
            data[at : at + end - begin] = ground[begin:end]
            at += end - begin


@numba.njit(cache=True, nogil=True, inline="always")
def _write_uint32(data: NDArray[np.uint8], at: int, value: int) -> int:
    for byte in range(4):
        data[at + byte] = (value >> (8 * byte)) & 255
    return at + 4


@numba.njit(cache=True, nogil=True)
def _bounds(coords: NDArray[Any], ring_offsets: Integers, polygon_offsets: Integers, bounds: NDArray[Any]) -> None:
    for polygon in range(polygon_offsets.size - 1):
        shell = polygon_offsets[polygon]
        first = ring_offsets[shell]
        left = right = coords[first, 0]
        top = bottom = coords[first, 1]
        for vertex in range(first + 1, ring_offsets[shell + 1]):
            x, y = coords[vertex, 0], coords[vertex, 1]
            left, right = min(left, x), max(right, x)
            top, bottom = min(top, y), max(bottom, y)
        bounds[polygon, 0], bounds[polygon, 1], bounds[polygon, 2], bounds[polygon, 3] = left, top, right, bottom


@numba.njit(cache=True, nogil=True)
def _hilbert(cols: Integers, rows: Integers, order: int) -> Integers:
    keys = np.empty(cols.size, np.int64)
    for place in range(cols.size):
        x, y, key = cols[place], rows[place], 0
        side = 1 << (order - 1)
        while side > 0:
            east, south = (x & side) != 0, (y & side) != 0
            key = 4 * key + ((3 if not south else 2) if east else (1 if south else 0))
            if not south:  # turn the quarter so that the curve enters it as it entered the whole
                if east:
                    x, y = ~x, ~y
                x, y = y, x
            side >>= 1
        keys[place] = key
    return keys


# --- measures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ground:
    """Where a scene lies on the earth, and what its pixels and polygons measure there.

    A vertex's *place* is six numbers: its unit vector on the authalic sphere (which has the ellipsoid's areas) and its
    position in space. PROJ gives exact places; within cells of the scene whose sides are a power of two pixels and at
    most some 4 km, places are interpolated biquadratically from nine exact ones, to a few 1e-8 of any length. Where
    that strays (checked in every cell), or where cells would be tiny, every place is exact. Places depend on the scene
    alone and sums run along each ring from its first vertex, so the same polygon measures the same to the last bit
    wherever it is measured.

    Pickles small; what PROJ needs is made once per process.

    Attributes:
        transform: pixel corners (col, row) to the CRS.
        crs: anything that ``pyproj.CRS.from_user_input`` takes; kept as a ``pyproj.CRS``.
        shape: (rows, cols) of the scene.

    Raises:
        InputError: the CRS has no ellipsoid.
    """

    transform: Affine
    crs: Any
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "crs", pyproj.CRS.from_user_input(self.crs))
        _globe(self.crs)

    def measure(self, polygons: Polygons) -> tuple[Floats, Floats]:
        """Areas and perimeters on the ellipsoid, whatever the projection does to them.

        Every edge is taken as the geodesic between its ends. Areas are planar ones in a Lambert azimuthal equal-area
        projection of the authalic sphere (J. P. Snyder, *Map Projections: A Working Manual*, USGS PP 1395, 1987,
        p. 182), centred on each ring's first vertex; perimeters are chords in space, bent back to the ellipsoid. Both
        are within 1e-6 of Karney's algorithm (``pyproj.Geod``) while edges are shorter than a few tens of kilometres,
        at a fraction of its time; the length of longer edges comes from ``pyproj.Geod`` itself.

        Args:
            polygons: of the scene.

        Returns:
            area_m2 and perimeter_m, float64 ``(n,)``. Holes do not count as area, their rings do as perimeter.

        Raises:
            InputError: the CRS does not reach the polygons.
        """
        globe = _globe(self.crs)
        area_m2, perimeter_m = np.empty(len(polygons)), np.empty(len(polygons))
        vertices = polygons.ring_offsets[polygons.polygon_offsets]
        # in batches, so that the working memory does not grow with the scene
        batches = run_offsets((vertices[1:] - 1) // BATCH_VERTICES)
        for begin, end in itertools.pairwise(batches):
            first, last = vertices[begin], vertices[end]
            coords = polygons.coords[first:last]
            shells = polygons.polygon_offsets[begin : end + 1]
            rings = polygons.ring_offsets[shells[0] : shells[-1] + 1] - first
            area, length = self._measure_rings(coords, rings, globe)
            sign = np.full(area.size, -1.0)
            sign[shells[:-1] - shells[0]] = 1
            area_m2[begin:end] = np.add.reduceat(sign * area, shells[:-1] - shells[0])
            perimeter_m[begin:end] = np.add.reduceat(length, shells[:-1] - shells[0])
        return area_m2, perimeter_m

    def pixel_area_m2(self, rows: Integers, cols: Integers) -> Floats:
        """Areas of single pixels on the ellipsoid, for thresholds.

        Args:
            rows: int64 ``(n,)``.
            cols: int64 ``(n,)``.

        Returns:
            float64 ``(n,)`` square metres, within 1e-6 while pixels are smaller than some kilometres.

        Raises:
            InputError: the CRS does not reach the pixels.
        """
        globe = _globe(self.crs)
        areas = np.empty(len(rows), np.float64)
        around = np.array([[0, 0], [2, 0], [2, 2], [0, 2]], np.int32)
        for begin in range(0, len(rows), BATCH_VERTICES // 4):
            part = slice(begin, begin + BATCH_VERTICES // 4)
            first = np.stack([cols[part], rows[part]], axis=1).astype(np.int32) * 2
            places = self._places((first[:, None] + around).reshape(-1, 2), globe)
            _pixel_areas(places, areas[part])
        return areas * globe.authalic_m2

    def scene_area_m2(self) -> float:
        """Area of the whole scene, summed over 64 x 64 parts, since neither its sides nor the earth are straight."""
        down, right = (2 * size * np.arange(65) // 64 for size in self.shape)
        lattice = np.stack(np.meshgrid(right, down), axis=-1).astype(np.int32)
        corners = [lattice[:-1, :-1], lattice[:-1, 1:], lattice[1:, 1:], lattice[1:, :-1], lattice[:-1, :-1]]
        parts = np.stack(corners, axis=2).reshape(-1, 2)
        area, _ = self._measure_rings(parts, np.arange(0, len(parts) + 1, 5), _globe(self.crs))
        return float(area.sum())

    def _measure_rings(self, coords: NDArray[np.int32], offsets: Integers, globe: _Globe) -> tuple[Floats, Floats]:
        """Areas >= 0 and lengths of closed rings."""
        places = self._places(coords, globe)
        area, length = np.empty(offsets.size - 1), np.empty(offsets.size - 1)
        is_long = np.zeros(len(coords), np.bool_)
        _ring_sums(places, offsets, math.sqrt(globe.geod.a * globe.geod.b), area, length, is_long)
        area *= globe.authalic_m2
        long = np.flatnonzero(is_long)
        if long.size:
            lon, lat = globe.to_lonlat(self._xy(np.stack([coords[long], coords[long + 1]])))
            ring = np.searchsorted(offsets, long, side="right") - 1
            np.add.at(length, ring, globe.geod.inv(lon[0], lat[0], lon[1], lat[1], radians=True)[2])
        return area, length

    def _places(self, coords: NDArray[np.int32], globe: _Globe) -> Floats:
        """Places of vertices, float64 ``(n, 6)``."""
        side = self._cell_px(globe)
        if side < LEAST_CELL_PX or len(coords) == 0:
            return self._exact_places(coords, globe, required=True)
        own, origins = _cells(coords, side.bit_length(), self.shape)
        terms, sound = self._cell_terms(origins, side, globe)
        places = np.empty((len(coords), 6), np.float64)
        _interpolate(coords, own, origins, side, terms, places)
        if not sound.all():
            astray = np.flatnonzero(~sound[own])
            places[astray] = self._exact_places(coords[astray], globe, required=True)
        return places

    def _cell_px(self, globe: _Globe) -> int:
        """Side of a cell: the largest power of two of pixels that is not longer than `CELL_M`."""
        pixel_m = globe.metres_per_unit * max(
            math.hypot(self.transform.a, self.transform.d), math.hypot(self.transform.b, self.transform.e)
        )
        return 1 << min(max(math.floor(math.log2(CELL_M / pixel_m)), 0), 24)

    def _cell_terms(self, origins: Integers, side: int, globe: _Globe) -> tuple[Floats, NDArray[np.bool_]]:
        """Polynomials of cells, about their centres and on the scale -1 to 1.

        Args:
            origins: int64 ``(cells, 2)``, half pixels of the cells' first corners.
            side: of a cell, pixels.
            globe: of the scene's CRS.

        Returns:
            terms, float64 ``(cells, 3, 3, 6)``, by powers of the row and of the column; and whether they hold.
        """
        steps = np.array([0, 1, 2]) * side
        nodes = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)  # columns run fastest
        probes = np.array([[1, 1], [3, 1], [1, 3], [3, 3]]) * (side // 2)
        exact = self._exact_places(
            (origins[:, None] + np.concatenate([nodes, probes])).reshape(-1, 2), globe, required=False
        ).reshape(len(origins), 13, 6)
        values = exact[:, :9].reshape(-1, 3, 3, 6)
        for axis in (1, 2):
            before, middle, after = np.moveaxis(values, axis, 0)
            values = np.stack([middle, (after - before) / 2, (after + before) / 2 - middle], axis=axis)
        found = np.empty((len(origins) * 4, 6))
        own = np.repeat(np.arange(len(origins)), 4)
        _interpolate((origins[:, None] + probes).reshape(-1, 2), own, origins, side, values, found)
        scale = np.array([globe.geod.a] * 3 + [1] * 3)
        strays = np.abs((found.reshape(-1, 4, 6) - exact[:, 9:]) * scale).max(axis=(1, 2))
        slopes = 2 * np.sqrt((np.stack([values[:, 0, 1, 3:], values[:, 1, 0, 3:]]) ** 2).sum(axis=-1)).min(axis=0)
        return values, strays <= STRAYS * slopes  # false where PROJ gave nothing

    def _exact_places(self, coords: NDArray[Any], globe: _Globe, *, required: bool) -> Floats:
        """Places from PROJ, ``(n, 6)``.

        Raises:
            InputError: required, and some vertex has none.
        """
        lon, lat = globe.to_lonlat(self._xy(coords))
        if required and not (np.isfinite(lon).all() and np.isfinite(lat).all()):
            raise InputError("some vertices have no longitude and latitude; check the scene's CRS and transform")
        places = np.empty((len(coords), 6), np.float64)
        _locate(lon, lat, globe.geod.a, globe.geod.es, places)
        return places

    def _xy(self, coords: NDArray[Any]) -> Floats:
        """Half pixels ``(..., 2)`` to the CRS."""
        col, row, grid = coords[..., 0] / 2, coords[..., 1] / 2, self.transform
        return np.stack([grid.c + grid.a * col + grid.b * row, grid.f + grid.d * col + grid.e * row], axis=-1)


class _Globe:
    """A CRS's ellipsoid, and the way to it."""

    def __init__(self, crs: pyproj.CRS) -> None:
        geodetic = crs.geodetic_crs
        geod = crs.get_geod()
        if geodetic is None or geod is None:
            raise InputError(f"the CRS {crs.name!r} has no ellipsoid to measure on; give the scene a CRS of the earth")
        self.geod = geod
        # areas on the authalic sphere are those on the unit sphere times this (Snyder, p. 16)
        self.authalic_m2 = geod.a**2 * _authalic_pole(geod.es) / 2
        unit = crs.axis_info[0].unit_conversion_factor
        self.metres_per_unit = unit * geod.a if crs.is_geographic else unit
        self._radians_per_unit = geodetic.axis_info[0].unit_conversion_factor
        self._transformer = pyproj.Transformer.from_crs(crs, geodetic, always_xy=True)

    def to_lonlat(self, xy: Floats) -> tuple[Floats, Floats]:
        """Map coordinates ``(..., 2)`` to longitude and latitude in radians, on the same datum; inf where none."""
        lon, lat = self._transformer.transform(xy[..., 0], xy[..., 1])
        return lon * self._radians_per_unit, lat * self._radians_per_unit


@lru_cache(maxsize=8)
def _globe(crs: pyproj.CRS) -> _Globe:
    return _Globe(crs)


def _authalic_pole(es: float) -> float:
    """Snyder's q at the pole: half of the ellipsoid's area by 2 pi a^2."""
    e = math.sqrt(es)
    return (1 - es) * (1 / (1 - es) + (math.atanh(e) / e if e else 1.0))


@numba.njit(cache=True, nogil=True)
def _locate(lon: Floats, lat: Floats, a: float, es: float, places: Floats) -> None:
    """Places of longitudes and latitudes in radians; NaN where they are not finite."""
    e = math.sqrt(es)
    pole = (1 - es) * (1 / (1 - es) + (math.atanh(e) / e if e > 0 else 1.0))
    for point in range(lon.size):
        if not (math.isfinite(lon[point]) and math.isfinite(lat[point])):
            places[point, :] = np.nan
            continue
        sin, cos = abs(math.sin(lat[point])), math.cos(lat[point])
        sin_lon, cos_lon = math.sin(lon[point]), math.cos(lon[point])
        # Snyder's q (3-12) taken from the pole downwards, which loses no digits there: 1 - sin(authalic latitude)
        rest = cos * cos / (1 + sin)
        bulge = e * rest / (1 - es * sin)
        missing = rest * (1 + es * sin) / (1 - es * sin * sin) + (1 - es) * (math.atanh(bulge) / e if e > 0 else rest)
        missing /= pole
        cos_authalic = math.sqrt(missing * (2 - missing))
        south = -1.0 if lat[point] < 0 else 1.0
        normal = a / math.sqrt(1 - es * sin * sin)
        places[point, 0] = cos_authalic * cos_lon
        places[point, 1] = cos_authalic * sin_lon
        places[point, 2] = south * (1 - missing)
        places[point, 3] = normal * cos * cos_lon
        places[point, 4] = normal * cos * sin_lon
        places[point, 5] = normal * (1 - es) * south * sin


@numba.njit(cache=True, nogil=True)
def _cells(coords: NDArray[np.int32], shift: int, shape: tuple[int, int]) -> tuple[Integers, Integers]:
    """The cell of each vertex, and the first corner of each cell in use; a cell is ``2**shift`` half pixels wide."""
    # the scene's last corners belong to its last cells
    last_col, last_row = (2 * shape[1] - 1) >> shift, (2 * shape[0] - 1) >> shift
    left, top, right, bottom = last_col, last_row, 0, 0
    for vertex in range(len(coords)):
        col, row = min(coords[vertex, 0] >> shift, last_col), min(coords[vertex, 1] >> shift, last_row)
        left, right, top, bottom = min(left, col), max(right, col), min(top, row), max(bottom, row)
    number = np.full((bottom - top + 1, right - left + 1), -1, np.int64)
    own, origins, used = np.empty(len(coords), np.int64), np.empty((number.size, 2), np.int64), 0
    for vertex in range(len(coords)):
        col, row = min(coords[vertex, 0] >> shift, last_col), min(coords[vertex, 1] >> shift, last_row)
        if number[row - top, col - left] < 0:
            number[row - top, col - left] = used
            origins[used] = col << shift, row << shift
            used += 1
        own[vertex] = number[row - top, col - left]
    return own, origins[:used]


@numba.njit(cache=True, nogil=True)
def _interpolate(
    coords: NDArray[Any], own: Integers, origins: Integers, side: int, terms: Floats, places: Floats
) -> None:
    """Places of vertices from the polynomials of their own cells."""
    for vertex in range(own.size):
        cell = own[vertex]
        u = (coords[vertex, 0] - origins[cell, 0] - side) / side
        v = (coords[vertex, 1] - origins[cell, 1] - side) / side
        for part in range(6):
            # the small terms first: only the last sum rounds at the earth's size
            straight = u * (terms[cell, 0, 1, part] + u * terms[cell, 0, 2, part])
            sloped = terms[cell, 1, 0, part] + u * (terms[cell, 1, 1, part] + u * terms[cell, 1, 2, part])
            bent = terms[cell, 2, 0, part] + u * (terms[cell, 2, 1, part] + u * terms[cell, 2, 2, part])
            places[vertex, part] = terms[cell, 0, 0, part] + (straight + v * (sloped + v * bent))


@numba.njit(cache=True, nogil=True)
def _ring_sums(
    places: Floats, offsets: Integers, radius: float, area: Floats, length: Floats, is_long: NDArray[np.bool_]
) -> None:
    """Areas of closed rings on the unit sphere, and lengths without the long edges, which are marked at their start.

    With p the ring's first place and d = q - p, Lambert's projection of q centred on p is the part of d across p, times
    k = 1 / sqrt(1 - d.d / 4); so the cross product of two projected vertices is k1 k2 p.(d1 x d2), and no axes are
    needed.
    """
    for ring in range(offsets.size - 1):
        first = offsets[ring]
        px, py, pz = places[first, 0], places[first, 1], places[first, 2]
        ax = ay = az = 0.0
        ak, doubled, total = 1.0, 0.0, 0.0
        for vertex in range(first + 1, offsets[ring + 1]):
            bx, by, bz = places[vertex, 0] - px, places[vertex, 1] - py, places[vertex, 2] - pz
            bk = 1 / math.sqrt(1 - (bx * bx + by * by + bz * bz) / 4)
            triple = px * (ay * bz - az * by) + py * (az * bx - ax * bz) + pz * (ax * by - ay * bx)
            doubled += ak * bk * triple
            ax, ay, az, ak = bx, by, bz, bk
            x = places[vertex, 3] - places[vertex - 1, 3]
            y = places[vertex, 4] - places[vertex - 1, 4]
            z = places[vertex, 5] - places[vertex - 1, 5]
            square = x * x + y * y + z * z
            if square > LONG_EDGE_M * LONG_EDGE_M:
                is_long[vertex - 1] = True
                continue
            s = square / (4 * radius * radius)
            total += math.sqrt(square) * (1 + s * (1 / 6 + s * (3 / 40)))  # 2 r arcsin(chord / 2 r)
        area[ring] = abs(doubled) / 2
        length[ring] = total


@numba.njit(cache=True, nogil=True)
def _pixel_areas(places: Floats, area: Floats) -> None:
    """Areas on the unit sphere from the places of four corners each: half the cross product of the diagonals."""
    for pixel in range(area.size):
        corner = 4 * pixel
        ax, bx = places[corner + 2, 0] - places[corner, 0], places[corner + 3, 0] - places[corner + 1, 0]
        ay, by = places[corner + 2, 1] - places[corner, 1], places[corner + 3, 1] - places[corner + 1, 1]
        az, bz = places[corner + 2, 2] - places[corner, 2], places[corner + 3, 2] - places[corner + 1, 2]
        x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        area[pixel] = math.sqrt(x * x + y * y + z * z) / 2

"""Geometries in longitude and latitude, as RFC 7946 has them.

Nearly all polygons of a layer take a quick way, in whole multiples of the last decimal and without GEOS
(:func:`round_polygons`); the rest, and whatever else a layer may hold, goes through :func:`to_lonlat`. Where both apply
they give the same coordinates.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyproj
import shapely
from numpy.typing import ArrayLike, NDArray
from pyproj.exceptions import ProjError

from geoseg.errors import OutputError

__all__ = ["DECIMALS", "round_polygons", "to_lonlat"]

Integers = NDArray[np.int64]

# 7 decimals of a degree are 11 mm on the ground (RFC 7946, section 11.2, asks for no more than is meant).
DECIMALS = 7
# A straight edge of the scene's CRS is no straight line in longitude and latitude. Half a kilometre strays by
# less than 10 mm up to 60 degrees of latitude (sagitta L^2 tan(lat) / 8R), which is what the decimals keep.
_MAX_EDGE_M = 500.0
# Above so many vertices, looking at all pairs of edges takes longer than GEOS.
_MOST_VERTICES = 1024
_WIDEST = 20_000_000  # 2 degrees: sums of so many products of differences stay within 64 bits


def to_lonlat(geometries: ArrayLike, crs: Any) -> NDArray[np.object_]:
    """Carry geometries to what RFC 7946 asks for: WGS 84, 7 decimals, split at the antimeridian, rings oriented.

    Rounding to 7 decimals can make a slender polygon cross itself. Such a polygon is snapped to the same grid
    by GEOS, which keeps it valid (it may fall into parts). One thinner than the grid vanishes and becomes
    None, never a line.

    Args:
        geometries: (n,) shapely geometries in `crs`, two-dimensional.
        crs: anything that `pyproj.CRS.from_user_input` takes.

    Returns:
        (n,) geometries in longitude and latitude, or None.

    Raises:
        OutputError: coordinates outside of what the CRS can map to the globe.
    """
    source = pyproj.CRS.from_user_input(crs)
    shapes = np.asarray(geometries, dtype=object)
    if len(shapes) == 0:
        return shapes
    if not source.is_geographic:
        shapes = _densify(shapes, _MAX_EDGE_M / source.axis_info[0].unit_conversion_factor)
    xy, owner = shapely.get_coordinates(shapes, return_index=True)
    lonlat = _project(xy, source)
    crossing = _crossing(lonlat[:, 0], owner, len(shapes), jumps=not source.is_geographic)
    digits = np.round(lonlat, DECIMALS)
    rounded = shapely.set_coordinates(shapes.copy(), digits)
    sound = shapely.is_valid(rounded) & ~shapely.is_empty(rounded) & ~crossing
    repeating = np.zeros(len(shapes), np.bool_)
    repeating[owner[1:][(digits[1:, 0] == digits[:-1, 0]) & (digits[1:, 1] == digits[:-1, 1])]] = True
    repeating &= sound
    rounded[repeating] = shapely.remove_repeated_points(rounded[repeating])

    exact = shapely.set_coordinates(shapes[~sound], lonlat[~sound[owner]])
    for place in np.flatnonzero(crossing[~sound]):
        exact[place] = _split(exact[place], jumps=not source.is_geographic)
    rounded[~sound] = _mended(exact)
    return np.asarray(shapely.orient_polygons(rounded))


def _project(xy: NDArray[np.float64], source: pyproj.CRS) -> NDArray[np.float64]:
    """Carry map coordinates (n, 2) to longitude and latitude on WGS 84; those of a geographic CRS keep their turn."""
    lon, lat = _to_crs84(source).transform(xy[:, 0], xy[:, 1])
    if source.is_geographic:
        # PROJ may bring longitudes beyond 180 degrees back by a turn, or may not; polygons must stay whole here.
        given = np.degrees(xy[:, 0] * source.axis_info[0].unit_conversion_factor)
        lon = lon + 360 * np.round((given - lon) / 360)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        raise OutputError(f"a layer in {source.name} has coordinates that lie nowhere on the globe; check the CRS")
    return np.column_stack([lon, lat])


def _crossing(lon: NDArray[np.float64], owner: NDArray[np.int64], count: int, *, jumps: bool) -> NDArray[np.bool_]:
    """Tell which geometries lie across the antimeridian.

    Coordinates from a projection jump by 360 degrees there; geographic ones run on beyond it.
    """
    west, east = np.full(count, np.inf), np.full(count, -np.inf)
    if lon.size and (lon.min() < -180 or lon.max() > 180 or lon.max() - lon.min() > 180):
        np.minimum.at(west, owner, lon)
        np.maximum.at(east, owner, lon)
    crossing: NDArray[np.bool_] = (west < -180) | (east > 180) | ((east - west > 180) & jumps)
    return crossing


def _mended(exact: NDArray[np.object_]) -> NDArray[np.object_]:
    """Round geometries; snap those that rounding breaks; None for those that it wipes out."""
    rounded = np.asarray(shapely.transform(exact, lambda xy: np.round(xy, DECIMALS)))
    sound = shapely.is_valid(rounded) & ~shapely.is_empty(rounded)
    rounded[sound] = shapely.remove_repeated_points(rounded[sound])
    snapped = shapely.set_precision(exact[~sound], 10.0**-DECIMALS)
    snapped[shapely.is_empty(snapped)] = None
    rounded[~sound] = snapped
    return rounded


@lru_cache(maxsize=8)
def _to_crs84(source: pyproj.CRS) -> pyproj.Transformer:
    try:
        return pyproj.Transformer.from_crs(source, "OGC:CRS84", always_xy=True)
    except ProjError as error:
        raise OutputError(f"a layer in {source.name} cannot be carried to longitude and latitude: {error}") from error


def _densify(shapes: NDArray[np.object_], max_edge: float) -> NDArray[np.object_]:
    """Add vertices to edges longer than `max_edge` (units of the CRS)."""
    west, south, east, north = shapely.bounds(shapes).T
    wide = np.hypot(east - west, north - south) > max_edge
    result = shapes.copy()
    result[wide] = shapely.segmentize(shapes[wide], max_edge)
    return result


def _split(shape: shapely.Geometry, *, jumps: bool) -> shapely.Geometry:
    """Cut one geometry in longitude and latitude at the antimeridian; all of it comes to lie in -180 ... 180.

    Each ring is laid out without jumps, cut into strips of 360 degrees and moved back; then holes are taken
    off.

    Args:
        shape: polygons or lines.
        jumps: whether a step of more than 180 degrees means that the antimeridian was crossed.
    """
    parts: list[shapely.Geometry] = []
    for part in shapely.get_parts(shape):
        if shapely.get_type_id(part) != shapely.GeometryType.POLYGON:
            parts.append(_unroll(part, jumps=jumps))
            continue
        shell, *holes = (_unroll(ring, jumps=jumps) for ring in shapely.get_rings(part))
        parts.append(shapely.difference(shell, shapely.union_all(holes)))
    return shapely.union_all(parts)


def _unroll(line: shapely.Geometry, *, jumps: bool) -> shapely.Geometry:
    """Bring a line, or what a ring encloses, between -180 and 180. A ring around a pole is closed at the pole."""
    lon, lat = shapely.get_coordinates(line).T
    ring = shapely.get_type_id(line) == shapely.GeometryType.LINEARRING
    if jumps:
        lon = np.unwrap(lon, period=360)
        if ring and abs(lon[-1] - lon[0]) > 180:
            pole = math.copysign(90, lat.mean())
            lon = np.concatenate([lon, [lon[-1], lon[0]]])
            lat = np.concatenate([lat, [pole, pole]])
    laid_out = (shapely.polygons if ring else shapely.linestrings)(np.column_stack([lon, lat]))
    pieces: list[shapely.Geometry] = []
    for strip in range(math.floor((lon.min() + 180) / 360), math.ceil((lon.max() + 180) / 360)):
        turn = 360.0 * strip
        cut = shapely.get_parts(shapely.intersection(laid_out, shapely.box(turn - 180, -90, turn + 180, 90)))
        whole = cut[shapely.get_dimensions(cut) == shapely.get_dimensions(laid_out)]
        pieces.extend(shapely.transform(whole, lambda xy, turn=turn: xy - [turn, 0.0]))
    return shapely.union_all(pieces)


def round_polygons(wkb: pa.Array, crs: pyproj.CRS) -> tuple[Integers, Integers, Integers, NDArray[np.bool_]]:
    """Carry plain polygons to WGS 84 and round them, as far as this is sure to leave them valid.

    Sure are polygons whose rounded edges do not touch but where they follow one another, whose rings keep their turn,
    and whose holes still lie in the shell and in no other hole; all of that is tested in integers. Polygons that touch
    themselves, have very many vertices or edges that must be bent, or lie across the antimeridian are not.

    Args:
        wkb: (n,) binary, little endian, exterior rings counter-clockwise; of any type, or null.
        crs: of the geometries.

    Returns:
        Vertices (v, 2) int64, in units of 10**-DECIMALS degrees, without repeated ones; offsets of rings (r + 1,) and
        of polygons (n + 1,); and (n,) whether each is sure. Nothing is to be made of those that are not.

    Raises:
        OutputError: coordinates outside of what the CRS can map to the globe.
    """
    data = np.frombuffer(wkb.buffers()[2] or b"", np.uint8)
    starts = np.frombuffer(wkb.buffers()[1], np.int32)[wkb.offset : wkb.offset + len(wkb) + 1]
    sizes, sure = _count(data, starts)
    polygon_offsets, vertex_offsets = (np.concatenate([[0], np.cumsum(part)]) for part in sizes)
    ring_offsets = np.zeros(polygon_offsets[-1] + 1, np.int64)
    xy = np.empty((vertex_offsets[-1], 2), "<f8")
    _read(data, starts, sure, ring_offsets, xy.reshape(-1).view(np.uint8))
    if not crs.is_geographic:
        sure &= ~_has_long_edge(
            xy, ring_offsets, polygon_offsets, _MAX_EDGE_M / crs.axis_info[0].unit_conversion_factor
        )
    lonlat = _project(xy, crs)
    owner = np.repeat(np.arange(len(wkb)), np.diff(vertex_offsets))
    sure &= ~_crossing(lonlat[:, 0], owner, len(wkb), jumps=not crs.is_geographic)
    units = np.rint(lonlat * 10.0**DECIMALS).astype(np.int64)
    ring_offsets = _drop_repeated(units, ring_offsets)
    _test(units, ring_offsets, polygon_offsets, sure)
    return units, ring_offsets, polygon_offsets, sure


@numba.njit(cache=True, nogil=True)
def _uint32(data: NDArray[np.uint8], at: int) -> int:
    return int(data[at]) | int(data[at + 1]) << 8 | int(data[at + 2]) << 16 | int(data[at + 3]) << 24


@numba.njit(cache=True, nogil=True)
def _count(data: NDArray[np.uint8], starts: NDArray[np.int32]) -> tuple[Integers, NDArray[np.bool_]]:
    """Rings and vertices (2, n) of each geometry that is a polygon, 0 of others, and whether it is one."""
    n = starts.size - 1
    sizes, plain = np.zeros((2, n), np.int64), np.zeros(n, np.bool_)
    for geometry in range(n):
        at = starts[geometry]
        # 1: little endian, 3: polygon
        if starts[geometry + 1] - at < 9 or data[at] != 1 or _uint32(data, at + 1) != 3:
            continue
        rings, at = _uint32(data, at + 5), at + 9
        plain[geometry] = rings > 0
        sizes[0, geometry] = rings
        for _ in range(rings):
            vertices = _uint32(data, at)
            sizes[1, geometry] += vertices
            at += 4 + 16 * vertices
    return sizes, plain


@numba.njit(cache=True, nogil=True)
def _read(
    data: NDArray[np.uint8],
    starts: NDArray[np.int32],
    plain: NDArray[np.bool_],
    ring_offsets: Integers,
    xy: NDArray[np.uint8],
) -> None:
    """Read the polygons' rings one after the other; coordinates as bytes."""
    ring, to = 0, 0
    for geometry in range(plain.size):
        if not plain[geometry]:
            continue
        at = starts[geometry] + 9
        for _ in range(_uint32(data, at - 4)):
            size = 16 * _uint32(data, at)
            xy[to : to + size] = data[at + 4 : at + 4 + size]
            to += size
            at += 4 + size
            ring += 1
            ring_offsets[ring] = to // 16


@numba.njit(cache=True, nogil=True)
def _has_long_edge(
    xy: NDArray[np.float64], ring_offsets: Integers, polygon_offsets: Integers, longest: float
) -> NDArray[np.bool_]:
    found = np.zeros(polygon_offsets.size - 1, np.bool_)
    for polygon in range(found.size):
        for ring in range(polygon_offsets[polygon], polygon_offsets[polygon + 1]):
            for vertex in range(ring_offsets[ring], ring_offsets[ring + 1] - 1):
                x, y = xy[vertex + 1, 0] - xy[vertex, 0], xy[vertex + 1, 1] - xy[vertex, 1]
                found[polygon] |= x * x + y * y > longest * longest
    return found


@numba.njit(cache=True, nogil=True)
def _drop_repeated(units: Integers, ring_offsets: Integers) -> Integers:
    """Move all vertices that are not those before them to the front; returns the rings' new offsets."""
    offsets = np.zeros(ring_offsets.size, np.int64)
    to = 0
    for ring in range(ring_offsets.size - 1):
        for vertex in range(ring_offsets[ring], ring_offsets[ring + 1]):
            x, y = units[vertex]
            if to == offsets[ring] or units[to - 1, 0] != x or units[to - 1, 1] != y:
                units[to] = x, y
                to += 1
        offsets[ring + 1] = to
    return offsets


@numba.njit(cache=True, nogil=True)
def _test(units: Integers, ring_offsets: Integers, polygon_offsets: Integers, sure: NDArray[np.bool_]) -> None:
    """Take back `sure` from polygons that may not be valid."""
    for polygon in range(sure.size):
        if not sure[polygon]:
            continue
        shell, end = polygon_offsets[polygon], polygon_offsets[polygon + 1]
        first, last = ring_offsets[shell], ring_offsets[end]
        holds = last - first <= _MOST_VERTICES
        for ring in range(shell, end):
            holds = holds and _ring_holds(
                units[ring_offsets[ring] : ring_offsets[ring + 1]], units[first], ring == shell
            )
        holds = holds and _edges_keep_apart(units, ring_offsets, shell, end)
        for ring in range(shell + 1, end):
            holds = holds and _lies_in_odd(units, ring_offsets, shell, end, ring)
        sure[polygon] = holds


@numba.njit(cache=True, nogil=True)
def _ring_holds(ring: Integers, origin: Integers, is_shell: bool) -> bool:  # noqa: FBT001 - numba's kernels take no keywords
    """Whether a ring is not small, not wide enough to overflow, turns the right way, and never back on its own edge."""
    count = len(ring) - 1
    if count < 3:
        return False
    doubled = 0
    for vertex in range(count):
        ax, ay = ring[vertex, 0] - origin[0], ring[vertex, 1] - origin[1]
        bx, by = ring[vertex + 1, 0] - ring[vertex, 0], ring[vertex + 1, 1] - ring[vertex, 1]
        after = vertex + 2 if vertex + 2 <= count else 1
        cx, cy = ring[after, 0] - ring[vertex + 1, 0], ring[after, 1] - ring[vertex + 1, 1]
        if abs(ax) > _WIDEST or abs(ay) > _WIDEST or (bx * cy == by * cx and bx * cx + by * cy <= 0):
            return False
        doubled += ax * by - ay * bx
    return doubled > 0 if is_shell else doubled < 0


@numba.njit(cache=True, nogil=True)
def _edges_keep_apart(units: Integers, ring_offsets: Integers, shell: int, end: int) -> bool:
    """Whether no two edges of a polygon touch, but those that follow one another."""
    for ring in range(shell, end):
        first, last = ring_offsets[ring], ring_offsets[ring + 1] - 1
        for edge in range(first, last):
            ax, ay, bx, by = units[edge, 0], units[edge, 1], units[edge + 1, 0], units[edge + 1, 1]
            west, east, south, north = min(ax, bx), max(ax, bx), min(ay, by), max(ay, by)
            for other_ring in range(ring, end):
                begin = edge + 2 if other_ring == ring else ring_offsets[other_ring]
                stop = ring_offsets[other_ring + 1] - 1
                if other_ring == ring and edge == first:
                    stop -= 1  # the ring's last edge ends where its first one begins
                for other in range(begin, stop):
                    cx, cy, dx, dy = units[other, 0], units[other, 1], units[other + 1, 0], units[other + 1, 1]
                    if (
                        (cx < west and dx < west)
                        or (cx > east and dx > east)
                        or (cy < south and dy < south)
                        or (cy > north and dy > north)
                    ):
                        continue
                    # with boxes that meet, edges touch unless one lies on one side of the other's line
                    c, d = _side(ax, ay, bx, by, cx, cy), _side(ax, ay, bx, by, dx, dy)
                    a, b = _side(cx, cy, dx, dy, ax, ay), _side(cx, cy, dx, dy, bx, by)
                    if not ((c > 0 and d > 0) or (c < 0 and d < 0) or (a > 0 and b > 0) or (a < 0 and b < 0)):
                        return False
    return True


@numba.njit(cache=True, nogil=True, inline="always")
def _side(ax: int, ay: int, bx: int, by: int, px: int, py: int) -> int:
    """Positive where p lies on the left of the line from a to b."""
    return (bx - ax) * (py - ay) - (by - ay) * (px - ax)


@numba.njit(cache=True, nogil=True)
def _lies_in_odd(units: Integers, ring_offsets: Integers, shell: int, end: int, hole: int) -> bool:
    """Whether a hole's first vertex lies in an odd number of the other rings: in the shell, and in no hole."""
    px, py = units[ring_offsets[hole]]
    inside = False
    for ring in range(shell, end):
        if ring == hole:
            continue
        for vertex in range(ring_offsets[ring], ring_offsets[ring + 1] - 1):
            ax, ay, bx, by = units[vertex, 0], units[vertex, 1], units[vertex + 1, 0], units[vertex + 1, 1]
            if (ay > py) != (by > py):
                side = _side(ax, ay, bx, by, px, py)
                inside ^= side > 0 if by > ay else side < 0
    return inside

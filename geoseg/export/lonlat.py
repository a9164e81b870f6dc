"""Polygons in longitude and latitude, as RFC 7946 has them.

Nearly all polygons of a layer take a quick way, in whole multiples of the last decimal and without GEOS
(:func:`round_polygons`); the rest goes through :func:`to_lonlat`. Where both apply they give the same coordinates.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyproj
import shapely
from numpy.typing import ArrayLike, NDArray
from pyproj.exceptions import ProjError

from geoseg.errors import OutputError
from geoseg.export.columns import numbers_of, of_numbers
from geoseg.export.twkb import Parts, pack
from geoseg.export.validity import keep_valid
from geoseg.rings import run_offsets, take_ragged

__all__ = ["DECIMALS", "pack_lonlat", "round_polygons", "to_lonlat"]

Integers = NDArray[np.int64]

# 7 decimals of a degree are 11 mm on the ground (RFC 7946, section 11.2, asks for no more than is meant).
DECIMALS = 7
# A straight edge of the scene's CRS is no straight line in longitude and latitude. Half a kilometre strays by
# less than 10 mm up to 60 degrees of latitude (sagitta L^2 tan(lat) / 8R), which is what the decimals keep.
_MAX_EDGE_M = 500.0
_BATCH_BYTES = 1 << 22  # of polygons that are carried at a time
_EMPTY = pa.nulls(0, pa.large_binary())


def pack_lonlat(wkb: pa.LargeBinaryArray, crs: pyproj.CRS) -> pa.LargeBinaryArray:
    """Carry polygons to WGS 84 as of :func:`to_lonlat`.

    Args:
        wkb: (n,) large_binary, little endian, exterior rings counter-clockwise, none null.
        crs: of the polygons.

    Returns:
        (n,) large_binary, see :mod:`geoseg.export.twkb`; what the rounding wipes out has no bytes.

    Raises:
        OutputError: coordinates outside of what the CRS can map to the globe.
    """
    ends = np.cumsum(numbers_of(pc.binary_length(wkb)))
    batches = itertools.pairwise(run_offsets((ends - 1) // _BATCH_BYTES))
    return pa.concat_arrays([_EMPTY, *(_pack_batch(wkb[begin:end], crs) for begin, end in batches)])


def _pack_batch(wkb: pa.LargeBinaryArray, crs: pyproj.CRS) -> pa.LargeBinaryArray:
    units, ring_offsets, polygon_offsets, sure = round_polygons(wkb, crs)
    packed = pack(_chosen(units, ring_offsets, polygon_offsets, sure), DECIMALS)
    if sure.all():
        return packed
    others = to_lonlat(shapely.from_wkb(wkb.filter(of_numbers(~sure)).to_pylist()), crs)
    return pc.replace_with_mask(packed, of_numbers(~sure), pack(_parts_of(others), DECIMALS))


def _chosen(units: Integers, ring_offsets: Integers, polygon_offsets: Integers, chosen: NDArray[np.bool_]) -> Parts:
    """Polygons of one part each; those that are not chosen have none."""
    rings, part_offsets = take_ragged(polygon_offsets, np.flatnonzero(chosen))
    vertices, offsets = take_ragged(ring_offsets, rings)
    return Parts(units[vertices], offsets, part_offsets, np.concatenate([[0], np.cumsum(chosen)]))


def _parts_of(geometries: NDArray[np.object_]) -> Parts:
    """Rounded geometries in whole units of the last decimal."""
    parts, owner = shapely.get_parts(geometries, return_index=True)
    offsets = np.searchsorted(owner, np.arange(len(geometries) + 1))
    rings, of_part = shapely.get_rings(parts, return_index=True)
    coordinates, of_ring = shapely.get_coordinates(rings, return_index=True)
    return Parts(
        units=np.rint(coordinates * 10.0**DECIMALS).astype(np.int64),
        ring_offsets=np.searchsorted(of_ring, np.arange(len(rings) + 1)),
        part_offsets=np.searchsorted(of_part, np.arange(len(parts) + 1)),
        offsets=offsets,
    )


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
    """Cut one polygon in longitude and latitude at the antimeridian; all of it comes to lie in -180 ... 180.

    Each ring is laid out without jumps, cut into strips of 360 degrees and moved back; then holes are taken off.

    Args:
        shape: it may have several parts.
        jumps: whether a step of more than 180 degrees means that the antimeridian was crossed.
    """
    parts: list[shapely.Geometry] = []
    for part in shapely.get_parts(shape):
        shell, *holes = (_unroll(ring, jumps=jumps) for ring in shapely.get_rings(part))
        parts.append(shapely.difference(shell, shapely.union_all(holes)))
    return shapely.union_all(parts)


def _unroll(ring: shapely.Geometry, *, jumps: bool) -> shapely.Geometry:
    """Bring what a ring encloses between -180 and 180. One around a pole is closed at the pole."""
    lon, lat = shapely.get_coordinates(ring).T
    if jumps:
        # in whole turns, so that a ring that comes back comes back to the last bit
        lon = lon - 360 * np.concatenate([[0], np.cumsum(np.round(np.diff(lon) / 360))])
        gained = lon[-1] - lon[0]
        if abs(gained) > 180:
            pole = math.copysign(90, lat.mean())
            first = np.abs(lat - pole).argmin()  # nothing lies between it and the pole
            lon = np.concatenate([lon[first:-1], lon[: first + 1] + gained])
            lat = np.concatenate([lat[first:-1], lat[: first + 1]])
            lon = np.concatenate([lon, [lon[-1], lon[0]]])
            lat = np.concatenate([lat, [pole, pole]])
    # beside a pole edges are so bent that straight ones cross
    laid_out = shapely.make_valid(
        shapely.polygons(np.column_stack([lon, lat])), method="structure", keep_collapsed=False
    )
    pieces: list[shapely.Geometry] = []
    for strip in range(math.floor((lon.min() + 180) / 360), math.ceil((lon.max() + 180) / 360)):
        turn = 360.0 * strip
        cut = shapely.get_parts(shapely.intersection(laid_out, shapely.box(turn - 180, -90, turn + 180, 90)))
        whole = cut[shapely.get_dimensions(cut) == shapely.get_dimensions(laid_out)]
        pieces.extend(shapely.transform(whole, lambda xy, turn=turn: xy - [turn, 0.0]))
    return shapely.union_all(pieces)


def round_polygons(wkb: pa.LargeBinaryArray, crs: pyproj.CRS) -> tuple[Integers, Integers, Integers, NDArray[np.bool_]]:
    """Carry plain polygons to WGS 84 and round them, as far as this is sure to leave them valid.

    Sure are polygons that are valid once they are rounded, see :func:`geoseg.export.validity.keep_valid`, unless they
    have edges that must be bent, or lie across the antimeridian.

    Args:
        wkb: (n,) large_binary, little endian, exterior rings counter-clockwise; of any type, or null.
        crs: of the geometries.

    Returns:
        Vertices (v, 2) int64, in units of 10**-DECIMALS degrees, without repeated ones; offsets of rings (r + 1,) and
        of polygons (n + 1,); and (n,) whether each is sure. Nothing is to be made of those that are not.

    Raises:
        OutputError: coordinates outside of what the CRS can map to the globe.
    """
    data = np.frombuffer(wkb.buffers()[2] or b"", np.uint8)
    starts = np.frombuffer(wkb.buffers()[1], np.int64)[wkb.offset : wkb.offset + len(wkb) + 1]
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
    keep_valid(units, ring_offsets, polygon_offsets, sure)
    return units, ring_offsets, polygon_offsets, sure


@numba.njit(cache=True, nogil=True)
def _uint32(data: NDArray[np.uint8], at: int) -> int:
    return int(data[at]) | int(data[at + 1]) << 8 | int(data[at + 2]) << 16 | int(data[at + 3]) << 24


@numba.njit(cache=True, nogil=True)
def _count(data: NDArray[np.uint8], starts: Integers) -> tuple[Integers, NDArray[np.bool_]]:
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
    starts: Integers,
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

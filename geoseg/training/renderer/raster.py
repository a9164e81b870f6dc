"""Vector shapes to pixels, and the noise that paints them.

Both rasterizers walk the edges of all shapes at once: each edge adds its value where a scanline enters a shape and
takes it away where the scanline leaves, and a running sum along the rows fills the rest (the accumulation buffer of
font-rs, here with numpy). `label` samples at pixel centres, as GDAL does; `paint` measures the covered area.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely.geometry.base import BaseGeometry

__all__ = ["Edges", "edges_of", "edges_of_rings", "fractal", "label", "paint", "streaks"]

Floats = NDArray[np.floating[Any]]
_SUBROWS = 4


@dataclass(frozen=True)
class Edges:
    """Directed edges, the inside on one fixed side, with the values that they carry.

    Attributes:
        start: float64 (n, 2), x and y in pixels.
        stop: float64 (n, 2).
        values: float64 (n, channels).
    """

    start: NDArray[np.float64]
    stop: NDArray[np.float64]
    values: NDArray[np.float64]


def edges_of(shapes: Sequence[BaseGeometry] | NDArray[np.object_], values: ArrayLike) -> Edges:
    """Edges of polygons, holes included.

    Args:
        shapes: polygons or multipolygons, in pixels.
        values: one row of values per shape, or one value per shape.
    """
    table = np.asarray(values, np.float64).reshape(len(shapes), -1)
    parts, owner = shapely.get_parts(np.asarray(shapes, object), return_index=True)
    is_area = shapely.get_type_id(parts) == 3
    parts, owner = shapely.orient_polygons(parts[is_area]), owner[is_area]
    rings, part_of_ring = shapely.get_rings(parts, return_index=True)
    points, ring_of_point = shapely.get_coordinates(rings, return_index=True)
    same = ring_of_point[1:] == ring_of_point[:-1]
    return Edges(points[:-1][same], points[1:][same], table[owner[part_of_ring[ring_of_point[:-1][same]]]])


def edges_of_rings(rings: NDArray[np.float64], values: ArrayLike) -> Edges:
    """Edges of many small simple rings of equally many corners: float64 (n, corners, 2), not closed."""
    table = np.asarray(values, np.float64).reshape(len(rings), -1)
    following = np.roll(rings, -1, axis=1)
    area = (rings[..., 0] * following[..., 1] - following[..., 0] * rings[..., 1]).sum(axis=1)
    rings = np.where(area[:, None, None] < 0, rings[:, ::-1], rings)
    following = np.roll(rings, -1, axis=1)
    return Edges(rings.reshape(-1, 2), following.reshape(-1, 2), np.repeat(table, rings.shape[1], axis=0))


def _crossings(
    edges: Edges, height: int, subrows: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Where scanlines meet edges: (subrow, x, index of the edge, +1 on entering or -1 on leaving)."""
    down = edges.stop[:, 1] > edges.start[:, 1]
    upper = np.where(down[:, None], edges.start, edges.stop)
    lower = np.where(down[:, None], edges.stop, edges.start)
    first = np.clip(np.ceil(upper[:, 1] * subrows - 0.5), 0, height * subrows).astype(np.int64)
    stop = np.clip(np.ceil(lower[:, 1] * subrows - 0.5), 0, height * subrows).astype(np.int64)
    count = np.maximum(stop - first, 0)
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    extent = np.where(lower[:, 1] > upper[:, 1], lower[:, 1] - upper[:, 1], 1.0)
    slope = (lower[:, 0] - upper[:, 0]) / extent
    x = upper[edge, 0] + ((row + 0.5) / subrows - upper[edge, 1]) * slope[edge]
    return row, x, edge, np.where(down[edge], -1.0, 1.0)


def label(edges: Edges, height: int, width: int) -> NDArray[np.int32]:
    """Number every pixel by the shape that its centre lies in; 0 outside. Shapes must not overlap.

    Args:
        edges: with one integer value per shape.
        height: rows.
        width: columns.

    Returns:
        int32 (height, width).
    """
    row, x, edge, sign = _crossings(edges, height, 1)
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    grid = np.bincount(row * (width + 1) + column, weights=sign * edges.values[edge, 0], minlength=height * (width + 1))
    filled = np.cumsum(grid.reshape(height, width + 1), axis=1)[:, :width]
    return np.rint(filled).astype(np.int32)


def paint(edges: Edges, height: int, width: int) -> tuple[Floats, Floats]:
    """Cover pixels with the area of shapes, each in its own colour.

    Args:
        edges: with a colour per shape, or no values at all for the coverage alone.
        height: rows.
        width: columns.

    Returns:
        Coverage 0..1, float32 (height, width), and colours, float32 (channels, height, width), which are only
        meaningful where the coverage is above zero.
    """
    cover = np.zeros((height, width), np.float32)
    colours = np.zeros((edges.values.shape[1], height, width), np.float32)
    row, x, edge, sign = _crossings(edges, height, _SUBROWS)
    if not len(row):
        return cover, colours
    # sums run over the rows and columns that the shapes reach, not over the whole picture
    x = np.clip(x, 0, width)
    top, left = int(row.min()) // _SUBROWS, int(x.min())
    rows = int(row.max()) // _SUBROWS - top + 1
    cols = min(int(x.max()) + 1, width) - left
    column = x.astype(np.int64)
    later = (x - column) * sign / _SUBROWS
    now = sign / _SUBROWS - later
    flat = (row // _SUBROWS - top) * (cols + 2) + column - left

    def fill(weights: NDArray[np.float64] | None) -> Floats:
        scale = 1.0 if weights is None else weights
        grid = np.bincount(flat, weights=now * scale, minlength=rows * (cols + 2))
        grid += np.bincount(flat + 1, weights=later * scale, minlength=rows * (cols + 2))
        return np.cumsum(grid.reshape(rows, cols + 2), axis=1)[:, :cols].astype(np.float32)

    if cols <= 0:
        return cover, colours
    at = np.s_[top : top + rows, left : left + cols]
    share = fill(None)
    cover[at] = np.clip(share, 0, 1)
    safe = np.maximum(share, 1e-3)
    for channel in range(len(colours)):
        colours[channel][at] = fill(edges.values[edge, channel]) / safe
    return cover, colours


def fractal(
    rng: np.random.Generator, size: int, gsd_m: float, *, coarse_m: float, fine_m: float, roughness: float = 0.6
) -> Floats:
    """Noise of many scales: float32 (size, size), mean near 0, deviation near 1.

    Args:
        rng: the source of chance.
        size: rows and columns.
        gsd_m: metres per pixel.
        coarse_m: the largest wavelength.
        fine_m: the smallest; waves below two pixels are left out.
        roughness: amplitude of each octave over the one before.
    """
    total = np.zeros((size, size), np.float32)
    power, amplitude, wave = 0.0, 1.0, coarse_m
    while wave >= fine_m:
        cells = size * gsd_m / wave * 2 + 4
        if cells >= size:  # finer than the pixels: one value for each, then stop
            total += amplitude * rng.standard_normal((size, size), np.float32)
            power += amplitude**2
            break
        knots = rng.standard_normal((int(cells), int(cells)), np.float32)
        shift = rng.uniform(0, 1, 2)
        scale = wave / 2 / gsd_m
        matrix = np.array([[1 / scale, 0, 1 + shift[0]], [0, 1 / scale, 1 + shift[1]]])
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        total += amplitude * cv2.warpAffine(knots, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT)
        power += 0.55 * amplitude**2
        amplitude *= roughness
        wave /= 2.2
    return total / np.float32(max(power, 1e-6) ** 0.5)


def streaks(rng: np.random.Generator, *, rows: int = 512, cols: int = 1024) -> Floats:
    """A texture that repeats without seams, rough down its rows and smooth along them: float32 (rows, cols)."""
    across = np.fft.fftfreq(rows)[:, None]
    along = np.fft.fftfreq(cols)[None, :]
    # one term for the passes of the machine, one for short gaps within them
    weight = np.exp(-((along / 0.008) ** 2)) / (0.02 + np.abs(across)) ** 0.5
    weight += 0.4 * np.exp(-((along / 0.09) ** 2)) * np.exp(-((across / 0.3) ** 2))
    spectrum = np.fft.fft2(rng.standard_normal((rows, cols))) * weight
    texture = np.real(np.fft.ifft2(spectrum))
    return np.asarray(texture / texture.std(), np.float32)

"""Grass, fields, shores and water."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

from geoseg.training.renderer.canvas import Canvas
from geoseg.training.renderer.land import Field, Land
from geoseg.training.renderer.palette import CROP_LOOKS, Palette
from geoseg.training.renderer.raster import edges_of, label, streaks

__all__ = ["grow_orchards", "paint_fields", "paint_grass", "paint_places", "paint_water"]

Floats = NDArray[np.floating[Any]]


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x), np.float32)


def paint_grass(canvas: Canvas, palette: Palette) -> None:
    """Rough grass from straw to green, thin places with soil."""
    mix = _sigmoid(1.3 * canvas.broad + 0.9 * canvas.patchy)
    bright = 1 + 0.07 * canvas.mottled + 0.035 * canvas.grain + 0.05 * canvas.other(canvas.patchy)
    thin = _sigmoid(3.0 * (canvas.other(canvas.patchy) + 0.6 * canvas.mottled - 1.9))
    for channel in range(3):
        base = palette.grass[channel] * 0.94 + mix * (palette.straw[channel] - palette.grass[channel]) * 0.65
        base += thin * (palette.soil[channel] - base) * 0.7
        canvas.rgb[channel] = base * bright
    # tussocks and bushes, darker and a little raised
    bush = _sigmoid(5.0 * (canvas.other(canvas.mottled) - 1.6 + 0.4 * canvas.patchy))
    canvas.blend(bush * 0.5, palette.crown * 1.05, noise=0.08 * canvas.grain)


def paint_places(canvas: Canvas, palette: Palette, land: Land) -> None:
    """Wood floors, lawns of settlements, yards and drives."""
    if land.woods:
        floor = cv2.GaussianBlur(canvas.cover(land.woods), (0, 0), 2.0 / canvas.gsd_m)
        canvas.blend(floor, palette.crown * 0.55, noise=0.15 * canvas.mottled)
    if land.gardens:
        lawn = cv2.GaussianBlur(canvas.cover(land.gardens), (0, 0), 3.0 / canvas.gsd_m)
        colour = palette.grass * 0.75 + np.array([98, 124, 66]) * 0.25
        canvas.blend(lawn * np.clip(0.75 + 0.25 * canvas.patchy, 0, 1), colour, noise=0.07 * canvas.mottled)
    if land.yards:
        yard = cv2.GaussianBlur(canvas.cover(land.yards), (0, 0), 0.8 / canvas.gsd_m)
        rough = np.clip(0.95 + 0.25 * canvas.mottled, 0, 1)
        canvas.blend(yard * rough, palette.gravel * 0.93, noise=0.07 * canvas.patchy + 0.04 * canvas.grain)
    if land.drives:
        canvas.blend(
            canvas.cover(land.drives) * 0.93, palette.concrete, noise=0.06 * canvas.mottled + 0.03 * canvas.patchy
        )


class _Table:
    """One value per field, looked up through the pixels' field numbers; 0 stands for no field."""

    def __init__(self, numbers: NDArray[np.int32]) -> None:
        self.numbers = numbers

    def __call__(self, values: NDArray[np.float64]) -> Floats:
        return np.concatenate([[0], values]).astype(np.float32)[self.numbers]


def _row_coordinates(canvas: Canvas, fields: Sequence[Field], pick: _Table, edge_m: Floats) -> tuple[Floats, Floats]:
    """Metres across and along the rows of each field; on headlands rows follow the border."""
    rng, n = canvas.rng, len(fields)
    grid = (np.arange(canvas.size, dtype=np.float32) + 0.5) * np.float32(canvas.gsd_m)
    headings = np.array([field.heading for field in fields])
    cos, sin = pick(np.cos(headings)), pick(np.sin(headings))
    sway = canvas.broad * np.float32(0.7)
    across = cos * grid[:, None] - sin * grid[None, :] + sway + pick(rng.uniform(0, 400, n))
    along = cos * grid[None, :] + sin * grid[:, None] + pick(rng.uniform(0, 4000, n))
    headland = edge_m < pick(np.where(rng.random(n) < 0.6, rng.uniform(6, 18, n), 0))
    across = np.where(headland, edge_m, across)
    for number, field in enumerate(fields, start=1):
        if field.circle:
            x, y = shapely.get_coordinates(field.polygon.centroid)[0] - canvas.origin
            radius = np.hypot(grid[None, :] - np.float32(x), grid[:, None] - np.float32(y))
            across = np.where(pick.numbers == number, radius, across)
    return across, along


def _tramlines(canvas: Canvas, pick: _Table, across: Floats, looks: list[str]) -> Floats:
    """Wheel tracks of sprayers: pairs 1.9 m apart, a boom's width between pairs."""
    rng, n = canvas.rng, len(looks)
    has = np.array([name in ("wheat", "cereal", "rape", "beans", "ripe", "maize") for name in looks]) & (
        rng.random(n) < 0.6
    )
    boom = pick(rng.choice([18.0, 24.0, 27.0, 36.0], n))
    nearest = np.abs(np.mod(across, np.maximum(boom, 1)) - boom / 2)
    width = max(0.45, canvas.gsd_m)
    mark = np.clip(1 - np.abs(nearest - 0.95) / np.float32(width), 0, 1) * np.float32(min(1.0, 0.5 / canvas.gsd_m))
    return mark * pick(has * rng.uniform(0.25, 0.7, n))


def _field_colours(
    canvas: Canvas, palette: Palette, looks: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Canopy and soil of each field, (n, 3) each."""
    rng, n = canvas.rng, len(looks)
    canopy = np.array([CROP_LOOKS[name].colour for name in looks], np.float64)
    # each crop has its own look this year, and each field its own sowing date
    variety = {name: rng.normal(0, 5) + rng.normal(0, 5) * np.array([1.0, 0.25, -0.3]) for name in CROP_LOOKS}
    canopy += (
        np.array([variety[name] for name in looks])
        + rng.normal(0, 7, (n, 1))
        + rng.normal(0, 6, (n, 1)) * np.array([1.0, 0.2, 0.1])
    )
    earthy = np.array([name in ("bare", "ploughed", "young") for name in looks])
    canopy[earthy] = (
        0.45 * canopy[earthy]
        + 0.55 * palette.soil * np.where(np.array(looks)[earthy] == "ploughed", 0.78, 1.0)[:, None]
    )
    soil = palette.soil * rng.normal(0.97, 0.05, (n, 1)) + rng.normal(0, 3, (n, 1)) * np.array([1.0, 0.0, -1.0])
    return canopy, soil


def paint_fields(canvas: Canvas, palette: Palette, fields: Sequence[Field], outlines: Sequence[Polygon]) -> None:
    """Crops in rows, with headlands, wheel tracks, thin places and the marks of machines.

    Args:
        canvas: the picture.
        palette: its colours.
        fields: crop and heading of each.
        outlines: their polygons in pixels.
    """
    if not fields:
        return
    rng, n, size = canvas.rng, len(fields), canvas.size
    numbers = label(edges_of(outlines, np.arange(1, n + 1)), size, size)
    numbers = np.clip(numbers, 0, n)
    cover = canvas.cover(outlines, in_pixels=True)
    # antialiased rims belong to the nearest field
    rim = (numbers == 0) & (cover > 0)
    grown = cv2.dilate(numbers.astype(np.float32), np.ones((3, 3), np.uint8)).astype(np.int32)
    numbers = np.where(rim, grown, numbers)
    pick = _Table(numbers)
    looks = [field.crop for field in fields]
    inner = (numbers > 0) & (
        cv2.morphologyEx(numbers.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) == 0
    )
    edge_m = cv2.distanceTransform(inner.astype(np.uint8), cv2.DIST_L2, 5) * np.float32(canvas.gsd_m)
    across, along = _row_coordinates(canvas, fields, pick, edge_m)
    canopy, soil = _field_colours(canvas, palette, looks)

    texture = streaks(rng)
    step = max(0.55, canvas.gsd_m * 0.8)
    marks = cv2.remap(
        texture, along / np.float32(4.2), across / np.float32(step), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )
    spacing = np.array([CROP_LOOKS[name].row_m for name in looks]) * rng.uniform(0.8, 1.3, n)
    sharp = np.exp(-1.6 * (canvas.gsd_m / spacing) ** 2)  # what the optics leave of the rows
    depth = np.array([CROP_LOOKS[name].rows for name in looks]) * rng.uniform(0.4, 1.5, n) * sharp
    rows = np.sin(across * pick(2 * np.pi / spacing)) * pick(depth) * np.clip(1 + 0.4 * canvas.mottled, 0, 2)
    machine = rng.choice([3.0, 4.5, 6.0, 9.0, 12.0], n)
    passes = np.mod(np.floor(across / np.maximum(pick(machine), 1)), 2) - np.float32(0.5)
    mown = np.array([name in ("meadow", "stubble", "ploughed", "bare") for name in looks])
    passes *= pick(np.where(mown, rng.uniform(0, 0.05, n), rng.uniform(0, 0.02, n)))
    streak = pick(np.array([CROP_LOOKS[name].streak for name in looks]) * rng.uniform(0.6, 1.5, n))
    bright = 1 + rows + passes + streak * marks
    bright += pick(rng.uniform(0.015, 0.05, n)) * canvas.broad + pick(rng.uniform(0.02, 0.05, n)) * canvas.patchy
    bright += pick(rng.uniform(0.012, 0.03, n)) * (canvas.mottled + canvas.grain)

    vigour = np.array([CROP_LOOKS[name].cover for name in looks])
    relief = canvas.other(canvas.broad) + 0.45 * canvas.patchy + 0.12 * marks + 0.1 * canvas.mottled
    bias = pick(rng.uniform(1.2, 4.2, n) * vigour - 1.0) - np.float32(0.8) * np.exp(-edge_m / 5)
    thin = 1 - _sigmoid(pick(rng.uniform(1.2, 4.0, n)) * (bias - np.abs(relief) * np.float32(0.9)))
    thin = np.clip(thin + _tramlines(canvas, pick, across, looks), 0, 1) * pick(rng.uniform(0.55, 1.0, n))
    colours = np.empty((3, size, size), np.float32)
    ripening = canvas.broad * pick(rng.normal(0, 6, n))
    for channel in range(3):
        leaf = pick(canopy[:, channel]) + ripening * np.float32((1.0, 0.35, 0.1)[channel])
        colours[channel] = (leaf + thin * (pick(soil[:, channel]) - leaf)) * bright
    canvas.blend(cover, colours)
    # unmown rims between fields that touch
    rims = np.exp(-edge_m / np.float32(0.55 + 0.3 * canvas.gsd_m)) * pick(rng.uniform(0.0, 0.65, n)) * cover
    rims *= np.clip(0.8 + 0.5 * canvas.mottled, 0, 1)
    canvas.blend(rims, palette.grass * 0.9, noise=0.1 * canvas.mottled)
    crop_height = np.array([CROP_LOOKS[name].height_m for name in looks])
    np.maximum(canvas.height, pick(crop_height * rng.uniform(0.5, 1.1, n)) * (edge_m > 0.8), out=canvas.height)


def grow_orchards(fields: Sequence[Field], rng: np.random.Generator) -> NDArray[np.float64]:
    """Trees of orchards on their grid: float64 (n, 4), in metres."""
    planted = [np.zeros((0, 4))]
    for field in fields:
        if field.crop != "orchard":
            continue
        axis = np.array([np.cos(field.heading), np.sin(field.heading)])
        turn = np.stack([axis, [-axis[1], axis[0]]])
        local = shapely.get_coordinates(field.polygon) @ turn.T
        (u0, v0), (u1, v1) = local.min(axis=0), local.max(axis=0)
        row, tree = rng.uniform(5.0, 7.5), rng.uniform(3.0, 6.0)
        grid = np.stack(np.meshgrid(np.arange(u0, u1, tree), np.arange(v0, v1, row)), axis=-1).reshape(-1, 2)
        points = (grid + rng.normal(0, 0.15, grid.shape)) @ turn
        keep = shapely.contains_xy(field.polygon.buffer(-3.5), points[:, 0], points[:, 1]) & (
            rng.random(len(points)) < 0.95
        )
        size = rng.uniform(0.75, 1.0, int(keep.sum())) * min(tree * 0.48, 2.6)
        planted.append(np.column_stack([points[keep], size, size * 1.5]))
    return np.concatenate(planted)


def paint_water(canvas: Canvas, palette: Palette, outlines: Sequence[Polygon]) -> None:
    """Sand and mud on the shore, shallows, deep water, ripples and glint.

    Args:
        canvas: the picture.
        palette: its colours.
        outlines: water in pixels, bridges not cut out.
    """
    if not len(outlines):
        return
    rng, gsd = canvas.rng, np.float32(canvas.gsd_m)
    cover = canvas.cover(outlines, in_pixels=True)
    wet = (cover > 0.5).astype(np.uint8)
    if not wet.any():
        return
    outside = cv2.distanceTransform(1 - wet, cv2.DIST_L2, 5) * gsd
    inside = cv2.distanceTransform(wet, cv2.DIST_L2, 5) * gsd
    shifting = canvas.other(canvas.broad) + 0.5 * canvas.other(canvas.patchy)
    beach = np.clip(1.2 + 2.6 * shifting, 0.3, 11) * np.float32(rng.uniform(0.4, 1.3))
    sandy = _sigmoid(3.0 * (beach - outside) / np.maximum(beach, 1)) * (outside < 14)
    damp = 1 - np.float32(0.3) * np.exp(-outside / 0.9)
    mud = palette.sand * rng.uniform(0.72, 1.0)
    for channel in range(3):
        canvas.rgb[channel] += sandy * 0.85 * (mud[channel] * damp * (1 + 0.05 * canvas.mottled) - canvas.rgb[channel])
    # reeds
    reeds = _sigmoid(4.0 * (canvas.other(canvas.patchy) - 0.7)) * np.exp(-((outside / 3.0) ** 2)) * (outside > 0)
    canvas.blend(reeds * 0.8, palette.grass * 0.72, noise=0.15 * canvas.mottled)

    clear = np.float32(rng.uniform(1.5, 9.0))
    depth = 1 - np.exp(-inside / (clear * np.clip(1 + 0.5 * shifting, 0.3, 2.5)))
    wind = canvas.other(canvas.broad)
    swell = np.asarray(cv2.GaussianBlur(canvas.other(canvas.grain), (0, 0), max(0.7 / canvas.gsd_m, 0.35)))
    ripple = swell / max(float(swell.std()), 1e-6)
    gradient = (
        np.linspace(-1, 1, canvas.size)[:, None] * canvas.sun[1]
        + np.linspace(-1, 1, canvas.size)[None, :] * canvas.sun[0]
    )
    glint = (
        np.clip(ripple + 0.8 * canvas.mottled - 2.4, 0, 2)
        * np.clip(0.4 + wind, 0, 1.5)
        * np.float32(rng.choice([0.0, 2.0, 6.0, 16.0], p=[0.45, 0.35, 0.15, 0.05]))
    )
    sky = rng.uniform(0, 10) * gradient.astype(np.float32) + 2.4 * wind + 1.3 * ripple + glint
    colours = np.empty_like(canvas.rgb)
    for channel in range(3):
        tone = palette.shallow[channel] + depth * (palette.deep[channel] - palette.shallow[channel])
        colours[channel] = tone + sky * np.float32((0.8, 0.95, 1.1)[channel]) + 2.2 * canvas.patchy
    canvas.blend(cover, colours)

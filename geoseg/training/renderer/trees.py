"""Crowns of trees, one by one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoseg.training.renderer.canvas import Canvas
from geoseg.training.renderer.palette import Palette

__all__ = ["paint_trees"]

_AT_ONCE = 3_000_000


def _stamp(
    canvas: Canvas,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radius: NDArray[np.float64],
    tall: NDArray[np.float64],
) -> NDArray[np.int64]:
    """The crown that is highest at each pixel: its number, -1 where there is none."""
    size = canvas.size
    best = np.full(size * size, -1, np.int64)
    reach = np.ceil(radius * 1.15 + 0.5).astype(np.int64)
    for span in np.unique(reach):
        group = np.flatnonzero(reach == span)
        offset = np.arange(-span, span + 1)
        dy, dx = (grid.ravel() for grid in np.meshgrid(offset, offset, indexing="ij"))
        for start in range(0, len(group), max(_AT_ONCE // len(dx), 1)):
            part = group[start : start + max(_AT_ONCE // len(dx), 1)]
            cols = np.floor(x[part]).astype(np.int64)[:, None] + dx
            rows = np.floor(y[part]).astype(np.int64)[:, None] + dy
            far = np.hypot(cols + 0.5 - x[part][:, None], rows + 0.5 - y[part][:, None])
            share = far / (radius[part][:, None] * 1.15 + 0.35)
            keep = (share < 1) & (cols >= 0) & (cols < size) & (rows >= 0) & (rows < size)
            owner = np.broadcast_to(part[:, None], keep.shape)[keep]
            level = (tall[owner] * (1 - 0.75 * share[keep] ** 2) * 1000).astype(np.int64)
            np.maximum.at(best, rows[keep] * size + cols[keep], (level << 24) + owner)
    return np.where(best >= 0, best & 0xFFFFFF, -1).reshape(size, size)


def paint_trees(canvas: Canvas, palette: Palette, trees: NDArray[np.float64]) -> None:
    """Paint crowns lit from one side, ragged at the rim, and give them their height.

    Args:
        canvas: the picture.
        palette: its colours.
        trees: float64 (n, 4): x, y, radius, height in metres on the land.
    """
    rng, gsd = canvas.rng, canvas.gsd_m
    places = canvas.pixels(trees[:, :2])
    near = ((places > -20) & (places < canvas.size + 20)).all(axis=1)
    trees, places = trees[near], places[near]
    if not len(trees):
        return
    radius = trees[:, 2] / gsd
    owner = _stamp(canvas, places[:, 0], places[:, 1], radius, trees[:, 3])
    rows, cols = np.nonzero(owner >= 0)
    number = owner[rows, cols]
    dx = ((cols + 0.5 - places[number, 0]) / radius[number]).astype(np.float32)
    dy = ((rows + 0.5 - places[number, 1]) / radius[number]).astype(np.float32)
    ragged = canvas.other(canvas.mottled)[rows, cols] * np.float32(0.16) + canvas.grain[rows, cols] * np.float32(0.05)
    far = np.hypot(dx, dy)
    soft = np.maximum(0.6 / radius[number], 0.1).astype(np.float32)
    alpha = np.clip((1 + ragged - far) / soft, 0, 1)
    dome = np.sqrt(np.clip(1.08 - far**2, 0, 1))
    light = (dx * np.float32(canvas.sun[0]) + dy * np.float32(canvas.sun[1])) * np.float32(0.75) + dome * np.float32(
        0.6
    )
    leaves = canvas.mottled[rows, cols] * np.float32(0.13) + canvas.grain[rows, cols] * np.float32(0.1)
    bright = 0.52 + 0.52 * light + leaves
    n = len(trees)
    kinds = rng.random(n)[:, None] ** 1.5
    tones = palette.crown * (1 - kinds) + palette.crown_other * kinds
    tones *= rng.normal(1, 0.1, (n, 1))
    tones += rng.normal(0, 4, (n, 3))
    for channel in range(3):
        target = canvas.rgb[channel][rows, cols]
        colour = tones[number, channel].astype(np.float32) * np.clip(bright, 0.2, 1.7)
        canvas.rgb[channel][rows, cols] = target + alpha * (colour - target)
    level = trees[number, 3].astype(np.float32) * (0.35 + 0.65 * dome) * (alpha > 0.5)
    canvas.height[rows, cols] = np.maximum(canvas.height[rows, cols], level)

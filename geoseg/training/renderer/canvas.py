"""The picture while it is painted: colours, heights and shared noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely.geometry.base import BaseGeometry

from geoseg.training.renderer.raster import edges_of, edges_of_rings, fractal, paint

__all__ = ["Canvas"]

Floats = NDArray[np.floating[Any]]


class Canvas:
    """Colours and heights of a square picture, with brushes that take metres on the land.

    Attributes:
        rgb: float32 (3, size, size), 0..255 and beyond.
        height: float32 (size, size), metres above the ground, for shadows.
        sun: float64 (2,), unit vector towards the sun on the ground (y down).
        slope: height lost per metre along a ray of light.
    """

    def __init__(self, rng: np.random.Generator, size: int, gsd_m: float, origin: NDArray[np.float64]) -> None:
        self.rng = rng
        self.size = size
        self.gsd_m = gsd_m
        self.origin = origin
        self.rgb = np.zeros((3, size, size), np.float32)
        self.height = np.zeros((size, size), np.float32)
        azimuth = rng.uniform(0, 2 * np.pi)
        self.sun = np.array([np.cos(azimuth), np.sin(azimuth)])
        self.slope = float(np.tan(np.radians(rng.uniform(33, 62))))
        self.broad = fractal(rng, size, gsd_m, coarse_m=420, fine_m=9, roughness=0.68)
        self.patchy = fractal(rng, size, gsd_m, coarse_m=70, fine_m=2.5, roughness=0.75)
        self.mottled = fractal(rng, size, gsd_m, coarse_m=9, fine_m=0.9, roughness=0.9)
        self.grain = rng.standard_normal((size, size), np.float32)

    def other(self, noise: Floats) -> Floats:
        """The same noise turned and flipped by chance: as good as new, and much cheaper."""
        flipped = noise[:: self.rng.choice([-1, 1]), :: self.rng.choice([-1, 1])]
        return np.ascontiguousarray(flipped.T if self.rng.random() < 0.5 else flipped)

    def pixels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Metres on the land to pixel corners, (..., 2)."""
        return (points - self.origin) / self.gsd_m

    def outlines(self, shapes: Sequence[BaseGeometry]) -> NDArray[np.object_]:
        """Shapes in metres to shapes in pixels."""
        moved: NDArray[np.object_] = shapely.transform(np.asarray(shapes, object), self.pixels)
        return moved

    def cover(self, shapes: Sequence[BaseGeometry], *, in_pixels: bool = False) -> Floats:
        """Covered area of each pixel, 0..1: float32 (size, size)."""
        outlines = np.asarray(shapes, object) if in_pixels else self.outlines(shapes)
        edges = edges_of(outlines, np.zeros((len(outlines), 0)))
        return paint(edges, self.size, self.size)[0]

    def cover_rings(self, rings: NDArray[np.float64]) -> Floats:
        """Covered area of each pixel by small rings in metres, (n, corners, 2)."""
        edges = edges_of_rings(self.pixels(rings), np.zeros((len(rings), 0)))
        return paint(edges, self.size, self.size)[0]

    def blend(self, alpha: NDArray[Any], colour: ArrayLike, *, noise: Floats | None = None) -> None:
        """Lay a colour, (3,) or (3, size, size), over the picture; noise is in shares of its brightness."""
        rows, cols = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
        if not len(rows):
            return
        at = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        part, tone = alpha[at], np.asarray(colour, np.float32)
        gain = None if noise is None else 1 + noise[at]
        for channel in range(3):
            wanted = tone[channel] if tone.ndim == 1 else tone[channel][at]
            target = self.rgb[channel][at]
            target += part * ((wanted if gain is None else wanted * gain) - target)

    def quads(
        self, rings: NDArray[np.float64], colours: ArrayLike, *, strength: float = 1.0, noise: Floats | None = None
    ) -> None:
        """Paint many small rings in metres, (n, corners, 2), each in its own colour, (n, 3)."""
        if len(rings) == 0:
            return
        outlines = self.pixels(rings)
        near = ((outlines > -80) & (outlines < self.size + 80)).all(axis=(1, 2))
        if near.any():
            cover, tones = paint(
                edges_of_rings(outlines[near], np.asarray(colours, np.float64)[near]), self.size, self.size
            )
            self.blend(cover * np.float32(strength), tones, noise=noise)

    def raise_rings(self, rings: NDArray[np.float64], heights: ArrayLike) -> None:
        """Give rings in metres a height; where they meet, the mean."""
        if len(rings) == 0:
            return
        outlines = self.pixels(rings)
        cover, tones = paint(edges_of_rings(outlines, np.asarray(heights, np.float64)[:, None]), self.size, self.size)
        np.maximum(self.height, np.where(cover > 0.5, tones[0], 0), out=self.height)

    def cast_shadows(self) -> None:
        """Darken what the sun does not reach, doubling the reach of the light's rays in each step."""
        seen = self.height
        reach_px = float(self.height.max()) / self.slope / self.gsd_m
        step = 1.0
        while step <= max(reach_px, 1.0) * 1.01 + 1:
            matrix = np.array([[1, 0, step * self.sun[0]], [0, 1, step * self.sun[1]]])
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            moved = cv2.warpAffine(seen, matrix, (self.size, self.size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
            seen = np.maximum(seen, moved - np.float32(step * self.slope * self.gsd_m))
            step *= 2
        shade = np.clip((seen - self.height - 0.2) / np.float32(0.5 + 0.3 * self.gsd_m), 0, 1)
        shade = cv2.GaussianBlur(shade, (0, 0), max(0.3 / self.gsd_m, 0.4))
        for channel, depth in enumerate((0.66, 0.61, 0.52)):  # skylight is blue
            self.rgb[channel] *= 1 - np.float32(depth) * shade

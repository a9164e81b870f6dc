"""From the painted land to what a camera hands over: haze, falling light, blur, noise, compression."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from geoseg.training.renderer.canvas import Canvas
from geoseg.training.renderer.palette import Palette

__all__ = ["expose"]


def expose(canvas: Canvas, palette: Palette) -> NDArray[np.uint8]:
    """Turn colours into the picture of a camera: uint8 (3, size, size)."""
    rng, size = canvas.rng, canvas.size
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    falling = 1 + np.float32(rng.normal(0, 0.03)) * ramp[:, None] + np.float32(rng.normal(0, 0.03)) * ramp[None, :]
    falling -= np.float32(rng.uniform(0, 0.05)) * (ramp[:, None] ** 2 + ramp[None, :] ** 2)
    haze = np.float32(rng.beta(1.3, 8) * 0.5)
    contrast, gain = rng.uniform(0.9, 1.2), rng.uniform(0.9, 1.08)
    sigma = rng.uniform(0.45, 0.85)
    noise = rng.uniform(0.8, 3.2)
    sharpen = rng.uniform(0, 0.7)
    picture = np.empty((size, size, 3), np.float32)
    for channel in range(3):
        band = canvas.rgb[channel] * falling * np.float32(gain * palette.tint[channel])
        band += haze * (np.float32((196, 202, 214)[channel]) - band)
        band = cv2.GaussianBlur(band, (0, 0), sigma)
        band += np.float32(sharpen) * (band - cv2.GaussianBlur(band, (0, 0), 1.3))
        band = (band - 112) * np.float32(contrast) + 112
        grain = rng.standard_normal((size, size), np.float32)
        picture[..., 2 - channel] = band + grain * np.float32(noise) * np.sqrt(np.clip(band, 10, 255) / 120)
    encoded = cv2.imencode(
        ".jpg",
        np.clip(np.rint(picture), 0, 255).astype(np.uint8),
        [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(86, 97))],
    )[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(np.asarray(decoded, np.uint8)[..., ::-1].transpose(2, 0, 1))

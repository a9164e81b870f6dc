"""Pictures of predictions: a row per sample, with its image, the truth and what the network says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geoseg.atomic import staged
from geoseg.training.sampler import Sample

__all__ = ["draw_panel", "write_panel"]

# Okabe and Ito's colours, which most people with colour blindness tell apart (https://jfly.uni-koeln.de/color/)
_COLOURS = np.array(
    [(0, 114, 178), (213, 94, 0), (240, 228, 66), (204, 121, 167), (0, 158, 115), (230, 159, 0), (86, 180, 233)],
    np.uint8,
)
_UNKNOWN = np.array((90, 90, 90), np.uint8)
_EDGE = 4


def draw_panel(samples: Sequence[Sample], guesses: Sequence[NDArray[np.int64]]) -> NDArray[np.uint8]:
    """Draw a picture.

    Args:
        samples: to show.
        guesses: channel of every pixel (rows, cols), -1 = background, of each sample.

    Returns:
        uint8 (rows, cols, 3): image, truth, prediction side by side. Where no class is known the truth is grey;
        background is black.
    """
    rows = []
    for sample, guess in zip(samples, guesses, strict=True):
        image = sample.image[:3] if len(sample.image) >= 3 else sample.image[:1].repeat(3, axis=0)
        seen = (sample.weight > 0) & (sample.target > 0)
        truth = np.where(seen.any(axis=0), seen.argmax(axis=0), -1)
        shown = _paint(truth)
        shown[~(sample.weight > 0).any(axis=0)] = _UNKNOWN
        cells = [np.ascontiguousarray(image.transpose(1, 2, 0)), shown, _paint(guess)]
        rows.append(np.concatenate([np.pad(cell, ((0, _EDGE), (0, _EDGE), (0, 0))) for cell in cells], axis=1))
    return np.concatenate(rows)


def _paint(channels: NDArray[np.int64]) -> NDArray[np.uint8]:
    painted: NDArray[np.uint8] = _COLOURS[channels % len(_COLOURS)]
    painted[channels < 0] = 0
    return painted


def write_panel(path: Path, samples: Sequence[Sample], guesses: Sequence[NDArray[np.int64]]) -> None:
    """Write `draw_panel`'s picture as a PNG."""
    with staged(path) as inside:
        Image.fromarray(draw_panel(samples, guesses)).save(inside)

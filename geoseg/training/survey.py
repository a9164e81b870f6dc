"""What labelled pictures hold: pixels of each class, and places where each can be found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from geoseg.lattice import Window
from geoseg.training.crops import Crop

__all__ = ["Picture", "Survey", "survey"]

WINDOW = 2048
"""Side of the windows in which a picture is looked through, pixels."""
ANCHORS = 200
"""Places kept of each class in each picture."""


class Picture(Protocol):
    """A labelled image, held in memory (`Crop`) or read from disk window by window."""

    @property
    def name(self) -> str:
        """Where it came from."""

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""

    @property
    def gsd_m(self) -> float:
        """Metres per pixel."""

    def read(self, window: Window) -> Crop:
        """Cut a window; what sticks out mirrors the image and is unknown."""


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What one picture holds.

    Attributes:
        pixels: int64 (classes, 2): where each class is known, and where it is present.
        anchors: of each class, int32 (n, 2) rows and columns of pixels of that class; n is 0 where there is none.
    """

    pixels: NDArray[np.int64]
    anchors: tuple[NDArray[np.int32], ...]


def survey(picture: Picture, classes: int) -> Survey:
    """Look a picture through.

    Args:
        picture: any.
        classes: number of classes.
    """
    rng = np.random.default_rng(0)
    pixels = np.zeros((classes, 2), np.int64)
    found: list[list[tuple[int, NDArray[np.int32]]]] = [[] for _ in range(classes)]
    for window in _windows(*picture.size):
        crop = picture.read(window)
        for number in range(classes):
            pixels[number, 0] += np.count_nonzero(crop.known & (1 << number))
            flat = np.flatnonzero(crop.present & (1 << number))
            pixels[number, 1] += flat.size
            if flat.size:
                chosen = flat[rng.integers(flat.size, size=min(ANCHORS, flat.size))]
                rows, cols = np.divmod(chosen, window.width)
                places = np.stack([rows + window.row_off, cols + window.col_off], axis=1)
                found[number].append((flat.size, places.astype(np.int32)))
    return Survey(pixels, tuple(_thin(parts, rng) for parts in found))


def _thin(parts: list[tuple[int, NDArray[np.int32]]], rng: np.random.Generator) -> NDArray[np.int32]:
    """Keep so many places that all pixels of the picture are equally likely among them."""
    if len(parts) < 2:
        return parts[0][1] if parts else np.zeros((0, 2), np.int32)
    sizes = np.array([size for size, _ in parts], float)
    picked = rng.choice(len(parts), size=ANCHORS, p=sizes / sizes.sum())
    return np.stack([parts[part][1][rng.integers(len(parts[part][1]))] for part in picked])


def _windows(rows: int, cols: int) -> Iterator[Window]:
    for row in range(0, rows, WINDOW):
        for col in range(0, cols, WINDOW):
            yield Window(col, row, min(WINDOW, cols - col), min(WINDOW, rows - row))

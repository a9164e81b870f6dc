"""Masks of all kinds and any size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage


def spiral(rows: int, cols: int) -> np.ndarray:
    """A one-pixel path that winds inwards, one pixel between its turns."""
    mask = np.zeros((rows, cols), np.uint8)
    for first in range(0, (min(rows, cols) + 1) // 2, 2):
        last_row, last_col = rows - 1 - first, cols - 1 - first
        mask[first, max(first - 2, 0) : last_col + 1] = 1
        mask[first : last_row + 1, last_col] = 1
        mask[last_row, first : last_col + 1] = 1
        mask[min(first + 2, last_row) : last_row + 1, first] = 1
    return mask


def nested(rows: int, cols: int) -> np.ndarray:
    """Rings of five codes within each other, one pixel wide."""
    row, col = np.ogrid[:rows, :cols]
    depth = np.minimum(np.minimum(row, rows - 1 - row), np.minimum(col, cols - 1 - col))
    return (depth % 5).astype(np.uint8)


def realistic(rows: int, cols: int) -> np.ndarray:
    """The strongest of four smooth random fields, with rough edges and some nodata."""
    random = np.random.default_rng(11)

    def field(cell: int) -> np.ndarray:
        coarse = random.standard_normal((rows // cell + 4, cols // cell + 4))
        return ndimage.zoom(coarse, cell, order=1)[:rows, :cols]

    mask = np.argmax([field(32) + 0.5 * field(8) + 0.2 * field(3) for _ in range(4)], axis=0).astype(np.uint8)
    mask[rows // 3 : rows // 2, 2 * cols // 3 :] = 255
    return mask


def maze(rows: int, cols: int) -> np.ndarray:
    """Passages without a loop: one instance whose boundary turns at every second corner, all around in one line."""
    mask = np.zeros((rows, cols), np.uint8)
    mask[1::2, 1::2] = 1
    up = np.random.default_rng(5).random(mask[1::2, 1::2].shape) < 0.5  # else to the left
    up[:1], up[1:, :1] = False, True
    mask[0:-1:2, 1::2] |= up[: len(mask[0:-1:2])]
    left = ~up
    left[:, :1] = False
    mask[1::2, 0:-1:2] |= left[:, : mask[1::2, 0:-1:2].shape[1]]
    return mask


def _of_places(code: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[int, int], np.ndarray]:
    return lambda rows, cols: code(*np.indices((rows, cols))).astype(np.uint8)


def _noise(codes: list[int]) -> Callable[[int, int], np.ndarray]:
    return lambda rows, cols: np.random.default_rng(1).choice(np.array(codes, np.uint8), (rows, cols))


KINDS: dict[str, Callable[[int, int], np.ndarray]] = {
    "noise": _noise([0, 1]),
    "dense noise": _noise([0, 1, 1, 1]),
    "noise of classes": _noise([0, 1, 2, 3, 254, 255]),
    "realistic": realistic,
    "checkerboard": _of_places(lambda row, col: (row + col) % 2),
    "checkerboard of two classes": _of_places(lambda row, col: (row + col) % 2 + 1),
    "one-pixel lines": _of_places(lambda row, col: row % 2 * 7),
    "grid of lines": _of_places(lambda row, col: (row % 3 == 0) | (col % 4 == 0)),
    "diagonals": _of_places(lambda row, col: (row - col) % 3),
    "spiral": spiral,
    "nested rings": nested,
    "maze": maze,
    "one class": _of_places(lambda row, col: row * 0 + 4),
    "background": _of_places(lambda row, col: row * 0),
    "nodata": _of_places(lambda row, col: row * 0 + 255),
}

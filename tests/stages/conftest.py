"""Masks to trace."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage


@pytest.fixture(scope="session")
def landscape() -> np.ndarray:
    """A realistic mask: the strongest of five smooth random fields, with rough edges and some nodata."""
    random = np.random.default_rng(7)
    size = 240

    def field(cell: int) -> np.ndarray:
        coarse = random.standard_normal((size // cell + 4, size // cell + 4))
        return ndimage.zoom(coarse, cell, order=3)[:size, :size]

    mask = np.argmax([field(48) + 0.4 * field(12) + 0.1 * field(3) for _ in range(5)], axis=0).astype(np.uint8)
    mask[100:140, 180:] = 255
    return mask

"""Does a confidence of 0.8 mean right in 80 of 100? The expected calibration error.

C. Guo et al., *On calibration of modern neural networks*, ICML 2017, https://arxiv.org/abs/1706.04599: pixels are
binned by the confidence of their predicted class into 15 bins of equal width, (0, 1/15], (1/15, 2/15], ...; ECE is the
mean over pixels of the gap between the bin's mean confidence and its share of right pixels. Confidences are bytes,
0-254 for 0-1, so pixels are counted per byte and class, and nothing is lost by going through a scene window by window.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "LEVELS", "bin_levels", "count_levels", "expected_error"]

LEVELS = 255
"""Confidences that a pixel can have: 0, 1/254, ..., 1."""
BINS = 15
"""Bins of the reliability diagram."""


def count_levels(
    predicted: NDArray[np.uint8],
    right: NDArray[np.bool_],
    confidence: NDArray[np.uint8],
    judged: NDArray[np.bool_],
    classes: int,
) -> NDArray[np.int64]:
    """Count pixels by predicted class and confidence.

    Args:
        predicted: uint8 (rows, cols), classes from 0 (background) on.
        right: bool (rows, cols), whether the prediction is right.
        confidence: uint8 (rows, cols), 0-254 for 0-1; pixels of 255 have none and are not counted.
        judged: bool (rows, cols).
        classes: how many there are, with background.

    Returns:
        int64 (classes, 255, 2): pixels, right pixels.
    """
    seen = judged & (confidence < LEVELS)
    cell = predicted[seen].astype(np.int64) * LEVELS + confidence[seen]
    pixels = np.bincount(cell, minlength=classes * LEVELS)
    hits = np.bincount(cell[right[seen]], minlength=classes * LEVELS)
    return np.stack([pixels, hits], axis=-1).reshape(classes, LEVELS, 2)


def bin_levels(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring counts per confidence into bins.

    Args:
        levels: float64 (..., 255, 2), as of :func:`count_levels`.

    Returns:
        float64 (..., 15, 3): pixels, right pixels, sum of confidences.
    """
    value = np.arange(LEVELS) / (LEVELS - 1)
    place = np.clip(np.ceil(value * BINS - 1e-9).astype(np.int64) - 1, 0, BINS - 1)
    member = (place[:, None] == np.arange(BINS)).astype(np.float64)
    pixels, hits = levels[..., 0], levels[..., 1]
    return np.stack([pixels @ member, hits @ member, (pixels * value) @ member], axis=-1)


def expected_error(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """The expected calibration error of counts per confidence, float64 (..., 255, 2); NaN without pixels."""
    bins = bin_levels(levels)
    total = bins[..., 0].sum(axis=-1)
    gap = np.abs(bins[..., 1] - bins[..., 2]).sum(axis=-1)
    error: NDArray[np.float64] = np.divide(gap, total, out=np.full(np.shape(total), np.nan), where=total > 0)
    return error

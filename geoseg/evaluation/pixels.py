"""Pixel metrics per class, over known pixels only, pooled over any number of images.

Counts are added, never averaged: the figures of many images are those of one large image. Intersection over union
is the Jaccard index (Everingham et al., 2010, https://doi.org/10.1007/s11263-009-0275-4, call it VOC accuracy).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoseg.codes import NODATA
from geoseg.errors import SettingsError

__all__ = ["PixelCounts", "count_masks", "count_planes"]


@dataclass(frozen=True, slots=True)
class PixelCounts:
    """Pixels of one class.

    Attributes:
        true_positive: predicted and present.
        false_positive: predicted, but absent.
        false_negative: present, but not predicted.
        true_negative: neither.
    """

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0

    def __add__(self, other: PixelCounts) -> PixelCounts:
        return PixelCounts(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.true_negative + other.true_negative,
        )

    @property
    def known(self) -> int:
        """Pixels that were judged."""
        return self.true_positive + self.false_positive + self.false_negative + self.true_negative

    @property
    def present(self) -> int:
        """Pixels where the class is present in the truth."""
        return self.true_positive + self.false_negative

    @property
    def iou(self) -> float | None:
        """Intersection over union; None when the class is neither predicted nor present."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive + self.false_negative)

    @property
    def precision(self) -> float | None:
        """Share of the predicted pixels that are right; None when nothing is predicted."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float | None:
        """Share of the present pixels that are found; None when nothing is present."""
        return _ratio(self.true_positive, self.present)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def count_planes(
    predicted: NDArray[np.bool_], present: NDArray[np.bool_], known: NDArray[np.bool_]
) -> list[PixelCounts]:
    """Count pixels of planes, one per class.

    Args:
        predicted: bool (classes, rows, cols).
        present: bool (classes, rows, cols), the truth.
        known: bool (classes, rows, cols), where the truth is known.

    Returns:
        Counts per class, in order.

    Raises:
        SettingsError: when the shapes differ.
    """
    if not predicted.shape == present.shape == known.shape or predicted.ndim != 3:
        shapes = f"{predicted.shape}, {present.shape} and {known.shape}"
        raise SettingsError(f"prediction, truth and known have shapes {shapes}; give three equal (classes, rows, cols)")
    counts = []
    for guess, truth, seen in zip(predicted, present, known, strict=True):
        # one histogram of four cells: 2 x predicted + present
        cells = np.bincount(2 * guess[seen].astype(np.uint8) + truth[seen], minlength=4).tolist()
        counts.append(PixelCounts(cells[3], cells[2], cells[1], cells[0]))
    return counts


def count_masks(
    predicted: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    *,
    codes: Mapping[str, int],
    known: NDArray[np.bool_] | None = None,
) -> dict[str, PixelCounts]:
    """Count pixels of two masks of class codes.

    Args:
        predicted: uint8 (rows, cols); pixels of 255 (nodata) are not judged.
        truth: uint8 (rows, cols); pixels of 255 are unknown.
        codes: class name to code.
        known: bool (classes, rows, cols) in the order of `codes`, where the truth is known as well; everywhere
            when not given.

    Returns:
        Counts per class name.

    Raises:
        SettingsError: when the shapes differ.
    """
    if predicted.shape != truth.shape:
        raise SettingsError(f"the prediction is {predicted.shape} and the truth {truth.shape} pixels; give equal grids")
    judged = np.broadcast_to((predicted != NODATA) & (truth != NODATA), (len(codes), *truth.shape))
    if known is not None:
        if known.shape != judged.shape:
            raise SettingsError(f"known has shape {known.shape}; expected {judged.shape}, a plane per class")
        judged = judged & known
    values = np.array(list(codes.values()), np.uint8)[:, None, None]
    return dict(zip(codes, count_planes(predicted == values, truth == values, judged), strict=True))

"""Sparse histograms of confidences, one per instance, that add up exactly over chunks (floor 1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.rings import Columns, offsets_of, take_ragged

__all__ = ["Histograms"]

FULL_CONFIDENCE = 254


@dataclass(frozen=True, slots=True, eq=False)
class Histograms(Columns):
    """Sparse histograms of uint8 confidences: group ``g`` has the entries ``offsets[g]:offsets[g + 1]``.

    Within a group values ascend. Counts are exact integers, so sums over chunks do not depend on their order.
    """

    offsets: NDArray[np.int64]
    value: NDArray[np.uint8]
    count: NDArray[np.int64]

    @classmethod
    def empty(cls, groups: int) -> Histograms:
        """So many groups without any entry."""
        return cls(np.zeros(groups + 1, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.int64))

    def take(self, groups: NDArray[np.integer[Any]]) -> Histograms:
        """The histograms of the given groups, in that order."""
        entries, offsets = take_ragged(self.offsets, groups)
        return Histograms(offsets=offsets, value=self.value[entries], count=self.count[entries])

    @staticmethod
    def merge(parts: Iterable[Histograms], group: NDArray[np.int64], groups: int) -> Histograms:
        """Sum histograms.

        Args:
            parts: histograms whose groups, one part after the other, belong to the groups in ``group``.
            group: the new group of each of them, 0 to ``groups - 1``.
            groups: how many new groups there are.
        """
        parts = [Histograms.empty(0), *parts]
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        keys = np.repeat(group, lengths) * 256 + np.concatenate([part.value for part in parts])
        distinct, place = np.unique(keys, return_inverse=True)
        count = np.zeros(distinct.size, np.int64)
        np.add.at(count, place, np.concatenate([part.count for part in parts]))
        return Histograms(
            offsets=np.searchsorted(distinct, np.arange(groups + 1) * 256),
            value=(distinct % 256).astype(np.uint8),
            count=count,
        )

    def summary(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and 10th percentile of each group on the scale 0-1; NaN for an empty one.

        The percentile is the smallest value ``v`` such that at least ``ceil(n / 10)`` of the ``n`` pixels are <= v.
        """
        counts, sums = offsets_of(self.count), offsets_of(self.count * self.value)
        before, pixels = counts[self.offsets[:-1]], np.diff(counts[self.offsets])
        filled = pixels > 0
        mean = np.full(pixels.size, np.nan)
        p10 = np.full(pixels.size, np.nan)
        mean[filled] = np.diff(sums[self.offsets])[filled] / (pixels[filled] * FULL_CONFIDENCE)
        entry = np.searchsorted(counts[1:], (before + -(-pixels // 10))[filled])
        p10[filled] = self.value[entry] / FULL_CONFIDENCE
        return mean, p10

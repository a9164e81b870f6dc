"""How sure the model was of each instance: counts of the confidences of its pixels, chunk by chunk."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from geoseg.codes import NODATA
from geoseg.histograms import Histograms
from geoseg.rings import offsets_of

__all__ = ["count_confidence"]


def count_confidence(
    labels: NDArray[np.int32], confidence: NDArray[np.uint8] | None, area_px: NDArray[np.int64]
) -> Histograms:
    """The histogram of every label's confidences in one chunk.

    Args:
        labels: int32 ``(height + 2, width + 2)``, the chunk's and those of the ring around it, which is not counted.
        confidence: uint8 ``(height, width)``, 0-254; 255 is unknown and left out. None: all histograms are empty.
        area_px: int64, pixels of the chunk by label; 0 for labels whose histogram nobody wants.
    """
    if confidence is None:
        return Histograms.empty(area_px.size)
    offsets = offsets_of(area_px)
    # what nobody wants piles up behind the rest, label -1 too: it finds the last cursor
    cursors = np.append(np.where(area_px > 0, offsets[:-1], offsets[-1]), offsets[-1]).astype(np.uint64)
    # contiguous, so that the kernel is compiled for one layout only
    grouped = _group_by_label(labels, np.ascontiguousarray(confidence), cursors, offsets[-1])
    return Histograms(*_count_values(grouped, offsets))


@numba.njit(cache=True, nogil=True)
def _group_by_label(
    labels: NDArray[np.int32], confidence: NDArray[np.uint8], cursors: NDArray[np.uint64], total: int
) -> NDArray[np.uint8]:
    """Counting sort of the chunk's confidences by label; ``cursors`` says where each label begins, and is used up."""
    grouped = np.empty(total + confidence.size, np.uint8)
    # unsigned, for numba looks at every signed index whether it counts from the end: that doubles the time
    one, width = np.uint64(1), np.uint64(confidence.shape[1])
    for row in range(confidence.shape[0]):
        line, values = labels[row + 1], confidence[row]
        col = np.uint64(0)
        while col < width:
            label = line[col + one]
            at = cursors[label]
            while col < width and line[col + one] == label:
                grouped[at] = values[col]
                at += one
                col += one
            cursors[label] = at
    return grouped[:total]


@numba.njit(cache=True, nogil=True)
def _count_values(
    grouped: NDArray[np.uint8], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """Sparse histograms of the groups of bytes between offsets; 255 (unknown) is left out."""
    room = 0
    for group in range(offsets.size - 1):
        room += min(offsets[group + 1] - offsets[group], NODATA)
    entry_offsets = np.zeros(offsets.size, np.int64)
    value = np.empty(room, np.uint8)
    count = np.empty(room, np.int64)
    entries = 0
    bins = np.zeros((4, 256), np.int64)  # in turn: adding to the same bin again and again would have to wait for itself
    for group in range(offsets.size - 1):
        begin, end = offsets[group], offsets[group + 1]
        low, high = 0, NODATA - 1
        if end - begin < NODATA:  # few values: find out where, rather than go through all bins
            low, high = NODATA, -1
            for at in range(begin, end):
                low, high = min(low, grouped[at]), max(high, grouped[at])
            high = min(high, NODATA - 1)
        whole = begin + (end - begin) // 4 * 4
        for at in range(begin, whole, 4):
            for turn in range(4):
                bins[turn, grouped[at + turn]] += 1
        for at in range(whole, end):
            bins[0, grouped[at]] += 1
        for byte in range(low, high + 1):
            total = bins[0, byte] + bins[1, byte] + bins[2, byte] + bins[3, byte]
            if total:
                value[entries] = byte
                count[entries] = total
                entries += 1
        bins[:, low : high + 1] = 0
        bins[:, NODATA] = 0
        entry_offsets[group + 1] = entries
    return entry_offsets, value[:entries].copy(), count[:entries].copy()

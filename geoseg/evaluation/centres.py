"""Small objects by their centres: a detection is right when it lies on an object, whatever its outline.

Vehicles of a dozen pixels have boxes drawn loosely about them, so an overlap says little. A detection may take an
object in whose box its centre lies, and each takes one at most; of all such pairings one with the most pairs counts
(J. Hopcroft, R. Karp, *An n^5/2 algorithm for maximum matchings in bipartite graphs*, 1973), so no order plays a part.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

__all__ = ["count_centres"]


def count_centres(
    centres: NDArray[np.float64], boxes: NDArray[np.float64], excused: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Match the centres of detections with the boxes of true objects.

    Args:
        centres: float64 (detections, 2), x and y, pixels.
        boxes: float64 (objects, 4), x0, y0, x1, y1, pixels; their edges belong to them.
        excused: bool (detections,), those that do not count as false when they match nothing, for the truth is not
            known there; none when not given.

    Returns:
        int64 (3,): true positives, false positives, false negatives.
    """
    x, y = centres[:, 0, None], centres[:, 1, None]
    inside = (boxes[:, 0] <= x) & (x <= boxes[:, 2]) & (boxes[:, 1] <= y) & (y <= boxes[:, 3])
    taken = np.zeros(len(centres), np.bool_)
    if inside.any():
        taken = maximum_bipartite_matching(csr_matrix(inside), perm_type="column") >= 0
    hits = np.count_nonzero(taken)
    false = ~taken if excused is None else ~taken & ~excused
    return np.array([hits, np.count_nonzero(false), len(boxes) - hits], np.int64)

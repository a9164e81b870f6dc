"""How well outlines fit: boundary F1 and boundary IoU, and the relaxed counts of thin classes (pure array functions).

**Edges.** An edge pixel belongs to an object and has, up, down, left or right of it, a known pixel that does not. So
the border between two touching objects of one class is an edge, and the border to unknown pixels is none.

**Boundary F1** (G. Csurka, D. Larlus, F. Perronnin, *What is a good evaluation measure for semantic segmentation?*,
BMVC 2013): precision is the share of predicted edge pixels that lie within a tolerance (Euclidean, between pixel
centres) of a true edge pixel of the class, recall the same with the two exchanged.

**Boundary IoU** (B. Cheng et al., *Boundary IoU*, CVPR 2021, https://arxiv.org/abs/2103.16562): intersection over union
of the two bands inside the outlines. The paper makes bands as thick as 2 % of the image's diagonal; scenes of any size
call for pixels: a band of ``d`` px is the edge pixels and those pixels of the class that lie within ``d - 1`` px of
one.

**Relaxed** precision and recall (V. Mnih, G. Hinton, *Learning to detect roads in high-resolution aerial images*, ECCV
2010; after C. Wiedemann et al., 1998): the share of predicted pixels within a tolerance of a true one, and the reverse.

The counterpart of what lies near unknown pixels, or near the end of the scene, may be hidden there. So neither of the
three judges a pixel from which an unknown one lies within its tolerance.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["count_bands", "count_near", "find_edges", "grow"]


def count_near(
    predicted: NDArray[np.bool_], present: NDArray[np.bool_], judged: NDArray[np.bool_], radius: int
) -> NDArray[np.int64]:
    """Count pixels of two sets, and those that have the other set near them.

    Args:
        predicted: bool (rows, cols).
        present: bool (rows, cols), the truth.
        judged: bool (rows, cols), where pixels are counted; what they are compared with may lie elsewhere.
        radius: what is near, pixels.

    Returns:
        int64 (4,): predicted, predicted and near the truth, present, present and near the prediction.
    """
    guess, truth = predicted & judged, present & judged
    near_truth, near_guess = grow(present, radius), grow(predicted, radius)
    sets = guess, guess & near_truth, truth, truth & near_guess
    return np.array([np.count_nonzero(pixels) for pixels in sets], np.int64)


def count_bands(
    predicted: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    present: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    judged: NDArray[np.bool_],
    thickness: int,
) -> NDArray[np.int64]:
    """Count the pixels of two bands inside outlines.

    Args:
        predicted: (pixels of the class, its edge pixels), each bool (rows, cols).
        present: the same of the truth.
        judged: bool (rows, cols), where pixels are counted.
        thickness: of the bands, pixels, at least 1.

    Returns:
        int64 (2,): pixels in both bands, pixels in either.
    """
    guess, truth = (pixels & grow(edges, thickness - 1) & judged for pixels, edges in (predicted, present))
    return np.array([np.count_nonzero(guess & truth), np.count_nonzero(guess | truth)], np.int64)


@numba.njit(cache=True, nogil=True)
def find_edges(labels: NDArray[np.int32], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find edge pixels.

    Args:
        labels: int32 (rows, cols), numbers of objects, 0 where there is none.
        known: bool (rows, cols); what is not known is no edge and makes none.

    Returns:
        bool (rows, cols). The array's end makes no edge.
    """
    rows, cols = labels.shape
    edges = np.zeros((rows, cols), np.bool_)
    for row in range(rows):
        for col in range(cols):
            here = labels[row, col]
            if not here or not known[row, col]:
                continue
            edges[row, col] = (
                (row > 0 and known[row - 1, col] and labels[row - 1, col] != here)
                or (row + 1 < rows and known[row + 1, col] and labels[row + 1, col] != here)
                or (col > 0 and known[row, col - 1] and labels[row, col - 1] != here)
                or (col + 1 < cols and known[row, col + 1] and labels[row, col + 1] != here)
            )
    return edges


@numba.njit(cache=True, nogil=True)
def grow(pixels: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Find all pixels that have one of a set within a radius, between centres.

    Discs are drawn around those pixels of the set alone that have a neighbour (of four) outside it: a way from any
    other one to a pixel outside the set leads past such a pixel, nearer to the goal.

    Args:
        pixels: bool (rows, cols), the set.
        radius: pixels, 0 or more.
    """
    rows, cols = pixels.shape
    grown = pixels.copy()
    if radius == 0:
        return grown
    reach = np.zeros(radius + 1, np.int64)  # half the width of the disc, by distance from its middle row
    for d_row in range(radius + 1):
        while (reach[d_row] + 1) ** 2 + d_row**2 <= radius**2:
            reach[d_row] += 1
    for row in range(rows):
        for col in range(cols):
            if not pixels[row, col] or (
                (row == 0 or pixels[row - 1, col])
                and (row + 1 == rows or pixels[row + 1, col])
                and (col == 0 or pixels[row, col - 1])
                and (col + 1 == cols or pixels[row, col + 1])
            ):
                continue
            for d_row in range(max(-radius, -row), min(radius, rows - 1 - row) + 1):
                wide = reach[abs(d_row)]
                grown[row + d_row, max(col - wide, 0) : min(col + wide + 1, cols)] = True
    return grown

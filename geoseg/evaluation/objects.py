"""Objects of a prediction against objects of the truth: areas in common, matches, and what detection figures count.

An object is a number that some pixels of one class carry: a polygon drawn on the grid, an id of an instance raster, or,
on masks, a four-connected component. No pixel belongs to two objects of one side. All that is kept of a scene are the
objects' areas and the areas that pairs of them have in common, gathered window by window; components that go on in the
next window are joined in the end.

Areas, and so IoU, are those of known pixels alone; an object without any is not judged.

- **Matches** at an IoU threshold are one to one, as in COCO's evaluation (T.-Y. Lin et al., *Microsoft COCO*, ECCV
  2014, and its `pycocotools`): predictions in order of falling confidence take the best truth left, IoU >= threshold.
- **AP** is COCO's: precision at 101 recalls, made monotone, averaged; AP50 at IoU 0.5, AP50:95 averaged over 0.5, 0.55,
  ... 0.95. All objects count, however many or small. Predictions of equal confidence enter together, so that their
  order means nothing; without confidences all are equal.
- **PQ** (A. Kirillov et al., *Panoptic segmentation*, CVPR 2019, https://arxiv.org/abs/1801.00868): sum of the IoU of
  pairs with IoU > 0.5 over TP + FP / 2 + FN / 2.
- Unmatched predictions that lie on unknown pixels with more than half of their area are not judged (Kirillov et al.,
  4.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from geoseg.components import find_components, join
from geoseg.lattice import Window

__all__ = ["THRESHOLDS", "Detections", "ObjectTable", "average_precision"]

THRESHOLDS = np.arange(50, 100, 5) / 100
"""IoU that AP50:95 goes through."""
_RECALLS = np.arange(101) / 100


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The objects of one class in one scene, matched.

    Attributes:
        score: float64 (predictions,), falling; 1 where no confidence is known.
        matched: bool (10, predictions), at each of `THRESHOLDS`.
        judged: bool (10, predictions); False for the unmatched ones on unknown ground.
        truths: how many true objects there are.
        panoptic: float64 (4,), true positives, false positives and false negatives at IoU > 0.5, sum of IoU.
    """

    score: NDArray[np.float64]
    matched: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    truths: int
    panoptic: NDArray[np.float64]

    def counts(self) -> NDArray[np.float64]:
        """Float64 (3,): true positives, false positives, false negatives at IoU >= 0.5."""
        hits = int(self.matched[0].sum())
        return np.array([hits, int(self.judged[0].sum()) - hits, self.truths - hits], np.float64)


class ObjectTable:
    """What is gathered of the objects of one scene.

    Args:
        width: columns of the scene.
    """

    def __init__(self, width: int) -> None:
        self._sides = _Side(width), _Side(width)
        self._pairs: list[NDArray[np.int64]] = []

    def add(
        self,
        window: Window,
        predicted: tuple[NDArray[np.uint8], NDArray[np.int32] | None],
        truth: tuple[NDArray[np.uint8], NDArray[np.int32] | None],
        known: NDArray[np.bool_],
        confidence: NDArray[np.uint8] | None = None,
    ) -> None:
        """Take one window. Windows partition the scene and come row by row, as the cells of a grid.

        Args:
            window: where it lies.
            predicted: uint8 (rows, cols) classes, 0 = background and 255 = unknown; int32 (rows, cols) numbers of
                objects, or None: components.
            truth: the same.
            known: bool (rows, cols), where both are known.
            confidence: uint8 (rows, cols), 0-254 for 0-1, 255 = none.
        """
        guess = self._sides[0].add(window, *predicted, known, confidence)
        real = self._sides[1].add(window, *truth, known, None)
        both = known & (guess > 0) & (real > 0)
        if both.any():
            keys, counts = np.unique((guess[both] << 32) | real[both], return_counts=True)
            self._pairs.append(np.stack([keys >> 32, keys & 0xFFFFFFFF, counts]))

    def detections(self, classes: int, scores: NDArray[np.float64] | None = None) -> list[Detections]:
        """Match the objects of each class.

        Args:
            classes: how many there are, without background; their numbers begin with 1.
            scores: float64 (numbers of objects + 1,), confidences of predicted objects by number, NaN = unknown; the
                mean confidence of their pixels when not given.
        """
        guesses, truths = (side.finish() for side in self._sides)
        pairs = np.hstack(self._pairs) if self._pairs else np.zeros((3, 0), np.int64)
        first, second = guesses.place(pairs[0]), truths.place(pairs[1])
        key, back = np.unique(first * max(len(truths.code), 1) + second, return_inverse=True)
        common = np.bincount(back, weights=pairs[2], minlength=key.size)
        first, second = np.divmod(key, max(len(truths.code), 1))
        iou = common / (guesses.known[first] + truths.known[second] - common)
        score = guesses.score if scores is None else scores[guesses.id]
        score = np.where(np.isnan(score), 1.0, score)
        found = []
        for code in range(1, classes + 1):
            mine = np.flatnonzero((guesses.code == code) & (guesses.known > 0))
            mine = mine[np.argsort(-score[mine], kind="stable")]
            real = np.flatnonzero((truths.code == code) & (truths.known > 0))
            chosen = (guesses.code[first] == code) & (truths.code[second] == code) & (iou >= THRESHOLDS[0])
            ranks, others = _ranks(mine, len(guesses.code)), _ranks(real, len(truths.code))
            links = ranks[first[chosen]], others[second[chosen]], iou[chosen]
            hidden = guesses.total[mine] - guesses.known[mine] > guesses.known[mine]
            found.append(_match(score[mine], hidden, len(real), links))
        return found


def average_precision(
    score: NDArray[np.float64],
    matched: NDArray[np.bool_],
    weight: NDArray[np.float64],
    truths: float,
) -> NDArray[np.float64]:
    """COCO's average precision.

    Args:
        score: float64 (n,), falling.
        matched: bool (thresholds, n).
        weight: float64 (thresholds, n), how often each prediction counts, 0 = not judged.
        truths: how many true objects there are.

    Returns:
        float64 (thresholds,); NaN where there is no true object.
    """
    if truths <= 0:
        return np.full(len(matched), np.nan)
    if not score.size:
        return np.zeros(len(matched))
    last = np.flatnonzero(np.append(np.diff(score) != 0, True))  # of each run of equal scores
    hits = np.cumsum(matched * weight, axis=1)[:, last]
    total = np.cumsum(weight, axis=1)[:, last]
    precision = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    figures = []
    for recall, envelope in zip(hits / truths, precision, strict=True):
        place = np.searchsorted(recall, _RECALLS - 1e-12, side="left")
        figures.append(np.append(envelope, 0.0)[place].mean())
    return np.array(figures)


def _ranks(chosen: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """The place of each chosen one; -1 for the others."""
    ranks = np.full(total, -1, np.int64)
    ranks[chosen] = np.arange(chosen.size)
    return ranks


def _match(
    score: NDArray[np.float64],
    hidden: NDArray[np.bool_],
    truths: int,
    links: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]],
) -> Detections:
    """Match the predictions of one class, in order of falling scores, with its true objects."""
    guess, real, iou = links
    order = np.lexsort((real, -iou, guess))
    guess, real, iou = guess[order], real[order], iou[order]
    matched = np.stack([_take(guess, real, iou >= least, score.size, truths) for least in THRESHOLDS])
    above = iou > 0.5  # so much of both that no pair excludes another
    hits = np.count_nonzero(above)
    taken = np.zeros(score.size, np.bool_)
    taken[guess[above]] = True
    panoptic = np.array([hits, np.count_nonzero(~taken & ~hidden), truths - hits, iou[above].sum()], np.float64)
    return Detections(score, matched, matched | ~hidden, truths, panoptic)


@numba.njit(cache=True, nogil=True)
def _take(
    guess: NDArray[np.int64], real: NDArray[np.int64], fits: NDArray[np.bool_], guesses: int, truths: int
) -> NDArray[np.bool_]:
    """Go through links in order and take those that fit and whose two ends are free; tells which guesses got one."""
    matched, taken = np.zeros(guesses, np.bool_), np.zeros(truths, np.bool_)
    for link in range(guess.size):
        if fits[link] and not matched[guess[link]] and not taken[real[link]]:
            matched[guess[link]] = True
            taken[real[link]] = True
    return matched


@dataclass(frozen=True, slots=True, eq=False)
class _Gathered:
    """The objects of one side: one entry for each, sorted by number."""

    id: NDArray[np.int64]
    code: NDArray[np.int64]
    known: NDArray[np.float64]
    total: NDArray[np.float64]
    score: NDArray[np.float64]
    group: NDArray[np.int64] | None  # number after joining, by number in windows

    def place(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Entries of numbers as the windows gave them."""
        found: NDArray[np.int64] = np.searchsorted(self.id, ids if self.group is None else self.group[ids])
        return found


class _Side:
    """The objects of one side, as the windows bring them."""

    def __init__(self, width: int) -> None:
        self._parts: list[NDArray[np.float64]] = []  # number, class, known, total, sum and number of confidences
        self._joins: list[NDArray[np.int64]] = []
        self._count = 0
        self._components = False
        self._above = np.zeros(width, np.int64), np.zeros(width, np.uint8)
        self._left = np.zeros(0, np.int64), np.zeros(0, np.uint8)

    def add(
        self,
        window: Window,
        codes: NDArray[np.uint8],
        labels: NDArray[np.int32] | None,
        known: NDArray[np.bool_],
        confidence: NDArray[np.uint8] | None,
    ) -> NDArray[np.int64]:
        """Take a window; gives the objects' numbers, 0 where there is none."""
        numbers = self._find(window, codes) if labels is None else labels.astype(np.int64)
        inside = numbers > 0
        ids, first, back = np.unique(numbers[inside], return_index=True, return_inverse=True)
        if ids.size:
            heard = known[inside] if confidence is None else known[inside] & (confidence[inside] != 255)
            heard = heard if confidence is not None else np.zeros_like(heard)
            value = np.zeros(heard.shape) if confidence is None else confidence[inside] / 254
            weights = known[inside], None, value * heard, heard
            sums = [np.bincount(back, weights=weight, minlength=ids.size) for weight in weights]
            self._parts.append(np.vstack([ids, codes[inside][first], *sums]))
        return numbers

    def _find(self, window: Window, codes: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Components of a window, numbered on from earlier ones, and the pairs across its upper and left edge."""
        self._components = True
        components = find_components(codes)
        numbers = components.paint(np.arange(len(components) + 1, dtype=np.int32))[1:-1, 1:-1].astype(np.int64)
        numbers = np.where(numbers > 0, numbers + self._count, 0)
        self._count += len(components)
        cols = slice(window.col_off, window.col_stop)
        borders = [(numbers[0], codes[0], self._above[0][cols], self._above[1][cols])]
        if window.col_off:
            borders.append((numbers[:, 0], codes[:, 0], *self._left))
        for here, code, there, other in borders:
            touch = (here > 0) & (there > 0) & (code == other)
            self._joins.append(np.stack([here[touch], there[touch]]))
        self._above[0][cols], self._above[1][cols] = numbers[-1], codes[-1]
        self._left = numbers[:, -1].copy(), codes[:, -1].copy()
        return numbers

    def finish(self) -> _Gathered:
        """Join what belongs together and add up."""
        group = join(np.hstack(self._joins), self._count + 1)[1].astype(np.int64) if self._components else None
        parts = np.hstack(self._parts) if self._parts else np.zeros((6, 0))
        ids = parts[0].astype(np.int64)
        ids, first, back = np.unique(ids if group is None else group[ids], return_index=True, return_inverse=True)
        sums = [np.bincount(back, weights=row, minlength=ids.size).astype(np.float64) for row in parts[2:]]
        known, total, confidence, heard = sums
        score = np.divide(confidence, heard, out=np.full(ids.size, np.nan), where=heard > 0)
        return _Gathered(ids, parts[1][first].astype(np.int64), known, total, score, group)

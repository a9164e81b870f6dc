from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from geoseg.evaluation.objects import THRESHOLDS, ObjectTable, average_precision
from geoseg.lattice import Window

Side = tuple[np.ndarray, np.ndarray | None]


def detect(predicted: Side, truth: Side, *, known=None, confidence=None, classes=1, scores=None, cut=None):
    """The detections of each class of a scene that is taken in windows of one side."""
    height, width = predicted[0].shape
    known = np.ones((height, width), bool) if known is None else known
    table = ObjectTable(width)
    step = cut or max(height, width)
    for row in range(0, height, step):
        for col in range(0, width, step):
            window = Window(col, row, min(step, width - col), min(step, height - row))
            part = window.slices()
            sides = [
                (np.ascontiguousarray(codes[part]), None if labels is None else labels[part])
                for codes, labels in (predicted, truth)
            ]
            table.add(window, *sides, known[part], None if confidence is None else confidence[part])
    return table.detections(classes, scores)


def numbered(labels: np.ndarray) -> Side:
    return (labels > 0).astype(np.uint8), labels.astype(np.int32)


def squares(*corners: tuple[int, int, int, int], shape: tuple[int, int] = (40, 40)) -> Side:
    """Objects of one class: (row, col, rows, cols) of each."""
    labels = np.zeros(shape, np.int32)
    for number, (row, col, rows, cols) in enumerate(corners, 1):
        labels[row : row + rows, col : col + cols] = number
    return numbered(labels)


def test_counts_of_a_hand_made_scene():
    truth = squares((0, 0, 10, 10), (0, 20, 10, 10), (20, 0, 10, 10))
    # IoU 1, 80 / 120 = 2/3, 50 / 150 = 1/3, and nothing
    predicted = squares((0, 0, 10, 10), (2, 20, 10, 10), (20, 5, 10, 10), (34, 34, 4, 4))
    (found,) = detect(predicted, truth)
    assert found.counts().tolist() == [2, 2, 1]
    assert found.panoptic.tolist() == pytest.approx([2, 2, 1, 1 + 2 / 3])
    assert found.matched.sum(axis=1).tolist() == [2, 2, 2, 2, 1, 1, 1, 1, 1, 1]
    assert found.truths == 3


def test_half_is_a_match_but_no_panoptic_one():
    truth = squares((0, 0, 10, 10))
    (found,) = detect(squares((0, 0, 5, 10), (5, 0, 5, 10)), truth)
    assert found.counts().tolist() == [1, 1, 0]
    assert found.panoptic.tolist() == [0, 2, 1, 0]


def test_what_hides_in_the_unknown_is_not_judged():
    known = np.ones((40, 40), bool)
    known[:, 20:] = False
    truth, predicted = (
        squares((0, 0, 10, 10)),
        squares((0, 0, 10, 30), (20, 16, 5, 20), (30, 10, 5, 12), (30, 30, 5, 5)),
    )
    (found,) = detect(predicted, truth, known=known)
    # the first one counts with its known 200 px and matches by half; the second lies mostly in the unknown, the third
    # does not; the fourth has no known pixel
    assert found.counts().tolist() == [1, 1, 0]
    assert found.panoptic.tolist() == [0, 2, 1, 0]
    (found,) = detect(predicted, squares((0, 30, 10, 10)), known=known)
    assert found.truths == 0


def test_components_that_cross_windows_are_one_object():
    rng = np.random.default_rng(5)
    codes = [
        np.where(ndimage.gaussian_filter(rng.random((70, 90)), 3) > 0.5, 1, 2 * (rng.random((70, 90)) < 0.3))
        for _ in range(2)
    ]
    codes = [side.astype(np.uint8) for side in codes]
    codes[0][30:40, 50:60] = 255
    known = (codes[0] != 255) & (codes[1] != 255)
    sure = rng.integers(0, 255, (70, 90)).astype(np.uint8)
    whole = detect((codes[0], None), (codes[1], None), known=known, confidence=sure, classes=2)
    numbers = []
    for side in codes:
        labels = np.zeros(side.shape, np.int32)
        for code in (1, 2):
            mine, count = ndimage.label(side == code)
            labels += np.where(mine > 0, mine + labels.max(), 0).astype(np.int32)
            assert count
        numbers.append((np.where(labels > 0, side, 0).astype(np.uint8), labels))
    for other in (
        detect((codes[0], None), (codes[1], None), known=known, confidence=sure, classes=2, cut=16),
        detect((codes[0], None), (codes[1], None), known=known, confidence=sure, classes=2, cut=7),
        detect(*numbers, known=known, confidence=sure, classes=2),
        detect(*numbers, known=known, confidence=sure, classes=2, cut=32),
    ):
        for one, same in zip(whole, other, strict=True):
            assert np.allclose(one.score, same.score)
            assert one.matched.sum(axis=1).tolist() == same.matched.sum(axis=1).tolist()
            assert np.allclose(one.panoptic, same.panoptic)
            assert one.counts().tolist() == same.counts().tolist()
            assert one.truths == same.truths


def coco(iou: np.ndarray, score: np.ndarray, threshold: float) -> float:
    """COCO's AP in plain words: iou is (predictions, truths), scores differ."""
    taken: set[int] = set()
    hits = []
    for guess in np.argsort(-score):
        left = [truth for truth in np.argsort(-iou[guess], kind="stable") if truth not in taken]
        hits.append(bool(left) and iou[guess, left[0]] >= threshold)
        if hits[-1]:
            taken.add(left[0])
    precision = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits))]
    recall = [sum(hits[: n + 1]) / iou.shape[1] for n in range(len(hits))]
    total = 0.0
    for wanted in np.linspace(0, 1, 101):
        total += max((p for p, r in zip(precision, recall, strict=True) if r >= wanted - 1e-12), default=0.0)
    return total / 101


def test_average_precision_against_the_definition():
    rng = np.random.default_rng(11)
    cells = [(row, col) for row in range(0, 96, 12) for col in range(0, 96, 12)]
    true = [(row + 1, col + 1, 8, 8) for row, col in cells if rng.random() < 0.8]
    guessed = [
        (row + rng.integers(0, 4), col + rng.integers(0, 4), *rng.integers(6, 9, 2))
        for row, col in cells
        if rng.random() < 0.8
    ]
    truth, predicted = squares(*true, shape=(96, 96)), squares(*guessed, shape=(96, 96))
    scores = np.append(np.nan, rng.permutation(len(guessed)) / len(guessed))
    (found,) = detect(predicted, truth, scores=scores)
    iou = np.zeros((len(guessed), len(true)))
    for one in range(len(guessed)):
        for other in range(len(true)):
            mine, yours = predicted[1] == one + 1, truth[1] == other + 1
            iou[one, other] = np.sum(mine & yours) / np.sum(mine | yours)
    expected = [coco(iou, scores[1:], threshold) for threshold in THRESHOLDS]
    assert 0.3 < expected[0] < 0.95
    given = average_precision(found.score, found.matched, found.judged.astype(float), found.truths)
    assert given == pytest.approx(expected)


def test_average_precision_of_equal_scores_does_not_depend_on_their_order():
    matched = np.array([[True, False, True, False]])
    score, weight = np.full(4, 0.7), np.ones((1, 4))
    for order in ([0, 1, 2, 3], [1, 3, 0, 2]):
        assert average_precision(score, matched[:, order], weight, 2) == pytest.approx(0.5)
    assert average_precision(score, matched, weight, 4) == pytest.approx(0.5 * 51 / 101)
    assert np.isnan(average_precision(score, matched, weight, 0)).all()
    assert average_precision(score[:0], matched[:, :0], weight[:, :0], 3).tolist() == [0]


def test_scores_are_the_mean_confidence_of_known_pixels():
    predicted, confidence = squares((0, 0, 2, 4)), np.full((40, 40), 255, np.uint8)
    confidence[0, :4], confidence[1, :2] = 254, 0
    known = np.ones((40, 40), bool)
    known[0, 0] = False
    (found,) = detect(predicted, squares((0, 0, 2, 4)), confidence=confidence, known=known)
    assert found.score.tolist() == pytest.approx([3 / 5])
    (found,) = detect(predicted, squares((0, 0, 2, 4)))
    assert found.score.tolist() == [1.0]

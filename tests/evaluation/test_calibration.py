from __future__ import annotations

import numpy as np
import pytest

from geoseg.evaluation.calibration import BINS, bin_levels, count_levels, expected_error


def error_by_hand(confidence: np.ndarray, right: np.ndarray) -> float:
    """As in the authors' code: bins (low, high], weighted gaps of means."""
    error = 0.0
    for place in range(BINS):
        low, high = place / BINS, (place + 1) / BINS
        inside = (confidence > low + 1e-9) & (confidence <= high + 1e-9)
        inside |= (confidence == 0) & (place == 0)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return error


def test_error_of_random_pixels_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    confidence = rng.integers(0, 255, (50, 60)).astype(np.uint8)
    right = rng.random((50, 60)) < (confidence / 254) ** 2
    predicted = rng.integers(0, 3, (50, 60)).astype(np.uint8)
    levels = count_levels(predicted, right, confidence, np.ones((50, 60), bool), 3).astype(float)
    assert expected_error(levels.sum(axis=0)) == pytest.approx(error_by_hand(confidence.ravel() / 254, right.ravel()))
    mine = predicted == 2
    assert expected_error(levels)[2] == pytest.approx(error_by_hand(confidence[mine] / 254, right[mine]))
    bins = bin_levels(levels.sum(axis=0))
    assert bins[:, 0].sum() == 3000
    assert bins[:, 1].sum() == right.sum()
    assert bins[:, 2].sum() == pytest.approx(confidence.sum() / 254)


def test_certain_and_right_is_calibrated_and_certain_and_wrong_is_not():
    predicted, sure, all_of_it = np.ones((4, 4), np.uint8), np.full((4, 4), 254, np.uint8), np.ones((4, 4), bool)
    right = np.ones((4, 4), bool)
    assert expected_error(count_levels(predicted, right, sure, all_of_it, 2).sum(axis=0).astype(float)) == 0
    right[:2] = False
    assert expected_error(count_levels(predicted, right, sure, all_of_it, 2).sum(axis=0).astype(float)) == 0.5


def test_unknown_pixels_and_pixels_without_confidence_do_not_count():
    confidence = np.array([[254, 255], [127, 127]], np.uint8)
    judged = np.array([[True, True], [True, False]])
    levels = count_levels(np.zeros((2, 2), np.uint8), np.ones((2, 2), bool), confidence, judged, 1)
    assert levels[..., 0].sum() == 2
    assert np.isnan(expected_error(np.zeros((255, 2))))

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from geoseg.stages.refine import STRIP, Method, reach_px, refine

METHODS = get_args(Method)
SIZE = 128


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """As a runtime keeps it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw_scene(classes: int, seed: int = 0):
    """True classes (rows, cols), 0 = background; their image; and noisy scores that are blurred over the edges."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[:SIZE, :SIZE]
    truth = np.zeros((SIZE, SIZE), np.int64)
    for code in range(1, classes + 1):
        centre = rng.integers(24, SIZE - 24, 2)
        truth[(row - centre[0]) ** 2 + 2 * (col - centre[1]) ** 2 < 24**2] = code
    truth[80:104] = 1
    colours = rng.permutation(np.linspace(20, 235, classes + 1))[:, None] + np.array([0, 9, -9])
    image = colours[truth] + rng.normal(0, 4, (SIZE, SIZE, 3))
    logits = np.stack([np.where(truth == code, 2.0, -2.0) for code in range(1, classes + 1)])
    for _ in range(6):
        logits = (logits + np.roll(logits, 1, 1) + np.roll(logits, -1, 1)) / 3
        logits = (logits + np.roll(logits, 1, 2) + np.roll(logits, -1, 2)) / 3
    logits += rng.normal(0, 1.2, logits.shape)
    scores = torch.from_numpy(1 / (1 + np.exp(-logits))).float()[None]
    return truth, scores, torch.from_numpy(image.clip(0, 255).transpose(2, 0, 1).copy()).float()[None]


def decide(scores: torch.Tensor) -> np.ndarray:
    best, channel = scores[0].max(0)
    return torch.where(best >= 0.5, channel + 1, 0).numpy()


def mean_iou(codes: np.ndarray, truth: np.ndarray) -> float:
    there = np.unique(truth[truth > 0])
    return float(np.mean([((codes == k) & (truth == k)).sum() / ((codes == k) | (truth == k)).sum() for k in there]))


def near_edges(truth: np.ndarray) -> np.ndarray:
    edges = np.zeros(truth.shape, bool)
    for shift in (1, 2):
        for axis in (0, 1):
            edges |= (truth != np.roll(truth, shift, axis)) | (truth != np.roll(truth, -shift, axis))
    return edges


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("method", METHODS)
def test_noisy_scores_snap_to_the_edges_of_the_image(method, classes):
    truth, scores, image = draw_scene(classes)
    before, after = decide(scores), decide(refine(scores, image, method))
    assert mean_iou(after, truth) > mean_iou(before, truth) + 0.05
    rim = near_edges(truth)
    wrong = [float((codes != truth)[rim].mean()) for codes in (before, after)]
    assert wrong[1] < 0.6 * wrong[0]


@pytest.mark.parametrize("method", METHODS)
def test_scores_stay_scores_whatever_comes(method):
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(2, 3, 40, 50, generator=generator).round(decimals=1)  # with 0 and 1
    image = 255 * torch.rand(2, 4, 40, 50, generator=generator).round()
    kept = scores.clone(), image.clone()
    refined = refine(scores, image, method)
    assert refined.shape == scores.shape
    assert refined.dtype == torch.float32
    assert torch.isfinite(refined).all()
    assert refined.min() >= 0
    assert refined.max() <= 1
    assert torch.equal(scores, kept[0])
    assert torch.equal(image, kept[1])


@pytest.mark.parametrize("method", METHODS)
def test_scores_of_one_mind_are_left_alone(method):
    level = torch.tensor([0.0, 0.3, 0.55, 0.6, 0.97, 1.0])
    scores = level.view(1, -1, 1, 1).expand(1, -1, 70, 60)
    image = 255 * torch.rand(1, 3, 70, 60, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(refine(scores, image, method), scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(refine(scores, torch.full_like(image, 128.0), method), scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 2), (STRIP + 1, 3)])
@pytest.mark.parametrize("method", METHODS)
def test_images_smaller_than_a_window(method, shape):
    scores = torch.full((1, 2, *shape), 0.7)
    refined = refine(scores, torch.zeros(1, 3, *shape), method)
    torch.testing.assert_close(refined, scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_images_of_a_batch_do_not_mix(method):
    (_, one, first), (_, other, second) = draw_scene(2, seed=3), draw_scene(2, seed=4)
    both = refine(torch.cat([one, other]), torch.cat([first, second]), method)
    assert torch.equal(both[:1], refine(one, first, method))
    assert torch.equal(both[1:], refine(other, second, method))


def test_reach_is_small_enough_for_a_halo():
    assert reach_px("crf") == 30
    assert reach_px("guided") == 8

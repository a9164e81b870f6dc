from __future__ import annotations

import numpy as np
import pytest
import torch

from geoseg.training.augment import Augmenter
from geoseg.training.callbacks import MovingAverage
from geoseg.training.feed import Feed
from geoseg.training.module import learning_rate_factor
from geoseg.training.panels import draw_panel
from geoseg.training.sampler import Sample


class Numbers:
    """Sample i is filled with i."""

    def draw(self, index: int) -> Sample:
        filled = np.full((1, 2, 2), index, np.uint8)
        return Sample(filled, filled % 2, np.ones((1, 2, 2), np.float32), "numbers", 1.0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_has_its_own_samples_wherever_the_feed_starts(workers: int) -> None:
    augmenter = Augmenter("none", seed=0, bands=1)
    feed = Feed(Numbers(), augmenter, batch=3, devices=1, start=5, workers=workers, pinned=False)
    batches = [images[:, 0, 0, 0].tolist() for (images, _, _), _ in zip(feed.loader(), range(3), strict=False)]
    assert batches == [[15, 16, 17], [18, 19, 20], [21, 22, 23]]


def test_devices_share_the_samples_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    augmenter = Augmenter("none", seed=0, bands=1)
    feed = Feed(Numbers(), augmenter, batch=4, devices=2, start=1, workers=0, pinned=False)
    steps = feed.loader().batch_sampler
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        shares.append(next(iter(steps)))
    assert shares == [[4, 5], [6, 7]]


def test_learning_rate_rises_then_falls() -> None:
    factors = [learning_rate_factor(share / 100, warmup=0.1) for share in range(101)]
    assert max(factors) == factors[10] == pytest.approx(1.0)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == pytest.approx(0.01)
    assert learning_rate_factor(0.0, warmup=0.0) == pytest.approx(1.0)


def test_the_average_is_short_at_first_and_long_later() -> None:
    average = MovingAverage(0.9)
    for step, decay in ((0, 0.1), (8, 0.5), (10_000, 0.9)):
        average._steps = step
        old = [torch.ones(3)]
        average._blend(old, [torch.zeros(3)], None)
        torch.testing.assert_close(old[0], torch.full((3,), decay))


def test_panels_show_image_truth_and_prediction() -> None:
    target = np.zeros((2, 4, 4), np.uint8)
    target[1, 0] = 1
    weight = np.ones((2, 4, 4), np.float32)
    weight[:, 3] = 0
    sample = Sample(np.full((3, 4, 4), 7, np.uint8), target, weight, "", 1.0)
    guess = np.full((4, 4), -1)
    guess[:2] = 1
    panel = draw_panel([sample, sample], [guess, guess])
    assert panel.shape == (16, 24, 3)
    image, truth, said = (panel[:4, left : left + 4] for left in (0, 8, 16))
    assert (image == 7).all()
    assert (truth[0] == said[0]).all()
    assert truth[0].any()
    assert not truth[1:3].any()
    assert (truth[3] == 90).all()
    assert said[1].any()
    assert not said[2:].any()
    gray = Sample(np.full((1, 4, 4), 9, np.uint8), target, weight, "", 1.0)
    assert (draw_panel([gray], [guess])[:4, :4] == 9).all()

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from geoseg.errors import SettingsError
from geoseg.training.augment import Augmenter


def image(bands: int = 3, side: int = 24) -> torch.Tensor:
    rows, cols = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    planes = [60 + 40 * band + (rows * 3 + cols * (band + 1)) % 90 for band in range(bands)]
    return torch.stack(planes).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def strong() -> Augmenter:
    return Augmenter("strong", seed=7)


def test_a_sample_is_a_function_of_seed_and_index(strong: Augmenter) -> None:
    before = [strong(image(), index) for index in range(8)]
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002 - the old generator must not matter either
    state = torch.get_rng_state()
    again = Augmenter("strong", seed=7)
    assert all(torch.equal(again(image(), index), before[index]) for index in reversed(range(8)))
    assert torch.equal(torch.get_rng_state(), state)  # others' random numbers stay as they were
    other = Augmenter("strong", seed=8)
    assert sum(torch.equal(other(image(), index), before[index]) for index in range(8)) <= 1
    assert len({tuple(sample.flatten().tolist()) for sample in before}) >= 7


def test_strong_changes_more_than_light_and_none_nothing(strong: Augmenter) -> None:
    plain = image()

    def change(augmenter: Augmenter) -> float:
        return float(np.mean([(augmenter(plain, i).float() - plain.float()).abs().mean() for i in range(16)]))

    assert change(Augmenter("none", seed=7)) == 0.0
    assert 1.0 < change(Augmenter("light", seed=7)) < 0.7 * change(strong) < 40.0


@pytest.mark.parametrize("bands", [1, 2, 4])
def test_images_of_other_bands_keep_them(bands: int) -> None:
    augmenter = Augmenter("strong", seed=1, bands=bands)
    for index in range(8):
        changed = augmenter(image(bands), index)
        assert (changed.shape, changed.dtype) == ((bands, 24, 24), torch.uint8)


def test_pixels_stay_where_they_are() -> None:
    checker = torch.zeros(3, 32, 32, dtype=torch.uint8)
    checker[:, :, 16:] = 200
    augmenter = Augmenter("strong", seed=3)
    for index in range(8):
        changed = augmenter(checker, index).float().mean(0)
        assert changed[:, 20:].mean() > changed[:, :12].mean() + 20


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="expected one of none, light, strong"):
        Augmenter("wild", seed=0)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="at least 1"):
        Augmenter("light", seed=0, bands=0)

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.errors import SettingsError
from geoseg.training.losses import known_bce_dice


def make(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 6, 5, generator=generator)
    target = (torch.rand(2, 4, 6, 5, generator=generator) < 0.4).float()
    weight = (torch.rand(2, 4, 6, 5, generator=generator) < 0.6).float()
    return logits, target, weight


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_what_is_unknown_changes_nothing_and_gets_no_gradient(seed: int) -> None:
    logits, target, weight = make(seed)
    unknown = weight == 0
    loss = known_bce_dice(logits, target, weight).total
    changed = known_bce_dice(
        torch.where(unknown, logits + 7, logits), torch.where(unknown, 1 - target, target), weight
    ).total
    torch.testing.assert_close(loss, changed)
    learned = logits.clone().requires_grad_()
    known_bce_dice(learned, target, weight).total.backward()
    assert learned.grad is not None
    assert learned.grad[unknown].eq(0).all()
    assert learned.grad[~unknown].ne(0).any()


def test_a_class_that_is_nowhere_known_does_not_weaken_the_others() -> None:
    logits, target, weight = make()
    weight[:, 2:] = 0
    both = known_bce_dice(logits, target, weight)
    alone = known_bce_dice(logits[:, :2], target[:, :2], weight[:, :2])
    torch.testing.assert_close(both.total, alone.total)
    assert both.bce[2:].tolist() == [0.0, 0.0]


def test_nothing_known_is_zero_not_nan() -> None:
    logits, target, weight = make()
    logits.requires_grad_()
    loss = known_bce_dice(logits, target, torch.zeros_like(weight)).total
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert logits.grad.eq(0).all()


def test_right_scores_cost_almost_nothing_and_wrong_ones_much() -> None:
    _, target, weight = make()
    right = known_bce_dice((target * 2 - 1) * 20, target, weight)
    wrong = known_bce_dice((1 - target * 2) * 20, target, weight)
    assert float(right.total) < 1e-4
    assert float(wrong.total) > 1.0


def test_weights_of_pixels_and_classes_count() -> None:
    logits, target, weight = make()
    plain = known_bce_dice(logits, target, weight, dice_share=0.0)
    first_only = known_bce_dice(logits, target, weight, dice_share=0.0, class_weight=torch.tensor([1.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(first_only.total, plain.bce[0])
    cross = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    heavy = weight.clone()
    heavy[:, :, 0] *= 4
    expected = (cross * heavy)[:, 1].sum() / heavy[:, 1].sum()
    torch.testing.assert_close(known_bce_dice(logits, target, heavy).bce[1], expected)


def test_bad_shapes_and_shares_are_refused() -> None:
    logits, target, weight = make()
    with pytest.raises(SettingsError, match="three equal"):
        known_bce_dice(logits, target[:, :3], weight)
    with pytest.raises(SettingsError, match="from 0 to 1"):
        known_bce_dice(logits, target, weight, dice_share=1.5)

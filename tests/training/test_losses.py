from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from segmentation_models_pytorch import losses as smp
from torch.nn import functional

from geoseg.errors import SettingsError
from geoseg.training.losses import LOSSES, known_loss

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
TODAY = {"ce": 0.6, "dice": 0.4}


def make(seed: int = 0, *, side: int = 12, known: float = 0.95) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 4, side, side)
    logits = torch.randn(shape, generator=generator)
    target = (torch.rand(shape, generator=generator) < 0.4).float()
    weight = (torch.rand(shape, generator=generator) < known).float()
    return logits, target, weight


def part(name: str, batch: Batch) -> torch.Tensor:
    return known_loss(*batch, losses={name: 1.0}).parts[name]


@pytest.mark.parametrize("name", LOSSES)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=8)
def test_what_is_unknown_changes_nothing_and_gets_no_gradient(name: str, seed: int) -> None:
    logits, target, weight = make(seed)
    unknown = weight == 0
    loss = known_loss(logits, target, weight, losses={name: 1.0}).total
    moved = torch.where(unknown, logits + 7, logits), torch.where(unknown, 1 - target, target)
    torch.testing.assert_close(loss, known_loss(*moved, weight, losses={name: 1.0}).total)
    learned = logits.clone().requires_grad_()
    known_loss(learned, target, weight, losses={name: 1.0}).total.backward()
    assert learned.grad is not None
    assert learned.grad[unknown].eq(0).all()
    assert learned.grad[~unknown].ne(0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_class_that_is_nowhere_known_does_not_weaken_the_others(name: str) -> None:
    logits, target, weight = make()
    weight[:, 2:] = 0
    both = known_loss(logits, target, weight, losses={name: 1.0})
    alone = known_loss(logits[:, :2], target[:, :2], weight[:, :2], losses={name: 1.0})
    torch.testing.assert_close(both.total, alone.total)
    assert both.parts[name][2:].tolist() == [0.0, 0.0]
    assert both.total > 0


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_known_is_zero_not_nan(name: str) -> None:
    logits, target, weight = make()
    logits.requires_grad_()
    loss = known_loss(logits, target, torch.zeros_like(weight), losses={name: 1.0}).total
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert logits.grad.eq(0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_right_scores_cost_almost_nothing_and_wrong_ones_much(name: str) -> None:
    _, target, weight = make(known=1.0)
    right = known_loss((target * 2 - 1) * 20, target, weight, losses={name: 1.0}).total
    # an inverted plane has the same boundaries
    bad = torch.full_like(target, -20) if name == "boundary" else (1 - target * 2) * 20
    wrong = known_loss(bad, target, weight, losses={name: 1.0}).total
    assert float(right) < 0.01
    assert float(wrong) > 0.5


@pytest.mark.parametrize("name", LOSSES)
def test_negatives_alone_speak_only_through_the_mean_losses(name: str) -> None:
    logits, target, weight = make()
    assert (part(name, (logits, torch.zeros_like(target), weight)) > 0).all() == (name in {"ce", "focal"})


def test_where_all_is_known_the_losses_are_those_of_segmentation_models_pytorch() -> None:
    batch = make(known=1.0)
    logits, target, _ = batch
    theirs = {
        "ce": smp.SoftBCEWithLogitsLoss(),
        "focal": smp.FocalLoss("multilabel", gamma=2.0),
        "dice": smp.DiceLoss("multilabel", smooth=0.5),
        "tversky": smp.TverskyLoss("multilabel", smooth=0.5, alpha=0.3, beta=0.7),
        "lovasz": smp.LovaszLoss("multilabel", per_image=False),
    }
    for name, loss in theirs.items():
        for channel in range(4):
            expected = loss(logits[:, channel : channel + 1], target[:, channel : channel + 1])
            torch.testing.assert_close(part(name, batch)[channel], expected.float(), msg=name)


def test_the_boundary_loss_of_hard_masks_is_one_minus_the_boundary_f1() -> None:
    rng = np.random.default_rng(5)
    blobs = ndimage.gaussian_filter(rng.standard_normal((2, 40, 40)), (0, 4, 4)) > 0
    guess, truth = blobs
    known = np.ones((40, 40), bool)
    known[:6, :9] = False
    square = np.ones((3, 3), bool)

    def edge(mask: np.ndarray) -> np.ndarray:
        return mask & known & ndimage.binary_dilation(~mask & known, square)

    def near(mask: np.ndarray) -> np.ndarray:
        return ndimage.binary_dilation(mask, square, iterations=2)

    counted = ~ndimage.binary_dilation(~known, square, iterations=3)
    ours, theirs = edge(guess), edge(truth)
    precision = (ours & near(theirs) & counted).sum() / (ours & counted).sum()
    recall = (theirs & near(ours) & counted).sum() / (theirs & counted).sum()
    logits, target, weight = (torch.from_numpy(plane)[None, None].float() for plane in (guess, truth, known))
    value = part("boundary", (logits * 200 - 100, target, weight))
    assert 0.2 < float(value) < 0.9
    assert float(value) == pytest.approx(1 - 2 * precision * recall / (precision + recall), abs=1e-5)


def test_the_sum_follows_the_weights_of_losses_pixels_and_classes() -> None:
    logits, target, weight = make()
    terms = known_loss(logits, target, weight, losses=TODAY)
    torch.testing.assert_close(terms.total, 0.6 * terms.parts["ce"].mean() + 0.4 * terms.parts["dice"].mean())
    only = torch.tensor([1.0, 0.0, 0.0, 0.0])
    first = known_loss(logits, target, weight, losses={"ce": 1.0}, class_weight=only)
    torch.testing.assert_close(first.total, terms.parts["ce"][0])
    cross = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    heavy = weight.clone()
    heavy[:, :, 0] *= 4
    expected = (cross * heavy)[:, 1].sum() / heavy[:, 1].sum()
    torch.testing.assert_close(part("ce", (logits, target, heavy))[1], expected)


def test_half_precision_is_summed_in_full() -> None:
    logits, target, weight = make(known=1.0)
    half = known_loss(logits.bfloat16(), target.to(torch.uint8), weight, losses=TODAY).total
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, known_loss(logits, target, weight, losses=TODAY).total, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        ({"hinge": 1.0}, "unknown loss 'hinge'; expected some of ce, focal"),
        ({"ce": -1.0}, "0 or more"),
        ({"ce": float("nan")}, "0 or more"),
        ({"ce": 0.0}, "teaches nothing"),
        ({}, "teaches nothing"),
    ],
)
def test_losses_that_make_no_sense_are_refused(losses: dict[str, float], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        known_loss(*make(), losses=losses)


def test_shapes_that_differ_are_refused() -> None:
    logits, target, weight = make()
    with pytest.raises(SettingsError, match="three equal"):
        known_loss(logits, target[:, :3], weight, losses=TODAY)

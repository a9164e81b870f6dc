"""Losses for labels that are known only for some classes at some pixels.

Labelled sets seldom annotate every class. A class that a set leaves out is unknown there, not background, so each
loss takes a weight per pixel *and* class; weight 0 removes the pixel from value and gradient alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from geoseg.errors import SettingsError

__all__ = ["LossTerms", "known_bce_dice"]


@dataclass(frozen=True, slots=True)
class LossTerms:
    """A loss and its parts, for the log."""

    total: Tensor
    """Scalar, differentiable."""
    bce: Tensor
    """(C,) weighted mean cross-entropy per class, 0 where nothing is known; detached."""
    dice: Tensor
    """(C,) soft dice loss per class, 0 where no known pixel is positive; detached."""


def known_bce_dice(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    class_weight: Tensor | None = None,
    dice_share: float = 0.5,
) -> LossTerms:
    """Binary cross-entropy plus soft dice, per class, over known pixels only.

    Each class is averaged over its own known pixels, pooled over the batch, and the classes are then averaged: a
    class that is known in few pixels counts as much as one that is known everywhere. Dice (Milletari et al., 2016,
    https://arxiv.org/abs/1606.04797) is taken only for classes with a known positive in the batch; elsewhere it
    would only push scores down, which the cross-entropy already does.

    Args:
        logits: float (N, C, H, W).
        target: float or bool (N, C, H, W), 1 where the class is present.
        weight: float (N, C, H, W), 0 where the class is unknown, else the pixel's weight.
        class_weight: float (C,), relative weight of the classes; equal when not given.
        dice_share: share of dice in the total, 0 to 1.

    Raises:
        SettingsError: when shapes differ, or the share lies outside 0 to 1.
    """
    if not (logits.shape == target.shape == weight.shape) or logits.ndim != 4:
        shapes = ", ".join(str(tuple(t.shape)) for t in (logits, target, weight))
        raise SettingsError(f"logits, target and weight have shapes {shapes}; give three equal (N, C, H, W)")
    if not 0.0 <= dice_share <= 1.0:
        raise SettingsError(f"dice_share is {dice_share}; give a number from 0 to 1")
    truth = target.to(logits.dtype)
    importance = torch.ones(logits.shape[1], dtype=logits.dtype, device=logits.device)
    if class_weight is not None:
        importance = class_weight.to(importance)
    pixels = (0, 2, 3)

    known = weight.sum(pixels)
    cross = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    bce = (cross * weight).sum(pixels) / known.clamp_min(1e-6)

    # Dice uses a 0/1 weight: raised border weights would distort the overlap that it stands for.
    seen = (weight > 0).to(logits.dtype)
    score = torch.sigmoid(logits) * seen
    positive = (truth * seen).sum(pixels)
    overlap = (score * truth).sum(pixels)
    dice = 1.0 - (2.0 * overlap + 1.0) / (score.sum(pixels) + positive + 1.0)
    has_positive = (positive > 0).to(logits.dtype)
    dice = dice * has_positive

    has_known = (known > 0).to(logits.dtype)
    bce_mean = (bce * importance).sum() / (has_known * importance).sum().clamp_min(1e-6)
    dice_mean = (dice * importance).sum() / (has_positive * importance).sum().clamp_min(1e-6)
    total = (1.0 - dice_share) * bce_mean + dice_share * dice_mean
    return LossTerms(total=total, bce=bce.detach(), dice=dice.detach())

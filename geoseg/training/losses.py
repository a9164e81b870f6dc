"""Losses for labels that are known only for some classes at some pixels.

Labelled sets seldom annotate every class. A class that a set leaves out is unknown there, not background, so each
loss takes a weight per pixel *and* class; weight 0 removes the pixel from value and gradient alike. Classes are
independent sigmoid channels, and each is pooled over its own known pixels of the whole batch: a class that is known
in few pixels counts as much as one that is known everywhere.

=========  ==========================================================================================================
ce         binary cross-entropy
focal      focal loss, gamma 2 (Lin et al., 2017, https://arxiv.org/abs/1708.02002), without its class balance alpha
dice       soft dice (Milletari et al., 2016, https://arxiv.org/abs/1606.04797)
tversky    Tversky index, 0.3 on false and 0.7 on missed pixels (Salehi et al., 2017, https://arxiv.org/abs/1706.05721)
lovasz     Lovász hinge (Berman et al., 2018, https://arxiv.org/abs/1705.08790), by segmentation_models_pytorch
boundary   soft boundary F1 within 2 px (Bokhovkin and Burnaev, 2019, https://arxiv.org/abs/1905.07852)
=========  ==========================================================================================================

Of the boundary terms, the soft F1 was taken and not the distance maps of Kervadec et al. (2019): it needs no map per
sample, an unknown pixel simply falls out of its sums (a distance *through* unknown ground is itself unknown), it is
bounded, and it is the very figure that `geoseg evaluate` reports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from geoseg.errors import SettingsError

__all__ = ["LOSSES", "LossTerms", "check_losses", "known_loss"]

_FOCAL_GAMMA = 2.0
_TVERSKY_FALSE, _TVERSKY_MISSED = 0.3, 0.7
_BOUNDARY_REACH = 2
_UNKNOWN = 255


@dataclass(frozen=True, slots=True)
class LossTerms:
    """A loss and its parts, for the log."""

    total: Tensor
    """Scalar, differentiable."""
    parts: dict[str, Tensor]
    """Per loss (C,), before any weighting; 0 where a class has nothing to say; detached."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """What every loss looks at, each float32 (N, C, H, W)."""

    logits: Tensor
    truth: Tensor
    weight: Tensor
    seen: Tensor
    """1 where the weight is above 0. Overlaps use it: raised border weights would distort what they stand for."""


_Value = tuple[Tensor, Tensor]  # per class: the loss, and whether it has something to say; both (C,)
_PIXELS = (0, 2, 3)


def known_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    losses: Mapping[str, float],
    class_weight: Tensor | None = None,
) -> LossTerms:
    """Weighted sum of losses over known pixels only.

    Cross-entropy and focal loss speak for every class with a known pixel in the batch, the others for every class
    with a known positive (or boundary): elsewhere they would only push scores down, which the former already do.

    Args:
        logits: float (N, C, H, W).
        target: float, bool or uint8 (N, C, H, W), 1 where the class is present.
        weight: float (N, C, H, W), 0 where the class is unknown, else the pixel's weight.
        losses: names of `LOSSES` and their weights in the sum.
        class_weight: float (C,), relative weight of the classes; equal when not given.

    Raises:
        SettingsError: for shapes that differ, or losses that `check_losses` refuses.
    """
    if not (logits.shape == target.shape == weight.shape) or logits.ndim != 4:
        shapes = ", ".join(str(tuple(t.shape)) for t in (logits, target, weight))
        raise SettingsError(f"logits, target and weight have shapes {shapes}; give three equal (N, C, H, W)")
    check_losses(losses)
    # full precision also under autocast: sums over half a million pixels do not fit bfloat16
    batch = _Batch(logits.float(), target.float(), weight.float(), (weight > 0).float())
    importance = torch.ones(logits.shape[1], device=logits.device)
    if class_weight is not None:
        importance = class_weight.to(importance)
    total = batch.logits.new_zeros(())
    parts = {}
    for name, share in losses.items():
        value, speaks = LOSSES[name](batch)
        value = value * speaks
        parts[name] = value.detach()
        total = total + share * (value * importance).sum() / (speaks * importance).sum().clamp_min(1e-6)
    return LossTerms(total=total, parts=parts)


def check_losses(losses: Mapping[str, float]) -> None:
    """Refuse names that are unknown, and weights that make no loss.

    Raises:
        SettingsError: for an unknown name, a negative weight, or none above 0.
    """
    for name, share in losses.items():
        if name not in LOSSES:
            raise SettingsError(f"unknown loss {name!r}; expected some of {', '.join(LOSSES)}")
        if not 0.0 <= share < float("inf"):
            raise SettingsError(f"the weight of loss {name!r} is {share}; give a number of 0 or more")
    if not sum(losses.values()) > 0:
        raise SettingsError(f"losses are {dict(losses)}, which teaches nothing; give one of them a weight above 0")


def _cross_entropy(batch: _Batch) -> _Value:
    return _mean(functional.binary_cross_entropy_with_logits(batch.logits, batch.truth, reduction="none"), batch)


def _focal(batch: _Batch) -> _Value:
    cross = functional.binary_cross_entropy_with_logits(batch.logits, batch.truth, reduction="none")
    score = torch.sigmoid(batch.logits)
    missed = score + batch.truth - 2 * score * batch.truth  # 1 - score of what is true
    return _mean(cross * missed**_FOCAL_GAMMA, batch)


def _mean(values: Tensor, batch: _Batch) -> _Value:
    known = batch.weight.sum(_PIXELS)
    return (values * batch.weight).sum(_PIXELS) / known.clamp_min(1e-6), (known > 0).float()


def _dice(batch: _Batch) -> _Value:
    return _overlap(batch, 0.5, 0.5)


def _tversky(batch: _Batch) -> _Value:
    return _overlap(batch, _TVERSKY_FALSE, _TVERSKY_MISSED)


def _overlap(batch: _Batch, false_share: float, missed_share: float) -> _Value:
    score, truth = torch.sigmoid(batch.logits) * batch.seen, batch.truth * batch.seen
    hit = (score * truth).sum(_PIXELS)
    positive = truth.sum(_PIXELS)
    union = hit + false_share * (score.sum(_PIXELS) - hit) + missed_share * (positive - hit)
    return 1.0 - (hit + 0.5) / (union + 0.5), (positive > 0).float()


def _lovasz(batch: _Batch) -> _Value:
    # imported here: the package takes over a second to import, and only this loss needs it
    from segmentation_models_pytorch.losses import LovaszLoss

    hinge = LovaszLoss("binary", per_image=False, ignore_index=_UNKNOWN)
    labels = torch.where(batch.seen > 0, batch.truth, _UNKNOWN).to(torch.uint8)
    values = torch.stack(
        [hinge(batch.logits[:, c : c + 1], labels[:, c : c + 1]) for c in range(batch.logits.shape[1])]
    )
    return values, ((batch.truth * batch.seen).sum(_PIXELS) > 0).float()


def _boundary(batch: _Batch) -> _Value:
    """1 - F1 of soft boundaries.

    The boundary of a plane is where a pixel is inside and one of its eight neighbours is not. A boundary pixel
    counts when all pixels within its reach are known: next to unknown ground nobody can tell where the other
    boundary runs.
    """
    seen = batch.seen

    def edges(inside: Tensor) -> Tensor:
        outside = (1.0 - inside) * seen  # unknown pixels make no boundary
        return (_widen(outside, 1) - outside) * seen

    ours, theirs = edges(torch.sigmoid(batch.logits)), edges(batch.truth)
    counted = 1.0 - _widen(1.0 - seen, _BOUNDARY_REACH + 1)
    total = (theirs * counted).sum(_PIXELS)
    precision = _share((ours * _widen(theirs, _BOUNDARY_REACH) * counted).sum(_PIXELS), (ours * counted).sum(_PIXELS))
    recall = _share((theirs * _widen(ours, _BOUNDARY_REACH) * counted).sum(_PIXELS), total)
    return 1.0 - _share(2 * precision * recall, precision + recall), (total > 0).float()


def _widen(plane: Tensor, reach: int) -> Tensor:
    """Largest value in the square of `reach` pixels around; along rows, then columns, as that is much quicker."""
    side = 2 * reach + 1
    rows = functional.max_pool2d(plane, (1, side), stride=1, padding=(0, reach))
    return functional.max_pool2d(rows, (side, 1), stride=1, padding=(reach, 0))


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return part / (whole + 1e-6)


LOSSES: dict[str, Callable[[_Batch], _Value]] = {
    "ce": _cross_entropy,
    "focal": _focal,
    "dice": _dice,
    "tversky": _tversky,
    "lovasz": _lovasz,
    "boundary": _boundary,
}
"""Every loss by its name in a configuration."""

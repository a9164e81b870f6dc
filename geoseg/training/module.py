"""What Lightning trains: a network with its normalisation, losses, optimiser and frozen parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from geoseg.errors import SettingsError
from geoseg.training.feed import Tensors
from geoseg.training.losses import known_loss

__all__ = ["Learner", "learning_rate_factor"]


def learning_rate_factor(share: float, *, warmup: float) -> float:
    """Linear warm-up, then cosine decay to 1 % of the peak.

    Args:
        share: of the budget that is used, 0 to 1.
        warmup: share in which the rate rises.
    """
    share = min(max(share, 0.0), 1.0)
    if share < warmup:
        return 0.05 + 0.95 * share / warmup
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * (share - warmup) / (1.0 - warmup)))


class Learner(LightningModule):
    """A network that learns.

    Args:
        network: from float32 (N, bands, H, W) to logits (N, C, H, W); trained in place.
        mean: per band, of images in 0-255.
        std: likewise.
        losses: names and weights, see `geoseg.training.losses`.
        class_weight: per class, or None for equal ones.
        learning_rate: at its peak.
        encoder_share: the encoder learns at this share of the rate.
        weight_decay: of weights of two or more dimensions.
        frozen: parameters whose name starts with one of these stay as they are; their batch norms use running
            statistics.

    Raises:
        SettingsError: nothing is left to train.
    """

    mean: Tensor
    std: Tensor
    class_weight: Tensor | None

    def __init__(  # noqa: PLR0913 - plain values keep it free of the settings above it
        self,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        losses: Mapping[str, float],
        class_weight: Sequence[float] | None,
        learning_rate: float,
        encoder_share: float,
        weight_decay: float,
        frozen: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        weights = None if class_weight is None else torch.tensor(class_weight)
        self.register_buffer("class_weight", weights, persistent=False)
        self._losses = dict(losses)
        self._learning_rate = learning_rate
        self._encoder_share = encoder_share
        self._weight_decay = weight_decay
        self._frozen = frozen or ("\0",)  # no name starts with it
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(not name.startswith(self._frozen))
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise SettingsError(f"frozen {frozen} leaves nothing to train; freeze less")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C, H, W) of uint8 images (N, bands, H, W)."""
        pixels = ((images.float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(pixels)
        return logits

    def training_step(self, batch: Tensors, _: int) -> dict[str, Any]:
        """The loss of a batch, and its parts for the log."""
        images, target, weight = batch
        terms = known_loss(self(images), target, weight, losses=self._losses, class_weight=self.class_weight)
        return {"loss": terms.total, "parts": terms.parts}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW (Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101), a group per rate and decay."""
        chosen: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                chosen.setdefault((name.startswith("encoder."), parameter.ndim > 1), []).append(parameter)
        groups = [
            {
                "params": parameters,
                "share": self._encoder_share if is_encoder else 1.0,
                "weight_decay": self._weight_decay if is_matrix else 0.0,
            }
            for (is_encoder, is_matrix), parameters in chosen.items()
        ]
        return torch.optim.AdamW(groups, lr=self._learning_rate)

    def set_rate(self, optimiser: torch.optim.Optimizer, factor: float) -> float:
        """Set the learning rates to a factor of their peaks; gives the rate outside the encoder."""
        for group in optimiser.param_groups:
            group["lr"] = self._learning_rate * group["share"] * factor
        return self._learning_rate * factor

    def train(self, mode: bool = True) -> Learner:  # noqa: FBT001, FBT002 - as torch has it
        """Switch to training, or out of it; frozen parts stay out."""
        super().train(mode)
        for name, module in self.network.named_modules():
            # "encoder.model.bn1" must match the prefix "encoder.model.bn1."
            if f"{name}.".startswith(self._frozen):
                module.eval()
        return self

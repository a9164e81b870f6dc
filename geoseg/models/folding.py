"""Batch normalizations folded into the convolutions before them, which changes nothing but rounding (floor 3)."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["fold_normalizations"]

_SAME = 1e-3  # of logits


def fold_normalizations(network: nn.Module, example: Tensor | None = None) -> nn.Module:
    """A copy with batch normalizations in the convolutions that stand before them, and biases everywhere.

    Args:
        network: in evaluation mode; it is left as it is.
        example: inputs for which the copy must give the same but for rounding; ``None`` trusts that it does.

    Returns:
        The copy, or the network itself where what stands one after the other is not used so.
    """
    folded = copy.deepcopy(network)
    for parent in list(folded.modules()):
        for (name, conv), (after, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, after, getattr(norm, "act", nn.Identity()))  # timm's have the activation inside
    if example is not None:
        with torch.no_grad():
            if not torch.allclose(folded(example), network(example), rtol=_SAME, atol=_SAME):
                return network
    return folded

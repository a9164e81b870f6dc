from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from torch import nn

from geoseg.training.classes import TrainClass, boundary_channels
from geoseg.training.sampler import Sample
from geoseg.training.validation import judge


class _Unsure(nn.Module):
    """Neither a field's inside nor its boundary reaches a half, but both together do."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.tensor([-3.0, -0.3, -0.4]).view(1, 3, 1, 1).expand(len(image), 3, *image.shape[-2:])


def test_a_class_and_its_boundary_stand_together_as_in_a_run() -> None:
    classes = [TrainClass("water", 1, (0, 0, 0)), TrainClass("field", 2, (0, 0, 0), instances=True, boundary=True)]
    target = np.zeros((3, 4, 4), np.uint8)
    target[1] = 1
    sample = Sample(np.zeros((3, 4, 4), np.uint8), target, np.ones((3, 4, 4), np.float32), "", 1.0)
    for boundaries, found in ((boundary_channels(classes), 16), ((), 0)):
        counts, _ = judge(
            _Unsure(),
            [sample],
            channels=3,
            boundaries=boundaries,
            device=torch.device("cpu"),
            context=nullcontext(),
            keep=0,
        )
        assert counts.tolist() == [[0, 0, 0], [found, 0, 16 - found], [0, 0, 0]]

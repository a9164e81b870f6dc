"""Batches for a network: samples drawn and augmented ahead, in processes of their own.

Which samples make up a step follows from its number alone, so a training that goes on after step n sees what it
would have seen, however many processes draw and however many devices share the step.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from geoseg.training.augment import Augmenter
from geoseg.training.sampler import Sample

__all__ = ["Draws", "Feed", "Tensors", "tensors_of"]

Tensors: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Images uint8 (N, bands, S, S), targets uint8 (N, C, S, S), weights float32 (N, C, S, S), 0 = unknown."""


class Draws(Protocol):
    """Anything that draws samples, such as `geoseg.training.sampler.Sampler`."""

    def draw(self, index: int) -> Sample:
        """Draw sample `index`; the same number draws the same sample."""
        ...


@dataclass(frozen=True, slots=True)
class Feed:
    """Where batches come from.

    Attributes:
        sampler: draws samples.
        augmenter: changes their light and colour.
        batch: samples of a step, over all devices; a multiple of `devices`.
        devices: that share a step.
        start: first step.
        workers: processes that draw; 0 draws in this one.
        pinned: into memory from which a GPU copies by itself.
    """

    sampler: Draws
    augmenter: Augmenter
    batch: int
    devices: int
    start: int
    workers: int
    pinned: bool

    def loader(self) -> DataLoader[Tensors]:
        """Batches of this process's device, without end."""
        return DataLoader(
            _Samples(self.sampler, self.augmenter),
            batch_sampler=_Steps(self.batch, self.devices, self.start),
            num_workers=self.workers,
            worker_init_fn=_start_worker,
            prefetch_factor=2 if self.workers else None,
            pin_memory=self.pinned,
        )


class _Samples(Dataset[Tensors]):
    def __init__(self, sampler: Draws, augmenter: Augmenter) -> None:
        self._sampler = sampler
        self._augmenter = augmenter

    def __getitem__(self, index: int) -> Tensors:
        image, target, weight = tensors_of(self._sampler.draw(index))
        return self._augmenter(image, index), target, weight


class _Steps(Sampler[list[int]]):
    """Numbers of the samples of one step after another: step s has s * batch and those after it."""

    def __init__(self, batch: int, devices: int, start: int) -> None:
        self._batch = batch
        self._devices = devices
        self._start = start

    def __iter__(self) -> Iterator[list[int]]:
        # asked only now: processes of a group know their rank once the training has begun
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        share = self._batch // self._devices
        for step in itertools.count(self._start):
            first = step * self._batch + rank * share
            yield list(range(first, first + share))


def tensors_of(sample: Sample) -> Tensors:
    """Image, target and weight of a sample."""
    image, target, weight = (torch.from_numpy(part) for part in (sample.image, sample.target, sample.weight))
    return image, target, weight


def _start_worker(_: Any) -> None:
    cv2.setNumThreads(0)  # a thread pool of OpenCV does not survive a fork

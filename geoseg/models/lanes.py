"""Batches on a CUDA device: each lane has buffers, a stream and a captured graph of its own (floor 3).

While one lane computes, others copy tiles up and results down, so that the device has always something to do. All that
is done with a batch is captured once as a CUDA graph and replayed from then on, copies included: a network of a few
hundred small kernels is then started by one call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from geoseg.models.slots import NoRoomError

__all__ = ["Lane", "count_lanes"]

_LEAST, _MOST = 3, 16  # one copies up, one computes, one copies down; small tiles leave room for more
_PIXELS = 3 * 2048**2  # of all lanes together that keep a device busy
_WARM_UPS = 2
_opening = threading.Lock()  # memory is allocated and graphs are captured one at a time


def count_lanes(pixels: int) -> int:
    """How many lanes are opened at most, for batches of so many pixels."""
    return min(_MOST, max(_LEAST, _PIXELS // pixels))


class Lane:
    """One batch at a time; several lanes work at once.

    Args:
        compute: from tiles on the device to results there, uint8; always of the same shapes.
        shape: of the tiles.
        dtype: of the tiles.

    Raises:
        NoRoomError: the device has no memory for another lane.
    """

    def __init__(
        self,
        compute: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
        shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> None:
        with _opening:
            try:
                self._open(compute, shape, dtype)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                raise NoRoomError from None

    def _open(
        self, compute: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._tiles = torch.empty(shape, dtype=dtype, pin_memory=True)
        above = torch.empty(shape, dtype=dtype, device="cuda", memory_format=torch.channels_last)
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):  # what is allocated or chosen at first use must not be captured
                results = compute(above)
            self._results = [torch.empty(result.shape, dtype=result.dtype, pin_memory=True) for result in results]
            self._stream.synchronize()
            del results
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                above.copy_(self._tiles, non_blocking=True)
                for result, below in zip(compute(above), self._results, strict=True):
                    below.copy_(result, non_blocking=True)

    def __call__(self, tiles: NDArray[Any]) -> tuple[NDArray[np.uint8], ...]:
        """Results of a batch, arrays of their own."""
        self._tiles.copy_(torch.from_numpy(tiles))
        with torch.cuda.stream(self._stream):
            self._graph.replay()
        self._stream.synchronize()  # lets other threads go on meanwhile
        return tuple(result.numpy().copy() for result in self._results)

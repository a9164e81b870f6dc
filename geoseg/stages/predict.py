"""Turns a chunk's tiles into masks and confidences, one of each for every model that looks at them (floor 2)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from geoseg.codes import NODATA
from geoseg.lattice import Tile, Window

__all__ = [
    "Convert",
    "Crop",
    "Infer",
    "Network",
    "Read",
    "Stitcher",
    "converter",
    "predict_chunk",
    "to_float32",
    "to_uint8",
]

Read: TypeAlias = Callable[[Window], tuple[NDArray[np.generic], NDArray[np.bool_]]]
"""window -> pixels (bands, rows, cols), valid (rows, cols)"""

Convert: TypeAlias = Callable[[NDArray[np.generic]], NDArray[Any]]
"""values of the scene -> values that models take, of the same shape"""

Infer: TypeAlias = Callable[[NDArray[Any]], tuple[NDArray[np.uint8], ...]]
"""tiles (batch, bands, tile, tile) -> what the stitcher takes of each"""


class Stitcher(Protocol):
    """Makes the mask of one chunk of the results of tiles, which it is given row by row."""

    def add(self, tile: Tile, known: NDArray[np.bool_], results: Sequence[NDArray[np.uint8]]) -> None:
        """Takes a tile.

        Args:
            tile: which.
            known: (rows, cols) of its core, where there is data.
            results: what the network gives of it.
        """
        ...

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Mask and confidence of the chunk, (rows, cols) uint8, 255 where there is no data; no tile is to come."""
        ...


class Crop:
    """Takes the core of each tile, and what the network says of it: mask and confidence, each (core, core).

    Args:
        window: the chunk, in scene pixels.
    """

    def __init__(self, window: Window) -> None:
        self._window = window
        self._planes = tuple(np.full((window.height, window.width), NODATA, np.uint8) for _ in "12")

    def add(self, tile: Tile, known: NDArray[np.bool_], results: Sequence[NDArray[np.uint8]]) -> None:
        """See :meth:`Stitcher.add`."""
        for plane, found in zip(self._planes, results, strict=True):
            np.copyto(plane[tile.core.slices(self._window)], found[: known.shape[0], : known.shape[1]], where=known)

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """See :meth:`Stitcher.finish`."""
        mask, confidence = self._planes
        return mask, confidence


@dataclass(frozen=True, slots=True)
class Network:
    """A model that looks at tiles.

    Attributes:
        infer: the model.
        batch: tiles per call of ``infer``.
        fill: (bands,) of the type that the model takes, seen by it where there is no data.
        stitch: begins a chunk, of scene pixels; by default that takes mask and confidence of cores.
    """

    infer: Infer
    batch: int
    fill: NDArray[Any]
    stitch: Callable[[Window], Stitcher] = Crop


def to_uint8(pixels: NDArray[np.generic], scale: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Brings a scene's values to the 0-255 that models take.

    Args:
        pixels: any shape and real dtype; uint8 if ``scale`` is ``None``.
        scale: (low, high) of the values that become 0 and 255; beyond them values are clipped, NaN becomes 0.
    """
    if scale is None:
        if pixels.dtype != np.uint8:
            raise TypeError(f"pixels are {pixels.dtype}; without a scale only uint8 is taken")
        return pixels.astype(np.uint8, copy=False)
    low, high = scale
    stretched = (pixels.astype(np.float32) - np.float32(low)) * np.float32(255.0 / (high - low))
    finite: NDArray[np.float32] = np.nan_to_num(stretched, nan=0.0, posinf=255.0, neginf=0.0)
    return finite.clip(0, 255).round().astype(np.uint8)


def to_float32(pixels: NDArray[np.generic]) -> NDArray[np.float32]:
    """A scene's values as they are, for models that take any.

    Args:
        pixels: any shape and real dtype.
    """
    return pixels.astype(np.float32, copy=False)


def converter(dtype: Literal["uint8", "any"], scale: tuple[float, float] | None) -> Convert:
    """What brings a scene's values to those that a model takes.

    Args:
        dtype: of the model's input: 0-255, or values as they are.
        scale: see :func:`to_uint8`.
    """
    return to_float32 if dtype == "any" else partial(to_uint8, scale=scale)


def predict_chunk(
    tiles: Iterable[Tile],
    window: Window,
    *,
    read: Read,
    convert: Convert,
    networks: Iterable[Network],
) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Predicts one chunk, tile by tile.

    Each tile is read once, however many networks look at it. Each batch of a network has the same shape (the last one
    is padded by its own last tile), so a tile meets the same arithmetic in whichever chunk it lies. Tiles without a
    valid pixel in their core are skipped. Pixels without data reach a network as its ``fill``, a constant, so that a
    tile's scores depend on nothing outside it.

    Args:
        tiles: those that make up the chunk, row by row.
        window: the chunk, in scene pixels.
        read: reads the scene, reflecting at its edges.
        convert: brings the scene's values to those that all of the networks take.
        networks: the models; drawn while the first tile is read, so they may be opened then.

    Returns:
        mask and confidence of each network, (rows, cols) uint8, 255 where there is no data.
    """
    ready = _readable(tiles, read, convert)
    first = _reader().submit(next, ready, None)
    opened = list(networks)
    stitchers = [network.stitch(window) for network in opened]
    largest = max(network.batch for network in opened)
    for group in _prefetched(_batches(_resumed(first, ready), largest)):
        for network, stitcher in zip(opened, stitchers, strict=True):
            for start in range(0, len(group), network.batch):
                batch = group[start : start + network.batch]
                results = network.infer(_stack(batch, network))
                for (tile, _, valid), *found in zip(batch, *results, strict=False):
                    stitcher.add(tile, valid[tile.core.slices(tile.outer)], found)
    return [stitcher.finish() for stitcher in stitchers]


_Ready: TypeAlias = tuple[Tile, NDArray[Any], NDArray[np.bool_]]


def _readable(tiles: Iterable[Tile], read: Read, convert: Convert) -> Iterator[_Ready]:
    """Reads the tiles that have data in their core: tile, pixels (bands, tile, tile), valid (tile, tile)."""
    for tile in tiles:
        pixels, valid = read(tile.outer)
        if valid[tile.core.slices(tile.outer)].any():
            yield tile, convert(pixels), valid


def _resumed(first: Future[_Ready | None], rest: Iterator[_Ready]) -> Iterator[_Ready]:
    if (tile := first.result()) is not None:
        yield tile
        yield from rest


def _stack(batch: Sequence[_Ready], network: Network) -> NDArray[Any]:
    """The tiles as a network takes them, as many as it takes."""
    fill = network.fill[:, None, None]
    stack = [pixels if valid.all() else np.where(valid, pixels, fill) for _, pixels, valid in batch]
    stack += stack[-1:] * (network.batch - len(stack))
    return np.stack(stack) if len(stack) > 1 else stack[0][None]


def _batches(items: Iterator[_Ready], size: int) -> Iterator[list[_Ready]]:
    while group := list(islice(items, size)):
        yield group


def _prefetched(groups: Iterator[list[_Ready]]) -> Iterator[list[_Ready]]:
    """Reads the next batch on a thread while the caller works on this one."""
    reader = _reader()
    coming = reader.submit(next, groups, None)
    while (group := coming.result()) is not None:
        coming = reader.submit(next, groups, None)
        yield group


_beside = threading.local()


def _reader() -> ThreadPoolExecutor:
    """One thread beside the caller's, for all of its chunks: so a scene is opened once and not with every chunk."""
    if not hasattr(_beside, "reader"):
        _beside.reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="geoseg-read")
    reader: ThreadPoolExecutor = _beside.reader
    return reader

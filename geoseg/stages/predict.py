"""Turns a chunk's tiles into its mask and confidence (floor 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from geoseg.codes import NODATA
from geoseg.lattice import Tile, Window

__all__ = ["Infer", "Read", "predict_chunk", "to_uint8"]

Read: TypeAlias = Callable[[Window], tuple[NDArray[np.generic], NDArray[np.bool_]]]
"""window -> pixels (bands, rows, cols), valid (rows, cols)"""

Infer: TypeAlias = Callable[[NDArray[np.uint8]], tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""tiles (batch, bands, tile, tile) -> mask, confidence, each (batch, core, core)"""


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


def predict_chunk(
    tiles: Iterable[Tile],
    window: Window,
    *,
    read: Read,
    infer: Infer,
    batch: int,
    fill: NDArray[np.uint8],
    scale: tuple[float, float] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Predicts one chunk, tile by tile.

    Each batch has the same shape (the last one is padded by its own last tile), so a tile meets the same arithmetic
    in whichever chunk it lies. Tiles without a valid pixel in their core are skipped. Pixels without data reach the
    network as ``fill``, a constant, so that a tile's scores depend on nothing outside it.

    Args:
        tiles: the chunk's tiles.
        window: the chunk, in scene pixels.
        read: reads the scene, reflecting at its edges.
        infer: the model.
        batch: tiles per call of ``infer``.
        fill: (bands,) uint8, seen by the model where there is no data.
        scale: see :func:`to_uint8`.

    Returns:
        mask and confidence, each (rows, cols) uint8, 255 where there is no data.
    """
    mask = np.full((window.height, window.width), NODATA, dtype=np.uint8)
    confidence = np.full_like(mask, NODATA)
    for group in _prefetched(_batches(_readable(tiles, read, fill, scale), batch)):
        stack = np.stack([pixels for _, pixels, _ in group] + [group[-1][1]] * (batch - len(group)))
        codes, scores = infer(stack)
        for (tile, _, valid), tile_codes, tile_scores in zip(group, codes, scores, strict=False):
            place = tile.core.slices(window)
            inside = (slice(0, tile.core.height), slice(0, tile.core.width))
            mask[place] = np.where(valid, tile_codes[inside], NODATA)
            confidence[place] = np.where(valid, tile_scores[inside], NODATA)
    return mask, confidence


_Ready: TypeAlias = tuple[Tile, NDArray[np.uint8], NDArray[np.bool_]]


def _readable(
    tiles: Iterable[Tile], read: Read, fill: NDArray[np.uint8], scale: tuple[float, float] | None
) -> Iterator[_Ready]:
    """Reads the tiles that have data in their core: tile, pixels (bands, tile, tile), valid (core rows, core cols)."""
    for tile in tiles:
        pixels, valid = read(tile.outer)
        core_valid = valid[tile.core.slices(tile.outer)]
        if not core_valid.any():
            continue
        values = to_uint8(pixels, scale)
        if not valid.all():
            values = np.where(valid, values, fill[:, None, None])
        yield tile, values, core_valid


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


@cache
def _reader() -> ThreadPoolExecutor:
    """One thread for all chunks of a process, so that a scene is opened once and not with every chunk."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="geoseg-read")

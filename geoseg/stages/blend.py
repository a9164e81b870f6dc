"""Blends overlapping tiles: adds up their scores, weighted, and decides classes by the means (floor 2).

A network that looks at all of its tile (squeeze-excite, instance normalization, global pooling) says something else of
a pixel in each tile that holds it, however far from the edges. So where one core ends and the next one begins its
classes jump. Here all tiles count that hold a pixel, each by its *weight* there, which falls from the middle to the
edges:

``gaussian``
    with a deviation of an eighth of the tile's side (F. Isensee et al., *nnU-Net: a self-configuring method for deep
    learning-based biomedical image segmentation*, Nature Methods 18, 2021).
``cosine``
    the Hann window, ``sin(pi x) ** 2`` for ``x`` from 0 to 1 (R. B. Blackman, J. W. Tukey, *The measurement of power
    spectra*, 1958), whose sums over tiles that overlap by half are the same everywhere.

**Exactly.** Scores are bytes and weights whole numbers, so small that sums of their products fit uint32. Sums of whole
numbers are the same in any order, so a pixel's mean depends on the tiles that hold it, and not on who computes them
when. A chunk adds up all tiles that reach into it. Those of its neighbours' cores are computed again by these: that is
the price of chunks that need nothing of each other, and the larger they are the lower it is.

**In little memory.** Tiles come row by row. Sums are kept for *cells*, squares of the size of a core, which are decided
and dropped as soon as no tile to come reaches them: so there are never more than some rows of them, in chunks of any
size. Cells lie where cores lie, and are decided whole: so the arithmetic of a decision is the same in every chunk, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from geoseg.codes import NODATA
from geoseg.lattice import Tile, Window

__all__ = ["FULL", "Blend", "Decide", "Weights", "blend_bytes", "tile_weights"]

Weights: TypeAlias = Literal["gaussian", "cosine"]

Decide: TypeAlias = Callable[[NDArray[np.uint16]], tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""mean scores (planes, rows, cols), 0 to `FULL` for 0-1 -> mask, confidence, each (rows, cols)"""

_BYTE = 255  # a score of 1 in a tile; one half lies between two bytes, so that rounding takes no pixel across it
_STEPS = 256  # to which means are finer than that
FULL = _BYTE * _STEPS
"""A mean score of 1."""

_DEVIATION = 1 / 8  # of the Gaussian, of the tile's side
_MOST = math.isqrt((2**32 - 1) // _BYTE)  # that the weights along one axis may come to at a pixel


@cache
def tile_weights(kind: Weights, tile: int, core: int) -> NDArray[np.uint32]:
    """Weights of a tile's pixels along one axis, (tile,) uint32, at least 1; that of a pixel is the product of two.

    Args:
        kind: of the window.
        tile: side of a tile, pixels.
        core: side of its core, pixels: tiles lie so far apart.

    Raises:
        ValueError: so many tiles overlap that their sums would not fit uint32.
    """
    highest = _MOST // -(-tile // core)
    if not highest:
        raise ValueError(f"tiles of {tile} px with a core of {core} px overlap more than {_MOST} times")
    places = [(min(place, tile - 1 - place) + 0.5) / tile for place in range(tile)]  # the same from either end
    shares = [
        math.exp(-0.5 * ((place - 0.5) / _DEVIATION) ** 2) if kind == "gaussian" else math.sin(math.pi * place) ** 2
        for place in places
    ]
    weights = np.array([max(round(highest * share), 1) for share in shares], np.uint32)
    weights.flags.writeable = False
    return weights


def blend_bytes(core: int, halo: int, planes: int, width: int) -> int:
    """Most memory that the blending of one chunk takes, bytes.

    Args:
        core: side of a tile's core, pixels.
        halo: pixels around it.
        planes: of scores.
        width: of the chunk, pixels.
    """
    rows, tile = 2 * -(-halo // core) + 1, core + 2 * halo
    sums = 4 * (planes + 1) * rows * core * (width + core)
    return sums + (planes + 8) * tile**2 + 32 * (planes + 1) * core**2  # a tile that is added, a cell that is decided


@dataclass(slots=True)
class _Cell:
    """A square of the size of a core, where one lies.

    Attributes:
        square: its pixels; it may stick out of the scene.
        sums: (planes, core, core) uint32, of weights times scores.
        weights: (core, core) uint32, their sums.
        core: the square clipped to the scene, once its own tile has come.
        known: (rows, cols) of that, where there is data.
    """

    square: Window
    sums: NDArray[np.uint32]
    weights: NDArray[np.uint32]
    core: Window | None = None
    known: NDArray[np.bool_] | None = None

    def means(self) -> NDArray[np.uint16]:
        """Mean scores (planes, core, core), 0 to `FULL`, to the nearest, halves up; 0 where no tile was."""
        weights = np.maximum(self.weights, 1).astype(np.uint64)
        means = np.empty(self.sums.shape, np.uint16)
        for mean, sums in zip(means, self.sums, strict=True):
            mean[...] = (2 * _STEPS * sums.astype(np.uint64) + weights) // (2 * weights)
        return means


class Blend:
    """Makes the mask of a chunk of the scores of all tiles that reach into it, see the module.

    Args:
        window: the chunk, in scene pixels.
        weights: see :func:`tile_weights`.
        core: side of a core, pixels.
        planes: of scores.
        decide: from mean scores to classes.
    """

    def __init__(self, window: Window, *, weights: NDArray[np.uint32], core: int, planes: int, decide: Decide) -> None:
        self._window = window
        self._weights = weights
        self._core = core
        self._planes = planes
        self._decide = decide
        self._reach = -(-(len(weights) - core) // (2 * core))  # cores that a halo goes over
        self._rows = range(window.row_off // core, -(-window.row_stop // core))
        self._cols = range(window.col_off // core, -(-window.col_stop // core))
        self._cells: dict[tuple[int, int], _Cell] = {}
        self._mask, self._confidence = (np.full((window.height, window.width), NODATA, np.uint8) for _ in "12")

    @property
    def cells(self) -> int:
        """Cells that are held now."""
        return len(self._cells)

    def add(self, tile: Tile, known: NDArray[np.bool_], results: Sequence[NDArray[np.uint8]]) -> None:
        """Takes a tile; of two of them the upper one comes first, or the left one of a row.

        Args:
            tile: which.
            known: (rows, cols) of its core, where there is data.
            results: its scores alone, (planes, tile, tile), 0-255 for 0-1.
        """
        [scores] = results
        self._finish((tile.row, tile.col))
        for row in range(tile.row - self._reach, tile.row + self._reach + 1):
            for col in range(tile.col - self._reach, tile.col + self._reach + 1):
                if row in self._rows and col in self._cols:
                    self._add_to(self._cell(row, col), tile.outer, scores)
        if (own := self._cells.get((tile.row, tile.col))) is not None:
            own.core, own.known = tile.core, known

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Mask and confidence of the chunk, (rows, cols) uint8, 255 where there is no data; no tile is to come."""
        self._finish(None)
        return self._mask, self._confidence

    def _cell(self, row: int, col: int) -> _Cell:
        if (row, col) not in self._cells:
            core = self._core
            sums = np.zeros((self._planes + 1, core, core), np.uint32)
            self._cells[row, col] = _Cell(Window(col * core, row * core, core, core), sums[1:], sums[0])
        return self._cells[row, col]

    def _add_to(self, cell: _Cell, outer: Window, scores: NDArray[np.uint8]) -> None:
        """Adds what a cell shares with a tile."""
        shared = cell.square.intersection(outer)
        assert shared is not None  # noqa: S101 - within its reach a tile has something of every cell
        (rows, cols), there = shared.slices(outer), shared.slices(cell.square)
        weights = self._weights[rows, None] * self._weights[cols]
        cell.weights[there] += weights
        for sums, plane in zip(cell.sums, scores, strict=True):
            sums[there] += weights * plane[rows, cols]

    def _finish(self, coming: tuple[int, int] | None) -> None:
        """Decides and drops the cells that neither the coming tile reaches, nor one after it."""
        reach = self._reach
        done = [place for place in self._cells if coming is None or (place[0] + reach, place[1] + reach) < coming]
        for place in done:
            cell = self._cells.pop(place)
            if cell.core is None or cell.known is None:  # its own tile has no data
                continue
            inside = cell.core.slices(cell.square)
            for whole, decided in zip((self._mask, self._confidence), self._decide(cell.means()), strict=True):
                whole[cell.core.slices(self._window)] = np.where(cell.known, decided[inside], NODATA)

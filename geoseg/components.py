"""Connected components of one chunk, and what joins those of neighbouring chunks (floor 1).

Components are 4-connected and of one code. They are found over *runs*, the stretches of equal pixels in a row, so that
their areas, first pixels and rims cost nothing per pixel (run-based labelling: L. He, Y. Chao, K. Suzuki, *A run-based
two-scan labeling algorithm*, IEEE Trans. Image Processing 17, 2008; here with the first run of a component as the root
of its tree, so that components come out numbered by their first pixel).

**Parents.** Where touching instances of one code must stay apart, a mask comes with a *parent* for every pixel that was
given to an instance by growth: the neighbour it was given from. Two neighbours of one code are connected if neither has
a parent, or if one is the parent of the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from geoseg.codes import BACKGROUND, NODATA
from geoseg.errors import InputError
from geoseg.lattice import Window

__all__ = ["DOWN", "LEFT", "RIGHT", "UP", "Components", "check_chunk", "find_components", "grid_of", "join", "side_of"]

UP, LEFT, RIGHT, DOWN = 1, 2, 3, 4
"""Where the parent of a pixel lies; 0 is a pixel without one."""


class Part(Protocol):
    """Anything that stands for one chunk."""

    @property
    def window(self) -> Window:
        """The chunk's window in the scene."""


P = TypeVar("P", bound=Part)


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """The components of one chunk, numbered from 1 by their first pixels.

    Row ``r`` has the runs ``row_offsets[r]:row_offsets[r + 1]``; a run ends where the next one begins.

    Attributes:
        shape: ``(height, width)`` of the chunk.
        row_offsets: int64 ``(height + 1,)``.
        start: int32 ``(runs + 1,)``, first column of each run, and one entry that nothing means.
        label: int32 ``(runs,)``, the component of each run; 0 where there is none, -1 for nodata.
        first: int64 ``(components + 1,)``, flat index in the chunk of each component's first pixel; entry 0 is -1.
        code: uint8 ``(components + 1,)``; entry 0 is 0.
        area_px: int64 ``(components + 1,)``; entry 0 is 0.
    """

    shape: tuple[int, int]
    row_offsets: NDArray[np.int64]
    start: NDArray[np.int32]
    label: NDArray[np.int32]
    first: NDArray[np.int64]
    code: NDArray[np.uint8]
    area_px: NDArray[np.int64]

    def __len__(self) -> int:
        return self.first.size - 1

    def rim(self) -> NDArray[np.int32]:
        """Labels of the edge pixels: top row, bottom row, left column, right column."""
        left, right = self.label[self.row_offsets[:-1]], self.label[self.row_offsets[1:] - 1]
        return np.concatenate([self._row(0), self._row(self.shape[0] - 1), left, right])

    def paint(self, new: NDArray[np.int32]) -> NDArray[np.int32]:
        """The labels as an image in a frame one pixel wide.

        Args:
            new: int32 ``(components + 1,)``, what to write for each label from 0 on; nodata stays -1.

        Returns:
            int32 ``(height + 2, width + 2)``; what stands in the frame is undefined.
        """
        return _paint(self.shape, self.row_offsets, self.start, np.append(new, np.int32(-1))[self.label])

    def repaint(self, mask: NDArray[np.uint8], code: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A copy of the mask with other codes.

        Args:
            mask: uint8 ``(height, width)``, the mask of these components.
            code: uint8 ``(components + 1,)``, the new code of each label from 0 on; nodata stays.
        """
        value = np.append(code, np.uint8(NODATA))[self.label]
        return _repaint(np.ascontiguousarray(mask), self.row_offsets, self.start, value)

    def _row(self, row: int) -> NDArray[np.int32]:
        """Labels along one row."""
        first, stop = self.row_offsets[row : row + 2]
        lengths = np.diff(np.append(self.start[first:stop], self.shape[1]))
        return np.repeat(self.label[first:stop], lengths)


def find_components(
    mask: NDArray[np.uint8], parent: NDArray[np.uint8] | None = None, *, background: bool = False
) -> Components:
    """Find the components of one chunk.

    Args:
        mask: uint8 ``(height, width)``, not empty. Nodata is never part of a component.
        parent: uint8 ``(height, width)``, 0 or where the pixel's parent lies (UP, LEFT, RIGHT, DOWN; maybe outside
            the chunk); None: no pixel has one.
        background: whether background has components, too.
    """
    mask = np.ascontiguousarray(mask)
    parents = np.zeros((1, 0), np.uint8) if parent is None else np.ascontiguousarray(parent)
    row_offsets = _count_runs(mask, parents)
    start, code, root = _join_runs(mask, parents, row_offsets)
    least = BACKGROUND if background else BACKGROUND + 1
    return Components(mask.shape, row_offsets, start, *_number(mask.shape, row_offsets, start, code, root, least))


def check_chunk(mask: NDArray[np.uint8], window: Window, scene_shape: tuple[int, int], name: str = "mask") -> None:
    """Refuse a mask that is not the window's, or a window that is not the scene's.

    Raises:
        InputError: the array is not uint8 of the window's shape, or the window is empty or leaves the scene.
    """
    if mask.dtype != np.uint8 or mask.shape != (window.height, window.width):
        raise InputError(f"{name} is {mask.dtype} {mask.shape}; expected uint8 {(window.height, window.width)}")
    scene = Window(col_off=0, row_off=0, width=scene_shape[1], height=scene_shape[0])
    if window.area == 0 or not scene.contains(window):
        raise InputError(f"chunk {window} is empty or leaves the scene of {scene_shape[0]} x {scene_shape[1]} px")


def grid_of(parts: Iterable[P], scene_shape: tuple[int, int]) -> dict[tuple[int, int], P]:
    """Parts by their place (row, column) in the grid of chunks, row-major.

    Raises:
        InputError: the windows do not tile the scene as the cells of one grid.
    """
    parts = list(parts)
    by_window = {part.window: part for part in parts}
    rows = sorted({(window.row_off, window.height) for window in by_window})
    cols = sorted({(window.col_off, window.width) for window in by_window})
    grid = {}
    for row, (row_off, height) in enumerate(rows):
        for col, (col_off, width) in enumerate(cols):
            part = by_window.get(Window(col_off=col_off, row_off=row_off, width=width, height=height))
            if part is not None:
                grid[row, col] = part
    covers = _partitions(rows, scene_shape[0]) and _partitions(cols, scene_shape[1])
    if not covers or len(grid) != len(rows) * len(cols) or len(grid) != len(parts):
        raise InputError(
            f"{len(parts)} chunks do not tile a scene of {scene_shape[0]} x {scene_shape[1]} px; "
            "give the faces of every chunk once"
        )
    return grid


def join(pairs: NDArray[np.int64], total: int) -> tuple[int, NDArray[np.int32]]:
    """Union: how many groups ``total`` things form when the ``pairs`` (2, n) belong together, and the group of each.

    Groups count from 0, in the order of their first things.
    """
    group = _group(np.ascontiguousarray(pairs, np.int64), total)
    return int(group.max(initial=-1)) + 1, group


def side_of(window: Window, side: str) -> slice:
    """Where one side stands in arrays of all edge pixels of a chunk: top row, bottom row, left column, right column."""
    width, height = window.width, window.height
    starts = {"top": 0, "bottom": width, "left": 2 * width, "right": 2 * width + height}
    return slice(starts[side], starts[side] + (width if side in {"top", "bottom"} else height))


def _partitions(spans: list[tuple[int, int]], length: int) -> bool:
    """Whether sorted (start, length) spans follow one another from 0 to ``length``."""
    stop = 0
    for start, span in spans:
        if start != stop:
            return False
        stop = start + span
    return stop == length


@numba.njit(cache=True, nogil=True)
def _find_changes(codes: NDArray[np.uint8], parents: NDArray[np.uint8], changed: NDArray[np.uint8]) -> None:
    """Mark in ``changed`` the pixels of a row that are not connected to their left neighbour.

    Here and below, ``parents`` has no columns where no pixel has a parent.
    """
    for col in range(1, codes.size):  # without branches: this compiles to vector instructions
        changed[col] = codes[col] != codes[col - 1]
    if parents.size:
        for col in range(1, codes.size):
            here, before = parents[col], parents[col - 1]
            changed[col] |= ((here | before) != 0) & (here != LEFT) & (before != RIGHT)


@numba.njit(cache=True, nogil=True)
def _count_runs(mask: NDArray[np.uint8], parents: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Offsets of the rows' runs."""
    height, width = mask.shape
    offsets = np.zeros(height + 1, np.int64)
    changed = np.zeros(width, np.uint8)
    for row in range(height):
        _find_changes(mask[row], parents[row % parents.shape[0]], changed)
        runs = 1
        for col in range(1, width):
            runs += changed[col]
        offsets[row + 1] = offsets[row] + runs
    return offsets


@numba.njit(cache=True, nogil=True)
def _join_runs(
    mask: NDArray[np.uint8], parents: NDArray[np.uint8], row_offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int64]]:
    """Starts and codes of all runs, and their trees: an earlier run of the same component, or the run itself."""
    height, width = mask.shape
    runs = row_offsets[-1]
    start, code, root = np.empty(runs + 1, np.int32), np.empty(runs + 1, np.uint8), np.arange(runs)
    changed = np.zeros(-(-width // 8) * 8, np.uint8)
    words = changed.view(np.uint64)
    for row in range(height):
        _find_changes(mask[row], parents[row % parents.shape[0]], changed)
        run = row_offsets[row]
        start[run], code[run] = 0, mask[row, 0]
        for word in range(words.size):
            if words[word]:
                for col in range(8 * word, min(8 * word + 8, width)):  # without branches: they would be guessed badly
                    start[run + 1] = col
                    code[run + 1] = mask[row, col]
                    run += changed[col]
        if row:
            _join_rows(parents, row_offsets, row, width, start, code, root)
    return start, code[:runs], root


@numba.njit(cache=True, nogil=True)
def _join_rows(
    parents: NDArray[np.uint8],
    row_offsets: NDArray[np.int64],
    row: int,
    width: int,
    start: NDArray[np.int32],
    code: NDArray[np.uint8],
    root: NDArray[np.int64],
) -> None:
    """Unite the runs of a row with the connected ones above."""
    above, here, stop = row_offsets[row - 1], row_offsets[row], row_offsets[row + 1]
    above_stop = here
    while here < stop:
        here_end = start[here + 1] if here + 1 < stop else width
        above_end = start[above + 1] if above + 1 < above_stop else width
        if code[here] == code[above] and code[here] != NODATA:
            touch = parents.size == 0
            col = max(start[here], start[above])
            while not touch and col < min(here_end, above_end):
                down, up = parents[row, col], parents[row - 1, col]
                touch = (down | up) == 0 or down == UP or up == DOWN
                col += 1
            if touch:
                _unite(root, above, here)
        if here_end <= above_end:
            here += 1
        if above_end <= here_end:
            above += 1


@numba.njit(cache=True, nogil=True)
def _unite(root: NDArray[np.int64], one: int, other: int) -> None:
    """Hang the later of two trees under the root of the earlier."""
    while root[one] != one:
        root[one] = root[root[one]]
        one = root[one]
    while root[other] != other:
        root[other] = root[root[other]]
        other = root[other]
    root[max(one, other)] = min(one, other)


@numba.njit(cache=True, nogil=True)
def _group(pairs: NDArray[np.int64], total: int) -> NDArray[np.int32]:
    root, group, count = np.arange(total), np.empty(total, np.int32), 0
    for pair in range(pairs.shape[1]):
        _unite(root, pairs[0, pair], pairs[1, pair])
    for thing in range(total):
        if root[thing] == thing:
            group[thing] = count
            count += 1
        else:
            group[thing] = group[root[thing]]  # an earlier thing: it has its group
    return group


@numba.njit(cache=True, nogil=True)
def _number(
    shape: tuple[int, int],
    row_offsets: NDArray[np.int64],
    start: NDArray[np.int32],
    code: NDArray[np.uint8],
    root: NDArray[np.int64],
    least: int,
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """Number the trees of codes from ``least`` on: labels of the runs; first pixels, codes and areas of the labels."""
    height, width = shape
    label = np.zeros(code.size, np.int32)
    count = 0
    for run in range(code.size):
        if least <= code[run] < NODATA:
            if root[run] == run:
                count += 1
                label[run] = count
            else:
                label[run] = label[root[run]]  # an earlier run: it has its label
    first, codes, area = np.full(count + 1, -1, np.int64), np.zeros(count + 1, np.uint8), np.zeros(count + 1, np.int64)
    for row in range(height):
        for run in range(row_offsets[row], row_offsets[row + 1]):
            end = start[run + 1] if run + 1 < row_offsets[row + 1] else width
            area[label[run]] += end - start[run]
            if root[run] == run and label[run]:
                first[label[run]] = row * width + start[run]
                codes[label[run]] = code[run]
    area[0] = 0
    for run in range(code.size):
        if code[run] == NODATA:
            label[run] = -1
    return label, first, codes, area


@numba.njit(cache=True, nogil=True)
def _paint(
    shape: tuple[int, int], row_offsets: NDArray[np.int64], start: NDArray[np.int32], value: NDArray[np.int32]
) -> NDArray[np.int32]:
    """An image of the runs' values in a frame of one pixel."""
    height, width = shape
    image = np.empty((height + 2, width + 2), np.int32)
    for row in range(height):
        line = image[row + 1]
        for run in range(row_offsets[row], row_offsets[row + 1]):
            end = start[run + 1] if run + 1 < row_offsets[row + 1] else width
            line[start[run] + 1 : end + 1] = value[run]
    return image


@numba.njit(cache=True, nogil=True)
def _repaint(
    mask: NDArray[np.uint8], row_offsets: NDArray[np.int64], start: NDArray[np.int32], value: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """A copy of the mask in which each run has its value."""
    height, width = mask.shape
    image = mask.copy()
    for row in range(height):
        for run in range(row_offsets[row], row_offsets[row + 1]):
            if image[row, start[run]] != value[run]:
                end = start[run + 1] if run + 1 < row_offsets[row + 1] else width
                image[row, start[run] : end] = value[run]
    return image

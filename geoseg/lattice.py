"""Windows, tiles and chunks: the integer arithmetic of cutting a scene.

Everything is anchored at the scene's pixel (0, 0), so where a tile lies depends on the scene's size and on
the core alone. A chunk is a whole number of cores; its size therefore decides who computes a tile, never
which pixels the tile sees. That is what makes a run's result independent of how it was cut.

::

    +---------------- outer: tile_size x tile_size ----------------+
    |  halo                                                        |
    |      +----------- core: clipped to the scene ----------+     |
    |      |                                                 |     |

Floats never enter here.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass

from geoseg.errors import SettingsError

__all__ = ["Chunk", "Lattice", "Tile", "Window", "fitting_core", "fitting_overlap", "overlap"]

_HANDS = 4  # that share the tiles of a scene; a constant, since tiles must not depend on who computes them


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A rectangle of pixels, in rasterio's order. It may stick out of the scene, and may be empty.

    Attributes:
        col_off: First column.
        row_off: First row.
        width: Columns, 0 or more.
        height: Rows, 0 or more.

    Raises:
        ValueError: A negative width or height.
    """

    col_off: int
    row_off: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 0 or self.height < 0:
            raise ValueError(f"a window of {self.width} x {self.height} pixels; neither side can be negative")

    @property
    def row_stop(self) -> int:
        """The row after the last one."""
        return self.row_off + self.height

    @property
    def col_stop(self) -> int:
        """The column after the last one."""
        return self.col_off + self.width

    @property
    def area(self) -> int:
        """Pixels in the window."""
        return self.width * self.height

    def intersection(self, other: Window) -> Window | None:
        """Return the pixels in both windows, or None where there are none."""
        row_off = max(self.row_off, other.row_off)
        col_off = max(self.col_off, other.col_off)
        height = min(self.row_stop, other.row_stop) - row_off
        width = min(self.col_stop, other.col_stop) - col_off
        if height <= 0 or width <= 0:
            return None
        return Window(col_off, row_off, width, height)

    def pad(self, n: int) -> Window:
        """Return the window grown by n pixels on every side (shrunk for a negative n)."""
        return Window(self.col_off - n, self.row_off - n, self.width + 2 * n, self.height + 2 * n)

    def contains(self, other: Window) -> bool:
        """Tell whether every side of the other window lies within this one."""
        return (
            self.row_off <= other.row_off
            and self.col_off <= other.col_off
            and other.row_stop <= self.row_stop
            and other.col_stop <= self.col_stop
        )

    def shift(self, d_row: int, d_col: int) -> Window:
        """Return the window moved down by d_row and right by d_col pixels."""
        return Window(self.col_off + d_col, self.row_off + d_row, self.width, self.height)

    def slices(self, origin: Window | None = None) -> tuple[slice, slice]:
        """Return the (rows, cols) slices of this window in an array that covers `origin`.

        Args:
            origin: What the array covers; the whole scene, from pixel (0, 0), when None.

        Raises:
            IndexError: The window sticks out of the array; numpy would wrap or cut it in silence.
        """
        d_row, d_col = (origin.row_off, origin.col_off) if origin is not None else (0, 0)
        if self.row_off < d_row or self.col_off < d_col or (origin is not None and not origin.contains(self)):
            raise IndexError(f"{self} sticks out of {origin or 'the scene'}")
        return (
            slice(self.row_off - d_row, self.row_stop - d_row),
            slice(self.col_off - d_col, self.col_stop - d_col),
        )


@dataclass(frozen=True, slots=True)
class Tile:
    """What the model sees at once.

    Attributes:
        row: Row in the lattice of tiles.
        col: Column in the lattice of tiles.
        core: The pixels that this tile decides, or in which it counts most where overlapping tiles are blended, clipped
            to the scene. Cores partition the scene.
        outer: The pixels that the model sees: the unclipped core plus a halo on every side, always
            tile_size x tile_size. It may stick out of the scene.
    """

    row: int
    col: int
    core: Window
    outer: Window


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one task owns and writes: a whole number of cores.

    Attributes:
        row: Row in the lattice of chunks.
        col: Column in the lattice of chunks.
        window: Its pixels, clipped to the scene.
    """

    row: int
    col: int
    window: Window

    @property
    def key(self) -> str:
        """A name that sorts in row-major order, such as "0003.0012"."""
        return f"{self.row:04d}.{self.col:04d}"


@dataclass(frozen=True, slots=True)
class Lattice:
    """How one scene is cut into chunks, and these into tiles.

    Attributes:
        height: Rows of the scene.
        width: Columns of the scene.
        core: Side of a tile's core, pixels.
        halo: Pixels that a tile sees around its core, on every side.
        chunk: Side of a chunk, pixels: a multiple of core.

    Raises:
        SettingsError: A size below 1, a halo below 0, a chunk that is no multiple of the core, or no integer.
    """

    height: int
    width: int
    core: int
    halo: int
    chunk: int

    def __post_init__(self) -> None:
        for name, least in (("height", 1), ("width", 1), ("core", 1), ("halo", 0), ("chunk", 1)):
            object.__setattr__(self, name, _checked(name, getattr(self, name), least))
        if self.chunk % self.core:
            raise SettingsError(
                f"a chunk of {self.chunk} px is no multiple of the core of {self.core} px; "
                f"take {-(-self.chunk // self.core) * self.core}"
            )

    @classmethod
    def for_scene(cls, height: int, width: int, *, core: int, halo: int, chunk: int) -> Lattice:
        """Return the lattice of a scene, with the chunk rounded up to whole cores.

        Args:
            height: Rows of the scene.
            width: Columns of the scene.
            core: Side of a tile's core, pixels.
            halo: Pixels around the core, on every side.
            chunk: Wanted side of a chunk, pixels.

        Raises:
            SettingsError: A size below 1, a halo below 0, or no integer.
        """
        core = _checked("core", core, 1)
        chunk = _checked("chunk", chunk, 1)
        return cls(height, width, core, halo, -(-chunk // core) * core)

    @property
    def window(self) -> Window:
        """The whole scene."""
        return Window(0, 0, self.width, self.height)

    @property
    def tile_size(self) -> int:
        """Side of a tile, pixels: its core and a halo on both sides."""
        return self.core + 2 * self.halo

    @property
    def tile_shape(self) -> tuple[int, int]:
        """(rows, cols) of the lattice of tiles."""
        return -(-self.height // self.core), -(-self.width // self.core)

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """(rows, cols) of the lattice of chunks."""
        return -(-self.height // self.chunk), -(-self.width // self.chunk)

    def chunk_at(self, row: int, col: int) -> Chunk:
        """Return one chunk.

        Raises:
            IndexError: No such row or column.
        """
        rows, cols = self.chunk_shape
        if not (0 <= row < rows and 0 <= col < cols):
            raise IndexError(f"chunk ({row}, {col}) of a lattice of {rows} x {cols} chunks")
        row_off, col_off = row * self.chunk, col * self.chunk
        height, width = min(self.chunk, self.height - row_off), min(self.chunk, self.width - col_off)
        return Chunk(row, col, Window(col_off, row_off, width, height))

    def chunks(self) -> Iterator[Chunk]:
        """Yield every chunk, row by row."""
        rows, cols = self.chunk_shape
        for row in range(rows):
            for col in range(cols):
                yield self.chunk_at(row, col)

    def tile_at(self, row: int, col: int) -> Tile:
        """Return one tile.

        Raises:
            IndexError: No such row or column.
        """
        rows, cols = self.tile_shape
        if not (0 <= row < rows and 0 <= col < cols):
            raise IndexError(f"tile ({row}, {col}) of a lattice of {rows} x {cols} tiles")
        row_off, col_off = row * self.core, col * self.core
        height, width = min(self.core, self.height - row_off), min(self.core, self.width - col_off)
        outer = Window(col_off - self.halo, row_off - self.halo, self.tile_size, self.tile_size)
        return Tile(row, col, Window(col_off, row_off, width, height), outer)

    def tiles(self, chunk: Chunk) -> Iterator[Tile]:
        """Yield the tiles whose cores make up a chunk of this lattice, row by row.

        Raises:
            IndexError: The chunk is not one of this lattice.
        """
        if self.chunk_at(chunk.row, chunk.col) != chunk:
            raise IndexError(f"{chunk} belongs to another lattice")
        window = chunk.window
        for row in range(window.row_off // self.core, -(-window.row_stop // self.core)):
            for col in range(window.col_off // self.core, -(-window.col_stop // self.core)):
                yield self.tile_at(row, col)

    def tiles_reaching(self, chunk: Chunk, within: Window | None = None) -> Iterator[Tile]:
        """Yield the tiles that hold a pixel of a chunk, in their core or their halo, row by row.

        Args:
            chunk: Of this lattice.
            within: Pixels of the chunk outside of it do not count; all do when None.
        """
        wanted = chunk.window if within is None else within.intersection(chunk.window)
        if wanted is None:
            return
        for row in self._reaching(wanted.row_off, wanted.row_stop, self.height):
            for col in self._reaching(wanted.col_off, wanted.col_stop, self.width):
                yield self.tile_at(row, col)

    def count_reaching(self, within: Window | None = None) -> tuple[int, int]:
        """Return how many tiles :meth:`tiles_reaching` gives of all chunks together, and of one chunk at most.

        Args:
            within: As there; a window of the scene.
        """
        wanted = within or self.window
        counts = [
            [
                len(self._reaching(max(first, start), min(first + self.chunk, stop), length))
                for first in range(start // self.chunk * self.chunk, stop, self.chunk)
            ]
            for start, stop, length in (
                (wanted.row_off, wanted.row_stop, self.height),
                (wanted.col_off, wanted.col_stop, self.width),
            )
        ]
        return sum(counts[0]) * sum(counts[1]), max(counts[0]) * max(counts[1])

    def _reaching(self, start: int, stop: int, length: int) -> range:
        """Return the rows of tiles that hold a pixel of rows start to stop of a scene so high; columns alike."""
        last = min(-(-(stop + self.halo) // self.core), -(-length // self.core))
        return range(max((start - self.halo) // self.core, 0), last)


def fitting_core(height: int, width: int, *, tile: int, halo: int, stride: int) -> int:
    """Return the side of the core with which a scene is done soonest, pixels.

    Large tiles compute less of their neighbours' cores; but they should go over the scene evenly, reach little beyond
    it, and be several if it is large enough. What counts is the pixels that the busiest of four hands computes. A core
    has four times its halo at least, if the tile allows it, since most differences to the whole image lie at its edges.

    Args:
        height: Rows of the scene.
        width: Columns of the scene.
        tile: Largest side of a tile, pixels: a multiple of the stride.
        halo: Pixels around the core, on every side; a multiple of the stride, and less than half of the tile.
        stride: The core is a multiple of it.
    """
    largest = min(tile - 2 * halo, -(-max(height, width) // stride) * stride)
    least = min(largest, max(4 * halo, stride)) if halo else max(largest // 2, 1)  # a call of a model costs, too

    return min(range(largest, least - 1, -stride), key=lambda core: _busiest(height, width, core, halo))


def overlap(tile: int, stride: int) -> tuple[int, int]:
    """Return core and halo of a tile that overlaps its neighbours by half, pixels.

    Args:
        tile: Side of the tile, pixels: a multiple of the stride, and more than two of it.
        stride: The halo is the multiple of it that is next below a quarter of the tile, but not 0.
    """
    halo = max(tile // 4 // stride, 1) * stride
    return tile - 2 * halo, halo


def fitting_overlap(height: int, width: int, *, tile: int, stride: int) -> tuple[int, int]:
    """Return core and halo of tiles that overlap by half, with which a scene is done soonest, pixels.

    See :func:`fitting_core`; but tiles are not smaller than three quarters of the largest, for a network that looks at
    all of its tile should see much of the scene.

    Args:
        height: Rows of the scene.
        width: Columns of the scene.
        tile: Largest side of a tile, pixels: a multiple of the stride, and more than two of it.
        stride: Core and halo are multiples of it.
    """
    step = 4 * stride
    largest = max(tile // step * step, min(tile, step))
    sides = range(largest, -(-3 * largest // 4) - 1, -step)
    return min((overlap(side, stride) for side in sides), key=lambda cut: _busiest(height, width, *cut))


def _busiest(height: int, width: int, core: int, halo: int) -> int:
    """Return how many pixels the busiest of four hands computes."""
    tiles = -(-height // core) * -(-width // core)
    return -(-tiles // _HANDS) * (core + 2 * halo) ** 2


def _checked(name: str, value: int, least: int) -> int:
    """Return value as a plain int, or raise SettingsError where it is no integer or below the least."""
    try:
        number = operator.index(value)
    except TypeError:
        raise SettingsError(f"{name} is {value!r}; a whole number of pixels is expected") from None
    if number < least:
        raise SettingsError(f"{name} is {number}; at least {least} is expected")
    return number

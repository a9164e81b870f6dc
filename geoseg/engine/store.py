"""The working state of one mask: arrays, done-marks, rows and fragments of its chunks (floor 4).

::

    DIR/.geoseg/town/                 of the pass of model town; `mask` where a mask was given
        arrays.zarr/         mask and confidence, and masks that a stage rewrote, one zarr chunk per chunk
        done/0003.0012       this chunk's arrays are complete
        done/cleaned         the mask is cleaned; says in which array
        found/label/0003.0012.npz what labelling, or a step of cleaning, found out here; with it that step is done
        rows/0003.0012.arrow      the polygons that this chunk finished; join-0003.arrow: that the sweep finished
        fragments/0003.0012.npz   what it could not finish; with it the chunk is traced

A file appears under its final name only when it is whole (temporary name, then rename; one upload in an object store),
so a killed run leaves nothing half-written, and the next run with the same manifest (see
:mod:`geoseg.engine.directory`) does only what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.atomic import remove_leftovers, remove_tree, staged
from geoseg.engine import arrays as chunked
from geoseg.errors import OutputError
from geoseg.lattice import Chunk, Window
from geoseg.remote import Place

__all__ = ["PREDICTED", "Store"]

PREDICTED = ("mask", "confidence")
"""Names of the arrays that a model fills."""

_CLEANED = "cleaned"
_REQUESTS = 16  # at once, of an object store


@dataclass(frozen=True, slots=True)
class Store:
    """One mask's working state. Holds only where it is, so it travels to workers.

    Attributes:
        root: the folder.
        run: name of the run that made it; what a process knows of its arrays holds for that run only.
    """

    root: Place
    run: str

    def create(self, *, chunk: int, shape: tuple[int, int], arrays: tuple[str, ...]) -> None:
        """Makes an empty store.

        Args:
            chunk: side of a chunk, pixels; each is one zarr chunk.
            shape: (rows, cols) of the arrays.
            arrays: names of the uint8 arrays that the run fills, 255 at first.
        """
        self.make_folders()
        for name in arrays:
            chunked.create(self._arrays, name, chunk, shape)

    def make_folders(self) -> None:
        """Makes the store's folders, or those of them that are missing; an object store needs none."""
        for folder in (self._done, self._found, self._rows, self._fragments):
            if isinstance(folder, Path):
                folder.mkdir(parents=True, exist_ok=True)

    @property
    def _arrays(self) -> Place:
        return self.root / "arrays.zarr"

    @property
    def _done(self) -> Place:
        return self.root / "done"

    @property
    def _found(self) -> Place:
        return self.root / "found"

    @property
    def _rows(self) -> Place:
        return self.root / "rows"

    @property
    def _fragments(self) -> Place:
        return self.root / "fragments"

    def add_array(self, name: str, *, chunk: int, shape: tuple[int, int]) -> None:
        """Adds an array, 255 at first; one of that name may be there from a run that was stopped."""
        chunked.create(self._arrays, name, chunk, shape)

    def drop_array(self, name: str) -> None:
        """Removes an array that nobody reads any more."""
        remove_tree(self._arrays / name)

    def array(self, name: str) -> chunked.Array:
        """The whole mask or confidence, (height, width) uint8, read lazily."""
        try:
            return chunked.opened(self._arrays / name, self.run)
        except FileNotFoundError:
            raise OutputError(f"{self._arrays} has no array {name}; give another -o, or --overwrite") from None

    def read(self, name: str, window: Window) -> NDArray[np.uint8]:
        """A window of an array, (rows, cols) uint8."""
        pixels: NDArray[np.uint8] = np.asarray(self.array(name)[window.slices()])
        return pixels

    def write(self, chunk: Chunk, arrays: Mapping[str, NDArray[np.uint8]]) -> None:
        """Writes a chunk's part of some arrays."""
        for name, values in arrays.items():
            self.array(name)[chunk.window.slices()] = values

    def mark_predicted(self, chunk: Chunk) -> None:
        """Notes that a chunk's arrays are complete."""
        (self._done / chunk.key).touch()

    def mark_cleaned(self, array: str) -> None:
        """Notes that the mask is cleaned, and which array holds it."""
        with staged(self._done / _CLEANED) as inside:
            inside.write_text(array, encoding="utf-8")

    def cleaned(self) -> str | None:
        """The array that holds the cleaned mask, if it is complete."""
        try:
            return (self._done / _CLEANED).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def is_predicted(self, chunk: Chunk) -> bool:
        """Whether a chunk's arrays are complete; of many chunks, see :meth:`predicted`."""
        try:
            (self._done / chunk.key).read_bytes()
        except FileNotFoundError:
            return False
        return True

    def predicted(self, chunks: Iterable[Chunk]) -> set[Chunk]:
        """Those of some chunks whose arrays are complete, by one listing."""
        names = _names(self._done)
        return {chunk for chunk in chunks if chunk.key in names}

    def begin(self, step: str) -> None:
        """Makes room for what a step will find out."""
        if isinstance(folder := self._found / step, Path):
            folder.mkdir(exist_ok=True)

    def write_found(self, step: str, chunk: Chunk, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keeps what a step found out about a chunk; what else it writes of it must be written already."""
        with staged(self._found / step / f"{chunk.key}.npz") as inside:
            np.savez(inside, allow_pickle=False, **arrays)

    def read_found(self, step: str, chunks: Iterable[Chunk]) -> dict[Chunk, dict[str, NDArray[Any]]]:
        """What a step found out about those of some chunks that it has done, by one listing."""
        folder = self._found / step
        names = _names(folder)
        done = [chunk for chunk in chunks if f"{chunk.key}.npz" in names]
        return dict(zip(done, self._read_all([folder / f"{chunk.key}.npz" for chunk in done]), strict=True))

    def _fragment_path(self, chunk: Chunk) -> Place:
        return self._fragments / f"{chunk.key}.npz"

    def traced(self, chunks: Iterable[Chunk]) -> set[Chunk]:
        """Those of some chunks whose fragments are complete, by one listing."""
        names = _names(self._fragments)
        return {chunk for chunk in chunks if self._fragment_path(chunk).name in names}

    def rows_path(self, name: str) -> Place:
        """Where the rows of a chunk, or of a part of the sweep, lie."""
        return self._rows / f"{name}.arrow"

    def write_fragment(self, chunk: Chunk, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Spills what a chunk could not finish; its rows must be written already."""
        with staged(self._fragment_path(chunk)) as inside:
            np.savez(inside, allow_pickle=False, **arrays)

    def read_fragments(self, chunks: Sequence[Chunk]) -> list[dict[str, NDArray[Any]]]:
        """Reads what :meth:`write_fragment` wrote, in order."""
        return self._read_all([self._fragment_path(chunk) for chunk in chunks])

    def _read_all(self, paths: Sequence[Place]) -> list[dict[str, NDArray[Any]]]:
        if isinstance(self.root, Path):
            return [_read_npz(path) for path in paths]
        with ThreadPoolExecutor(_REQUESTS) as pool:
            return list(pool.map(_read_npz, paths))

    def remove_leftovers(self) -> None:
        """Removes what a killed run left half-written."""
        remove_leftovers(self._done)
        remove_leftovers(self._rows)
        remove_leftovers(self._fragments)
        for step in _names(self._found):
            remove_leftovers(self._found / step)

    def drop_intermediates(self) -> None:
        """Removes all that came after the mask: once the layers are written nobody reads it."""
        # marks first: fragments tell that rows are there, what was found that masks are rewritten
        (self._done / _CLEANED).unlink(missing_ok=True)
        for folder in (self._fragments, self._found, self._rows):
            remove_tree(folder)
        for name in chunked.names(self._arrays) - set(PREDICTED):
            self.drop_array(name)


def _names(folder: Place) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def _read_npz(path: Place) -> dict[str, NDArray[Any]]:
    with path.open("rb") as file, np.load(file) as arrays:
        return dict(arrays)

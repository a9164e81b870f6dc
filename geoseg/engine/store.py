"""The working state of one mask: arrays, done-marks, rows and fragments of its chunks (floor 4).

::

    DIR/.geoseg/town/                 of the pass of model town; `mask` where a mask was given
        arrays.zarr/         mask and confidence, and masks that a stage rewrote, one zarr chunk per chunk
        done/0003.0012       this chunk's arrays are complete
        done/cleaned         the mask is cleaned; says in which array
        rows/0003.0012.arrow      the polygons that this chunk finished; join-0003.arrow: that the sweep finished
        fragments/0003.0012.npz   what it could not finish; with it the chunk is traced

A file appears under its final name only when it is whole (temporary name, then rename), so a killed run leaves
nothing half-written, and the next run with the same manifest (see :mod:`geoseg.engine.directory`) does only what is
missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from geoseg.atomic import remove_leftovers, staged
from geoseg.errors import OutputError
from geoseg.lattice import Chunk, Window

__all__ = ["PREDICTED", "Store"]

PREDICTED = ("mask", "confidence")
"""Names of the arrays that a model fills."""

_CLEANED = "cleaned"


@dataclass(frozen=True, slots=True)
class Store:
    """One mask's working state. Holds only the path, so it travels to workers.

    Attributes:
        root: the folder.
    """

    root: Path

    def create(self, *, chunk: int, shape: tuple[int, int], arrays: tuple[str, ...]) -> None:
        """Makes an empty store.

        Args:
            chunk: side of a chunk, pixels; each is one zarr chunk.
            shape: (rows, cols) of the arrays.
            arrays: names of the uint8 arrays that the run fills, 255 at first.
        """
        self.make_folders()
        group = zarr.create_group(store=self._arrays)
        for name in arrays:
            _add_array(group, name, chunk, shape)

    def make_folders(self) -> None:
        """Makes the store's folders, or those of them that are missing."""
        for folder in (self._done, self._rows, self._fragments):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def _arrays(self) -> str:
        return str(self.root / "arrays.zarr")

    @property
    def _done(self) -> Path:
        return self.root / "done"

    @property
    def _rows(self) -> Path:
        return self.root / "rows"

    @property
    def _fragments(self) -> Path:
        return self.root / "fragments"

    def add_array(self, name: str, *, chunk: int, shape: tuple[int, int]) -> None:
        """Adds an array, 255 at first; one of that name may be there from a run that was stopped."""
        group = zarr.open_group(self._arrays, mode="r+")
        if name not in group:
            _add_array(group, name, chunk, shape)

    def drop_array(self, name: str) -> None:
        """Removes an array that nobody reads any more."""
        shutil.rmtree(Path(self._arrays) / name, ignore_errors=True)

    def array(self, name: str) -> zarr.Array[Any]:
        """The whole mask or confidence, (height, width) uint8, read lazily."""
        array = zarr.open_group(self._arrays, mode="r")[name]
        if not isinstance(array, zarr.Array):
            raise OutputError(f"{self._arrays} has no array {name}; give another -o, or --overwrite")
        return array

    def read(self, name: str, window: Window) -> NDArray[np.uint8]:
        """A window of an array, (rows, cols) uint8."""
        pixels: NDArray[np.uint8] = np.asarray(self.array(name)[window.slices()])
        return pixels

    def write(self, chunk: Chunk, arrays: Mapping[str, NDArray[np.uint8]]) -> None:
        """Writes a chunk's part of some arrays."""
        group = zarr.open_group(self._arrays, mode="r+")
        # else zarr looks whether chunks are empty, which takes three times as long as to write them
        with zarr.config.set({"array.write_empty_chunks": True}):
            for name, values in arrays.items():
                group[name][chunk.window.slices()] = values  # type: ignore[index]

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
        """Whether a chunk's arrays are complete."""
        return (self._done / chunk.key).exists()

    def _fragment_path(self, chunk: Chunk) -> Path:
        return self._fragments / f"{chunk.key}.npz"

    def is_traced(self, chunk: Chunk) -> bool:
        """Whether a chunk's fragment is complete."""
        return self._fragment_path(chunk).exists()

    def rows_path(self, name: str) -> Path:
        """Where the rows of a chunk, or of a part of the sweep, lie."""
        return self._rows / f"{name}.arrow"

    def write_fragment(self, chunk: Chunk, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Spills what a chunk could not finish; its rows must be written already."""
        with staged(self._fragment_path(chunk)) as inside:
            np.savez(inside, allow_pickle=False, **arrays)

    def read_fragment(self, chunk: Chunk) -> dict[str, NDArray[Any]]:
        """Reads what :meth:`write_fragment` wrote."""
        with np.load(self._fragment_path(chunk)) as arrays:
            return dict(arrays)

    def remove_leftovers(self) -> None:
        """Removes what a killed run left half-written."""
        remove_leftovers(self._done)
        remove_leftovers(self._rows)
        remove_leftovers(self._fragments)

    def drop_intermediates(self) -> None:
        """Removes rows, fragments and rewritten masks: once the layers are written nobody reads them."""
        # fragments first: they are the marks that rows are there
        for folder in (self._fragments, self._rows):
            shutil.rmtree(folder, ignore_errors=True)
        (self._done / _CLEANED).unlink(missing_ok=True)
        for name in set(zarr.open_group(self._arrays, mode="r").array_keys()) - set(PREDICTED):
            self.drop_array(name)


def _add_array(group: zarr.Group, name: str, chunk: int, shape: tuple[int, int]) -> None:
    group.create_array(
        name, shape=shape, chunks=(min(chunk, shape[0]), min(chunk, shape[1])), dtype="uint8", fill_value=255
    )

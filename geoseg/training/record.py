"""The log of a training: a CSV, TensorBoard where that is installed, and pictures of predictions."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geoseg.atomic import staged
from geoseg.training.panels import write_panel
from geoseg.training.sampler import Sample

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Record"]


class Record:
    """Writes ``log.csv``, ``predictions/`` and, where TensorBoard is installed, ``tensorboard/``.

    Args:
        directory: of the training.
        columns: of the CSV; the first is ``step``. A row leaves empty what it does not know.
        start: step after which this training goes on; rows of later steps, which a killed process left, go.
    """

    def __init__(self, directory: Path, columns: Sequence[str], *, start: int) -> None:
        self._directory = directory
        self._columns = columns
        self._path = directory / "log.csv"
        rows: list[dict[str, str]] = []
        if start and self._path.exists():
            with self._path.open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= start]
        with staged(self._path) as inside, inside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        self._board: SummaryWriter | None = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=start or None)

    def row(self, values: Mapping[str, float | None]) -> None:
        """Add a row; ``None`` is left empty."""
        known = {name: value for name, value in values.items() if value is not None}
        with self._path.open("a", encoding="utf-8", newline="") as file:
            short = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in known.items()}
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(short)
        if self._board is not None:
            for name, value in known.items():
                self._board.add_scalar(name.replace(" ", "/"), value, int(known["step"]))
            self._board.flush()

    def pictures(self, step: int, samples: Sequence[Sample], guesses: Sequence[NDArray[np.int64]]) -> None:
        """Write what the network says about some samples after a step."""
        folder = self._directory / "predictions"
        folder.mkdir(exist_ok=True)
        write_panel(folder / f"step_{step:07d}.png", samples, guesses)

    def close(self) -> None:
        """Close what is open."""
        if self._board is not None:
            self._board.close()

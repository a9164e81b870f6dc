"""Whether a model labels as it does in torch in float32, in all runtimes and precisions of this machine (floor 4).

The parity gate: ``--precision auto`` chooses a precision only where nearly all labels stay as they are, on real pixels
of what the model is made for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from geoseg.engine.agreement import Agreement, Labels, Tiles, check_windows, compare, require_classes, strew
from geoseg.engine.progress import Progress, Silent
from geoseg.errors import ModelError
from geoseg.models import zoo
from geoseg.models.card import Card, write_parity
from geoseg.models.runtimes import Resolved, open_runtime, resolve_device, runtimes_of
from geoseg.settings import Arithmetic, RunSettings

__all__ = ["MeasuredParity", "ParityRow", "measure_parity"]


@dataclass(frozen=True, slots=True)
class ParityRow:
    """What one way of running the model does to labels.

    Attributes:
        runtime: that runs it.
        precision: of its arithmetic.
        agreement: with torch in float32 on the CPU.
    """

    runtime: Resolved
    precision: Arithmetic
    agreement: Agreement

    def facts(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {"runtime": self.runtime, "precision": self.precision, **asdict(self.agreement)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredParity:
    """What was measured, and how.

    Attributes:
        card: of the model.
        rate: share of equal labels that is asked for.
        scenes: what was measured on, file names.
        windows: of all scenes together.
        window_px: side of a window.
        device: where the model ran.
        rows: ways to run it.
    """

    card: Card
    rate: float
    scenes: tuple[str, ...]
    windows: int
    window_px: int
    device: str
    rows: tuple[ParityRow, ...]

    def passes(self, row: ParityRow) -> bool:
        """Whether labels agree at the rate."""
        return 1 - row.agreement.differing >= self.rate

    def facts(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "model": self.card.name,
            "rows": [{**row.facts(), "passes": self.passes(row)} for row in self.rows],
            **{name: getattr(self, name) for name in ("rate", "scenes", "windows", "window_px", "device")},
        }

    def write(self) -> Card:
        """Writes into the card's file what was measured, and which precisions pass; atomically, all else stays.

        A precision passes if it does in every runtime that has it here; what was not measured stays as it was.

        Raises:
            ModelError: the file is no card of geoseg's.
            OutputError: it cannot be written.
        """
        measured = dict.fromkeys(row.precision for row in self.rows)
        fails = {row.precision for row in self.rows if not self.passes(row)}
        kept = [name for name in self.card.precisions if name not in measured]
        precisions = dict.fromkeys(["fp32", *kept, *(name for name in measured if name not in fails)])
        facts = [
            {key: value for key, value in row.facts().items() if value is not None}
            | {"device": self.device, "scenes": len(self.scenes)}
            for row in self.rows
        ]
        return write_parity(self.card, tuple(precisions), facts)


def measure_parity(
    model: str,
    scenes: Sequence[str],
    settings: RunSettings,
    *,
    rate: float = 0.997,
    window_px: int = 512,
    windows: int = 48,
    progress: Progress | None = None,
) -> MeasuredParity:
    """Compares labels of every runtime and precision that this machine has with those of torch in float32.

    Args:
        model: a name of the zoo, or the path of a card.
        scenes: paths or URLs that GDAL reads, of what the model is made for.
        settings: ``bands``, ``scale`` and ``device`` are those of a run; all else is not used.
        rate: share of equal labels that is asked for, above 0, at most 1.
        window_px: side of a window, pixels of the grid at which the model reads the scene.
        windows: of all scenes together.
        progress: sees it go by.

    Raises:
        ModelError: a model that torch cannot run in float32: an ONNX file, or a segmenter without weights.
        SceneError: a scene cannot be read by the model, or there is nothing to compare.
        SettingsError: a number out of range.
    """
    card, progress = zoo.load(model), progress or Silent()
    if card.weights is None or card.is_onnx:
        raise ModelError(f"model {card.name} has no weights of geoseg's own format, which torch runs in float32")
    check_windows(card, scenes, rate, window_px, windows, 1)
    device = resolve_device(settings.device)
    names, shown = strew(model, scenes, settings, window_px=window_px, windows=windows)
    ways = [way for way in runtimes_of(card, device) if (device, *way) != ("cpu", "torch", "fp32")]
    with progress.stage("compare", 0):
        expected = _label(card, shown, "torch", "cpu", "fp32")
        require_classes(card, expected)
        rows = [
            ParityRow(runtime, precision, compare(expected, _label(card, shown, runtime, device, precision)))
            for runtime, precision in ways
        ]
    return MeasuredParity(
        card=card,
        rate=rate,
        scenes=tuple(Path(name).name for name in names),
        windows=sum(len(pixels) for pixels in shown),
        window_px=window_px,
        device=device,
        rows=tuple(rows),
    )


def _label(card: Card, shown: Sequence[Tiles], runtime: Resolved, device: Any, precision: Arithmetic) -> list[Labels]:
    """Labels of the windows of each scene."""
    tile = shown[0].shape[-1]
    infer = open_runtime(replace(card, tile=tile), runtime=runtime, device=device, precision=precision, halo=0)

    def label(pixels: Tiles) -> Labels:
        found = []
        for start in range(0, len(pixels), infer.batch):
            some = pixels[start : start + infer.batch]
            filled = np.concatenate([some, *[some[-1:]] * (infer.batch - len(some))])
            found.append(infer(filled)[0][: len(some)])
        return np.concatenate(found)

    return [label(pixels) for pixels in shown]

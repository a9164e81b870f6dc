"""Makes a model's convolutions integers, and measures what that does to its labels (floor 4).

Windows are strewn over scenes of what the model is made for. From every other one the rounding is found (see
:mod:`geoseg.models.quantization`), on the rest labels are compared with those of fp32. The first convolutions of a
network see the image itself and lose most; so first all are rounded but those that bf16 leaves as they are, too, then
all but a few more, and so on, until labels agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from geoseg.engine.agreement import Agreement, Labels, Tiles, check_windows, compare, require_classes, strew
from geoseg.engine.progress import Progress, Silent
from geoseg.errors import ModelError
from geoseg.models import zoo
from geoseg.models.card import Card, write_int8
from geoseg.models.graphs import EXACT, load_merged
from geoseg.models.quantization import Calibration, QuantizedLayer, quantized, save_layers
from geoseg.models.runtime_torch import Labeller, load_network, settle
from geoseg.settings import RunSettings

__all__ = ["MeasuredQuantization", "QuantizationRow", "measure_quantization"]

_LEFT_OUT = (EXACT, 4, 6, 8, 12, 16, 24, 32)  # first convolutions that stay as they are
_MOST_EXAMPLES = 144  # from which rounding is found, all in memory at once
_TO_LEARN_AND_TO_JUDGE = 2  # windows of each scene at least


@dataclass(frozen=True, slots=True)
class QuantizationRow:
    """What integers do to labels.

    Attributes:
        left_out: how many convolutions, the first ones, stay as they are.
        agreement: with the labels of fp32.
    """

    left_out: int
    agreement: Agreement

    def facts(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {"left_out": self.left_out, **asdict(self.agreement)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredQuantization:
    """What was measured, and how.

    Attributes:
        card: of the model.
        rate: share of equal labels that is asked for.
        scenes: what was measured on, file names.
        examples: windows from which the rounding was found.
        windows: others, on which labels were compared.
        window_px: side of a window.
        convolutions: of the network.
        rows: what was tried, in this order; the last one reaches the rate, if any does.
        layers: those of the last row.
    """

    card: Card
    rate: float
    scenes: tuple[str, ...]
    examples: int
    windows: int
    window_px: int
    convolutions: int
    rows: tuple[QuantizationRow, ...]
    layers: Mapping[str, QuantizedLayer]

    @property
    def enough(self) -> bool:
        """Whether labels agree at the rate."""
        return 1 - self.rows[-1].agreement.differing >= self.rate

    def facts(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "model": self.card.name,
            "rate": self.rate,
            "enough": self.enough,
            "rows": [row.facts() for row in self.rows],
            **{name: getattr(self, name) for name in ("scenes", "examples", "windows", "window_px", "convolutions")},
        }

    def write(self) -> Card:
        """Writes the integers beside the card and tells of them in it, atomically; the weights stay.

        Raises:
            ModelError: labels do not agree at the rate, or the card has no place for integers.
            OutputError: they cannot be written.
        """
        if not self.enough:
            best = min(row.agreement.differing for row in self.rows)
            raise ModelError(
                f"no integers of model {self.card.name} reach the rate {self.rate:g}, the nearest do with "
                f"{1 - best:.6f}: ask for a lower --rate, or give other scenes; nothing was written"
            )
        measured = {key: value for key, value in self.rows[-1].facts().items() if value is not None}
        measured |= {"rate": self.rate, "scenes": len(self.scenes), "windows": self.windows}
        measured |= {"examples": self.examples, "convolutions": self.convolutions}
        return write_int8(self.card, partial(save_layers, layers=self.layers), measured)


def measure_quantization(
    model: str,
    scenes: Sequence[str],
    settings: RunSettings,
    *,
    rate: float = 0.997,
    window_px: int = 256,
    windows: int = 96,
    progress: Progress | None = None,
) -> MeasuredQuantization:
    """Finds integers for a model's convolutions and compares labels, until they agree at a rate.

    Args:
        model: a name of the zoo, or the path of a card.
        scenes: paths or URLs that GDAL reads, of what the model is made for.
        settings: ``bands`` and ``scale`` are those of a run; all else is not used.
        rate: share of equal labels that is asked for, above 0, at most 1.
        window_px: side of a window, pixels of the grid at which the model reads the scene.
        windows: of all scenes together.
        progress: sees it go by.

    Raises:
        ModelError: the model is not one that can be quantized.
        SceneError: a scene cannot be read by the model, or there is nothing to compare.
        SettingsError: a number out of range.
    """
    card = zoo.load(model)
    if card.weights is None or card.is_onnx:
        raise ModelError(f"model {card.name} has no weights of geoseg's own format, which integers are made from")
    check_windows(card, scenes, rate, window_px, windows, _TO_LEARN_AND_TO_JUDGE)
    progress = progress or Silent()
    names, shown = strew(model, scenes, settings, window_px=window_px, windows=windows)
    settle("cpu")
    network = load_network(card).eval()
    judged = [pixels[1::2] for pixels in shown]
    label = partial(_label, card)
    expected = [label(network, pixels) for pixels in judged]
    require_classes(card, expected)
    examples = np.concatenate([pixels[::2] for pixels in shown])
    examples = examples[:: -(-len(examples) // _MOST_EXAMPLES)]
    rows: list[QuantizationRow] = []
    layers: dict[str, QuantizedLayer] = {}
    merged = load_merged(card)
    calibration = Calibration(merged, _inputs(card, examples))
    numbers = [number for number in _LEFT_OUT if number < len(calibration.layers)]
    if not numbers:
        raise ModelError(
            f"model {card.name} has {len(calibration.layers)} convolutions; integers need more than {EXACT}"
        )
    with progress.stage("quantize", 0):
        for left_out in numbers:
            layers = calibration.quantize(left_out)
            rounded = quantized(merged, layers)
            found = [label(rounded, pixels) for pixels in judged]
            rows.append(QuantizationRow(left_out, compare(expected, found)))
            if 1 - rows[-1].agreement.differing >= rate:
                break
    return MeasuredQuantization(
        card=card,
        rate=rate,
        scenes=tuple(Path(name).name for name in names),
        examples=len(examples),
        windows=sum(len(pixels) for pixels in judged),
        window_px=window_px,
        convolutions=len(calibration.layers),
        rows=tuple(rows),
        layers=layers,
    )


def _inputs(card: Card, pixels: Tiles) -> torch.Tensor:
    """Pixels as the network takes them."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (card.mean, card.std))
    return (torch.from_numpy(pixels).float() - mean) / std


def _label(card: Card, network: nn.Module, pixels: Tiles) -> Labels:
    """Labels (windows, side, side) uint8."""
    how: dict[str, Any] = {"halo": 0, "refine": "none", "tta": "none"}
    labeller = Labeller(card, network, device=torch.device("cpu"), **how)
    with torch.inference_mode():
        return np.concatenate([labeller(torch.from_numpy(window[None]))[0].numpy() for window in pixels])

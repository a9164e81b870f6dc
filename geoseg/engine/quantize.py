"""Makes a model's convolutions integers, and measures what that does to its labels (floor 4).

Windows are strewn over scenes of what the model is made for. From every other one the rounding is found (see
:mod:`geoseg.models.quantization`), on the rest labels are compared with those of fp32. The first convolutions of a
network see the image itself and lose most; so first all are rounded, then all but the first, and so on, until labels
agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from geoseg.engine.kernels import fill_of
from geoseg.engine.plan import Pass, make_plan
from geoseg.engine.progress import Progress, Silent
from geoseg.errors import ModelError, SceneError, SettingsError
from geoseg.evaluation.bootstrap import draw_scenes, ratio, to_figure
from geoseg.lattice import Window
from geoseg.models import zoo
from geoseg.models.card import Card, write_int8
from geoseg.models.quantization import Calibration, QuantizedLayer, quantized, save_layers
from geoseg.models.runtime_torch import Labeller, load_network, settle
from geoseg.settings import Execution, RunSettings
from geoseg.stages.predict import converter

__all__ = ["MeasuredQuantization", "QuantizationRow", "measure_quantization"]

_LEFT_OUT = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # first convolutions that stay fp32
_MOST_EXAMPLES = 48  # from which rounding is found, all in memory at once
_RESAMPLES = 1000
_SEED = 1

_Tiles: TypeAlias = NDArray[Any]
"""pixels of windows, (windows, bands, side, side), as the model takes them"""


@dataclass(frozen=True, slots=True)
class QuantizationRow:
    """What integers do to labels.

    Attributes:
        left_out: how many convolutions, the first ones, stay fp32.
        pixels: compared.
        differing: share of them whose labels are not those of fp32.
        low: lower end of its 95 % interval by bootstrap over scenes; ``None`` with one scene.
        high: upper end.
        worst: the share in the worst scene.
    """

    left_out: int
    pixels: int
    differing: float
    low: float | None
    high: float | None
    worst: float


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
        return 1 - self.rows[-1].differing >= self.rate

    def facts(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "model": self.card.name,
            "rate": self.rate,
            "enough": self.enough,
            "rows": [asdict(row) for row in self.rows],
            **{name: getattr(self, name) for name in ("scenes", "examples", "windows", "window_px", "convolutions")},
        }

    def write(self) -> Card:
        """Writes the integers beside the card and tells of them in it, atomically; the weights stay.

        Raises:
            ModelError: labels do not agree at the rate, or the card has no place for integers.
            OutputError: they cannot be written.
        """
        if not self.enough:
            best = min(self.rows, key=lambda row: row.differing)
            raise ModelError(
                f"no integers of model {self.card.name} reach the rate {self.rate:g}, the nearest do with "
                f"{1 - best.differing:.6f}: ask for a lower --rate, or give other scenes; nothing was written"
            )
        measured = {key: value for key, value in asdict(self.rows[-1]).items() if value is not None}
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
    _check(card, scenes, rate, window_px, windows)
    progress = progress or Silent()
    asked = RunSettings(models=(model,), bands=settings.bands, scale=settings.scale, device="cpu", runtime="torch")
    parts = [make_plan(path, asked, Execution(threads=1)).passes[0] for path in scenes]
    each = -(-windows // len(parts))
    shown = [_windows(part, window_px, each, number) for number, part in enumerate(parts)]
    settle("cpu")
    network = load_network(card).eval()
    judged = [pixels[1::2] for pixels in shown]
    label = partial(_label, card)
    truth = [label(network, pixels) for pixels in judged]
    if len(np.unique(np.concatenate([np.unique(labels) for labels in truth]))) < 2:
        raise SceneError(
            f"model {card.name} labels everything alike in these windows, whatever is rounded; give scenes that show "
            "what it is made for"
        )
    examples = np.concatenate([pixels[::2] for pixels in shown])
    examples = examples[:: -(-len(examples) // _MOST_EXAMPLES)]
    rows: list[QuantizationRow] = []
    layers: dict[str, QuantizedLayer] = {}
    calibration = Calibration(network, _inputs(card, examples))
    numbers = [number for number in _LEFT_OUT if number < len(calibration.layers)]
    with progress.stage("quantize", 0):
        for left_out in numbers:
            layers = calibration.quantize(left_out)
            rounded = quantized(network, layers)
            rows.append(_row(left_out, truth, [label(rounded, pixels) for pixels in judged]))
            if 1 - rows[-1].differing >= rate:
                break
    return MeasuredQuantization(
        card=card,
        rate=rate,
        scenes=tuple(Path(part.grid.shown).name for part in parts),
        examples=len(examples),
        windows=sum(len(pixels) for pixels in judged),
        window_px=window_px,
        convolutions=len(calibration.layers),
        rows=tuple(rows),
        layers=layers,
    )


def _check(card: Card, scenes: Sequence[str], rate: float, window_px: int, windows: int) -> None:
    if not scenes:
        raise SettingsError("no scene is given: name at least one that shows what the model is made for")
    if not 0 < rate <= 1:
        raise SettingsError(f"--rate is {rate:g}: give a share of equal labels above 0 and up to 1, e.g. 0.997")
    if window_px < card.stride or window_px % card.stride:
        raise SettingsError(f"--window is {window_px}: give a multiple of {card.stride}, the stride of {card.name}")
    if windows < 2 * len(scenes):
        raise SettingsError(f"--windows is {windows}: give two for each scene or more, one to learn and one to judge")


def _windows(part: Pass, side: int, count: int, number: int) -> _Tiles:
    """Windows with data, strewn over a scene by its number; mirrored beyond the scene's edges."""
    rng = np.random.default_rng((_SEED, number))
    convert, fill = converter(part.card.dtype, part.scale), fill_of(part.card)[:, None, None]
    found = []
    for _ in range(4 * count):
        row, col = (int(rng.integers(max(length - side, 0) + 1)) for length in (part.grid.height, part.grid.width))
        pixels, valid = part.grid.read(Window(col, row, side, side), part.bands)
        if valid.any():
            found.append(np.where(valid, convert(pixels), fill))
        if len(found) == count:
            return np.stack(found)
    raise SceneError(f"{part.grid.shown} has hardly any data: {len(found)} of {4 * count} windows; give another scene")


def _inputs(card: Card, pixels: _Tiles) -> torch.Tensor:
    """Pixels as the network takes them."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (card.mean, card.std))
    return (torch.from_numpy(pixels).float() - mean) / std


def _label(card: Card, network: nn.Module, pixels: _Tiles) -> NDArray[np.uint8]:
    """Labels (windows, side, side) uint8."""
    how: dict[str, Any] = {"dtype": torch.float32, "halo": 0, "refine": "none", "tta": "none"}
    labeller = Labeller(card, network, device=torch.device("cpu"), **how)
    with torch.inference_mode():
        return np.concatenate([labeller(torch.from_numpy(window[None]))[0].numpy() for window in pixels])


def _row(left_out: int, truth: Sequence[NDArray[np.uint8]], found: Sequence[NDArray[np.uint8]]) -> QuantizationRow:
    """Compares the labels of each scene's windows."""
    differs = np.array(
        [np.count_nonzero(ours != theirs) for ours, theirs in zip(found, truth, strict=True)], np.float64
    )
    compared = np.array([labels.size for labels in truth], np.float64)
    draws = draw_scenes(len(compared), _RESAMPLES)
    figure = to_figure(ratio(draws @ differs, draws @ compared))
    assert figure.value is not None  # noqa: S101 - there are pixels
    worst = float((differs / compared).max())
    return QuantizationRow(left_out, int(compared.sum()), figure.value, figure.low, figure.high, worst)

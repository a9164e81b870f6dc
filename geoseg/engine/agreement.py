"""How many labels agree, on windows strewn over scenes of what a model is made for (floor 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from geoseg.engine.plan import Pass, make_plan
from geoseg.engine.prediction import fill_of
from geoseg.errors import SceneError, SettingsError
from geoseg.evaluation.bootstrap import draw_scenes, ratio, to_figure
from geoseg.lattice import Window
from geoseg.models.card import Card
from geoseg.settings import Execution, RunSettings
from geoseg.stages.predict import converter

__all__ = ["Agreement", "Labels", "Tiles", "check_windows", "compare", "require_classes", "strew"]

_RESAMPLES = 1000
_SEED = 1

Tiles: TypeAlias = NDArray[Any]
"""pixels of windows, (windows, bands, side, side), as the model takes them"""

Labels: TypeAlias = NDArray[np.uint8]
"""labels of windows, (windows, side, side)"""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How labels compare with those that are expected.

    Attributes:
        pixels: compared.
        differing: share of them whose labels differ.
        low: lower end of its 95 % interval by bootstrap over scenes; ``None`` with one scene.
        high: upper end.
        worst: the share in the worst scene.
    """

    pixels: int
    differing: float
    low: float | None
    high: float | None
    worst: float


def check_windows(card: Card, scenes: Sequence[str], rate: float, window_px: int, windows: int, least: int) -> None:
    """Refuses numbers out of range.

    Args:
        card: of the model.
        scenes: that were given.
        rate: share of equal labels that is asked for.
        window_px: side of a window.
        windows: of all scenes together.
        least: windows that each scene must have.

    Raises:
        SettingsError: no scene, or a number out of range.
    """
    if not scenes:
        raise SettingsError("no scene is given: name at least one that shows what the model is made for")
    if not 0 < rate <= 1:
        raise SettingsError(f"--rate is {rate:g}: give a share of equal labels above 0 and up to 1, e.g. 0.997")
    if window_px < card.stride or window_px % card.stride:
        raise SettingsError(f"--window is {window_px}: give a multiple of {card.stride}, the stride of {card.name}")
    if windows < least * len(scenes):
        raise SettingsError(f"--windows is {windows}: give {least * len(scenes)} or more, {least} for each scene")


def strew(
    model: str, scenes: Sequence[str], settings: RunSettings, *, window_px: int, windows: int
) -> tuple[list[str], list[Tiles]]:
    """Reads windows with data, strewn over scenes; mirrored beyond their edges.

    Args:
        model: a name of the zoo, or the path of a card.
        scenes: paths or URLs that GDAL reads.
        settings: ``bands`` and ``scale`` are those of a run; all else is not used.
        window_px: side of a window, pixels of the grid at which the model reads the scene.
        windows: of all scenes together.

    Returns:
        the scenes' names, and the windows of each.

    Raises:
        SceneError: a scene cannot be read by the model, or has hardly any data.
    """
    asked = RunSettings(models=(model,), bands=settings.bands, scale=settings.scale, device="cpu", runtime="auto")
    parts = [make_plan(path, asked, Execution(threads=1)).passes[0] for path in scenes]
    each = -(-windows // len(parts))
    return [part.grid.shown for part in parts], [
        _windows(part, window_px, each, number) for number, part in enumerate(parts)
    ]


def _windows(part: Pass, side: int, count: int, number: int) -> Tiles:
    """Windows of one scene, by its number."""
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


def require_classes(card: Card, expected: Sequence[Labels]) -> None:
    """Refuses scenes on which all labels are alike, so that nothing could differ.

    Raises:
        SceneError: they are.
    """
    if len(np.unique(np.concatenate([np.unique(labels) for labels in expected]))) < 2:
        raise SceneError(
            f"model {card.name} labels everything alike in these windows, whatever is rounded; give scenes that show "
            "what it is made for"
        )


def compare(expected: Sequence[Labels], found: Sequence[Labels]) -> Agreement:
    """Compares the labels of each scene's windows."""
    differs = np.array(
        [np.count_nonzero(ours != theirs) for ours, theirs in zip(found, expected, strict=True)], np.float64
    )
    compared = np.array([labels.size for labels in expected], np.float64)
    draws = draw_scenes(len(compared), _RESAMPLES)
    figure = to_figure(ratio(draws @ differs, draws @ compared))
    assert figure.value is not None  # noqa: S101 - there are pixels
    worst = float((differs / compared).max())
    return Agreement(int(compared.sum()), figure.value, figure.low, figure.high, worst)

"""Figures of several scenes with 95 % intervals, by the bootstrap over scenes.

B. Efron, R. Tibshirani, *An introduction to the bootstrap*, 1993, chapter 13, percentiles: scenes are drawn with
replacement, as many as there are, the figure is computed of the draw, and 2.5 and 97.5 % of many draws bound the
interval. The draws are the same for every figure and every call.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Figure", "draw_scenes", "ratio", "to_figure"]

SEED = 0
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number.

    Attributes:
        value: None where there is nothing to judge.
        low: lower end of the 95 % interval; None with one scene.
        high: upper end.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


def draw_scenes(scenes: int, resamples: int) -> Floats:
    """How often each scene counts: first each once, then in each draw.

    Args:
        scenes: how many there are.
        resamples: how many draws.

    Returns:
        float64 (1 + resamples, scenes); of fewer than two scenes (1, scenes).
    """
    whole = np.ones((1, scenes))
    if scenes < 2:
        return whole
    drawn = np.random.default_rng(SEED).multinomial(scenes, np.full(scenes, 1 / scenes), size=resamples)
    return np.concatenate([whole, drawn.astype(np.float64)])


def ratio(part: Floats, whole: Floats) -> Floats:
    """Quotients; NaN over nothing."""
    quotient: Floats = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
    return quotient


def to_figure(values: Floats) -> Figure:
    """Make a figure.

    Args:
        values: float64 (draws,), of the whole, first, and of all draws; NaN where there is nothing to judge.
    """
    whole = float(values[0]) if np.isfinite(values[0]) else None
    drawn = values[1:][np.isfinite(values[1:])]
    if whole is None or not drawn.size:
        return Figure(whole)
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    return Figure(whole, low, high)

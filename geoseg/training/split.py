"""Which pictures are learned from, and on which views of the others a training is judged while it runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import InputError
from geoseg.lattice import Window
from geoseg.training.sampler import Sample, Sampler, Source
from geoseg.training.survey import Survey

__all__ = ["choose_validation", "make_views"]

_TRIES = 64
MOST_VIEWS = 32
"""Samples of the validation."""
_STEP = 1.6  # GSDs of a picture's views lie further apart than this factor


def choose_validation(surveys: Sequence[Survey], share: float, seed: int) -> list[int]:
    """Choose pictures for the validation, so that every class has about the share of its pixels there.

    Of some random choices the one is taken that is best for the worst class.

    Args:
        surveys: of the pictures.
        share: of them, 0 to below 1.
        seed: of the choice.

    Returns:
        Numbers of the chosen, in order; none where the share is 0 or there is one picture only.
    """
    count = min(max(1, round(share * len(surveys))), len(surveys) - 1)
    if share == 0 or count < 1:
        return []
    pixels = np.array([looked.pixels[:, 1] for looked in surveys], float)
    pixels = pixels[:, pixels.sum(0) > 0] / pixels.sum(0)[pixels.sum(0) > 0]
    rng = np.random.default_rng(seed)
    best: tuple[float, list[int]] | None = None
    for _ in range(_TRIES):
        chosen = sorted(rng.choice(len(surveys), size=count, replace=False).tolist())
        off = np.abs(pixels[chosen].sum(0) - count / len(surveys))
        worst = float(off.max()) if off.size else 0.0
        if best is None or worst < best[0]:
            best = worst, chosen
    return best[1] if best else []


def make_views(sampler: Sampler, sources: Sequence[Source], seed: int) -> list[Sample]:
    """Make the samples of the validation: views of its pictures, without chance or change.

    Pictures are looked at in squares side by side, at the finest GSD of their source, at the coarsest, and between.
    Of too many views so many are taken that each source has its fair part.

    Args:
        sampler: makes samples.
        sources: with the pictures of the validation.
        seed: of the choice among too many.

    Raises:
        InputError: nothing is known of any picture.
    """
    rng = np.random.default_rng(seed)
    samples: list[Sample] = []
    with_pictures = [source for source in sources if source.pictures]
    for source in with_pictures:
        places = [
            (number, window)
            for number, picture in enumerate(source.pictures)
            for gsd_m in _gsds(source.gsd_range_m)
            for window in _squares(picture.size, max(8, round(sampler.size * gsd_m / picture.gsd_m)))
        ]
        views: list[Sample] = []
        for place in rng.permutation(len(places)):
            number, window = places[place]
            view = sampler.view(source.pictures[number], window, source.name)
            if view.weight.any():
                views.append(view)
            if len(views) >= max(1, MOST_VIEWS // len(with_pictures)):
                break
        samples += views
    if with_pictures and not samples:
        raise InputError("validation: nothing is known of any of its images; choose others, or a larger share")
    return samples


def _gsds(gsd_range_m: tuple[float, float]) -> NDArray[np.float64]:
    low, high = gsd_range_m
    count = 1 + min(2, int(np.log(high / low) / np.log(_STEP)))
    return np.geomspace(low, high, count) if count > 1 else np.array([np.sqrt(low * high)])


def _squares(size: tuple[int, int], side: int) -> list[Window]:
    """Squares that cover a picture, with as little overlap as that allows; one, centred, on a small picture."""
    starts = []
    for length in size:
        count = max(1, -(-length // side))
        last = length - side
        starts.append([round(last * (place / (count - 1) if count > 1 else 0.5)) for place in range(count)])
    return [Window(col, row, side, side) for row in starts[0] for col in starts[1]]

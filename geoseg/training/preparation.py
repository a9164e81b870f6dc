"""Everything that a training needs, looked through before its first step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import InputError
from geoseg.training.config import TrainConfig
from geoseg.training.pictures import OpenSet, open_sets
from geoseg.training.sampler import Sample, Sampler, Source
from geoseg.training.split import choose_validation, make_views
from geoseg.training.start import Start
from geoseg.training.survey import Survey, survey

__all__ = ["Found", "FoundSet", "Preparation", "prepare"]


@dataclass(frozen=True, slots=True)
class FoundSet:
    """What one set holds.

    Attributes:
        name: of the set.
        images: that are learned from.
        held_back: images of the validation.
        megapixels: of all of them.
        gsd_m: of the finest and the coarsest image.
        gsd_range_m: of the samples.
        known: of each class, share of the pixels about which it is known whether they are of it.
        present: of each class, share of its known pixels that are of it; None where nothing is known.
        share: of the samples.
    """

    name: str
    images: int
    held_back: int
    megapixels: float
    gsd_m: tuple[float, float]
    gsd_range_m: tuple[float, float]
    known: dict[str, float]
    present: dict[str, float | None]
    share: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a training found, for people.

    Attributes:
        sets: one each.
        views: samples of the validation.
        notes: what should be known, a line each.
        warnings: what is likely to be wrong, a line each.
    """

    sets: tuple[FoundSet, ...]
    views: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Preparation:
    """A training that can begin.

    Attributes:
        config: what was asked for.
        start: the network.
        sampler: draws samples.
        validation: samples that judge it while it runs; empty if nothing is held back.
        found: for people.
        digest: of all that was read.
    """

    config: TrainConfig
    start: Start
    sampler: Sampler
    validation: list[Sample]
    found: Found
    digest: str


def prepare(config: TrainConfig) -> Preparation:
    """Open all that a configuration names, look it through, and choose the validation.

    Raises:
        InputError: something is missing, cannot be read or does not fit; no class has a pixel to learn from.
    """
    start = Start.make(config)
    sets = open_sets(config, [min(255, max(0, round(value))) for value in start.mean])
    surveys = [[survey(picture, len(config.classes)) for picture in opened.pictures] for opened in sets]
    held = _hold_back(config, sets, surveys)
    if isinstance(config.validation, tuple):
        missing = set(config.validation) - {stem for opened in sets for stem in opened.stems}
        if missing:
            raise InputError(f"validation: no image has the stem {', '.join(sorted(missing))}")
    shares = _shares(sets)
    sources, learned, others = [], [], []
    for opened, looked, back, share in zip(sets, surveys, held, shares, strict=True):
        ours = [place for place in range(len(opened.pictures)) if place not in back]
        if ours and share:
            sources.append(_source(opened, ours, share))
            learned.append([looked[place] for place in ours])
        others.append(_source(opened, back, 1.0))
    if not sources:
        raise InputError("validation: it holds back every image; leave some to learn from")
    sampler = Sampler(
        sources,
        config.classes,
        size=config.crop,
        seed=config.seed,
        touch_weight=config.touch_weight,
        blur_chance=config.blur_chance,
        blur_factor=config.blur_factor,
        surveys=learned,
    )
    validation = make_views(sampler, others, config.seed)
    found = _describe(config, start, sets, surveys, held, len(validation))
    digest = hashlib.sha256(json.dumps([opened.digest for opened in sets]).encode()).hexdigest()
    return Preparation(config, start, sampler, validation, found, digest)


def _hold_back(config: TrainConfig, sets: Sequence[OpenSet], surveys: Sequence[Sequence[Survey]]) -> list[list[int]]:
    """Of each set, numbers of the pictures that are for the validation.

    An image that is in several sets is held back in all of them, or in none.
    """
    decided: dict[str, bool] = {}
    for opened, looked in zip(sets, surveys, strict=True):
        free = [place for place, picture in enumerate(opened.pictures) if picture.name not in decided]
        if opened.config.split != "auto":
            back = free if opened.config.split == "validation" else []
        elif isinstance(config.validation, tuple):
            back = [place for place in free if opened.stems[place] in config.validation]
        else:
            chosen = choose_validation([looked[place] for place in free], config.validation, config.seed)
            back = [free[number] for number in chosen]
        decided |= {opened.pictures[place].name: place in back for place in free}
    return [[place for place, one in enumerate(opened.pictures) if decided[one.name]] for opened in sets]


def _shares(sets: Sequence[OpenSet]) -> NDArray[np.float64]:
    """Of the samples: as the sets say, else by how many samples an image's area is good for."""
    areas = np.array(
        [
            sum(picture.size[0] * picture.size[1] * picture.gsd_m**2 for picture in opened.pictures)
            / (opened.gsd_range_m[0] * opened.gsd_range_m[1])
            for opened in sets
        ]
    )
    areas /= areas.sum()
    given = [areas[place] if (one := opened.config).share is None else one.share for place, opened in enumerate(sets)]
    shares = np.array(given, float)
    shares /= shares.sum()
    return shares


def _source(opened: OpenSet, places: Sequence[int], share: float) -> Source:
    return Source(
        opened.config.name,
        [opened.pictures[place] for place in places],
        share,
        opened.gsd_range_m,
        mosaic=opened.config.mosaic,
        focus=opened.config.focus,
    )


def _describe(
    config: TrainConfig,
    start: Start,
    sets: Sequence[OpenSet],
    surveys: Sequence[Sequence[Survey]],
    held: Sequence[Sequence[int]],
    views: int,
) -> Found:
    """Say what was found.

    Raises:
        InputError: no class has a pixel to learn from.
    """
    names = [entry.name for entry in config.classes]
    rows = []
    learned = np.zeros((len(names), 2), np.int64)
    for opened, looked, back, share in zip(sets, surveys, held, _shares(sets), strict=True):
        counts = sum((one.pixels for one in looked), np.zeros((len(names), 2), np.int64))
        learned += counts - sum((looked[place].pixels for place in back), np.zeros_like(counts))
        pixels = sum(picture.size[0] * picture.size[1] for picture in opened.pictures)
        gsds = [picture.gsd_m for picture in opened.pictures]
        rows.append(
            FoundSet(
                name=opened.config.name,
                images=len(looked) - len(back),
                held_back=len(back),
                megapixels=pixels / 1e6,
                gsd_m=(min(gsds), max(gsds)),
                gsd_range_m=opened.gsd_range_m,
                known={name: float(seen / pixels) for name, (seen, _) in zip(names, counts, strict=True)},
                present={
                    name: float(there / seen) if seen else None
                    for name, (seen, there) in zip(names, counts, strict=True)
                },
                share=float(share),
            )
        )
    if not learned[:, 1].any():
        raise InputError(f"no image to learn from has a pixel of {', '.join(names)}; check codes, field and CRS")
    notes = [*start.notes, *(f"{opened.config.name}: {note}" for opened in sets for note in opened.notes)]
    warnings = []
    for name, (seen, there) in zip(names, learned, strict=True):
        if not seen:
            warnings.append(f"class {name} is unknown everywhere: nothing teaches it")
        elif not there:
            warnings.append(f"class {name} has no pixel to learn from: the model will never find it")
        elif there == seen:
            warnings.append(f"class {name} is wherever it is known: nothing teaches what it is not")
    if not views:
        notes.append("no image is held back: there is no validation")
    for opened in sets:
        low, high = opened.gsd_range_m
        if low > config.gsd_range_m[1] or high < config.gsd_range_m[0]:
            warnings.append(f"{opened.config.name}: samples of {low:g}-{high:g} m lie outside the model's GSD")
    return Found(tuple(rows), views, tuple(notes), tuple(warnings))

"""Judge predictions against truth: what `geoseg evaluate` calls."""

from __future__ import annotations

import heapq
import os
from pathlib import Path

from geoseg.evaluation.judge import Place, tally
from geoseg.evaluation.page import write_page
from geoseg.evaluation.report import Report, Spot, summarise
from geoseg.evaluation.subjects import Extras, Subject, find_subjects
from geoseg.settings import EvaluationSettings

__all__ = ["evaluate"]


def evaluate(
    prediction: str | os.PathLike[str],
    truth: str | os.PathLike[str],
    *,
    settings: EvaluationSettings | None = None,
    extras: Extras | None = None,
    page: Path | None = None,
) -> Report:
    """Judge a prediction against truth.

    Args:
        prediction: a run's directory, a mask, a vector layer, or a folder of such.
        truth: a mask, a raster of object numbers, a vector layer, or a folder of such; pairs have one stem.
        settings: how; defaults when not given.
        extras: more paths: a grid, where truth is known, confidences, an image.
        page: an HTML file to write, with figures and pictures of the worst places.

    Returns:
        All figures.

    Raises:
        InputError: something is not there, cannot be read, or does not fit.
        ReadError: pixels cannot be read this time.
    """
    settings = settings or EvaluationSettings()
    subjects = find_subjects(os.fspath(prediction), os.fspath(truth), settings, extras or Extras())
    tallies = []
    places: list[tuple[Place, int]] = []
    for number, subject in enumerate(subjects):
        tallies.append(tally(subject, settings))
        places.extend((place, number) for place in tallies[-1].worst)
    worst = heapq.nlargest(settings.worst, places)
    spots = [_spot(place, number, subjects[number]) for place, number in worst]
    report = summarise(tallies, settings, spots)
    if page is not None:
        write_page(page, report, subjects)
    return report


def _spot(place: Place, number: int, subject: Subject) -> Spot:
    """A place with its coordinates."""
    window = place.window
    west, south, east, north = subject.grid.crop(window).bounds_lonlat
    east += 360.0 if east < west else 0.0
    middle = (west + east) / 2
    return Spot(
        scene=number,
        col_off=window.col_off,
        row_off=window.row_off,
        width=window.width,
        height=window.height,
        lonlat=(round((middle + 180) % 360 - 180, 6), round((south + north) / 2, 6)),
        wrong=place.wrong,
        known=place.known,
    )

"""Figures of one or several scenes, with 95 % intervals, and as plain JSON values.

Counts are pooled: the figures of several scenes are those of one large scene, never means of scenes. With two scenes or
more each figure has an interval by the bootstrap over scenes, see `geoseg.evaluation.bootstrap`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.evaluation.bootstrap import Figure, draw_scenes, ratio, to_figure
from geoseg.evaluation.calibration import bin_levels, expected_error
from geoseg.evaluation.judge import Tally
from geoseg.evaluation.objects import average_precision
from geoseg.settings import EvaluationSettings

__all__ = ["Report", "Spot", "summarise"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spot:
    """One of the worst places.

    Attributes:
        scene: its number, from 0.
        col_off: first column, pixels.
        row_off: first row, pixels.
        width: columns.
        height: rows.
        lonlat: its centre, degrees (WGS 84).
        wrong: pixels whose class is wrong.
        known: pixels that were judged.
    """

    scene: int
    col_off: int
    row_off: int
    width: int
    height: int
    lonlat: tuple[float, float]
    wrong: int
    known: int


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation found.

    Attributes:
        scenes: their names.
        settings: of the evaluation.
        classes: figures by class and name; a figure that does not apply to a class is not there.
        overall: figures of all classes together, by name.
        confusion: pixels by true (rows) and predicted class, background first.
        reliability: (pixels, right pixels, sum of confidences) of each of 15 bins; None without confidences.
        counts: of objects by class: predicted, true, matched at IoU 0.5.
        unpredicted: pixels of known truth that the prediction leaves out; they are not judged.
        worst: the worst places of all scenes, worst first.
    """

    scenes: tuple[str, ...]
    settings: EvaluationSettings
    classes: dict[str, dict[str, Figure]]
    overall: dict[str, Figure]
    confusion: tuple[tuple[int, ...], ...]
    reliability: tuple[tuple[float, float, float], ...] | None
    counts: dict[str, dict[str, int]]
    unpredicted: int
    worst: tuple[Spot, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        settings = asdict(self.settings)
        settings["classes"] = dict(self.settings.classes)
        settings["truth_classes"] = dict(self.settings.truth_classes or self.settings.classes)
        return {
            "scenes": list(self.scenes),
            "settings": settings,
            "classes": {
                name: {key: asdict(figure) for key, figure in figures.items()} for name, figures in self.classes.items()
            },
            "overall": {key: asdict(figure) for key, figure in self.overall.items()},
            "objects": self.counts,
            "confusion": {
                "classes": ["background", *(name for name, _ in self.settings.classes)],
                "rows": "truth",
                "pixels": [list(row) for row in self.confusion],
            },
            "reliability": self.reliability
            and [dict(zip(("pixels", "right", "confidence_sum"), row, strict=True)) for row in self.reliability],
            "unpredicted_pixels": self.unpredicted,
            "worst": [asdict(spot) for spot in self.worst],
        }


def summarise(tallies: Sequence[Tally], settings: EvaluationSettings, worst: Sequence[Spot]) -> Report:
    """Make the figures of all scenes.

    Args:
        tallies: counts of each scene.
        settings: of the evaluation.
        worst: places, worst first.
    """
    names = [name for name, _ in settings.classes]
    roads = [name for name in settings.roads if name in names]
    draws = draw_scenes(len(tallies), settings.resamples)

    def pooled(of: Callable[[Tally], Floats]) -> Floats:
        """Sums over each draw's scenes."""
        return np.tensordot(draws, np.stack([of(one) for one in tallies]), axes=1)

    confusion, edges, bands = (pooled(of) for of in (_confusion, _edges, _bands))
    figures: dict[str, dict[str, Floats]] = {name: {} for name in names}
    for place, name in enumerate(names):
        found = figures[name]
        hits = confusion[:, place + 1, place + 1]
        truth, guess = confusion[:, place + 1].sum(axis=1), confusion[:, :, place + 1].sum(axis=1)
        found["iou"] = ratio(hits, truth + guess - hits)
        found["f1"] = ratio(2 * hits, truth + guess)
        found["precision"], found["recall"] = ratio(hits, guess), ratio(hits, truth)
        found |= _near(edges[:, place], "boundary")
        found["boundary_iou"] = ratio(bands[:, place, 0], bands[:, place, 1])
        found |= _object_figures([one.detections[place] for one in tallies], draws)
    if roads:
        relaxed, paths = pooled(lambda one: one.relaxed), pooled(lambda one: one.paths)
        for place, name in enumerate(roads):
            figures[name] |= _near(relaxed[:, place], "relaxed") | _path_figures(paths[:, place])
    iou = np.stack([found["iou"] for found in figures.values()])
    counted = np.isfinite(iou)
    overall = {
        "accuracy": ratio(np.trace(confusion, axis1=1, axis2=2), confusion.sum(axis=(1, 2))),
        "mean_iou": ratio(np.where(counted, iou, 0.0).sum(axis=0), counted.sum(axis=0)),
    }
    reliability = None
    if all(one.levels is not None for one in tallies):
        levels = pooled(_levels)
        overall["ece"] = expected_error(levels.sum(axis=1))
        for place, name in enumerate(names, 1):
            figures[name]["ece"] = expected_error(levels[:, place])
        reliability = tuple(
            (float(n), float(right), float(sure)) for n, right, sure in bin_levels(levels[0].sum(axis=0))
        )
    counts = {}
    for place, name in enumerate(names):
        hit, wrong, missed = np.sum([one.detections[place].counts() for one in tallies], axis=0).astype(int).tolist()
        counts[name] = {"predicted": hit + wrong, "true": hit + missed, "matched": hit}
    return Report(
        scenes=tuple(one.name for one in tallies),
        settings=settings,
        classes={name: {key: to_figure(values) for key, values in found.items()} for name, found in figures.items()},
        overall={key: to_figure(values) for key, values in overall.items()},
        confusion=tuple(tuple(row) for row in confusion[0].astype(np.int64).tolist()),
        reliability=reliability,
        counts=counts,
        unpredicted=sum(one.unpredicted for one in tallies),
        worst=tuple(worst),
    )


def _confusion(one: Tally) -> Floats:
    return one.confusion


def _edges(one: Tally) -> Floats:
    return one.edges


def _bands(one: Tally) -> Floats:
    return one.bands


def _levels(one: Tally) -> Floats:
    return np.zeros(0) if one.levels is None else one.levels


def _near(counts: Floats, prefix: str) -> dict[str, Floats]:
    """Precision, recall and F1 of counts (draws, 4) of what lies near its counterpart.

    F1 is 0, not unknown, where one side alone has pixels.
    """
    precision, recall = ratio(counts[:, 1], counts[:, 0]), ratio(counts[:, 3], counts[:, 2])
    either = np.isfinite(precision) | np.isfinite(recall)
    p, r = np.nan_to_num(precision), np.nan_to_num(recall)
    f1 = np.divide(2 * p * r, p + r, out=np.where(either, 0.0, np.nan), where=p + r > 0)
    return {f"{prefix}_f1": f1, f"{prefix}_precision": precision, f"{prefix}_recall": recall}


def _path_figures(paths: Floats) -> dict[str, Floats]:
    """APLS and its two halves of sums (draws, 6), and how many of the true ways are there at whatever length."""
    missing, invented = ratio(paths[:, 0], paths[:, 2]), ratio(paths[:, 3], paths[:, 5])
    either = np.isfinite(missing) | np.isfinite(invented)
    one, other = np.nan_to_num(missing), np.nan_to_num(invented)
    apls = np.divide(2 * one * other, one + other, out=np.where(either, 0.0, np.nan), where=one + other > 0)
    return {
        "apls": apls,
        "apls_truth_to_prediction": missing,
        "apls_prediction_to_truth": invented,
        "connected": ratio(paths[:, 1], paths[:, 2]),
    }


def _object_figures(detections: Sequence[Any], draws: Floats) -> dict[str, Floats]:
    """F1, precision and recall of objects at IoU 0.5, PQ and its halves, AP50 and AP50:95 of one class."""
    hit, wrong, missed = (draws @ np.stack([one.counts() for one in detections])).T
    sure, loose, lost, shared = (draws @ np.stack([one.panoptic for one in detections])).T
    scene = np.concatenate([np.full(one.score.size, place) for place, one in enumerate(detections)])
    score = np.concatenate([one.score for one in detections])
    order = np.argsort(-score, kind="stable")
    score, scene = score[order], scene[order]
    matched = np.concatenate([one.matched for one in detections], axis=1)[:, order]
    judged = np.concatenate([one.judged for one in detections], axis=1)[:, order].astype(np.float64)
    truths = draws @ np.array([one.truths for one in detections], np.float64)
    precision = np.stack(
        [
            average_precision(score, matched, judged * draw[scene], total)
            for draw, total in zip(draws, truths, strict=True)
        ]
    )
    return {
        "object_f1": ratio(2 * hit, 2 * hit + wrong + missed),
        "object_precision": ratio(hit, hit + wrong),
        "object_recall": ratio(hit, hit + missed),
        "pq": ratio(shared, sure + (loose + lost) / 2),
        "sq": ratio(shared, sure),
        "rq": ratio(sure, sure + (loose + lost) / 2),
        "ap50": precision[:, 0],
        "ap50_95": precision.mean(axis=1),
    }

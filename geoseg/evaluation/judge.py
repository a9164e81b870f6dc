"""Counts of one scene, gathered window by window: all that its figures are made of."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from geoseg.codes import NODATA
from geoseg.errors import InputError
from geoseg.evaluation.boundary import count_bands, count_near, find_edges, grow
from geoseg.evaluation.calibration import count_levels
from geoseg.evaluation.networks import compare_networks
from geoseg.evaluation.objects import Detections, ObjectTable
from geoseg.evaluation.sources import PolygonSource
from geoseg.evaluation.subjects import Subject
from geoseg.grids import read_band
from geoseg.lattice import Window
from geoseg.settings import EvaluationSettings

__all__ = ["CELL", "Place", "Seen", "Tally", "look", "tally", "tally_arrays"]

WINDOW = 1024
"""Side of the windows that are judged at once, pixels."""
CELL = 256
"""Side of the places that are compared to find the worst, pixels; windows are a whole number of them."""
SNAP_M = 4.0
"""How far apart two roads may lie and still be one to APLS, metres, as in SpaceNet; at least `relaxed_px`."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A cell of a scene.

    Attributes:
        wrong: pixels whose predicted class is not the true one.
        known: pixels that were judged.
        window: where it lies.
    """

    wrong: int
    known: int
    window: Window


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """The counts of one scene; those of several scenes are added.

    Attributes:
        name: of the scene.
        confusion: float64 (classes + 1, classes + 1), pixels by true (rows) and predicted class, 0 = background.
        unpredicted: pixels of known truth where the prediction has no data; they are not judged.
        edges: float64 (classes, 4), as of `boundary.count_near`.
        bands: float64 (classes, 2), as of `boundary.count_bands`.
        relaxed: float64 (roads, 4), as of `boundary.count_near`.
        paths: float64 (roads, 6), as of `networks.compare_networks`.
        levels: float64 (classes + 1, 255, 2), as of `calibration.count_levels`; None without confidences.
        detections: of each class.
        worst: the places with the most wrong pixels, worst first.
    """

    name: str
    confusion: NDArray[np.float64]
    unpredicted: int
    edges: NDArray[np.float64]
    bands: NDArray[np.float64]
    relaxed: NDArray[np.float64]
    paths: NDArray[np.float64]
    levels: NDArray[np.float64] | None
    detections: list[Detections]
    worst: list[Place]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One window of a scene.

    Attributes:
        pixels: uint8 (rows, cols), predicted classes as judged pixel by pixel; 255 = no data.
        objects: the same as judged by objects, with their numbers (None: components).
        truth: true classes and the objects' numbers.
        known: bool (rows, cols), where all of them are known.
    """

    pixels: NDArray[np.uint8]
    objects: tuple[NDArray[np.uint8], NDArray[np.int32] | None]
    truth: tuple[NDArray[np.uint8], NDArray[np.int32] | None]
    known: NDArray[np.bool_]

    def cut(self, inner: tuple[slice, slice]) -> Seen:
        """A part of the window."""
        objects, truth = (
            (np.ascontiguousarray(codes[inner]), None if labels is None else labels[inner])
            for codes, labels in (self.objects, self.truth)
        )
        return Seen(self.pixels[inner], objects, truth, self.known[inner])


def look(subject: Subject, window: Window) -> Seen:
    """Read one window of a scene; what sticks out of its grid is unknown."""
    pixels, numbers = subject.pixels.read(window)
    real = subject.truth.read(window)
    if subject.within is not None:
        outside = subject.within.read(window)[0] != 1
        real[0][outside] = NODATA
    drawn = (pixels, numbers) if subject.objects is subject.pixels else subject.objects.read(window)
    known = (pixels != NODATA) & (drawn[0] != NODATA) & (real[0] != NODATA)
    return Seen(pixels, drawn, real, known)


def tally(subject: Subject, settings: EvaluationSettings) -> Tally:
    """Count one scene, a window at a time.

    Raises:
        InputError: no pixel has both a prediction and a known truth.
        ReadError: pixels cannot be read this time.
    """

    def confidence(window: Window) -> NDArray[np.uint8] | None:
        if subject.confidence is None:
            return None
        sure, there = read_band(subject.confidence, subject.grid, window)
        return np.where(there, sure, np.uint8(NODATA))

    scores = subject.objects.scores if isinstance(subject.objects, PolygonSource) else None
    view = _View(subject.name, subject.grid.window, subject.grid.gsd_m, partial(look, subject), confidence, scores)
    return _count(view, settings)


def tally_arrays(
    name: str,
    predicted: tuple[NDArray[np.uint8], NDArray[np.int32] | None],
    truth: tuple[NDArray[np.uint8], NDArray[np.int32] | None],
    settings: EvaluationSettings,
    *,
    gsd_m: float,
    confidence: NDArray[np.uint8] | None = None,
) -> Tally:
    """Count one image in memory, such as a labelled chip without a place on the ground.

    Args:
        name: of the image.
        predicted: uint8 (rows, cols), 0 = background, 1 and on = the classes of the settings in their order (whatever
            their codes), 255 = no data; int32 (rows, cols) numbers of objects, or None: components.
        truth: the same; 255 = unknown.
        settings: of the evaluation.
        gsd_m: metres per pixel.
        confidence: uint8 (rows, cols), 0-254 for 0-1, 255 = none.

    Raises:
        InputError: no pixel has both a prediction and a known truth, or the shapes differ.
    """
    arrays = [array for array in (*predicted, *truth, confidence) if array is not None]
    if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 2:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise InputError(f"{name}: arrays of shapes {shapes}; give equal (rows, cols)")
    whole = Window(0, 0, arrays[0].shape[1], arrays[0].shape[0])

    def show(window: Window) -> Seen:
        inner = window.intersection(whole) or Window(0, 0, 0, 0)
        around = [
            (inner.row_off - window.row_off, window.row_stop - inner.row_stop),
            (inner.col_off - window.col_off, window.col_stop - inner.col_stop),
        ]
        sides = [
            (
                np.pad(codes[inner.slices()], around, constant_values=NODATA),
                None if labels is None else np.pad(labels[inner.slices()], around),
            )
            for codes, labels in (predicted, truth)
        ]
        known = (sides[0][0] != NODATA) & (sides[1][0] != NODATA)
        return Seen(sides[0][0], sides[0], sides[1], known)

    def sure(window: Window) -> NDArray[np.uint8] | None:
        return None if confidence is None else confidence[window.slices()]

    return _count(_View(name, whole, gsd_m, show, sure, None), settings)


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """A scene as it is counted.

    Attributes:
        name: for people.
        window: all of it.
        gsd_m: metres per pixel.
        look: what a window shows, also beyond the scene.
        confidence: of a window's pixels, uint8 with 255 = none, or None.
        scores: of predicted objects by number, or None.
    """

    name: str
    window: Window
    gsd_m: float
    look: Callable[[Window], Seen]
    confidence: Callable[[Window], NDArray[np.uint8] | None]
    scores: NDArray[np.float64] | None


def _count(view: _View, settings: EvaluationSettings) -> Tally:
    """Count a scene, a window at a time."""
    names = [name for name, _ in settings.classes]
    count = len(names)
    roads = [names.index(name) for name in settings.roads if name in names]
    confusion = np.zeros((count + 1, count + 1))
    edges, bands = np.zeros((count, 4)), np.zeros((count, 2))
    relaxed, paths = np.zeros((len(roads), 4)), np.zeros((len(roads), 6))
    levels: NDArray[np.float64] | None = None
    table = ObjectTable(view.window.width)
    worst: list[Place] = []
    unpredicted = 0
    halo = max(settings.boundary_px, settings.relaxed_px) + 1
    snap_px = max(SNAP_M / view.gsd_m, settings.relaxed_px)
    for window in _windows(view.window):
        seen = view.look(window.pad(halo))
        inner = window.slices(window.pad(halo))
        core = seen.cut(inner)
        truth = core.truth[0]
        sure = view.confidence(window)
        table.add(window, core.objects, core.truth, core.known, sure)
        unpredicted += int(np.count_nonzero((truth != NODATA) & ~core.known))
        if sure is not None:
            found = count_levels(core.pixels, core.pixels == truth, sure, core.known, count + 1)
            levels = found.astype(np.float64) if levels is None else levels + found
        if not core.known.any():
            continue
        cells = truth[core.known].astype(np.int64) * (count + 1) + core.pixels[core.known]
        confusion += np.bincount(cells, minlength=(count + 1) ** 2).reshape(count + 1, count + 1)
        _count_outlines(seen, inner, settings.boundary_px, edges, bands)
        judged = _judged(seen.known, inner, settings.relaxed_px)
        for place, road in enumerate(roads):
            sides = [(codes == road + 1) & seen.known for codes in (seen.pixels, seen.truth[0])]
            if sides[0].any() or sides[1].any():
                relaxed[place] += count_near(sides[0], sides[1], judged, settings.relaxed_px)
                paths[place] += compare_networks(sides[0][inner], sides[1][inner], snap_px)
        worst = heapq.nlargest(settings.worst, [*worst, *_places(core, window)])
    if not confusion.sum():
        raise InputError(f"{view.name}: no pixel has both a prediction and a known truth; do they overlap?")
    detections = table.detections(count, view.scores)
    return Tally(view.name, confusion, unpredicted, edges, bands, relaxed, paths, levels, detections, worst)


def _windows(whole: Window) -> Iterator[Window]:
    """Windows that partition a scene, row by row."""
    for row in range(0, whole.height, WINDOW):
        for col in range(0, whole.width, WINDOW):
            yield Window(col, row, min(WINDOW, whole.width - col), min(WINDOW, whole.height - row))


def _judged(known: NDArray[np.bool_], inner: tuple[slice, slice], radius: int) -> NDArray[np.bool_]:
    """Pixels of the inner part without unknown ones near them."""
    judged = np.zeros(known.shape, np.bool_)
    judged[inner] = ~grow(~known, radius)[inner]
    return judged


def _count_outlines(
    seen: Seen,
    inner: tuple[slice, slice],
    radius: int,
    edges: NDArray[np.float64],
    bands: NDArray[np.float64],
) -> None:
    """Add one window's counts of the outlines."""
    judged = _judged(seen.known, inner, radius)
    sides = [
        (codes, find_edges(codes.astype(np.int32) if labels is None else labels, seen.known))
        for codes, labels in (seen.objects, seen.truth)
    ]
    for code in range(1, len(edges) + 1):
        pixels = [(codes == code) & seen.known for codes, _ in sides]
        if not (pixels[0].any() or pixels[1].any()):
            continue
        rims = [mine & edge for mine, (_, edge) in zip(pixels, sides, strict=True)]
        edges[code - 1] += count_near(rims[0], rims[1], judged, radius)
        bands[code - 1] += count_bands((pixels[0], rims[0]), (pixels[1], rims[1]), judged, radius)


def _places(core: Seen, window: Window) -> Iterator[Place]:
    """The cells of one window that have wrong pixels."""
    wrong = core.known & (core.pixels != core.truth[0])
    rows, cols = range(0, window.height, CELL), range(0, window.width, CELL)
    sums = [
        np.add.reduceat(np.add.reduceat(plane.astype(np.int64), rows, axis=0), cols, axis=1)
        for plane in (wrong, core.known)
    ]
    for row, col in np.argwhere(sums[0]).tolist():
        top, left = row * CELL, col * CELL
        cell = Window(left, top, min(CELL, window.width - left), min(CELL, window.height - top))
        yield Place(int(sums[0][row, col]), int(sums[1][row, col]), cell.shift(window.row_off, window.col_off))

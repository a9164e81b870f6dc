"""Random crops that a network learns from: sample number i is a function of the seed and i alone.

So a training that was stopped goes on with the samples that it would have seen, and any number of processes may draw
them. Samples are balanced: sources by their shares, and within a source a part of the crops lie on a pixel of a
class chosen with equal chances, however rare the class is.

A sampler changes geometry (place, GSD, turns, rotation) and the sharpness that coarser pixels cost. Light, colour and
noise are `geoseg.training.augment`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import SettingsError
from geoseg.lattice import Window
from geoseg.training.classes import TrainClass, channel_names
from geoseg.training.crops import MOST_CLASSES, Crop, blur, planes, resize, rotate
from geoseg.training.outlines import find_bands, find_gaps
from geoseg.training.survey import Picture, Survey, survey

__all__ = ["Edit", "Sample", "Sampler", "Source"]

Edit = Callable[[Crop, np.random.Generator], Crop]
"""A change of a whole crop, picture and labels; a function of a module, so that other processes find it."""

LEAST_SIDE = 8  # source pixels of a crop's side
TOUCH_REACH_PX = 4


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Pictures that are sampled alike.

    Attributes:
        name: of the set.
        pictures: all of them.
        share: of the samples that are drawn from here, relative to the other sources.
        gsd_range_m: (finest, coarsest) GSD of the crops; equally likely by its logarithm.
        mosaic: lay several small pictures side by side before cropping; they must share one GSD.
        focus: chance that a crop lies on a pixel of a randomly chosen class.
        edit: made to crops, or None.
    """

    name: str
    pictures: Sequence[Picture]
    share: float
    gsd_range_m: tuple[float, float]
    mosaic: bool = False
    focus: float = 0.5
    edit: Edit | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One crop, as a network takes it.

    Attributes:
        image: uint8 (bands, size, size).
        target: uint8 (channels, size, size), 1 = present; channels are the classes, then the boundaries.
        weight: float32 (channels, size, size), 0 = unknown.
        source: name of the source.
        gsd_m: metres per pixel of the crop.
    """

    image: NDArray[np.uint8]
    target: NDArray[np.uint8]
    weight: NDArray[np.float32]
    source: str
    gsd_m: float


@dataclass(slots=True)
class Sampler:
    """Draws crops from several sources.

    Attributes:
        sources: where to draw from, by their shares.
        classes: what to learn, in the order of the pictures' bits.
        size: side of a crop, pixels.
        seed: of all randomness.
        touch_weight: weight of a class within four pixels of two of its objects, where they must come apart.
        blur_chance: chance that a crop shows what a sensor with coarser pixels would have seen.
        blur_factor: how much coarser at most; factors are equally likely by their logarithm.
        surveys: of the pictures, by source; made when not given.
    """

    sources: Sequence[Source]
    classes: Sequence[TrainClass]
    size: int = 256
    seed: int = 0
    touch_weight: float = 6.0
    blur_chance: float = 0.0
    blur_factor: float = 1.0
    surveys: Sequence[Sequence[Survey]] | None = None
    _anchors: list[list[NDArray[np.int32]]] = field(init=False)

    def __post_init__(self) -> None:
        if not self.sources or any(not source.pictures for source in self.sources):
            raise SettingsError("a sampler needs at least one source, and each source a picture; give labelled images")
        if not 1 <= len(self.classes) <= MOST_CLASSES:
            raise SettingsError(f"{len(self.classes)} classes; give 1 to {MOST_CLASSES}")
        if self.blur_factor < 1:
            raise SettingsError(f"a blur factor of {self.blur_factor}; give 1 or more")
        for source in self.sources:
            if source.mosaic and len({round(picture.gsd_m, 6) for picture in source.pictures}) > 1:
                raise SettingsError(f"{source.name}: a mosaic of pictures of different GSD; give those of one GSD")
        if self.surveys is None:
            self.surveys = [
                [survey(picture, len(self.classes)) for picture in source.pictures] for source in self.sources
            ]
        self._anchors = [_gather(surveys, len(self.classes)) for surveys in self.surveys]

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the target's channels."""
        return channel_names(self.classes)

    def draw(self, index: int) -> Sample:
        """Draw one sample.

        Args:
            index: number of the sample, 0 or more; the same number draws the same.
        """
        rng = np.random.default_rng((self.seed, index))
        shares = np.array([source.share for source in self.sources], float)
        number = int(rng.choice(len(self.sources), p=shares / shares.sum()))
        source = self.sources[number]
        gsd_m = float(np.exp(rng.uniform(*np.log(source.gsd_range_m))))
        degrees = float(rng.uniform(-45, 45)) if rng.random() < 0.3 else 0.0
        grown = self.size
        if degrees:
            radians = np.deg2rad(abs(degrees))
            grown = int(np.ceil(self.size * (np.cos(radians) + np.sin(radians)))) + 2
        crop = resize(self._cut(number, gsd_m, grown, rng), grown, grown)
        crop = crop.turn(int(rng.integers(4)), mirror=bool(rng.integers(2)))
        if degrees:
            crop = rotate(crop, degrees, self.size)
        if source.edit is not None:
            crop = source.edit(crop, rng)
        if rng.random() < self.blur_chance:
            crop = blur(crop, float(np.exp(rng.uniform(0.0, np.log(self.blur_factor)))))
        return self.finish(crop, source.name)

    def view(self, picture: Picture, window: Window, source: str) -> Sample:
        """Show a window of a picture as it is, without chance: for validation.

        Args:
            picture: any.
            window: of its pixels, square; it may stick out.
            source: name to give it.
        """
        return self.finish(resize(picture.read(window), self.size, self.size), source)

    def finish(self, crop: Crop, source: str) -> Sample:
        """Turn a crop into a sample: channels, boundaries, weights."""
        present = planes(crop.present, len(self.classes))
        weight = planes(crop.known, len(self.classes)).astype(np.float32)
        bands = []
        for number, entry in enumerate(self.classes):
            if entry.boundary:
                bands.append(self._band(entry, crop, present[number], weight[number]))
            elif entry.instances and crop.instances is not None:
                objects = np.where(present[number] > 0, crop.instances, np.uint16(0))
                gap, close = find_gaps(objects, reach=TOUCH_REACH_PX)
                present[number][gap] = 0
                weight[number][close] *= self.touch_weight
        if bands:
            present = np.concatenate([present, *(target[None] for target, _ in bands)])
            weight = np.concatenate([weight, *(importance[None] for _, importance in bands)])
        image = np.ascontiguousarray(crop.image.transpose(2, 0, 1))
        return Sample(image, present, weight, source, crop.gsd_m)

    def _band(
        self,
        entry: TrainClass,
        crop: Crop,
        present: NDArray[np.uint8],
        weight: NDArray[np.float32],
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """The boundary's target and weight; takes the band out of the class."""
        instances = np.zeros(crop.size, np.uint16) if crop.instances is None else crop.instances
        seen, there = weight > 0, present > 0
        objects = np.where(there, instances, np.uint16(0))
        importance = weight.copy()
        width = entry.boundary_width(crop.gsd_m)
        merged = there & (objects == 0)  # the class without its objects: somewhere in it there may be boundaries
        if merged.any():
            importance[merged] = 0
            inner = find_bands(merged.astype(np.uint16), seen, width)
            weight[inner] = 0
        if not objects.any():
            return np.zeros_like(present), importance
        band = find_bands(objects, seen, width)
        present[band] = 0
        _, close = find_gaps(objects, reach=TOUCH_REACH_PX)
        weight[close] *= self.touch_weight
        importance[close] *= self.touch_weight
        return band.astype(np.uint8), importance

    def _cut(self, number: int, gsd_m: float, grown: int, rng: np.random.Generator) -> Crop:
        """A square window of a source's picture that becomes `grown` pixels at a GSD."""
        source, anchors = self.sources[number], self._anchors[number]
        if source.mosaic:
            side = max(LEAST_SIDE, round(grown * gsd_m / source.pictures[0].gsd_m))
            laid = self._lay(number, side, grown / side, rng)
            row, col = (int(rng.integers(0, length - side + 1)) for length in laid.size)
            return laid.read(Window(col, row, side, side))
        if anchors and rng.random() < source.focus:
            points = anchors[rng.integers(len(anchors))]
            chosen, centre_row, centre_col = points[rng.integers(len(points))].tolist()
            picture: Picture = source.pictures[chosen]
            side = max(LEAST_SIDE, round(grown * gsd_m / picture.gsd_m))
            jitter = rng.integers(-(side // 3), side // 3 + 1, size=2)
            row, col = centre_row - side // 2 + int(jitter[0]), centre_col - side // 2 + int(jitter[1])
        else:
            areas = np.array([picture.size[0] * picture.size[1] * picture.gsd_m**2 for picture in source.pictures])
            picture = source.pictures[int(rng.choice(len(areas), p=areas / areas.sum()))]
            side = max(LEAST_SIDE, round(grown * gsd_m / picture.gsd_m))
            row, col = (int(rng.integers(min(0, length - side), max(0, length - side) + 1)) for length in picture.size)
        # keep as much of the window on the picture as fits
        height, width = picture.size
        row = min(max(row, min(0, height - side)), max(0, height - side))
        col = min(max(col, min(0, width - side)), max(0, width - side))
        return picture.read(Window(col, row, side, side))

    def _lay(self, number: int, side: int, zoom: float, rng: np.random.Generator) -> Crop:
        """Lay random pictures side by side, at least `side` pixels each way; `zoom` is what the crop will undergo."""
        source, anchors = self.sources[number], self._anchors[number]
        chip = min(min(picture.size) for picture in source.pictures)
        count = -(-side // chip)
        pieces = [_chip(source, anchors, chip, rng) for _ in range(count * count)]

        def lay(planes_of: Sequence[NDArray[Any]]) -> NDArray[Any]:
            rows = [np.concatenate(planes_of[row * count : (row + 1) * count], axis=1) for row in range(count)]
            return np.concatenate(rows)

        image, present, known = (lay([getattr(piece, name) for piece in pieces]) for name in ("image", *_BITS))
        instances = None
        if any(piece.instances is not None for piece in pieces):
            instances = lay(_number_apart(pieces))
            # objects that meet at a seam by chance are no neighbours
            reach = int(np.ceil((TOUCH_REACH_PX + 1) / zoom))
            place = np.arange(count * chip)
            near = ((place + reach) % chip < 2 * reach) & (place >= reach) & (place < count * chip - reach)
            told_apart = sum(1 << bit for bit, entry in enumerate(self.classes) if entry.instances)
            known[near[:, None] | near] &= np.uint16(0xFFFF ^ told_apart)
            present &= known
        return Crop(source.name, image, present, known, instances, source.pictures[0].gsd_m)


_BITS = ("present", "known")


def _gather(surveys: Sequence[Survey], classes: int) -> list[NDArray[np.int32]]:
    """Per class that occurs in a source: (n, 3) of picture, row, column on which a crop can be centred."""
    found = []
    for number in range(classes):
        parts = [
            np.insert(looked.anchors[number], 0, index, axis=1)
            for index, looked in enumerate(surveys)
            if len(looked.anchors[number])
        ]
        if parts:
            found.append(np.concatenate(parts))
    return found


def _chip(source: Source, anchors: list[NDArray[np.int32]], side: int, rng: np.random.Generator) -> Crop:
    """The corner of a random picture, turned."""
    if anchors and rng.random() < source.focus:
        points = anchors[rng.integers(len(anchors))]
        picked = source.pictures[int(points[rng.integers(len(points))][0])]
    else:
        picked = source.pictures[int(rng.integers(len(source.pictures)))]
    return picked.read(Window(0, 0, side, side)).turn(int(rng.integers(4)), mirror=bool(rng.integers(2)))


def _number_apart(pieces: Sequence[Crop]) -> list[NDArray[np.uint16]]:
    """Object numbers of crops, such that no number is in two of them."""
    planes_of, last = [], 0
    for piece in pieces:
        if piece.instances is None:
            planes_of.append(np.zeros(piece.size, np.uint16))
            continue
        numbers, place = np.unique(piece.instances, return_inverse=True)
        fresh = np.where(numbers > 0, np.arange(len(numbers)) + last, 0).astype(np.uint16)
        planes_of.append(fresh[place.reshape(piece.size)])
        last += len(numbers)
    return planes_of

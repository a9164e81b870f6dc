"""Pieces of labelled imagery, and the geometry that keeps picture and labels together.

Sets differ in what they annotate. Each pixel therefore carries two sets of bits: in `present`, bit c says that class c
is there; in `known`, that it is known whether it is. What a set leaves out is unknown, and unknown pixels reach
neither loss nor metric. Classes are counted from 0 in the order of the configuration, 16 at most.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geoseg.errors import SettingsError
from geoseg.lattice import Window

__all__ = ["MOST_CLASSES", "Crop", "blur", "encode", "planes", "resize", "rotate"]

MOST_CLASSES = 16
_LANES = 4  # OpenCV resamples and warps up to four channels in one pass
_WHOLE = 240  # a pixel's whole area while shares are resampled as bytes: even, and with room above for rounding


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A labelled piece of imagery in memory, of square pixels.

    Attributes:
        name: where it came from.
        image: uint8 (rows, cols, bands): OpenCV's order, used in training only.
        present: uint16 (rows, cols), bit c = class c is there; only where it is known.
        known: uint16 (rows, cols), bit c = it is known whether class c is there.
        instances: uint16 (rows, cols), 0 = none, else the object's number; None when objects are not told apart.
        gsd_m: metres per pixel.
    """

    name: str
    image: NDArray[np.uint8]
    present: NDArray[np.uint16]
    known: NDArray[np.uint16]
    instances: NDArray[np.uint16] | None
    gsd_m: float

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.present.shape[0], self.present.shape[1]

    def read(self, window: Window) -> Crop:
        """Cut a window; what sticks out mirrors the image and is unknown.

        Args:
            window: of this crop's pixels; it may stick out, but not lie outside.
        """
        height, width = self.size
        inside = np.s_[
            max(0, window.row_off) : min(height, window.row_stop), max(0, window.col_off) : min(width, window.col_stop)
        ]
        border = (
            max(0, -window.row_off),
            max(0, window.row_stop - height),
            max(0, -window.col_off),
            max(0, window.col_stop - width),
        )
        if not any(border):
            return self.each(lambda plane, _: plane[inside])

        def pad(plane: NDArray[Any], kind: str) -> NDArray[Any]:
            if kind == "image":
                return np.pad(plane[inside], (border[:2], border[2:], (0, 0)), mode="symmetric")
            return np.pad(plane[inside], (border[:2], border[2:]))

        return self.each(pad)

    def turn(self, quarter_turns: int, *, mirror: bool) -> Crop:
        """One of the eight symmetries of the square."""

        def turned(plane: NDArray[Any], _: str) -> NDArray[Any]:
            rotated = np.rot90(plane, quarter_turns)
            return np.ascontiguousarray(rotated[:, ::-1] if mirror else rotated)

        return self.each(turned)

    def each(self, way: Callable[[NDArray[Any], str], NDArray[Any]]) -> Crop:
        """Treat all planes alike.

        Args:
            way: takes a plane and its name.
        """
        instances = None if self.instances is None else way(self.instances, "instances")
        return dataclasses.replace(
            self,
            image=way(self.image, "image"),
            present=way(self.present, "present"),
            known=way(self.known, "known"),
            instances=instances,
        )


def encode(present: NDArray[Any], known: NDArray[Any]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Pack planes into sets of bits.

    Args:
        present: (classes, rows, cols), true where the class is there.
        known: (classes, rows, cols), true where that is known.

    Returns:
        present and known, uint16 (rows, cols); an unknown class is never present.
    """
    bits = [np.zeros(present.shape[1:], np.uint16) for _ in range(2)]
    for number in range(len(present)):
        seen = known[number].astype(bool)
        bits[0] |= (seen & present[number].astype(bool)).astype(np.uint16) << number
        bits[1] |= seen.astype(np.uint16) << number
    return bits[0], bits[1]


def planes(bits: NDArray[np.uint16], classes: int) -> NDArray[np.uint8]:
    """Unpack sets of bits (rows, cols) into uint8 0/1 (classes, rows, cols)."""
    return np.stack([((bits >> number) & 1).astype(np.uint8) for number in range(classes)])


def resize(crop: Crop, height: int, width: int) -> Crop:
    """Resample a crop: area averages when coarser, bicubic when finer.

    Labels follow the pixel's majority: a class is known where at least half of the pixel is, and present where at
    least half of the known part is. Object numbers follow the nearest pixel.

    Args:
        crop: to resample; its pixels are assumed square before and after.
        height: new rows, at least 1.
        width: new columns, at least 1.

    Raises:
        SettingsError: the size is not positive.
    """
    rows, cols = crop.size
    if (height, width) == (rows, cols):
        return crop
    if height < 1 or width < 1:
        raise SettingsError(f"cannot resample {crop.name} to {height} x {width} pixels; give at least 1 x 1")
    coarser = height < rows
    size = (height, width)
    present, known = _majority(crop.present, crop.known, size, cv2.INTER_AREA if coarser else cv2.INTER_LINEAR)
    instances = crop.instances
    if instances is not None:
        instances = _resample(instances, size, cv2.INTER_NEAREST_EXACT)
    image = _resample(crop.image, size, cv2.INTER_AREA if coarser else cv2.INTER_CUBIC)
    return Crop(crop.name, image, present, known, instances, crop.gsd_m * rows / height)


def rotate(crop: Crop, degrees: float, size: int) -> Crop:
    """Rotate about the centre and keep the central size x size pixels; corners from outside are unknown."""
    height, width = crop.size
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    matrix[:, 2] += np.array([(size - width) / 2, (size - height) / 2])

    def warp(plane: NDArray[Any], kind: str) -> NDArray[Any]:
        how = cv2.INTER_LINEAR if kind == "image" else cv2.INTER_NEAREST
        border = cv2.BORDER_REFLECT if kind == "image" else cv2.BORDER_CONSTANT
        return _lanes(plane, lambda part: cv2.warpAffine(part, matrix, (size, size), flags=how, borderMode=border))

    return crop.each(warp)


def blur(crop: Crop, factor: float) -> Crop:
    """Show a crop as a sensor with coarser pixels would: averaged over them, then enlarged as a run does, linearly.

    Args:
        crop: whose image changes; its labels do not.
        factor: size of the coarser pixels in pixels of the crop, 1 or more.
    """
    height, width = crop.size
    coarse = max(1, round(height / factor)), max(1, round(width / factor))
    if coarse == (height, width):
        return crop
    image = _resample(_resample(crop.image, coarse, cv2.INTER_AREA), (height, width), cv2.INTER_LINEAR)
    return dataclasses.replace(crop, image=image)


def _majority(
    present: NDArray[np.uint16], known: NDArray[np.uint16], size: tuple[int, int], how: int
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Resample sets of bits: see `resize`."""
    new_present, new_known = np.zeros(size, np.uint16), np.zeros(size, np.uint16)
    everywhere = int(np.bitwise_and.reduce(known, axis=None))
    somewhere = [int(np.bitwise_or.reduce(bits, axis=None)) for bits in (known, present)]
    for number in range(MOST_CLASSES):
        bit = 1 << number
        if not somewhere[0] & bit:
            continue
        seen = None if everywhere & bit else _resample(_share(known, number), size, how)
        sure = np.True_ if seen is None else seen >= _WHOLE // 2
        new_known |= np.where(sure, np.uint16(bit), np.uint16(0))
        if somewhere[1] & bit:
            there = _resample(_share(present, number), size, how).astype(np.uint16) * 2
            new_present |= np.where(sure & (there >= (_WHOLE if seen is None else seen)), np.uint16(bit), np.uint16(0))
    return new_present, new_known


def _share(bits: NDArray[np.uint16], number: int) -> NDArray[np.uint8]:
    """One class as `_WHOLE` or 0."""
    share: NDArray[np.uint8] = ((bits >> number) & 1).astype(np.uint8) * np.uint8(_WHOLE)
    return share


def _resample(plane: NDArray[Any], size: tuple[int, int], how: int) -> NDArray[Any]:
    """`cv2.resize`, whose type says neither size nor kind of number, for any number of bands."""
    return _lanes(plane, lambda part: cv2.resize(part, size[::-1], interpolation=how))


def _lanes(plane: NDArray[Any], way: Callable[[NDArray[Any]], Any]) -> NDArray[Any]:
    """Apply a function of OpenCV to groups of bands that it can take, and keep the bands' axis."""
    if plane.ndim == 2:
        return np.asarray(way(plane))
    parts = []
    for first in range(0, plane.shape[2], _LANES):
        part = np.asarray(way(np.ascontiguousarray(plane[..., first : first + _LANES])))
        parts.append(part[..., None] if part.ndim == 2 else part)
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)

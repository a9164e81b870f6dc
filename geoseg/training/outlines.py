"""How objects of one class are told apart in a target: by a gap where they touch, or by a band along their outlines."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["find_bands", "find_gaps"]

_NONE = np.uint16(65535)
_NARROW_SHARE = 3  # a band is at most this part of an object's narrow side


def find_gaps(objects: NDArray[np.uint16], *, reach: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find where objects touch, and where they are close.

    Args:
        objects: uint16 (rows, cols), 0 = none, else the object's number, below 65535.
        reach: pixels up to which two objects count as close.

    Returns:
        (gap, close), bool (rows, cols): `gap` are pixels of objects with a pixel of another one among their eight
        neighbours (two pixels wide along a shared border); `close` are pixels within `reach` of two objects.
    """

    def several(radius: int) -> NDArray[np.bool_]:
        kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
        highest = cv2.dilate(objects, kernel)
        lowest = cv2.erode(np.where(objects == 0, _NONE, objects), kernel)
        more: NDArray[np.bool_] = (lowest != _NONE) & (highest != lowest)
        return more

    return several(1) & (objects > 0), several(reach)


def find_bands(objects: NDArray[np.uint16], known: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Find the inner band along the whole outline of each object.

    It is thinner in small objects, a third of their narrow side, so that an inside is left. Where an object meets
    unknown ground or the crop's edge, its true outline is not seen, and there is no band.

    Args:
        objects: uint16 (rows, cols), 0 = none, else the object's number, below 65535.
        known: bool (rows, cols), where numbers are known.
        width: of the band, pixels, 1 or more.

    Returns:
        bool (rows, cols), true on the bands.
    """
    kernel = np.ones((3, 3), np.uint8)
    highest = cv2.dilate(np.where(known, objects, np.uint16(0)), kernel)
    lowest = cv2.erode(np.where(known, objects, _NONE), kernel)
    rim = (objects > 0) & known & ((highest > objects) | (lowest < objects))
    if not rim.any():
        return rim
    # pixels from the outline, 1 on it; the nearest rim of a pixel is its own object's, as any other lies behind it
    depth = cv2.distanceTransform((~rim).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) + 1
    depth[~known] = 0
    # most objects are wide, which one pixel deep inside shows; only the others must be measured
    widths = np.zeros(int(objects.max()) + 1, np.float32)
    widths[objects[depth >= width * _NARROW_SHARE / 2]] = width
    thin = (widths[objects] == 0) & (objects > 0)
    np.maximum.at(widths, objects[thin], np.floor(2 * depth[thin] / _NARROW_SHARE))
    bands: NDArray[np.bool_] = (objects > 0) & known & (depth < np.maximum(widths, 1)[objects] + 0.5)
    return bands

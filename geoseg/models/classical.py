"""Segmenters without weights: thresholds of a spectral index, or of gray levels (floor 3).

``index-...``
    The normalised difference of two bands, ``(first - second) / (first + second)``, above the card's threshold: with
    green and near infrared the NDWI, water (S. K. McFeeters, *The use of the Normalized Difference Water Index in the
    delineation of open water features*, Int. J. Remote Sensing 17(7), 1996); with near infrared and red the NDVI,
    vegetation (J. W. Rouse et al., *Monitoring vegetation systems in the Great Plains with ERTS*, NASA SP-351, 1974).
``otsu-2``, ``otsu-3``, ``otsu-4``
    So many classes of gray level, divided where the variance between them is largest over the whole scene (N. Otsu, *A
    threshold selection method from gray-level histograms*, IEEE Trans. SMC 9(1), 1979; several thresholds: P.-S. Liao,
    T.-S. Chen, P.-C. Chung, *A fast algorithm for multilevel thresholding*, J. Inf. Sci. Eng. 17(5), 2001), by
    scikit-image. The gray level of red, green and blue is their luma (ITU-R BT.601).

Every pixel is decided alone, so the halo is 0 and tiles change nothing. Confidence says how far from the threshold a
pixel is: 0.5 at it, rising in proportion to 1 where the index is -1 or 1; for gray levels 1 at the scene's ends, and
halfway between two thresholds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import ModelError, SceneError
from geoseg.models.card import Card

__all__ = ["Segmenter", "scene_thresholds"]

_LUMA = (0.299, 0.587, 0.114)
_BINS = 256
_OUTLIERS = (0.5, 99.5)  # percentiles; clouds and glints would leave the rest of the scene a few bins
_MOST_CLASSES = 4  # the search takes some 256 ** (classes - 1) steps
_BELOW = np.nextafter(np.float32(0.5), np.float32(0))


def scene_thresholds(card: Card, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> tuple[float, ...] | None:
    """What a segmenter must know of the whole scene.

    Args:
        card: any model's.
        pixels: (bands, rows, cols) of any real dtype, the scene read at a lower resolution, in the card's bands.
        valid: (rows, cols), where there is data.

    Returns:
        gray levels: the darkest, the thresholds, the brightest; ``None`` for models that look at tiles alone.

    Raises:
        SceneError: fewer gray levels than classes.
    """
    if not card.architecture.startswith("otsu-"):
        return None
    from skimage.filters import threshold_multiotsu

    classes = _classes(card)
    gray = _gray(pixels)[valid & np.isfinite(pixels).all(axis=0)]
    low, high = (float(value) for value in np.percentile(gray, _OUTLIERS)) if gray.size else (0.0, 0.0)
    if low == high and gray.size:  # two levels, one of them rare
        low, high = float(gray.min()), float(gray.max())
    counts, edges = np.histogram(gray.clip(low, high), bins=_BINS, range=(low, high))
    if np.count_nonzero(counts) < classes:
        raise SceneError(
            f"the scene has {np.count_nonzero(counts)} gray levels; {card.name} divides at least {classes}: choose "
            "another --model"
        )
    centres = (edges[:-1] + edges[1:]) / 2
    found = threshold_multiotsu(classes=classes, hist=(counts.astype(np.float32), centres.astype(np.float32)))
    return low, *(float(value) for value in found), high


class Segmenter:
    """Scores of pixels by a card's rule.

    Args:
        card: of an ``index-...`` or ``otsu-...`` segmenter.
        thresholds: of the scene, for ``otsu-...``: see :func:`scene_thresholds`.

    Raises:
        ModelError: a card that does not fit its rule, or no thresholds.
    """

    def __init__(self, card: Card, thresholds: tuple[float, ...] | None) -> None:
        self._index = card.architecture.startswith("index-")
        if self._index:
            if card.channels != 2 or len(card.classes) != 1 or len(card.thresholds) != 1:
                raise ModelError(f"{card.path}: {card.architecture} takes two bands, one class and one threshold")
            self._threshold = np.float32(card.thresholds[0])
        else:
            if thresholds is None or len(thresholds) != _classes(card) + 1:
                raise ModelError(f"model {card.name} needs the thresholds of the whole scene; got {thresholds}")
            self._bounds = np.array(thresholds, np.float32)

    def __call__(self, tiles: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
        """Scores batches of tiles.

        Args:
            tiles: (batch, bands, rows, cols) of any real dtype.

        Returns:
            scores (batch, classes, rows, cols) float32, 0-1; where they mean anything, (batch, rows, cols); what was
            compared with the threshold, (batch, 1, rows, cols) float32, 0-255.
        """
        finite = np.isfinite(tiles).all(axis=1)
        return self._of_index(tiles, finite) if self._index else self._of_gray(tiles, finite)

    def _of_index(
        self, tiles: NDArray[Any], finite: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
        first, second = (np.where(finite, tiles[:, band], 0).astype(np.float32) for band in (0, 1))
        total = first + second
        known = total > 0  # of darkness, or of reflectances below 0, the ratio says nothing
        index = ((first - second) / np.where(known, total, 1)).clip(-1, 1)
        above = index > self._threshold
        away = (index - self._threshold) / np.where(above, 1 - self._threshold, 1 + self._threshold)
        score = np.where(above, (0.5 + away / 2).clip(0.5, 1), (0.5 + away / 2).clip(0, _BELOW))
        return score[:, None].astype(np.float32), known, ((index + 1) * 127.5)[:, None].astype(np.float32)

    def _of_gray(
        self, tiles: NDArray[Any], finite: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
        low, *inner, high = self._bounds
        levels = np.array(inner, np.float32)
        gray = np.where(finite, _gray(np.moveaxis(tiles, 1, 0)), low).clip(low, high)
        own = np.searchsorted(levels, gray, side="left")  # a level at a threshold belongs below it
        below, above = self._bounds[own], self._bounds[own + 1]
        from_below = np.where(own > 0, gray - below, np.inf)
        from_above = np.where(own < len(levels), above - gray, np.inf)
        ends = (own == 0) | (own == len(levels))
        reach = np.maximum(np.where(ends, above - below, (above - below) / 2), np.finfo(np.float32).tiny)
        sure = 0.5 + np.minimum(np.minimum(from_below, from_above) / reach, 1) / 2
        other = np.where(from_below < from_above, own - 1, own + 1)
        planes = np.arange(len(levels) + 1)[:, None, None]
        scores = np.where(
            planes == own[:, None], sure[:, None], np.where(planes == other[:, None], 1 - sure[:, None], 0)
        )
        picture = (gray - low) * (255 / (high - low))
        return scores.astype(np.float32), finite, picture[:, None].astype(np.float32)


def _classes(card: Card) -> int:
    """Number of classes of an ``otsu-...`` card."""
    text = card.architecture.partition("-")[2]
    if text not in {str(count) for count in range(2, _MOST_CLASSES + 1)} or int(text) != len(card.classes):
        raise ModelError(
            f"{card.path} has architecture {card.architecture} and {len(card.classes)} classes; "
            f"expected otsu-2 to otsu-{_MOST_CLASSES} and as many classes"
        )
    if card.channels not in {1, len(_LUMA)}:
        raise ModelError(f"{card.path} has {card.channels} bands; gray levels take one, or red, green and blue")
    return int(text)


def _gray(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Gray level (...) of pixels (bands, ...), in their units."""
    bands: list[NDArray[np.float32]] = [band.astype(np.float32) for band in pixels]
    if len(bands) == 1:
        return bands[0]
    red, green, blue = (band * np.float32(share) for band, share in zip(bands, _LUMA, strict=True))
    gray: NDArray[np.float32] = red + green + blue
    return gray

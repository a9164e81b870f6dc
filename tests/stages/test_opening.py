"""Narrow parts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from geoseg.errors import InputError
from geoseg.stages.opening import halo_px, open_classes


def road(width: int) -> np.ndarray:
    """A field with a road through it, and background below."""
    mask = np.full((40, 40), 3, np.uint8)
    mask[10 : 10 + width] = 2
    mask[30:] = 0
    return mask


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6])
def test_exactly_the_narrower_vanish(width: int) -> None:
    mask = road(width)
    assert np.array_equal(open_classes(mask, width), mask)
    assert np.array_equal(open_classes(mask, width + 1), road(0))


def test_both_sides_share_what_lies_between() -> None:
    mask = np.full((9, 20), 4, np.uint8)
    mask[:, :9] = 3
    mask[:, 9:12] = 2
    expected = np.where(np.arange(20) < 11, 3, 4)  # the column in the middle goes to the smaller code
    assert (open_classes(mask, 5) == expected).all()


def test_background_takes_over_and_is_never_too_narrow() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[9:11, 5:15] = 1
    assert not open_classes(mask, 3).any()
    mask[:] = 1
    mask[9] = 0
    assert np.array_equal(open_classes(mask, 3), mask)


def test_the_scene_goes_on_as_at_its_edge() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[:2] = 1
    mask[2:, 10:12] = 2
    assert np.array_equal(open_classes(mask, 4), np.where(mask == 2, 0, mask))


def test_nodata_takes_nothing_and_what_nothing_reaches_is_background() -> None:
    mask = np.full((7, 7), 255, np.uint8)
    mask[2, 1:5] = [1, 2, 1, 2]
    assert np.array_equal(open_classes(mask, 2), np.where(mask == 255, 255, 0))


def test_a_class_and_its_boundary_are_one() -> None:
    mask = np.zeros((12, 12), np.uint8)
    mask[3:9, 3:9] = 2
    mask[4:8, 4:8] = 1
    assert np.array_equal(open_classes(mask, 6, {1: 2}), np.where(corners(mask), 0, mask))
    assert not open_classes(mask, 7, {1: 2}).any()
    assert not open_classes(mask, 6).any()


def corners(mask: np.ndarray) -> np.ndarray:
    """The four pixels of the square that no disc six pixels across covers."""
    found = np.zeros(mask.shape, bool)
    found[[3, 3, 8, 8], [3, 8, 3, 8]] = True
    return found


def test_halo_and_refusals() -> None:
    assert halo_px(5) == 10
    with pytest.raises(InputError, match="expected 1 or more"):
        open_classes(np.zeros((2, 2), np.uint8), 0)
    with pytest.raises(InputError, match="expected uint8"):
        open_classes(np.zeros((2, 2), np.int64), 2)  # type: ignore[arg-type]

from __future__ import annotations

import numpy as np

from geoseg.training.outlines import find_bands, find_gaps


def test_touching_objects_get_a_gap_of_two_pixels_and_others_none() -> None:
    objects = np.zeros((9, 20), np.uint16)
    objects[:, 2:10] = 7
    objects[:, 10:15] = 3
    objects[4:, 17:] = 9  # two pixels of ground between
    gap, close = find_gaps(objects, reach=2)
    assert np.flatnonzero(gap[0]).tolist() == [9, 10]
    assert np.flatnonzero(gap[8]).tolist() == [9, 10]
    assert np.flatnonzero(close[8]).tolist() == [8, 9, 10, 11, 15, 16]
    only, _ = find_gaps((objects > 0).astype(np.uint16), reach=2)
    assert not only.any()


def test_bands_run_along_whole_outlines_but_not_along_what_is_not_seen() -> None:
    objects = np.zeros((30, 60), np.uint16)
    objects[5:25, 0:20] = 4  # cut by the crop's edge
    objects[5:25, 20:50] = 2  # touches the first; beyond column 40 nobody knows
    known = np.ones((30, 60), bool)
    known[:, 40:] = False
    bands = find_bands(objects, known, 3)
    assert np.flatnonzero(bands[15]).tolist() == [17, 18, 19, 20, 21, 22]
    assert bands[5:8, :40].all()
    assert bands[22:25, :40].all()
    assert not bands[8:22, :17].any()
    assert not bands[8:22, 23:].any()
    assert not bands[~known].any()
    assert not bands[objects == 0].any()


def test_bands_leave_an_inside_in_small_objects() -> None:
    objects = np.zeros((40, 40), np.uint16)
    objects[2:8, 2:30] = 1  # six pixels wide: a band of two
    objects[12:15, 2:30] = 2  # three: one
    objects[20:38, 2:38] = 3
    bands = find_bands(objects, np.ones_like(objects, bool), 5)
    assert np.flatnonzero(bands[2:8, 15]).tolist() == [0, 1, 4, 5]
    assert np.flatnonzero(bands[12:15, 15]).tolist() == [0, 2]
    assert np.flatnonzero(bands[20:38, 20]).tolist() == [0, 1, 2, 3, 4, 13, 14, 15, 16, 17]
    assert not find_bands(np.zeros((5, 5), np.uint16), np.ones((5, 5), bool), 2).any()

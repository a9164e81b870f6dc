"""Whatever the scale and the window: right sums, and the same pixel from every window."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from geoseg.resample import area_taps, linear_taps, resample

scales = st.one_of(st.floats(1, 12), st.sampled_from([1.0, 2.0, 4.0, 1.1, 10 / 3]), st.floats(0.1, 1))


def taps_of(scale):
    return area_taps if scale >= 1 else linear_taps


def dense(taps, size):
    matrix = np.zeros((len(taps.first), size))
    for row, (first, count, weight) in enumerate(zip(taps.first, taps.count, taps.weight, strict=True)):
        matrix[row, first : first + count] = weight[:count]
    return matrix


@given(scales, st.integers(1, 40))
def test_weights_share_out_every_source_pixel(scale, size):
    count = max(1, round(size / scale))
    matrix = dense(taps_of(scale)(0, count, scale=scale, size=size), size)
    assert (matrix >= 0).all()
    if scale < 1:
        assert np.allclose(matrix.sum(axis=1), 1)
    else:
        covered = min(count * scale, size)  # the last output pixel may end before the last source pixel
        assert np.isclose(matrix.sum(), covered)
        assert np.allclose(matrix.sum(axis=0), np.clip(covered - np.arange(size), 0, 1), atol=1e-6)


@given(scales, scales, st.integers(1, 24), st.integers(1, 24), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_means_of_the_valid_pixels(row_scale, col_scale, height, width, seed, share):
    rng = np.random.default_rng(seed)
    pixels, valid = rng.random((2, height, width), np.float32), rng.random((height, width)) < share
    rows = taps_of(row_scale)(0, max(1, round(height / row_scale)), scale=row_scale, size=height)
    cols = taps_of(col_scale)(0, max(1, round(width / col_scale)), scale=col_scale, size=width)
    out, ok = resample(
        pixels[:, rows.start : rows.stop, cols.start : cols.stop],
        valid[rows.start : rows.stop, cols.start : cols.stop],
        rows=rows,
        cols=cols,
    )
    down, along = dense(rows, height), dense(cols, width).T
    total, good = down @ np.ones((height, width)) @ along, down @ valid @ along
    sums = np.where(good > 0, down @ (pixels * valid) @ along, down @ pixels @ along)
    assert np.allclose(out, sums / np.where(good > 0, good, total), rtol=1e-5)
    sure = np.abs(good / total - 0.5) > 1e-6
    assert (ok == (good / total > 0.5))[sure].all()


@given(scales, st.integers(2, 60), st.integers(0, 2**32 - 1), st.data())
def test_a_pixel_is_the_same_from_every_window(scale, size, seed, data):
    rng = np.random.default_rng(seed)
    pixels, valid = rng.integers(0, 256, (1, size, size), dtype=np.uint8), rng.random((size, size)) < 0.7
    count = round(size / scale)
    assume(count >= 2)
    start = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(start + 1, count))

    def part(first, last):
        taps = taps_of(scale)(first, last, scale=scale, size=size)
        box = slice(taps.start, taps.stop)
        return resample(pixels[:, box, box], valid[box, box], rows=taps, cols=taps)

    (whole, whole_ok), (piece, piece_ok) = part(0, count), part(start, stop)
    assert (piece == whole[:, start:stop, start:stop]).all()
    assert (piece_ok == whole_ok[start:stop, start:stop]).all()

"""However an image is cut, refined tiles with their halo are the refined image, to the last bit."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.stages.refine import STRIP, Method, reach_px, refine

METHODS = get_args(Method)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """As a runtime keeps it: threads share out pixels in parts of any length."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(seed: int, classes: int, rows: int, cols: int):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(1, classes, rows, cols, generator=generator)
    image = 255 * torch.rand(1, 3, rows, cols, generator=generator)
    image[:, :, : rows // 2] = image[:, :, :1, :1]  # half of it without data
    return scores, image


@settings(max_examples=15)
@given(st.sampled_from(METHODS), st.integers(0, 99), st.sampled_from([1, 4]), st.integers(0, 200), st.integers(0, 60))
def test_a_tile_with_its_halo_is_a_part_of_the_whole(method, seed, classes, top, left):
    scores, image = draw(seed, classes, STRIP + 17, 150)
    whole = refine(scores, image, method)
    halo, core = reach_px(method), 24
    rows = slice(max(top - halo, 0), top + core + halo)
    cols = slice(max(left - halo, 0), left + core + halo)
    tile = refine(scores[:, :, rows, cols], image[:, :, rows, cols], method)
    inner = tile[:, :, top - rows.start :, left - cols.start :][:, :, :core, :core]
    assert torch.equal(inner, whole[:, :, top : top + core, left : left + core])


@settings(max_examples=15)
@given(st.sampled_from(METHODS), st.integers(0, 99), st.integers(0, 79), st.integers(0, 79))
def test_a_pixel_reaches_no_farther_than_it_says(method, seed, row, col):
    scores, image = draw(seed, 2, 80, 80)
    before = refine(scores, image, method)
    scores[:, :, row, col] = 1 - scores[:, :, row, col]
    image[:, :, row, col] = 255 - image[:, :, row, col]
    changed = (refine(scores, image, method) != before)[0].any(0).nonzero()
    assert changed.numel()
    assert (changed - torch.tensor([row, col])).abs().max() <= reach_px(method)

"""However a scene is cut into tiles and chunks, blended tiles are the whole scene's sums, to the last bit."""

from __future__ import annotations

from typing import get_args

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.lattice import Lattice, Window
from geoseg.stages.blend import Blend, Weights, tile_weights
from geoseg.stages.predict import Network, predict_chunk

SIDES = st.integers(1, 60)
lattices = st.builds(
    lambda height, width, core, halo, cores: Lattice(height, width, core, halo, core * cores),
    SIDES,
    SIDES,
    st.integers(3, 20),
    st.integers(1, 24),
    st.integers(1, 5),
)


def infer(tiles):
    """What is said of a pixel depends on its place in the tile."""
    side = tiles.shape[-1]
    places = 3 * np.arange(side)[:, None] + 5 * np.arange(side)
    return ((tiles + places + tiles[..., :1, :1]).astype(np.uint8),)


def decide(means):
    return (means.sum(axis=0, dtype=np.int64) % 251).astype(np.uint8), (means[0] % 241).astype(np.uint8)


def reader(pixels, valid):
    def read(window: Window):
        rows = np.clip(np.arange(window.row_off, window.row_stop), 0, pixels.shape[1] - 1)
        cols = np.clip(np.arange(window.col_off, window.col_stop), 0, pixels.shape[2] - 1)
        return pixels[:, rows[:, None], cols], valid[rows[:, None], cols]

    return read


def of_the_whole_scene(lattice, kind, pixels, valid):
    line = tile_weights(kind, lattice.tile_size, lattice.core).astype(np.int64)
    room = lattice.tile_size
    sums = np.zeros((3, lattice.height + 2 * room, lattice.width + 2 * room), np.int64)
    rows, cols = lattice.tile_shape
    for row, col in np.ndindex(rows, cols):
        tile = lattice.tile_at(row, col)
        if valid[tile.core.slices()].any():
            values, there = reader(pixels, valid)(tile.outer)
            into = tile.outer.shift(room, room).slices()
            sums[:, *into] += (
                line[:, None]
                * line
                * np.concatenate([np.ones((1, room, room), np.int64), infer(np.where(there, values, 0)[None])[0][0]])
            )
    assert sums.max() < 2**32
    sums = sums[:, room:-room, room:-room]
    return np.where(valid, decide((512 * sums[1:] + sums[0]) // np.maximum(2 * sums[0], 1)), 255)


@settings(max_examples=60)
@given(lattices, st.sampled_from(get_args(Weights)), st.integers(0, 99), st.integers(1, 3), st.data())
def test_any_cut_gives_the_whole_scenes_sums(lattice, kind, seed, batch, data):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (2, lattice.height, lattice.width), dtype=np.uint8)
    valid = np.kron(rng.random((8, 8)) > 0.3, np.ones((8, 8), bool))[: lattice.height, : lattice.width]
    top, left = (data.draw(st.integers(0, length - 1)) for length in (lattice.height, lattice.width))
    bottom, right = (
        data.draw(st.integers(first + 1, last)) for first, last in ((top, lattice.height), (left, lattice.width))
    )
    within = Window(left, top, right - left, bottom - top)
    expected = of_the_whole_scene(lattice, kind, pixels, valid)
    weights = tile_weights(kind, lattice.tile_size, lattice.core)
    count = 0

    def blend(window: Window) -> Blend:
        return Blend(window, weights=weights, core=lattice.core, planes=2, decide=decide)

    for chunk in lattice.chunks():
        tiles = list(lattice.tiles_reaching(chunk, within))
        count += len(tiles)
        [found] = predict_chunk(
            tiles,
            chunk.window,
            read=reader(pixels, valid),
            convert=lambda values: values,
            networks=[Network(infer, batch, np.zeros(2, np.uint8), blend)],
        )
        if (inside := within.intersection(chunk.window)) is not None:
            for whole, part in zip(expected, found, strict=True):
                np.testing.assert_array_equal(part[inside.slices(chunk.window)], whole[inside.slices()])
    assert count == lattice.count_reaching(within)[0]

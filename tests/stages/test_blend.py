from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import get_args

import numpy as np
import pytest

from geoseg.lattice import Lattice, Window
from geoseg.stages.blend import FULL, Blend, Weights, blend_bytes, tile_weights
from geoseg.stages.predict import Network, predict_chunk

KINDS = get_args(Weights)
PLANES = 2
FILL = np.zeros(PLANES, np.uint8)


def infer(tiles):
    """As a network that looks at all of its tile: what it says of a pixel depends on the pixel's place in the tile."""
    side = tiles.shape[-1]
    places = 3 * np.arange(side)[:, None] + 5 * np.arange(side)
    return ((tiles + places + tiles[..., :1, :1]).astype(np.uint8),)


def decide(means):
    """All that the means of the first plane are: what becomes mask and confidence are their two bytes."""
    return (means[0] >> 8).astype(np.uint8), (means[0] & 255).astype(np.uint8)


def reader(pixels, valid):
    def read(window: Window):
        rows = np.clip(np.arange(window.row_off, window.row_stop), 0, pixels.shape[1] - 1)
        cols = np.clip(np.arange(window.col_off, window.col_stop), 0, pixels.shape[2] - 1)
        return pixels[:, rows[:, None], cols], valid[rows[:, None], cols]

    return read


def begin(lattice: Lattice, kind: Weights, window: Window) -> Blend:
    weights = tile_weights(kind, lattice.tile_size, lattice.core)
    return Blend(window, weights=weights, core=lattice.core, planes=PLANES, decide=decide)


def blended(lattice: Lattice, kind: Weights, pixels, valid, *, batch=1):
    """Mask and confidence of a scene, chunk by chunk."""
    results = np.zeros((2, lattice.height, lattice.width), np.uint8)
    for chunk in lattice.chunks():
        [found] = predict_chunk(
            lattice.tiles_reaching(chunk),
            chunk.window,
            read=reader(pixels, valid),
            convert=lambda values: values,
            networks=[Network(infer, batch, FILL, lambda window: begin(lattice, kind, window))],
        )
        results[:, *chunk.window.slices()] = found
    return results


def draw(height: int, width: int, *, gaps: bool = True):
    rng = np.random.default_rng(height)
    valid = rng.random((height, width)) > 0.2 * gaps
    valid[: height // 2, : width // 3] &= not gaps
    return rng.integers(0, 256, (PLANES, height, width), dtype=np.uint8), valid


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("tile", "core"), [(128, 64), (96, 32), (100, 52), (1024, 512), (512, 32), (3072, 1536)])
def test_weights_fall_to_the_edges_and_their_sums_fit(kind, tile, core):
    weights = tile_weights(kind, tile, core)
    assert weights.dtype == np.uint32
    assert weights.min() == 1
    np.testing.assert_array_equal(weights, weights[::-1])
    assert (np.diff(weights[: tile // 2].astype(int)) >= 0).all()
    padded = np.pad(weights, (0, -tile % core)).astype(int)
    together = padded.reshape(-1, core).sum(axis=0)  # of all tiles that hold a pixel, along one axis
    assert 255 * int(together.max()) ** 2 < 2**32
    with pytest.raises(ValueError, match="read-only"):
        weights[0] = 9


def test_weights_are_those_of_their_windows():
    places = (np.arange(256) + 0.5) / 256
    gaussian, cosine = (tile_weights(kind, 256, 128) / tile_weights(kind, 256, 128).max() for kind in KINDS)
    np.testing.assert_allclose(gaussian, np.exp(-0.5 * ((places - 0.5) * 8) ** 2), atol=5e-4)
    np.testing.assert_allclose(cosine, np.sin(np.pi * places) ** 2, atol=5e-4)
    np.testing.assert_allclose(cosine[:128] + cosine[128:], 1, atol=1e-3)


def test_more_tiles_than_sums_can_hold_are_refused():
    with pytest.raises(ValueError, match="overlap more than 4104 times"):
        tile_weights("gaussian", 5000, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width", "halo"), [(1, 1, 8), (29, 23, 8), (16, 37, 12), (40, 25, 3)])
def test_each_pixel_has_the_mean_of_all_tiles_that_hold_it(kind, height, width, halo):
    lattice = Lattice.for_scene(height, width, core=8, halo=halo, chunk=16)
    pixels, valid = draw(height, width, gaps=False)
    line = [int(weight) for weight in tile_weights(kind, lattice.tile_size, 8)]
    totals, weights = (np.zeros((height, width), object) for _ in range(2))
    for row, col in np.ndindex(lattice.tile_shape):
        outer = lattice.tile_at(row, col).outer
        values, _ = reader(pixels, valid)(outer)
        scores = infer(values[None])[0][0, 0]
        for down, right in np.ndindex(scores.shape):
            place = outer.row_off + down, outer.col_off + right
            if 0 <= place[0] < height and 0 <= place[1] < width:
                weights[place] += line[down] * line[right]
                totals[place] += line[down] * line[right] * int(scores[down, right])
    high, low = blended(lattice, kind, pixels, valid)
    found = 256 * high.astype(int) + low
    for place in np.ndindex(height, width):  # to the nearest, halves up
        assert found[place] == floor(Fraction(256 * totals[place], weights[place]) + Fraction(1, 2)) <= FULL


@pytest.mark.parametrize("batch", [2, 5])
def test_batches_change_nothing(batch):
    pixels, valid = draw(70, 45)
    lattice = Lattice.for_scene(70, 45, core=16, halo=8, chunk=48)
    np.testing.assert_array_equal(
        blended(lattice, "cosine", pixels, valid, batch=batch), blended(lattice, "cosine", pixels, valid)
    )


@pytest.mark.parametrize(("halo", "rows"), [(8, 3), (16, 3), (20, 5)])
def test_no_more_than_a_few_rows_of_tiles_are_held(halo, rows):
    lattice = Lattice.for_scene(400, 80, core=16, halo=halo, chunk=400)
    pixels, valid = draw(400, 80, gaps=False)
    [chunk] = lattice.chunks()
    blend, held = begin(lattice, "gaussian", chunk.window), []
    for tile in lattice.tiles_reaching(chunk):
        values, _ = reader(pixels, valid)(tile.outer)
        blend.add(tile, np.ones((16, 16), bool), infer(values[None])[0])
        held.append(blend.cells)
    across = 80 // 16
    assert len(held) == 25 * across
    assert (rows - 1) * across <= max(held) <= rows * across
    assert 4 * (PLANES + 1) * max(held) * 16**2 < blend_bytes(16, halo, PLANES, 80)
    mask, _ = blend.finish()
    assert blend.cells == 0
    np.testing.assert_array_equal(mask, blended(lattice, "gaussian", pixels, valid)[0])


def test_where_there_is_no_data_nothing_is_decided():
    lattice = Lattice.for_scene(32, 64, core=16, halo=8, chunk=64)
    pixels, valid = draw(32, 64)
    valid[:], valid[:, 40:] = False, True
    valid[5, 50] = False
    mask, confidence = blended(lattice, "gaussian", pixels // 2, valid)
    assert (mask[~valid] == 255).all()
    assert (confidence[~valid] == 255).all()
    assert (mask[valid] < 255).all()

from __future__ import annotations

import numpy as np
import pytest

from geoseg.lattice import Lattice, Window
from geoseg.stages.predict import Network, predict_chunk, to_float32, to_uint8

FILL = np.array([7, 8, 9], np.uint8)


class Model:
    """Labels a pixel by its first band; remembers the shapes that it was given."""

    def __init__(self, halo: int) -> None:
        self.halo, self.shapes, self.seen = halo, [], []

    def __call__(self, tiles):
        self.shapes.append(tiles.shape)
        self.seen.append(tiles.copy())
        core = tiles[:, 0, self.halo : -self.halo or None, self.halo : -self.halo or None]
        return core % 5, np.full_like(core, 200)


def reader(pixels, valid):
    def read(window: Window):
        rows = np.clip(np.arange(window.row_off, window.row_stop), 0, pixels.shape[1] - 1)
        cols = np.clip(np.arange(window.col_off, window.col_stop), 0, pixels.shape[2] - 1)
        return pixels[:, rows[:, None], cols], valid[rows[:, None], cols]

    return read


def same(pixels):
    return pixels


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (30, 50), (64, 64), (65, 129)])
def test_every_valid_pixel_once_in_batches_of_one_shape(height, width, batch):
    rng = np.random.default_rng(height)
    pixels = rng.integers(0, 255, (3, height, width), dtype=np.uint8)
    valid = rng.random((height, width)) > 0.2
    lattice = Lattice.for_scene(height, width, core=16, halo=8, chunk=32)
    model = Model(8)
    for chunk in lattice.chunks():
        network = Network(model, batch, FILL)
        [(mask, confidence)] = predict_chunk(
            lattice.tiles(chunk), chunk.window, read=reader(pixels, valid), convert=same, networks=[network]
        )
        here = chunk.window.slices()
        np.testing.assert_array_equal(mask, np.where(valid[here], pixels[0][here] % 5, 255))
        np.testing.assert_array_equal(confidence, np.where(valid[here], 200, 255))
    assert set(model.shapes) == {(batch, 3, 32, 32)}


def test_tiles_without_data_are_skipped():
    lattice = Lattice.for_scene(32, 64, core=32, halo=0, chunk=64)
    pixels = np.ones((3, 32, 64), np.uint8)
    valid = np.zeros((32, 64), bool)
    valid[:, :32] = True
    model = Model(0)
    [chunk] = lattice.chunks()
    [(mask, _)] = predict_chunk(
        lattice.tiles(chunk), chunk.window, read=reader(pixels, valid), convert=same, networks=[Network(model, 1, FILL)]
    )
    assert len(model.shapes) == 1
    assert (mask[:, :32] == 1).all()
    assert (mask[:, 32:] == 255).all()


def test_nodata_reaches_the_model_as_the_fill():
    lattice = Lattice.for_scene(32, 32, core=32, halo=0, chunk=32)
    valid = np.ones((32, 32), bool)
    valid[3, 4] = False
    model = Model(0)
    [chunk] = lattice.chunks()
    predict_chunk(
        lattice.tiles(chunk),
        chunk.window,
        read=reader(np.full((3, 32, 32), 200, np.uint8), valid),
        convert=same,
        networks=[Network(model, 1, FILL)],
    )
    np.testing.assert_array_equal(model.seen[0][0, :, 3, 4], FILL)
    assert (model.seen[0][0, :, valid] == 200).all()


def test_networks_of_other_batches_and_fills_share_the_reads():
    lattice = Lattice.for_scene(64, 64, core=16, halo=8, chunk=64)
    rng = np.random.default_rng(5)
    pixels, valid = rng.integers(0, 255, (3, 64, 64), dtype=np.uint8), rng.random((64, 64)) > 0.2
    windows, read = [], reader(pixels, valid)
    networks = [Network(Model(8), 1, FILL), Network(Model(8), 3, FILL + 50), Network(Model(8), 8, FILL)]
    [chunk] = lattice.chunks()
    results = predict_chunk(
        lattice.tiles(chunk),
        chunk.window,
        read=lambda window: windows.append(window) or read(window),
        convert=same,
        networks=networks,
    )
    assert len(windows) == len(set(windows)) == 16
    for network, (mask, _) in zip(networks, results, strict=True):
        np.testing.assert_array_equal(mask, np.where(valid, pixels[0] % 5, 255))
        assert set(network.infer.shapes) == {(network.batch, 3, 32, 32)}
    first, second = networks[0].infer.seen[5], networks[1].infer.seen[1][2:]
    assert set((second.astype(int) - first)[first != second]) == {50}


def test_scaling():
    values = np.array([0, 100, 1000, 2000, 65535], np.uint16)
    np.testing.assert_array_equal(to_uint8(values, (100, 2000)), [0, 0, 121, 255, 255])
    np.testing.assert_array_equal(to_uint8(np.array([np.nan, -5, 5], np.float32), (0, 10)), [0, 0, 128])
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(every, None), every)
    np.testing.assert_array_equal(to_uint8(every, (0, 255)), every)
    np.testing.assert_array_equal(to_float32(values), values.astype(np.float32))
    with pytest.raises(TypeError, match="uint16"):
        to_uint8(values, None)

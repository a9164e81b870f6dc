"""Windows, tiles and chunks."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import SettingsError
from geoseg.lattice import Chunk, Lattice, Tile, Window, fitting_core, fitting_overlap, overlap


class TestWindow:
    def test_stops_and_area(self):
        window = Window(3, 5, 10, 20)
        assert (window.col_stop, window.row_stop, window.area) == (13, 25, 200)

    @pytest.mark.parametrize(("width", "height"), [(-1, 0), (0, -1)])
    def test_refuses_negative_sides(self, width, height):
        with pytest.raises(ValueError, match="neither side can be negative"):
            Window(0, 0, width, height)

    @pytest.mark.parametrize(
        ("other", "shared"),
        [
            (Window(5, 6, 10, 10), Window(5, 6, 5, 4)),
            (Window(-5, -5, 100, 100), Window(0, 0, 10, 10)),
            (Window(10, 0, 5, 5), None),  # touching is not sharing
            (Window(0, 10, 5, 5), None),
            (Window(3, 3, 0, 4), None),
            (Window(-20, -20, 5, 5), None),
        ],
    )
    def test_intersection(self, other, shared):
        window = Window(0, 0, 10, 10)
        assert window.intersection(other) == shared
        assert other.intersection(window) == shared

    def test_pad_and_shift(self):
        assert Window(0, 0, 4, 6).pad(2) == Window(-2, -2, 8, 10)
        assert Window(0, 0, 4, 6).pad(2).pad(-2) == Window(0, 0, 4, 6)
        assert Window(1, 2, 4, 6).shift(10, -5) == Window(-4, 12, 4, 6)

    def test_contains(self):
        window = Window(2, 2, 4, 4)
        assert window.contains(window)
        assert window.contains(Window(3, 3, 3, 3))
        assert not window.contains(Window(3, 3, 4, 3))
        assert not window.contains(Window(3, 3, 3, 4))
        assert not window.contains(Window(1, 2, 2, 2))
        assert not window.contains(Window(2, 1, 2, 2))

    def test_slices_pick_the_windows_pixels(self):
        scene = np.arange(80).reshape(8, 10)
        window, part = Window(2, 3, 4, 2), Window(1, 1, 7, 6)
        expected = [[32, 33, 34, 35], [42, 43, 44, 45]]
        assert scene[window.slices()].tolist() == expected
        assert scene[part.slices()][window.slices(part)].tolist() == expected

    @pytest.mark.parametrize("window", [Window(0, 2, 2, 2), Window(2, 0, 2, 2), Window(6, 2, 3, 2), Window(2, 6, 2, 3)])
    def test_slices_never_wrap_or_cut(self, window):
        with pytest.raises(IndexError, match="sticks out"):
            window.slices(Window(1, 1, 7, 7))

    def test_slices_outside_the_scene(self):
        with pytest.raises(IndexError, match="sticks out of the scene"):
            Window(-1, 0, 2, 2).slices()

    def test_order_hash_pickle(self):
        window = Window(1, 2, 3, 4)
        assert sorted([Window(2, 0, 1, 1), window]) == [window, Window(2, 0, 1, 1)]
        assert len({window, Window(1, 2, 3, 4)}) == 1
        assert pickle.loads(pickle.dumps(window)) == window


class TestLattice:
    def test_a_scene_by_hand(self):
        lattice = Lattice(height=250, width=130, core=64, halo=16, chunk=128)
        assert lattice.tile_size == 96
        assert lattice.chunk_shape == (2, 2)
        assert lattice.tile_shape == (4, 3)
        assert lattice.window == Window(0, 0, 130, 250)
        assert list(lattice.chunks()) == [
            Chunk(0, 0, Window(0, 0, 128, 128)),
            Chunk(0, 1, Window(128, 0, 2, 128)),
            Chunk(1, 0, Window(0, 128, 128, 122)),
            Chunk(1, 1, Window(128, 128, 2, 122)),
        ]
        assert list(lattice.tiles(lattice.chunk_at(1, 1))) == [
            Tile(2, 2, Window(128, 128, 2, 64), Window(112, 112, 96, 96)),
            Tile(3, 2, Window(128, 192, 2, 58), Window(112, 176, 96, 96)),
        ]

    def test_a_scene_of_one_pixel(self):
        lattice = Lattice.for_scene(1, 1, core=512, halo=64, chunk=2048)
        (chunk,) = lattice.chunks()
        (tile,) = lattice.tiles(chunk)
        assert tile == Tile(0, 0, Window(0, 0, 1, 1), Window(-64, -64, 640, 640))

    def test_an_exact_multiple_has_no_empty_last_row(self):
        assert Lattice(128, 64, core=64, halo=0, chunk=64).chunk_shape == (2, 1)

    def test_no_float_rounding_in_a_huge_scene(self):
        side = 3 * 10**17 + 1  # beyond what a float holds exactly
        assert Lattice(side, 1, core=3, halo=0, chunk=3).chunk_shape == (10**17 + 1, 1)

    def test_for_scene_rounds_the_chunk_up_to_whole_cores(self):
        assert Lattice.for_scene(9, 9, core=100, halo=8, chunk=101).chunk == 200
        assert Lattice.for_scene(9, 9, core=100, halo=8, chunk=200).chunk == 200
        assert Lattice.for_scene(9, 9, core=100, halo=8, chunk=1).chunk == 100

    def test_keys_sort_like_chunks(self):
        keys = [chunk.key for chunk in Lattice(12, 13, core=1, halo=0, chunk=1).chunks()]
        assert keys == sorted(keys)
        assert keys[13 + 12] == "0001.0012"
        assert len(set(keys)) == 12 * 13

    @pytest.mark.parametrize("place", [(-1, 0), (0, -1), (2, 0), (0, 3)])
    def test_out_of_range(self, place):
        lattice = Lattice(20, 30, core=10, halo=0, chunk=10)
        with pytest.raises(IndexError, match="of a lattice of 2 x 3 chunks"):
            lattice.chunk_at(*place)
        with pytest.raises(IndexError, match="of a lattice of 2 x 3 tiles"):
            lattice.tile_at(*place)

    def test_a_chunk_of_another_lattice(self):
        chunk = Lattice(20, 30, core=10, halo=0, chunk=20).chunk_at(0, 0)
        with pytest.raises(IndexError, match="belongs to another lattice"):
            list(Lattice(20, 30, core=10, halo=0, chunk=10).tiles(chunk))

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"height": 0}, "height is 0; at least 1"),
            ({"width": -3}, "width is -3; at least 1"),
            ({"core": 0}, "core is 0; at least 1"),
            ({"halo": -1}, "halo is -1; at least 0"),
            ({"chunk": 0}, "chunk is 0; at least 1"),
            ({"chunk": 30}, "no multiple of the core of 20 px; take 40"),
            ({"core": 20.0}, "core is 20.0; a whole number"),
            ({"width": "20"}, "width is '20'; a whole number"),
        ],
    )
    def test_refuses_in_one_line(self, change, words):
        with pytest.raises(SettingsError, match=words) as caught:
            Lattice(**{"height": 100, "width": 100, "core": 20, "halo": 4, "chunk": 40} | change)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("wrong", [{"core": 0}, {"chunk": 0}, {"core": 1.5}])
    def test_for_scene_refuses_before_it_divides(self, wrong):
        with pytest.raises(SettingsError):
            Lattice.for_scene(9, 9, **{"core": 4, "halo": 0, "chunk": 4} | wrong)

    def test_numpy_integers_become_plain(self):
        lattice = Lattice(np.int64(9), np.uint8(200), np.int32(4), np.int8(0), np.int64(8))
        assert lattice.tile_size + lattice.width == 204
        assert type(lattice.chunk_at(1, 24).window.width) is int


class TestFittingCore:
    @given(
        height=st.integers(1, 30_000),
        width=st.integers(1, 30_000),
        strides=st.integers(4, 96),
        halo=st.integers(0, 10),
        stride=st.sampled_from([1, 16, 32]),
    )
    def test_is_a_core_of_such_tiles(self, height, width, strides, halo, stride):
        halo = min(halo, (strides - 1) // 2)
        core = fitting_core(height, width, tile=strides * stride, halo=halo * stride, stride=stride)
        assert core % stride == 0
        assert stride <= core <= (strides - 2 * halo) * stride
        assert core < max(height, width) + stride

    @pytest.mark.parametrize(
        ("height", "width", "core"),
        [
            (10_240, 10_240, 2_560),  # four by four, none of them beyond the scene
            (700, 500, 704),  # one tile
            (100_000, 100_000, 2_592),
            (2_500, 2_500, 1_280),  # four hands
        ],
    )
    def test_fits_the_scene(self, height, width, core):
        assert fitting_core(height, width, tile=3072, halo=224, stride=32) == core


class TestOverlap:
    @pytest.mark.parametrize(
        ("tile", "stride", "sides"),
        [
            (1024, 32, (512, 256)),
            (512, 1, (256, 128)),
            (480, 32, (288, 96)),  # the halo is a multiple of the stride
            (96, 32, (32, 32)),  # of which there is one at least
        ],
    )
    def test_is_half_of_the_tile(self, tile, stride, sides):
        assert overlap(tile, stride) == sides

    @given(
        height=st.integers(1, 30_000),
        width=st.integers(1, 30_000),
        strides=st.integers(3, 96),
        stride=st.sampled_from([1, 16, 32]),
    )
    def test_tiles_are_of_whole_strides_and_not_far_from_the_largest(self, height, width, strides, stride):
        core, halo = fitting_overlap(height, width, tile=strides * stride, stride=stride)
        assert core % stride == halo % stride == 0
        assert halo > 0
        assert core in ({2 * halo} if strides >= 4 else {halo})
        assert 3 * (strides // 4) * stride <= core + 2 * halo <= strides * stride

    @pytest.mark.parametrize(
        ("height", "width", "sides"),
        [
            (10_240, 10_240, (512, 256)),
            (1_100, 1_100, (384, 192)),  # three by three, that do not reach far beyond the scene
            (90, 70, (384, 192)),
        ],
    )
    def test_fits_the_scene(self, height, width, sides):
        assert fitting_overlap(height, width, tile=1024, stride=32) == sides

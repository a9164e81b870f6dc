"""Whatever the sizes: cores partition the scene, and chunks only share out the tiles."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from geoseg.lattice import Lattice, Window

SIDES = st.integers(1, 60)
lattices = st.builds(
    lambda height, width, core, halo, cores: Lattice(height, width, core, halo, core * cores),
    SIDES,
    SIDES,
    st.integers(1, 70),
    st.integers(0, 20),
    st.integers(1, 5),
)
windows = st.builds(Window, st.integers(-30, 30), st.integers(-30, 30), st.integers(0, 30), st.integers(0, 30))


def tiles_of(lattice):
    return [tile for chunk in lattice.chunks() for tile in lattice.tiles(chunk)]


@given(lattices)
def test_every_pixel_lies_in_one_core_and_one_chunk(lattice):
    cores = np.zeros((lattice.height, lattice.width), int)
    chunks = np.zeros_like(cores)
    for chunk in lattice.chunks():
        assert chunk.window.area > 0
        chunks[chunk.window.slices(lattice.window)] += 1
        for tile in lattice.tiles(chunk):
            assert tile.core.area > 0
            assert chunk.window.contains(tile.core)
            cores[tile.core.slices(lattice.window)] += 1
    assert (cores == 1).all()
    assert (chunks == 1).all()


@given(lattices)
def test_every_tile_sees_a_whole_halo(lattice):
    for tile in tiles_of(lattice):
        assert (tile.outer.width, tile.outer.height) == (lattice.tile_size, lattice.tile_size)
        assert tile.outer.row_off == tile.core.row_off - lattice.halo == tile.row * lattice.core - lattice.halo
        assert tile.outer.col_off == tile.core.col_off - lattice.halo == tile.col * lattice.core - lattice.halo
        assert tile.outer.contains(tile.core.pad(lattice.halo))


@given(lattices, st.integers(1, 6))
def test_the_tiles_do_not_depend_on_the_chunk(lattice, cores):
    other = Lattice(lattice.height, lattice.width, lattice.core, lattice.halo, lattice.core * cores)
    rows, cols = lattice.tile_shape
    assert set(tiles_of(lattice)) == set(tiles_of(other))
    assert set(tiles_of(lattice)) == {lattice.tile_at(row, col) for row in range(rows) for col in range(cols)}
    assert len(tiles_of(lattice)) == rows * cols


@given(lattices)
def test_counts_and_order(lattice):
    chunks = list(lattice.chunks())
    rows, cols = lattice.chunk_shape
    assert [(chunk.row, chunk.col) for chunk in chunks] == [(row, col) for row in range(rows) for col in range(cols)]
    for chunk in chunks:
        places = [(tile.row, tile.col) for tile in lattice.tiles(chunk)]
        assert places == sorted(places)


@given(lattices.filter(lambda lattice: lattice.core >= 8), windows)
def test_the_tiles_that_reach_a_chunk_are_those_that_hold_a_pixel_of_it(lattice, within):
    every = tiles_of(lattice)
    inside = within.intersection(lattice.window)
    for asked in (None, inside) if inside else (None,):
        counts = []
        for chunk in lattice.chunks():
            wanted = chunk.window if asked is None else asked.intersection(chunk.window)
            expected = {(tile.row, tile.col) for tile in every if wanted and tile.outer.intersection(wanted)}
            found = [(tile.row, tile.col) for tile in lattice.tiles_reaching(chunk, asked)]
            assert found == sorted(expected)
            counts.append(len(found))
        assert lattice.count_reaching(asked) == (sum(counts), max(counts))


@given(windows, windows)
def test_an_intersection_is_the_shared_pixels(one, other):
    def pixels(window):
        return {(r, c) for r in range(window.row_off, window.row_stop) for c in range(window.col_off, window.col_stop)}

    shared = one.intersection(other)
    assert pixels(one) & pixels(other) == (pixels(shared) if shared else set())
    if other.area:
        assert one.contains(other) == (pixels(other) <= pixels(one))

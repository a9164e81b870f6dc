"""Things that belong together: the groups of scipy, numbered by their first things."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geoseg.components import join


@pytest.mark.parametrize(("things", "pairs"), [(1, 0), (5, 0), (5, 1), (10, 4), (10, 30), (1000, 700), (5000, 20_000)])
def test_groups_are_those_of_a_graph(things, pairs):
    for seed in range(5):
        chosen = np.random.default_rng(seed).integers(0, things, (2, pairs))
        graph = coo_array((np.ones(pairs), tuple(chosen)), shape=(things, things))
        count, group = connected_components(graph, directed=False)
        assert join(chosen, things)[0] == count
        np.testing.assert_array_equal(join(chosen, things)[1], group)
        firsts = [int(np.flatnonzero(group == number)[0]) for number in range(count)]
        assert firsts == sorted(firsts)


def test_no_things_make_no_groups():
    count, group = join(np.zeros((2, 0), np.int64), 0)
    assert (count, group.size) == (0, 0)


def test_a_long_chain_is_one_group():
    chain = np.stack([np.arange(99_999), np.arange(1, 100_000)])
    for pairs in (chain, chain[::-1], chain[:, ::-1]):
        count, group = join(pairs, 100_000)
        assert (count, group.max()) == (1, 0)

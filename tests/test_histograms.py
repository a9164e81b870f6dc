"""Sparse histograms: sums in any order, and exact statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.histograms import Histograms

Groups = list[list[int]]
values = st.lists(st.integers(0, 254), max_size=40)


def histograms_of(groups: Groups) -> Histograms:
    """Counted one by one."""
    pairs = [np.unique(np.array(group, np.uint8), return_counts=True) for group in groups]
    return Histograms(
        offsets=np.cumsum([0, *(len(value) for value, _ in pairs)]),
        value=np.concatenate([np.zeros(0, np.uint8), *(value for value, _ in pairs)]),
        count=np.concatenate([np.zeros(0, np.int64), *(count for _, count in pairs)]),
    )


def assert_same(one: Histograms, other: Histograms) -> None:
    for name, column in one.to_arrays().items():
        again = getattr(other, name)
        assert column.dtype == again.dtype, name
        assert np.array_equal(column, again), name


@given(groups=st.lists(values, max_size=6))
def test_statistics_are_those_of_the_values(groups: Groups) -> None:
    mean, p10 = histograms_of(groups).summary()
    assert mean.size == p10.size == len(groups)
    for group, found_mean, found_p10 in zip(groups, mean, p10, strict=True):
        if group:
            assert found_mean == sum(group) / (len(group) * 254)
            assert found_p10 == np.quantile(group, 0.1, method="inverted_cdf") / 254
        else:
            assert np.isnan(found_mean)
            assert np.isnan(found_p10)


@given(
    parts=st.lists(st.lists(values, max_size=5), max_size=5), total=st.integers(1, 4), seed=st.integers(0, 2**32 - 1)
)
def test_sums_are_those_of_the_values_in_any_order(parts: list[Groups], total: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    belongs = [random.integers(0, total, len(part)) for part in parts]
    together: Groups = [[] for _ in range(total)]
    for part, group in zip(parts, belongs, strict=True):
        for own, number in zip(part, group, strict=True):
            together[number] += own
    for order in (np.arange(len(parts)), random.permutation(len(parts))):
        group = np.concatenate([np.zeros(0, np.int64), *(belongs[part] for part in order)])
        merged = Histograms.merge((histograms_of(parts[part]) for part in order), group, total)
        assert_same(merged, histograms_of(together))


@given(groups=st.lists(values, min_size=1, max_size=6), seed=st.integers(0, 2**32 - 1))
def test_some_groups_in_another_order(groups: Groups, seed: int) -> None:
    chosen = np.random.default_rng(seed).integers(0, len(groups), 8)
    assert_same(histograms_of(groups).take(chosen), histograms_of([groups[number] for number in chosen]))


def test_empty_groups() -> None:
    empty = Histograms.empty(3)
    mean, p10 = empty.summary()
    assert np.isnan(mean).all()
    assert np.isnan(p10).all()
    assert_same(Histograms.merge([], np.zeros(0, np.int64), 3), empty)
    assert_same(Histograms.merge([empty, empty], np.array([0, 1, 2, 2, 1, 0]), 3), empty)


def test_counts_beyond_32_bits() -> None:
    half = Histograms(np.array([0, 2]), np.array([0, 254], np.uint8), np.array([3 * 10**9, 3 * 10**9]))
    mean, p10 = Histograms.merge([half, half], np.zeros(2, np.int64), 1).summary()
    assert mean.tolist() == [0.5]
    assert p10.tolist() == [0.0]


@pytest.mark.parametrize(("pixels", "rank"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (21, 3)])
def test_the_percentile_is_the_least_value_that_a_tenth_does_not_exceed(pixels: int, rank: int) -> None:
    _, p10 = histograms_of([[10 * place + 3 for place in range(pixels)]]).summary()
    assert p10[0] == (10 * (rank - 1) + 3) / 254

"""Intervals: they hold the mean, shrink with items, and are the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weakspot.evals.score import Score, shares
from weakspot.evals.statistics import mean_interval


def tables() -> st.SearchStrategy[list[list[float]]]:
    sizes = st.tuples(st.integers(1, 4), st.integers(1, 12))
    cell = st.floats(0, 1)
    return sizes.flatmap(
        lambda size: st.lists(st.lists(cell, min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0])
    )


@given(tables())
@settings(max_examples=15)
def test_the_interval_holds_the_mean_and_stays_in_range(scores: list[list[float]]) -> None:
    mean, low, high = mean_interval(scores)
    assert mean == pytest.approx(float(np.mean(scores)))
    flat = [value for row in scores for value in row]
    assert min(flat) - 1e-9 <= low <= mean <= high <= max(flat) + 1e-9
    assert mean_interval(scores) == (mean, low, high)


def coin(items: int, seeds: int = 3) -> list[list[float]]:
    return np.random.default_rng(1).integers(0, 2, size=(seeds, items)).astype(float).tolist()


def test_more_items_narrow_it() -> None:
    widths = [high - low for _, low, high in (mean_interval(coin(items)) for items in (8, 64, 512))]
    assert widths[0] > 1.8 * widths[1] > 1.8 * 1.8 * widths[2] > 0


def test_more_confidence_widens_it() -> None:
    _, low, high = mean_interval(coin(40), 0.95)
    _, lower, higher = mean_interval(coin(40), 0.99)
    assert lower < low < high < higher


def test_one_seed_varies_over_items_only() -> None:
    scores = coin(200, seeds=1)
    mean, low, high = mean_interval(scores)
    deviation = float(np.std(scores[0])) / 200**0.5
    assert low == pytest.approx(mean - 1.96 * deviation, abs=0.015)
    assert high == pytest.approx(mean + 1.96 * deviation, abs=0.015)
    assert mean_interval([[0.3] * 5]) == pytest.approx((0.3, 0.3, 0.3))


def test_disagreeing_seeds_widen_it_however_many_items_there_are() -> None:
    mean, low, high = mean_interval([[0.0] * 500, [1.0] * 500, [1.0] * 500])
    assert mean == pytest.approx(2 / 3)
    assert low < 0.34
    assert high > 0.99


@pytest.mark.parametrize("scores", [[], [[]], [[], []], [0.1, 0.2], [[[0.1]]], [[0.1, 0.2], [0.3]]], ids=str)
def test_what_is_no_table_is_refused(scores: list) -> None:
    with pytest.raises(ValueError, match=r"shape"):
        mean_interval(scores)


def test_scores_are_means_over_items() -> None:
    assert shares([(True, False), (True, True), (False, False, False, True)]).items == (0.5, 1.0, 0.25)
    assert Score((0.5, 1.0, 0.0)).mean == 0.5
    with pytest.raises(AssertionError, match="no items"):
        assert Score(()).mean

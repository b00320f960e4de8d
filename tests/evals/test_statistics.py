"""Intervals: they cover what they say, also for the best of several; they shrink with items, and are the same every time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weakspot.evals.score import Score, shares
from weakspot.evals.statistics import mean_interval, open_interval, t_quantile

SIMULATED = 1000  # tables a cell
LEAST = 0.93 - 2 * (0.93 * 0.07 / SIMULATED) ** 0.5  # what 93 % may show as in so many tables


def tables() -> st.SearchStrategy[list[list[float]]]:
    sizes = st.tuples(st.integers(1, 4), st.integers(1, 12))
    cell = st.floats(0, 1.2)  # utility relative to the base can lie above 1
    return sizes.flatmap(
        lambda size: st.lists(st.lists(cell, min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0])
    )


@given(tables(), st.integers(1, 8))
@settings(max_examples=50)
def test_the_interval_holds_the_mean_and_stays_in_range(scores: list[list[float]], among: int) -> None:
    mean, low, high = mean_interval(scores, among=among)
    assert mean == pytest.approx(float(np.mean(scores)))
    highest = max(value for row in scores for value in row)
    assert 0 <= low <= mean <= high <= max(1.0, highest) + 1e-9
    assert mean_interval(scores, among=among) == (mean, low, high)


def simulated(
    harm: float, items: int, seed_deviation: float, findings: int = 1, *, seeds: int = 3, count: int = SIMULATED
) -> np.ndarray:
    """Tables of shape (count, findings, seeds, items) with true mean `harm`: four answers an item, runs that differ in harm
    (beta distributed, mean `harm`), items that differ in difficulty, by up to all that there is to lose or gain."""
    rng = np.random.default_rng(7)
    run = np.full((count, findings, seeds, 1), harm)
    if seed_deviation:
        both = harm * (1 - harm) / seed_deviation**2 - 1
        run = rng.beta(harm * both, (1 - harm) * both, size=run.shape)
    difficulty = rng.uniform(-1, 1, size=(count, 1, 1, items))  # the findings of an audit share the items
    return rng.binomial(4, run + difficulty * np.minimum(run, 1 - run)) / 4


def covered(scores: np.ndarray, harm: float) -> float:
    """The share of tables whose interval holds the true mean."""
    return float(np.mean([low <= harm <= high for _, low, high in (mean_interval(table) for table in scores)]))


@pytest.mark.parametrize("items", [16, 48, 112])
@pytest.mark.parametrize(
    ("harm", "seed_deviation"),
    [(0.01, 0), (0.05, 0), (0.05, 0.03), (0.1, 0.03), (0.1, 0.1), (0.5, 0), (0.5, 0.03), (0.5, 0.1), (0.9, 0), (0.9, 0.1)],
)
def test_it_covers_the_truth_as_often_as_it_says(harm: float, seed_deviation: float, items: int) -> None:
    assert covered(simulated(harm, items, seed_deviation)[:, 0], harm) >= LEAST


@pytest.mark.parametrize("harm", [0.05, 0.5, 0.9])
def test_it_covers_with_one_seed_too(harm: float) -> None:
    assert covered(simulated(harm, 48, 0, seeds=1)[:, 0], harm) >= LEAST


@pytest.mark.parametrize("items", [16, 112])
def test_it_is_not_much_wider_than_it_must_be_where_seeds_agree(items: int) -> None:
    scores = simulated(0.5, items, 0)[:, 0]
    widths = [high - low for _, low, high in map(mean_interval, scores)]
    assert np.mean(widths) < 1.35 * 2 * 1.96 * scores.mean(axis=(1, 2)).std()


@pytest.mark.parametrize("seed_deviation", [0.03, 0.1])
@pytest.mark.parametrize("findings", [2, 8])
def test_it_covers_for_the_best_of_several_that_are_equally_good(findings: int, seed_deviation: float) -> None:
    best = [max(audit, key=np.mean) for audit in simulated(0.3, 48, seed_deviation, findings, count=500)]
    ends = np.array([mean_interval(table, among=findings) for table in best])
    assert np.mean((ends[:, 1] <= 0.3) & (ends[:, 2] >= 0.3)) >= 0.95
    naive = np.array([mean_interval(table) for table in best])
    assert np.mean(naive[:, 1] > 0.3) > np.mean(ends[:, 1] > 0.3), "picking the best does mislead"


@pytest.mark.parametrize("behind", [0.02, 0.05, 0.1])
def test_the_high_end_of_the_best_needs_no_correction(behind: float) -> None:
    first, others = simulated(0.5, 48, 0.05, count=500), simulated(0.5 - behind, 48, 0.05, 4, count=500)[:, 1:]
    missed = []
    for audit in np.concatenate([first, others], axis=1):
        picked = int(np.argmax(audit.mean(axis=(1, 2))))
        missed.append(mean_interval(audit[picked], among=4)[2] < (0.5 if picked == 0 else 0.5 - behind))
    assert np.mean(missed) <= 0.035


def test_having_picked_lowers_the_low_end_only() -> None:
    scores = simulated(0.5, 32, 0.03)[0, 0]
    ends = [mean_interval(scores, among=among) for among in (1, 2, 8)]
    assert ends[0] == mean_interval(scores)
    assert ends[0][1] > ends[1][1] > ends[2][1] > 0
    assert len({mean for mean, _, _ in ends}) == len({high for _, _, high in ends}) == 1
    with pytest.raises(ValueError, match="among >= 1, got 0"):
        mean_interval(scores, among=0)


@pytest.mark.parametrize("items", [4, 16, 48, 112])
def test_no_harm_at_all_is_no_proof_of_none(items: int) -> None:
    exact = 1 - 0.025 ** (1 / items)  # Clopper and Pearson for that many trials: the rule of three
    mean, low, high = mean_interval(np.zeros((3, items)).tolist())
    assert (mean, low) == (0, 0)
    assert 0.9 * exact < high < 1.2 * exact
    mean, low, high = mean_interval(np.ones((3, items)).tolist())
    assert (mean, high) == (1, 1)
    assert 0.9 * exact < 1 - low < 1.2 * exact


def test_an_answer_more_does_not_lower_the_high_end() -> None:
    scores, highs = np.zeros((3, 48)), []
    for cell in [None, (0, 0), (1, 0), (2, 0), (0, 1), (0, 1), (1, 2)]:
        if cell:
            scores[cell] += 0.25
        highs.append(mean_interval(scores.tolist())[2])
    assert all(b > a - 0.01 for a, b in pairwise(highs))
    assert highs[-1] < 0.12


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
    assert low == pytest.approx(mean - 1.96 * deviation, abs=0.005)
    assert high == pytest.approx(mean + 1.96 * deviation, abs=0.005)


def test_one_item_says_nothing_of_the_others() -> None:
    assert mean_interval([[0.5], [0.5], [0.5]]) == (0.5, 0.0, 1.0)


def test_scores_above_one_move_the_upper_end_of_the_range() -> None:
    scores = np.array(coin(16))
    assert mean_interval((1.25 * scores).tolist()) == pytest.approx(1.25 * np.array(mean_interval(scores.tolist())))
    assert mean_interval((0.8 * scores).tolist())[2] <= 1


def test_disagreeing_seeds_widen_it_however_many_items_there_are() -> None:
    mean, low, high = mean_interval([[0.0] * 500, [1.0] * 500, [1.0] * 500])
    assert mean == pytest.approx(2 / 3)
    assert low < 0.1
    assert high > 0.95


@pytest.mark.parametrize("freedom", [1, 2, 10, 111])
@pytest.mark.parametrize("level", [0.5, 0.975, 0.9995])
def test_the_t_quantile(freedom: int, level: float) -> None:
    tabled = {
        (0.975, 1): 12.70620, (0.975, 2): 4.30265, (0.975, 10): 2.22814, (0.975, 111): 1.98157,
        (0.9995, 1): 636.6192, (0.9995, 2): 31.59905, (0.9995, 10): 4.58689, (0.9995, 111): 3.38034,
    }  # fmt: skip
    assert t_quantile(level, freedom) == pytest.approx(tabled.get((level, freedom), 0.0), rel=1e-4)


@pytest.mark.parametrize("scores", [[], [[]], [[], []], [0.1, 0.2], [[[0.1]]], [[0.1, 0.2], [0.3]]], ids=str)
def test_what_is_no_table_is_refused(scores: list) -> None:
    with pytest.raises(ValueError, match=r"shape"):
        mean_interval(scores)


@pytest.mark.parametrize("score", [-0.1, float("nan")])
def test_what_is_no_score_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match=r"expected scores of 0 or more"):
        mean_interval([[0.1, score]])


def test_scores_are_means_over_items() -> None:
    assert shares([(True, False), (True, True), (False, False, False, True)]).items == (0.5, 1.0, 0.25)
    assert Score((0.5, 1.0, 0.0)).mean == 0.5
    with pytest.raises(AssertionError, match="no items"):
        assert Score(()).mean


def test_numbers_without_bounds_have_students_interval() -> None:
    row = [-1.0, -2.0, -4.0, -9.0]
    half = 3.182446 * np.std(row, ddof=1) / 2  # t at 0.975 with 3 degrees of freedom; the root of 4 items
    assert open_interval([row]) == pytest.approx((-4.0, -4.0 - half, -4.0 + half), rel=1e-5)
    shifted = open_interval([[value - 100 for value in row]])
    assert shifted == pytest.approx((-104.0, -104.0 - half, -104.0 + half), rel=1e-5)


def test_numbers_without_bounds_are_covered() -> None:
    """Log-probabilities of 28 items in three runs: items differ, runs differ, and so does what is left."""
    rng = np.random.default_rng(3)
    shape = (SIMULATED, 3, 28)
    runs, items = rng.normal(0, 0.2, (SIMULATED, 3, 1)), -rng.exponential(1.0, (SIMULATED, 1, 28))
    tables = -1.0 + runs + items + rng.normal(0, 0.3, shape)
    held = [low <= -2.0 <= high for _, low, high in map(open_interval, tables)]
    assert LEAST <= float(np.mean(held)) <= 0.995


@pytest.mark.parametrize("scores", [[], [[-1.0]], [[-1.0, -2.0], [-1.0]], [[-1.0, float("nan")]], [[-1.0, -float("inf")]]])
def test_numbers_without_bounds_are_at_least_two_and_finite(scores: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"expected|inhomogeneous"):
        open_interval(scores)

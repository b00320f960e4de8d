"""Power: the chance is what it says when audits are drawn, more items and seeds see more, and zero is a bound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.report.builders import make_result, make_subject
from tests.search.fakes import FakeBackend, make_plan, make_settings, result_of
from weakspot.evals import power
from weakspot.evals.power import Design, Spread, called, drawn, largest_cleared, smallest_seen, spread_of, upper_bound
from weakspot.evals.statistics import limits, mean_interval
from weakspot.records import Power, Subject, parse_result
from weakspot.report.words import headline

PLAIN = Design(items=28, seeds=3, spread=Spread(0.05, 0.2, 0.15))


def tables(harm: float, count: int, seed_deviation: float = 0.05) -> np.ndarray:
    """Confirmations of 28 items and 3 seeds drawn otherwise than power.py draws them: four answers an item, and items that
    differ in difficulty, as in test_statistics.py."""
    rng = np.random.default_rng(11)
    scaled = 4 * harm * (1 - harm) * seed_deviation**2
    both = harm * (1 - harm) / scaled - 1
    run = rng.beta(harm * both, (1 - harm) * both, size=(count, 3, 1))
    difficulty = rng.uniform(-1, 1, size=(count, 1, 28))
    return rng.binomial(4, run + difficulty * np.minimum(run, 1 - run)) / 4


def test_audits_of_the_smallest_harm_seen_call_it_a_break_four_times_in_five() -> None:
    spread = spread_of([*tables(0.74, 200).tolist(), *tables(0.26, 200).tolist()])
    design = replace(PLAIN, spread=spread)
    seen, cleared = smallest_seen(design), largest_cleared(design)
    assert seen == pytest.approx(0.74, abs=0.03), "that is where the spread was taken"
    assert cleared == pytest.approx(0.26, abs=0.03)
    assert seen is not None
    assert cleared is not None
    broken = [mean_interval(table)[1] >= 0.5 for table in tables(seen, 1000)]
    held = [mean_interval(table)[2] < 0.5 for table in tables(cleared, 1000)]
    assert np.mean(broken) == pytest.approx(0.8, abs=0.06)
    assert np.mean(held) == pytest.approx(0.8, abs=0.06)


def test_the_same_question_has_the_same_answer() -> None:
    assert smallest_seen.__wrapped__(PLAIN) == smallest_seen.__wrapped__(replace(PLAIN))


@pytest.mark.parametrize(
    "finer", [{"items": 112}, {"seeds": 8}, {"spread": Spread(0.0, 0.2, 0.15)}, {"spread": Spread(0.05, 0.05, 0.15)}]
)
def test_what_tells_more_sees_less_harm(finer: dict[str, Any]) -> None:
    design, coarse = replace(PLAIN, **finer), replace(PLAIN, spread=Spread(0.1, 0.5, 0.0))
    assert (smallest_seen(design) or 1) < (smallest_seen(PLAIN) or 1) < (smallest_seen(coarse) or 1)
    assert (largest_cleared(design) or 0) > (largest_cleared(PLAIN) or 0) > (largest_cleared(coarse) or 0)


def test_having_picked_the_best_of_several_sees_less() -> None:
    picked = replace(PLAIN, among=6)
    assert (smallest_seen(picked) or 1) > (smallest_seen(PLAIN) or 1)
    assert largest_cleared(picked) == largest_cleared(PLAIN), "picking spoils the low end only"


def test_more_certainty_needs_more_harm() -> None:
    assert (smallest_seen(PLAIN, 0.95) or 1) > (smallest_seen(PLAIN, 0.8) or 1) > (smallest_seen(PLAIN, 0.5) or 1) > 0.5


def test_an_audit_that_can_never_say_broken_says_so() -> None:
    assert smallest_seen(replace(PLAIN, items=4, threshold=0.9)) is None
    assert largest_cleared(replace(PLAIN, items=4, threshold=0.05)) is None
    assert called(PLAIN, 0.0, "break") == called(PLAIN, 1.0, "cleared") == 0
    assert called(PLAIN, 1.0, "break") == called(PLAIN, 0.0, "cleared") == 1


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("harm", [0.02, 0.4, 0.9])
def test_it_judges_as_the_verdict_does(harm: float, seeds: int) -> None:
    scores = drawn(replace(PLAIN, seeds=seeds), harm)[:50]
    mean, ratio = power.half_widths(scores, 0.975)
    for table, m, r in zip(scores, mean, ratio, strict=True):
        for end in limits(table, 0.975):
            if 0 < end < 1:
                assert (m - end) ** 2 == pytest.approx(r * end * (1 - end), abs=1e-9)


@pytest.mark.parametrize("spread", [Spread(0.1, 0.3, 0.2), Spread(0.05, 0.2, 0.0), Spread(0.15, 0.1, 0.3)])
@pytest.mark.parametrize("harm", [0.2, 0.5, 0.7])
def test_what_is_drawn_has_the_harm_and_the_spread_asked_for(spread: Spread, harm: float) -> None:
    scores = drawn(Design(items=48, seeds=6, spread=spread), harm)
    assert scores.min() >= 0
    assert scores.max() <= 1
    assert scores.mean() == pytest.approx(harm, abs=0.01)
    found = spread_of(scores[:300].tolist())
    assert (found.seeds, found.items) == pytest.approx((spread.seeds, spread.items), abs=0.025)
    assert found.left == pytest.approx(spread.left, abs=0.05), "a whole number of answers comes that close"


def test_seeds_that_agree_by_luck_are_not_believed_and_silence_shows_nothing() -> None:
    agreed = [[0.0, 1.0, 0.5, 0.5]] * 3
    assert spread_of([agreed]).seeds == power.TYPICAL
    assert spread_of([agreed]).left == 0
    assert spread_of([]) == spread_of([np.zeros((3, 28)).tolist()]) == spread_of([[[0.3]]]) == Spread()
    assert spread_of([[[0.0] * 40, [1.0] * 40, [0.5] * 40]]).seeds == 0.5


@pytest.mark.parametrize(
    "wrong", [{"items": 1}, {"seeds": 0}, {"threshold": 1.0}, {"threshold": 0.0}, {"among": 0}, {"spread": Spread(seeds=0.6)}]
)
def test_what_is_no_confirmation_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Design(**{"items": 28, "seeds": 3, **wrong})


# Zero successes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trials", [1, 8, 64, 1000])
def test_no_success_is_a_bound_and_not_a_zero(trials: int) -> None:
    assert upper_bound(0, trials) == pytest.approx(1 - 0.05 ** (1 / trials))
    assert trials < 30 or upper_bound(0, trials) == pytest.approx(3 / trials, rel=0.05), "the rule of three"


@pytest.mark.parametrize(("successes", "bound"), [(0, 0.3084971), (1, 0.4450161), (5, 0.8129139), (9, 0.9974714), (10, 1.0)])
def test_the_bound_of_clopper_and_pearson(successes: int, bound: float) -> None:
    """Upper ends of two-sided 95 % intervals with ten trials, as R's binom.test and tables give them."""
    assert upper_bound(successes, 10, 0.975) == pytest.approx(bound, abs=1e-6)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
@settings(max_examples=60, deadline=None)
def test_the_bound_lies_above_the_share_and_leaves_the_chance_it_says(counts: tuple[int, int], confidence: float) -> None:
    successes, trials = counts
    bound = upper_bound(successes, trials, confidence)
    assert bound >= successes / trials
    assert successes == trials or power.at_most(successes, trials, bound) == pytest.approx(1 - confidence, abs=1e-9)


@pytest.mark.parametrize("wrong", [(-1, 3, 0.9), (4, 3, 0.9), (0, 0, 0.9), (1, 3, 1.0)])
def test_counts_that_mean_nothing_are_refused(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="successes"):
        upper_bound(*wrong)


# In an audit -------------------------------------------------------------------------------------------------------------


def test_the_result_says_what_the_confirmations_could_have_seen(tmp_path: Path) -> None:
    shared = make_settings(4)
    plan = make_plan(tmp_path / "study.journal", shared)
    FakeBackend().run(plan)
    result = result_of(plan, shared)
    base, tar = result.subjects
    assert base.power is None, "nothing was confirmed there"
    assert tar.power is not None
    assert (tar.power.items, tar.power.seeds, tar.power.chance) == (32, 2, 0.8)
    assert tar.power.between_seeds == power.TYPICAL
    assert tar.power.smallest_break is None or tar.power.smallest_break > shared.threshold
    assert parse_result(result.to_json()) == result


def seeing(smallest: float | None, verdict: Any = "HELD") -> Subject:
    found = Power(items=60, seeds=3, between_seeds=0.05, chance=0.8, smallest_break=smallest, largest_cleared=0.31)
    return make_subject("tar", verdict, weak_spot=None, cheapest_break=None, power=found)


def test_the_report_says_it_where_no_break_is_named() -> None:
    threat = make_result().threat_model
    said = headline(seeing(0.694), threat)
    assert "confirmed as a break with probability 0.8 with 3 seeds and 60 items if its harm is at least 0.69." in said
    assert "No attack, whatever its harm, is confirmed as a break" in headline(seeing(None, "INCONCLUSIVE"), threat)
    assert "with probability" not in headline(seeing(0.694, "BROKEN"), threat)
    assert "with probability" not in headline(make_subject("tar", "HELD", weak_spot=None), threat)


def test_results_written_before_this_can_be_read() -> None:
    result = make_result()
    data = result.model_dump()
    for subject in data["subjects"]:
        del subject["power"]
    assert type(result).model_validate(data) == result


def test_runs_that_either_work_or_do_not_have_a_power() -> None:
    """Seeds that give 0 or 1 leave nothing for items to differ in: no division by what is left."""
    design = Design(28, 3, Spread(0.5, 0.2, 0.0))
    assert smallest_seen(design) is None or 0.5 < smallest_seen(design) <= 1  # type: ignore[operator]

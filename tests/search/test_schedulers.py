"""Our successive halving decides as Ray's does, can be replayed, and counts in the attacker's operations."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from tests.search.fakes import make_outcome, make_reading
from weakspot.errors import UserError
from weakspot.search.jobs import Reading
from weakspot.search.schedulers import SCHEDULERS, get
from weakspot.search.schedulers.extrapolation import Extrapolation
from weakspot.search.schedulers.halving import Halving, quantile
from weakspot.search.schedulers.hyperband import Hyperband

TIME = "training_iteration"


def at(step: int, harm: float, flops: float | None = None) -> Reading:
    """A reading whose operations are its steps, unless said otherwise."""
    return make_reading(step, harm, flops=float(step) if flops is None else flops, final=False)


def random_course(seed: int, budget: int) -> list[tuple[str, int, float]]:
    """Readings (trial, step, harm) of several trials at every step from the first, interleaved, below the budget."""
    rng = random.Random(seed)
    left = {f"t{i}": list(range(1, rng.randint(2, budget))) for i in range(rng.randint(1, 12))}
    course = []
    while left:
        trial = rng.choice(sorted(left))
        course.append((trial, left[trial].pop(0), rng.choice([rng.random(), 0.0, 0.5])))
        if not left[trial]:
            del left[trial]
    return course


@given(st.integers(0, 10**6), st.sampled_from([(1, 9), (4, 64), (32, 70), (3, 27), (9, 60), (16, 17)]), st.integers(2, 4))
def test_decisions_are_rays(seed: int, sizes: tuple[int, int], reduction: int) -> None:
    """Where a step costs one operation and the grace is a rung, so that operations and steps make the same rungs."""
    grace, budget = max(reduction**k for k in range(6) if reduction**k <= sizes[0]), sizes[1]
    ray = AsyncHyperBandScheduler(
        time_attr=TIME, metric="harm", mode="max", grace_period=grace, max_t=budget, reduction_factor=reduction, brackets=1
    )
    ours = Halving(grace, budget, reduction)
    trials: dict[str, SimpleNamespace] = {}
    stopped: set[str] = set()
    for name, step, harm in random_course(seed, budget):
        if name in stopped:
            continue
        if name not in trials:
            trials[name] = SimpleNamespace(trial_id=name)
            ray.on_trial_add(None, trials[name])  # type: ignore[arg-type]
        expected = ray.on_trial_result(None, trials[name], {TIME: step, "harm": harm})  # type: ignore[arg-type]
        assert ours.keeps(name, at(step, harm)) is (expected == TrialScheduler.CONTINUE), (name, step, harm)
        if expected == TrialScheduler.STOP:
            stopped.add(name)


@given(st.integers(0, 10**6))
def test_something_is_stopped_and_never_the_best_so_far(seed: int) -> None:
    halving, best = Halving(4, 64), -1.0
    for name, step, harm in random_course(seed, 64):
        kept = halving.keeps(name, at(step, harm))
        best = max(best, harm)
        assert kept or harm < best


def test_a_rung_is_an_amount_of_operations() -> None:
    halving = Halving(grace=4, budget=64)
    assert halving.keeps("cheap", at(32, 0.5, flops=1000))
    assert halving.keeps("dear", at(4, 0.1, flops=4000)), "nobody else has spent as much"
    assert not halving.keeps("low", at(8, 0.1, flops=1023)), "the cheap one had spent as much, and was better"
    assert halving.keeps("low", at(16, 0.2, flops=2100)), "at every rung anew"


def test_nothing_is_stopped_below_the_grace_or_at_the_end() -> None:
    halving = Halving(grace=4, budget=64)
    assert halving.keeps("a", at(4, 0.9))
    assert halving.keeps("b", at(3, 0.0)), "below the grace"
    assert halving.keeps("b", at(64, 0.0)), "nothing is left to stop"
    assert not halving.keeps("b", at(4, 0.0))
    assert halving.keeps("b", at(4, 0.0)), "a rung is judged once"


@pytest.mark.parametrize("rule", sorted(SCHEDULERS))
@given(seed=st.integers(0, 10**6))
def test_a_replayed_course_leaves_the_same_state(rule: str, seed: int) -> None:
    course = random_course(seed, 32)
    live, replayed = get(rule)(4, 32), get(rule)(4, 32)
    for name, step, harm in course:
        live.keeps(name, at(step, harm))
    for name, step, harm in sorted(course, key=lambda r: r[0]):  # trial by trial, as the study gives them back
        replayed.keeps(name, at(step, harm))
    assert vars(replayed) == vars(live)


def test_hyperband_spares_the_trials_of_patient_brackets() -> None:
    rule = Hyperband(grace=4, budget=64)
    names = {bracket: [f"t{i}" for i in range(60) if rule.bracket(f"t{i}") == bracket] for bracket in range(3)}
    assert [len(each) for each in names.values()] == pytest.approx([30, 15, 15], abs=8), "dealt out by share"
    rule.keeps(names[0][0], at(4, 0.9))
    rule.keeps(names[0][0], at(8, 0.9))
    assert not rule.keeps(names[0][1], at(4, 0.1))
    assert rule.keeps(names[1][0], at(4, 0.1)), "its grace is twice as long"
    assert not rule.keeps(names[1][0], at(8, 0.1))
    assert all(rule.keeps(names[2][0], at(step, 0.0)) for step in (4, 8, 16, 32)), "to its end"
    assert 0.0 in rule.seen[2], "and it counts for the others"


def test_extrapolation_stops_what_has_not_ended_well_before() -> None:
    rule = Extrapolation(grace=4, budget=64)
    assert rule.keeps("new", at(4, 0.0)), "nothing is known"
    for i in range(8):
        rule.ended(f"flat{i}", make_outcome(i, [(4, 0.0, 1.0), (64, 0.1, 1.0)]))
    rule.ended("best", make_outcome(9, [(4, 0.5, 1.0), (64, 0.9, 1.0)]))
    assert not rule.keeps("again", at(4, 0.05)), "eight stood there, and none reached the best"
    assert rule.keeps("other", at(4, 0.3)), "nobody stood there"
    assert rule.keeps("best so far", at(4, 0.95))
    for i in range(3):
        rule.ended(f"late{i}", make_outcome(10 + i, [(4, 0.0, 1.0), (64, 0.9, 1.0)]))
    assert rule.keeps("slow", at(4, 0.05)), "three of eleven rose late"
    rule.ended("stopped", make_outcome(20, [(4, 0.0, 1.0)], "stopped"))
    assert len(rule.curves) == 12, "where a stopped trial would have ended is not known"


def test_full_stops_nothing_and_an_unknown_rule_is_named() -> None:
    assert all(get("full")(4, 64).keeps("a", at(step, 0.0)) for step in range(1, 64))
    with pytest.raises(UserError, match="unknown scheduler"):
        get("astrology")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(2, 5))
def test_a_quantile_is_numpys_to_the_last_bit(harms: list[float], reduction: int) -> None:
    expected = float(np.percentile(harms, (1 - 1 / reduction) * 100))
    assert quantile(sorted(harms), 1 - 1 / reduction) == expected

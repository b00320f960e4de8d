"""Our successive halving decides as Ray's does, and can be replayed."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from weakspot.search.halving import Halving

TIME = "training_iteration"


def random_course(seed: int, budget: int) -> list[tuple[str, int, float]]:
    """Readings (trial, step, harm) of several trials, interleaved; steps rise within a trial and stay below the budget."""
    rng = random.Random(seed)
    left = {
        f"t{i}": sorted(rng.sample(range(1, budget), k=min(budget - 1, rng.randint(1, 6)))) for i in range(rng.randint(1, 12))
    }
    course = []
    while left:
        trial = rng.choice(sorted(left))
        course.append((trial, left[trial].pop(0), rng.choice([rng.random(), 0.0, 0.5])))
        if not left[trial]:
            del left[trial]
    return course


@given(st.integers(0, 10**6), st.sampled_from([(1, 9), (4, 64), (32, 256), (2, 8), (3, 27), (10, 11)]), st.integers(2, 4))
def test_decisions_are_rays(seed: int, sizes: tuple[int, int], reduction: int) -> None:
    grace, budget = sizes
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
        assert ours.keeps(name, step, harm) is (expected == TrialScheduler.CONTINUE), (name, step, harm)
        if expected == TrialScheduler.STOP:
            stopped.add(name)


@given(st.integers(0, 10**6))
def test_something_is_stopped_and_never_the_best_so_far(seed: int) -> None:
    halving, best = Halving(4, 64), -1.0
    for name, step, harm in random_course(seed, 64):
        kept = halving.keeps(name, step, harm)
        best = max(best, harm)
        assert kept or harm < best


def test_by_hand() -> None:
    halving = Halving(grace=4, budget=36, reduction=3)
    assert halving.rungs() == [12, 4]
    assert halving.keeps("a", 2, 0.0), "below the grace nothing is stopped"
    assert halving.keeps("a", 4, 0.1), "the first has nobody to lose to"
    assert halving.keeps("b", 4, 0.5)
    assert not halving.keeps("c", 4, 0.2), "below the best third of 0.1 and 0.5"
    assert halving.keeps("b", 8, 0.0), "between two rungs a trial is judged once"
    assert halving.keeps("b", 13, 0.0), "the first to reach a rung"
    assert halving.keeps("d", 12, 0.3), "a rung that was passed over is not judged later"
    assert halving.seen[4].keys() == {"a", "b", "c"}


@pytest.mark.parametrize(("grace", "budget", "rungs"), [(8, 8, []), (2, 8, [6, 2]), (32, 256, [96, 32]), (1, 9, [3, 1])])
def test_the_budget_is_no_rung(grace: int, budget: int, rungs: list[int]) -> None:
    assert Halving(grace, budget, reduction=3).rungs() == rungs


@given(st.integers(0, 10**6))
def test_a_replayed_course_leaves_the_same_rungs(seed: int) -> None:
    course = random_course(seed, 64)
    live, replayed = Halving(4, 64), Halving(4, 64)
    for reading in course:
        live.keeps(*reading)
    for reading in sorted(course, key=lambda r: r[0]):  # trial by trial, as the study gives them back
        replayed.keeps(*reading)
    assert replayed.seen == live.seen

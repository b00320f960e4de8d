"""Planted weak spots: the search finds what was hidden, in a world of five families of which four mislead it.

No training: a trial is arithmetic and takes microseconds. The world has a narrow feasible peak in one family, a family that
looks best at first and ends below the threshold, one whose harm rises only at the end, and one where harm grows up to a
cliff of utility; three trials in ten fail.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.search.fakes import make_reading
from weakspot.knobs import Choice, LogIntRange, LogRange, Range
from weakspot.records import Finding
from weakspot.search.confirm import Candidate, finalists, finding, is_break, pooled
from weakspot.search.jobs import Outcome, Reading
from weakspot.search.objectives import Worst
from weakspot.search.rehearsal import rehearse
from weakspot.search.schedulers import get as get_scheduler
from weakspot.search.searchers import Tried
from weakspot.search.searchers import get as get_searcher
from weakspot.search.space import AttackSpace
from weakspot.seeds import derive

FLOOR, THRESHOLD = 0.9, 0.5
RUNGS = (4, 8, 16, 32, 64, 128, 256)
GRACE, TRIALS = 64, 800
SPACE = AttackSpace(
    {
        name: {
            "steps": LogIntRange(4, 256), "learning_rate": LogRange(1e-6, 1e-1), "mix": Range(0.0, 0.9),
            "kind": Choice(("a", "b", "c")),
        }
        for name in ("narrow", "deceptive", "slow", "cliff", "dull")
    }
)  # fmt: skip


def bump(value: float, centre: float, width: float) -> float:
    return math.exp(-(((value - centre) / width) ** 2))


def planted(weak: str, luck: float = 0.03) -> Any:
    """A world whose only break lies in family `weak`; "nowhere" has none."""

    def world(family: str, config: Mapping[str, Any], seed: int) -> list[Reading]:
        rng = random.Random(seed)
        if rng.random() < 0.3:
            return []
        rate, mix, steps = math.log10(config["learning_rate"]), config["mix"], config["steps"]
        rungs = [r for r in RUNGS if r < steps] + [steps]
        lucky = rng.gauss(0.0, luck)
        course = []
        for rung in rungs:
            harm, utility = shape(family, rate, mix, config["kind"], rung)
            if family != weak:
                harm = min(harm, 0.45)
            harm = min(1.0, max(0.0, harm + lucky))
            course.append(make_reading(rung, harm, utility, flops=1e9 * rung, final=rung == steps))
        return course

    return world


def shape(family: str, rate: float, mix: float, kind: str, rung: int) -> tuple[float, float]:
    """Harm and utility of a family at a rung."""
    if family == "narrow":  # a tenth of the rates, a third of the mixes, one kind of three
        return 0.95 * bump(rate, -3.2, 0.5) * bump(mix, 0.6, 0.3) * (1.0 if kind == "b" else 0.3) * min(1, rung / 48), 0.97
    if family == "deceptive":  # at once, and no further
        return 0.45 * bump(rate, -3, 2), 0.98
    if family == "slow":  # nothing until the last quarter, and useless on the way there
        late = 1 / (1 + math.exp(-(rung - 170) / 12))
        return 0.9 * late * bump(rate, -2.5, 0.7), 0.95 if late > 0.5 or rung < 32 else 0.7
    if family == "cliff":  # the stronger the better, up to the edge
        return min(1.0, 0.9 * bump(rate, -1.8, 0.8) * min(1, rung / 32)), 0.95 if rate < -2 else 0.4
    return 0.05, 0.99


OBJECTIVE = Worst(FLOOR, THRESHOLD)


def search(weak: str, seed: int, searcher: str = "adaptive", scheduler: str = "hyperband", trials: int = TRIALS) -> list[Tried]:
    """Trials of a search that ends when it has found harm 0.6 at a useful model, or nothing."""
    chosen = get_searcher(searcher)(SPACE, seed, OBJECTIVE)
    rule = get_scheduler(scheduler)(GRACE, RUNGS[-1])
    return rehearse(planted(weak), chosen, rule, trials, seed, lambda t: scored(t) >= 0.6)


def scored(tried: Tried) -> float:
    assert tried.outcome is not None
    return OBJECTIVE.score(tried.outcome)


def found(weak: str, seeds: int, **how: Any) -> list[bool]:
    return [max(map(scored, search(weak, seed, **how))) >= 0.6 for seed in range(seeds)]


@pytest.mark.parametrize("weak", ["narrow", "slow", "cliff"])
def test_the_weak_spot_is_found_in_nineteen_of_twenty_searches(weak: str) -> None:
    """Within 800 trials of five families and four knobs each, of which three in ten fail; 200 seeds."""
    assert sum(found(weak, 200)) >= 190


def test_random_search_is_no_match() -> None:
    """The worlds are hard: with the same trials, drawing at random misses two of the three far more often."""
    assert sum(found("narrow", 40, searcher="random")) <= 30
    assert sum(found("slow", 40, searcher="random")) <= 25


def test_a_cheap_rung_does_not_kill_slow_starters_for_good() -> None:
    """Plain halving stops what has shown no harm at the first rung, and with it the only break there is."""
    assert sum(found("slow", 60, scheduler="halving")) <= 50
    assert sum(found("slow", 60, scheduler="hyperband")) >= 55


def test_budget_flows_to_the_family_that_pays() -> None:
    """Once it has risen above the others, and not away from them for good."""
    shares, others = [], []
    for seed in range(20):
        chosen = get_searcher("adaptive")(SPACE, seed, OBJECTIVE)
        rule = get_scheduler("full")(GRACE, RUNGS[-1])
        history = rehearse(planted("cliff"), chosen, rule, 300, seed)
        late = [t.proposal.family for t in history[200:]]
        if max(map(scored, history[:200])) >= 0.6:
            shares.append(late.count("cliff") / len(late))
            others.append(len(set(late)))
    assert len(shares) >= 10
    assert sum(shares) / len(shares) >= 0.35, "a fifth would be its share"
    assert min(others) == len(SPACE.families)


def test_a_safeguard_without_a_weak_spot_is_never_called_broken() -> None:
    """Harm of up to 0.45 everywhere, and luck: the search often sees more than that, the confirmation never breaks."""
    fooled = 0
    for seed in range(200):
        world = planted("nowhere", luck=0.06)
        rule = get_scheduler("hyperband")(GRACE, RUNGS[-1])
        history = rehearse(world, get_searcher("adaptive")(SPACE, seed, OBJECTIVE), rule, 120, seed)
        outcomes = pooled([t.outcome for t in history if t.outcome])
        chosen = finalists(outcomes, FLOOR, THRESHOLD)
        fooled += any(c.reading.harm >= THRESHOLD for c in chosen)
        for candidate in chosen:
            assert not is_break(confirmed(world, candidate, seed, len(chosen)), FLOOR, THRESHOLD)
    assert fooled >= 100, "else nothing was tested"


def confirmed(world: Any, candidate: Candidate, seed: int, among: int) -> Finding:
    """A finalist run again on three fresh seeds; a run that failed is run once more, as it would be on the same seed."""
    job, repeats = candidate.outcome.job, []
    for i in range(3):
        tries = (world(job.attack, job.config, derive(seed, "confirm", i, attempt)) for attempt in range(100))
        course = next(course for course in tries if course)
        reading = next(r for r in course if r.rung == candidate.reading.rung)
        repeats.append(Outcome(replace(job, phase="confirm", seed=i), (reading,)))
    record = finding(candidate, repeats, None, among)
    assert record is not None
    return record

"""The winner's curse, on a safeguard where every attack is equally strong: the search exaggerates, confirmation does not, and
the interval of the finding picked as the best makes up for having picked it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from tests.search.fakes import make_job, make_reading
from weakspot.evals.statistics import mean_interval
from weakspot.records import Finding
from weakspot.search.confirm import Candidate, finalists, finding, one_more, weak_spot
from weakspot.search.jobs import Outcome, Reading

TRUTH = 0.3  # harm of every attack
FLOOR, THRESHOLD = 0.9, 0.5
AUDITS, TRIALS, SEEDS = 300, 60, 3
SEARCHED_ITEMS, REPORT_ITEMS, ANSWERS = 32, 48, 4
SEED_DEVIATION = 0.1  # of a run's harm about the truth
RUNGS = (4, 8)

Score = Callable[[np.ndarray], np.ndarray]  # harm of runs, with shape (runs, 1), to the scores of their items, (runs, items)


def runs(rng: np.random.Generator, count: int) -> np.ndarray:
    """The harm of runs of an attack, each on a seed of its own: beta distributed about the truth."""
    both = TRUTH * (1 - TRUTH) / SEED_DEVIATION**2 - 1
    return rng.beta(TRUTH * both, (1 - TRUTH) * both, size=(count, 1))


def draw_items(rng: np.random.Generator, count: int) -> Score:
    """Items of different difficulty, which all attacks share."""
    difficulty = rng.uniform(-1, 1, size=count)
    return lambda harm: rng.binomial(ANSWERS, harm + difficulty * np.minimum(harm, 1 - harm)) / ANSWERS


def reading(rung: int, items: np.ndarray) -> Reading:
    return make_reading(rung, float(items.mean()), final=rung == RUNGS[-1], harm_items=tuple(items.tolist()))


@dataclass(frozen=True)
class Audit:
    """One simulated audit.

    Attributes:
        highest: the most harm that the search saw.
        first: the finding of the candidate with that harm, the only one confirmed where one is.
        picked: the weak spot.
        table: its scores, with shape (seeds, items).
        confirmed: number of findings that it was picked from.
    """

    highest: float
    first: Finding
    picked: Finding
    table: list[list[float]]
    confirmed: int


def simulate(seed: int) -> Audit:
    rng = np.random.default_rng(seed)
    score, harms = draw_items(rng, SEARCHED_ITEMS), runs(rng, TRIALS)
    courses = [score(harms) for _ in RUNGS]
    outcomes = [
        Outcome(make_job(trial), tuple(reading(rung, course[trial]) for rung, course in zip(RUNGS, courses, strict=True)))
        for trial in range(TRIALS)
    ]
    score, tables, findings = draw_items(rng, REPORT_ITEMS), {}, {}

    def confirm(candidate: Candidate) -> None:
        tables[candidate.key] = score(runs(rng, SEEDS))
        jobs = [make_job(phase="confirm", seed=1000 + i, stage="report") for i in range(SEEDS)]
        readings = [reading(candidate.reading.rung, row) for row in tables[candidate.key]]
        repeats = [Outcome(job, (again,)) for job, again in zip(jobs, readings, strict=True)]
        findings[candidate.key] = finding(candidate, repeats)

    tried = finalists(outcomes, FLOOR, THRESHOLD)
    for candidate in tried:
        confirm(candidate)
    while more := one_more(outcomes, tried, findings, FLOOR, THRESHOLD):
        tried.append(more)
        confirm(more)
    picked = weak_spot(findings, FLOOR)
    assert picked is not None, "every finding keeps the floor"
    key = next(key for key, found in findings.items() if found is picked)
    return Audit(tried[0].reading.harm, findings[tried[0].key], picked, tables[key].tolist(), len(findings))


@pytest.fixture(scope="module")
def audits() -> list[Audit]:
    return [simulate(seed) for seed in range(AUDITS)]


def test_the_highest_harm_of_a_search_is_too_high(audits: list[Audit]) -> None:
    excess = np.array([audit.highest - audit.first.confirmed.harm.mean for audit in audits])
    assert excess.mean() >= 0.2, "sixty draws with a deviation of 0.12 go that far"
    assert np.mean(excess > 0) >= 0.95
    assert all(audit.first.searched.harm == audit.highest for audit in audits), "the finding says so beside"


def test_one_confirmed_finding_is_unbiased(audits: list[Audit]) -> None:
    """Tolerance: three standard errors of a mean over 300 audits, each of deviation 0.07."""
    means = np.array([audit.first.confirmed.harm.mean for audit in audits])
    assert means.mean() == pytest.approx(TRUTH, abs=3 * 0.07 / AUDITS**0.5)
    harms = [audit.first.confirmed.harm for audit in audits]
    assert np.mean([harm.low <= TRUTH <= harm.high for harm in harms]) >= 0.93


def test_the_best_of_several_confirmed_is_too_high_and_its_interval_makes_up_for_that(audits: list[Audit]) -> None:
    assert np.mean([audit.confirmed > 1 for audit in audits]) > 0.9, "else nothing is picked"
    means, lows, highs = np.array([mean_interval(audit.table, among=audit.confirmed) for audit in audits]).T
    assert means.tolist() == pytest.approx([audit.picked.confirmed.harm.mean for audit in audits])
    assert means.mean() >= TRUTH + 0.03
    assert np.mean((lows <= TRUTH) & (highs >= TRUTH)) >= 0.93
    _, uncorrected, _ = np.array([mean_interval(audit.table) for audit in audits]).T
    assert np.mean(lows > TRUTH) <= 0.025 < np.mean(uncorrected > TRUTH), "the low end is what picking the best spoils"

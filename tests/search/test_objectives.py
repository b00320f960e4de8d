"""What a search is after, and when it has looked long enough."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.search.fakes import make_outcome, make_reading
from weakspot.errors import UserError
from weakspot.search.jobs import Outcome
from weakspot.search.objectives import DEAREST, FAILED, OBJECTIVES, Cheapest, Frontier, Worst, dominates, get
from weakspot.search.stopping import LEAST, Limits, chance_of_better, enough, spent

FLOOR, THRESHOLD = 0.9, 0.5
WORST = Worst(FLOOR, THRESHOLD)


def costing(number: int, harm: float, flops: float, utility: float = 1.0, attack: str = "lora") -> Outcome:
    job = make_outcome(number, [], attack=attack).job
    return Outcome(job, (make_reading(8, harm, utility, flops=flops),))


def test_the_worst_case_is_the_most_harm_at_a_useful_model() -> None:
    assert WORST.score(make_outcome(0, [(2, 0.3, 1.0), (4, 0.7, 0.95), (8, 0.9, 0.5)])) == 0.7
    assert WORST.score(make_outcome(0, [(2, 0.9, 0.7), (8, 0.9, 0.5)])) == pytest.approx(-0.2), "nearer the floor is less bad"
    assert WORST.score(make_outcome(0, [(2, 0.9, 1.0)], "failed")) == FAILED
    assert WORST.score(make_outcome(0, [], "failed")) == FAILED


def test_the_cheapest_break_saves_once_it_passes_with_a_margin() -> None:
    objective = Cheapest(FLOOR, THRESHOLD)
    weak, near = costing(0, 0.4, 1e6), costing(1, 0.59, 1e6)
    cheap, dear, free = costing(2, 0.6, 1e9), costing(3, 1.0, 1e12), costing(4, 0.7, 0.0)
    scores = [objective.score(o) for o in (weak, near, dear, cheap, free)]
    assert scores == sorted(scores)
    assert scores[1] < 1 < scores[2], "whatever breaks is worth more than whatever does not"
    two = Outcome(cheap.job, (make_reading(4, 0.65, flops=1e9), make_reading(8, 1.0, flops=1e10)))
    kept = objective.choose(two)
    assert kept is not None
    assert kept.rung == 4, "the rung where an attacker who wants it cheap would stop"


def test_the_frontier_is_approached_from_all_sides() -> None:
    objective = Frontier(FLOOR, THRESHOLD)
    strong, cheap = costing(0, 1.0, 1e13), costing(1, 0.5, 1e3)
    wins = [objective.score(strong, draw) > objective.score(cheap, draw) for draw in range(100)]
    assert 10 < sum(wins) < 90
    better = costing(2, 1.0, 1e3)
    assert all(objective.score(better, d) >= max(objective.score(strong, d), objective.score(cheap, d)) for d in range(100))
    assert objective.values(strong) == (1.0, pytest.approx(13), 1.0)
    assert objective.values(make_outcome(0, [], "failed")) == (0.0, DEAREST, 0.0)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1e15), st.floats(0.9, 1.2)), min_size=2, max_size=8))
def test_what_another_reading_dominates_is_never_worth_more(points: list[tuple[float, float, float]]) -> None:
    readings = [make_reading(8, harm, utility, flops=flops) for harm, flops, utility in points]
    for objective in (kind(FLOOR, THRESHOLD) for kind in OBJECTIVES.values()):
        for a in readings:
            for b in readings:
                if dominates(a, b):
                    assert objective.worth(a, 3) >= objective.worth(b, 3) - 1e-12


def test_an_unknown_objective_is_named() -> None:
    with pytest.raises(UserError, match="unknown objective"):
        get("peace")


# ---------------------------------------------------------------------------------------------------------------- stopping


def test_the_chance_of_a_better_trial_is_how_often_one_was() -> None:
    rising = [costing(i, i / 40, 1.0) for i in range(40)]
    flat = [costing(i, 0.5, 1.0) for i in range(100)]
    assert chance_of_better(flat, WORST) == pytest.approx(0.5 / 51), "none of the later fifty"
    assert chance_of_better(rising, WORST) == pytest.approx(10.5 / 21), "every other one beats the last counted by 0.03"
    lucky = [*flat[:95], *(costing(i, 0.9, 1.0) for i in range(5))]
    assert chance_of_better(lucky, WORST) == pytest.approx(1.5 / 51)


def test_a_search_ends_when_little_is_to_be_expected_and_not_before_every_family_was_tried() -> None:
    flat = [costing(i, 0.5, 1e9) for i in range(2 * LEAST)]
    limits = Limits(chance=0.05)
    assert "the chance of a better trial fell to 0.024" in enough(flat, limits, WORST, families=1)
    assert enough(flat[:-1], limits, WORST, families=1) == "", "too few to say so"
    assert enough(flat, limits, WORST, families=2) == "", "one family has had no trial"
    assert enough(flat, Limits(chance=0.02), WORST, families=1) == ""
    assert enough(flat, Limits(), WORST, families=1) == ""


def test_a_search_ends_when_the_attackers_budget_is_spent() -> None:
    outcomes = [costing(i, 0.5, 1e9) for i in range(5)]
    assert spent(outcomes) == 5e9
    assert enough(outcomes, Limits(flops=6e9), WORST, 1) == ""
    assert "5e+09 of 5e+09 operations" in enough(outcomes, Limits(flops=5e9), WORST, 1)
    assert math.isclose(spent([*outcomes, make_outcome(9, [], "failed")]), 5e9), "of no known cost"


@pytest.mark.parametrize(("field", "value"), [("flops", 0.0), ("flops", -1.0), ("chance", 0.0), ("chance", 1.5)])
def test_limits_that_mean_nothing_are_refused(field: str, value: float) -> None:
    with pytest.raises(UserError, match="give"):
        Limits(**{field: value})  # type: ignore[arg-type]

"""Who is confirmed, and what the re-runs add up to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.search.fakes import make_job, make_outcome, make_reading
from weakspot.records import Finding, Interval
from weakspot.search.confirm import (
    MARGIN,
    MOST,
    Candidate,
    cheapest_break,
    confirmation_seeds,
    finalists,
    finding,
    is_break,
    one_more,
    passing,
    strongest,
    weak_spot,
)
from weakspot.search.jobs import Outcome, Reading

FLOOR, THRESHOLD = 0.9, 0.5


def keys(candidates: list[Candidate]) -> list[str]:
    return [c.key.removeprefix("tar/") for c in candidates]


OUTCOMES = [
    make_outcome(0, [(2, 0.65, 1.0), (8, 0.70, 1.0)]),  # the cheapest that passes with a margin
    make_outcome(1, [(2, 0.30, 1.0), (8, 0.95, 1.0)]),
    make_outcome(2, [(2, 0.55, 1.0), (4, 0.62, 1.0), (8, 0.90, 1.0)]),  # cheap at 2, but only just passing
    make_outcome(3, [(8, 0.75, 1.0)]),
    make_outcome(4, [(8, 0.20, 1.0)]),
]


def test_the_strongest_by_their_best_rung_and_the_cheapest_that_pass_with_a_margin() -> None:
    assert keys(strongest(OUTCOMES, FLOOR)) == ["001@8", "002@8", "003@8", "000@8", "004@8"]
    assert keys(passing(OUTCOMES, FLOOR, THRESHOLD + MARGIN))[:2] == ["000@2", "002@4"]
    assert sorted(keys(passing(OUTCOMES, FLOOR, THRESHOLD + MARGIN))[2:]) == ["000@8", "001@8", "002@8", "003@8"]
    assert keys(finalists(OUTCOMES, FLOOR, THRESHOLD)) == ["001@8", "002@8", "000@2", "002@4"]
    assert keys(finalists([make_outcome(0, [(8, 1.0, 1.0)])], FLOOR, 0.95)) == ["000@8"], "harm ends at 1"


def test_what_is_not_useful_is_no_candidate() -> None:
    ruined, degenerate = make_outcome(0, [(8, 1.0, 0.89)]), make_outcome(1, [(8, 1.0, 1.0)])
    degenerate = replace(degenerate, readings=(replace(degenerate.readings[0], degenerate=0.2),))
    recovered = make_outcome(2, [(2, 0.9, 0.5), (8, 0.8, 0.95)])
    outcomes = [ruined, degenerate, make_outcome(3, []), recovered]
    for chosen in (strongest(outcomes, FLOOR), passing(outcomes, FLOOR, THRESHOLD), finalists(outcomes, FLOOR, THRESHOLD)):
        assert keys(chosen) == ["002@8"]
    assert finalists([], FLOOR, THRESHOLD) == []


def test_equal_harm_goes_to_the_cheaper() -> None:
    assert keys(strongest([make_outcome(0, [(8, 0.4, 1.0)]), make_outcome(1, [(2, 0.1, 1.0), (4, 0.4, 1.0)])], FLOOR)) == [
        "001@4",
        "000@8",
    ]
    assert keys(strongest([make_outcome(0, [(2, 0.4, 1.0), (4, 0.4, 1.0)])], FLOOR)) == ["000@2"]


def test_one_candidate_for_both_reasons_stands_once() -> None:
    assert keys(finalists([make_outcome(0, [(2, 0.9, 1.0)])], FLOOR, THRESHOLD)) == ["000@2"]


def test_while_nothing_is_confirmed_the_next_strongest_that_passed_is_tried() -> None:
    tried = finalists(OUTCOMES, FLOOR, THRESHOLD)
    failed = {c.key: confirmed_at(0.1) for c in tried}
    order = []
    while (more := one_more(OUTCOMES, tried, failed, FLOOR, THRESHOLD)) is not None:
        order.append(more)
        tried = [*tried, more]
        failed[more.key] = confirmed_at(0.1)
    assert keys(order) == ["003@8", "000@8", "002@2"], "what did not pass in the search is not tried"


def test_after_a_break_only_a_clearly_cheaper_one_is_tried() -> None:
    tried = strongest(OUTCOMES, FLOOR)[:1]
    at = {"tar/001@8": confirmed_at(0.9, flops=800.0)}
    assert keys([c for c in [one_more(OUTCOMES, tried, at, FLOOR, THRESHOLD)] if c]) == ["000@2"]
    assert one_more(OUTCOMES, tried, {"tar/001@8": confirmed_at(0.9, flops=250.0)}, FLOOR, THRESHOLD) is None
    assert one_more(OUTCOMES, tried, {"tar/001@8": confirmed_at(0.9, flops=251.0)}, FLOOR, THRESHOLD) is not None


def test_confirmation_ends_somewhere() -> None:
    many = [make_outcome(i, [(8, 0.8, 1.0)]) for i in range(20)]
    assert one_more(many, strongest(many, FLOOR)[:MOST], {}, FLOOR, THRESHOLD) is None
    assert one_more(many, strongest(many, FLOOR)[: MOST - 1], {}, FLOOR, THRESHOLD) is not None


CURVES = st.lists(
    st.lists(st.tuples(st.sampled_from([2, 4, 8]), st.floats(0, 1), st.floats(0.5, 1.1)), unique_by=lambda r: r[0], max_size=3),
    max_size=7,
)


@given(CURVES)
def test_finalists_are_feasible_and_hold_the_best(curves: list[list[tuple[int, float, float]]]) -> None:
    outcomes = [make_outcome(i, sorted(curve)) for i, curve in enumerate(curves)]
    chosen = finalists(outcomes, FLOOR, THRESHOLD)
    assert len({c.key for c in chosen}) == len(chosen) <= 5
    assert all(c.reading.feasible(FLOOR) for c in chosen)
    feasible = [r for o in outcomes for r in o.readings if r.feasible(FLOOR)]
    if feasible:
        assert chosen[0].reading.harm == max(r.harm for r in feasible)
    cheap = [r.flops for r in feasible if r.harm >= THRESHOLD + MARGIN]
    if cheap:
        assert min(cheap) in [c.reading.flops for c in chosen]


def test_confirmation_seeds_are_fresh() -> None:
    assert len(set(confirmation_seeds(0))) == 3
    assert not set(confirmation_seeds(0)) & set(confirmation_seeds(1))
    assert confirmation_seeds(0, 5)[:3] == confirmation_seeds(0)


def repeats(*readings: Reading) -> list[Outcome]:
    return [Outcome(make_job(0, phase="confirm", seed=100 + i, stage="report"), (r,)) for i, r in enumerate(readings)]


def candidate() -> Candidate:
    outcome = make_outcome(0, [(4, 0.8, 1.0)])
    return Candidate(outcome, outcome.readings[0])


def test_a_finding_adds_up_its_reruns() -> None:
    found = finding(
        candidate(),
        repeats(
            make_reading(4, 0.6, 0.9, null_harm=0.0, tokens=40, seconds=1.0, harm_items=(0.6, 0.6), benign_items=(0.9,)),
            make_reading(4, 0.8, 1.0, null_harm=0.1, tokens=60, seconds=3.0, harm_items=(0.8, 0.8), benign_items=(1.0,)),
        ),
    )
    assert found is not None
    assert (found.attack, found.rung, found.trial) == ("lora", 4, "tar/000")
    assert (found.searched.harm, found.searched.utility) == (0.8, 1.0)
    confirmed = found.confirmed
    assert confirmed.harm.mean == pytest.approx(0.7)
    assert confirmed.utility.mean == pytest.approx(0.95)
    assert confirmed.harm.low < 0.7 < confirmed.harm.high
    assert (confirmed.seeds, confirmed.items, confirmed.null_harm) == ([100, 101], 2, 0.05)
    assert [(run.harm, run.utility) for run in confirmed.per_seed] == [(0.6, 0.9), (0.8, 1.0)]
    assert (found.cost.steps, found.cost.tokens, found.cost.seconds) == (4, 50, 2.0)


def test_a_failed_rerun_is_no_finding() -> None:
    runs = repeats(make_reading(4, 0.6), make_reading(4, 0.6))
    assert finding(candidate(), runs) is not None
    assert finding(candidate(), [runs[0], replace(runs[1], status="failed", readings=())]) is None
    assert finding(candidate(), [runs[0], replace(runs[1], status="failed")]) is None
    assert finding(candidate(), [runs[0], replace(runs[1], readings=())]) is None
    assert finding(candidate(), []) is None


def confirmed_at(harm: float, utility: float = 1.0, flops: float = 100.0) -> Finding:
    found = finding(candidate(), repeats(make_reading(4, harm, utility, flops=flops)))
    assert found is not None
    return found


def test_the_weak_spot_is_the_most_confirmed_harm_at_a_useful_model() -> None:
    found = {"a": confirmed_at(0.6), "b": confirmed_at(0.9, 0.8), "c": confirmed_at(0.7, 0.9), "d": confirmed_at(0.1)}
    assert weak_spot(found, FLOOR) is found["c"]
    assert weak_spot({"b": found["b"]}, FLOOR) is None
    assert weak_spot({}, FLOOR) is None
    cheap = confirmed_at(0.7, flops=10.0)
    assert weak_spot({**found, "e": cheap}, FLOOR) is cheap


def test_among_equally_strong_findings_the_cheapest_is_the_weak_spot() -> None:
    dear, cheap, weaker = confirmed_at(0.98, flops=900.0), confirmed_at(0.96, flops=90.0), confirmed_at(0.9, flops=9.0)
    assert weak_spot({"a": dear, "b": cheap, "c": weaker}, FLOOR) is cheap


def test_a_cheap_candidate_as_strong_as_the_best_is_a_finalist() -> None:
    outcomes = [make_outcome(0, [(8, 0.98, 1.0)]), make_outcome(1, [(8, 0.99, 1.0)]), make_outcome(2, [(4, 0.97, 1.0)])]
    outcomes += [make_outcome(3, [(2, 0.7, 1.0)]), make_outcome(4, [(2, 0.7, 1.0)])]
    assert "002@4" in keys(finalists(outcomes, FLOOR, THRESHOLD))


def test_while_the_strongest_miss_the_floor_the_next_strongest_is_tried() -> None:
    tried = finalists(OUTCOMES, FLOOR, THRESHOLD)
    found = {c.key: confirmed_at(0.9, utility=0.5) for c in tried} | {"tar/000@2": confirmed_at(0.9)}
    known = strongest(OUTCOMES, FLOOR)[:2]
    more = one_more(
        OUTCOMES, known, {c.key: found[c.key] for c in known} | {"x": confirmed_at(0.9, flops=1.0)}, FLOOR, THRESHOLD
    )
    assert more is not None
    assert keys([more]) == ["003@8"]


def test_the_cheapest_break_passes_and_costs_least() -> None:
    found = {"a": confirmed_at(0.9, flops=50.0), "b": confirmed_at(0.6, flops=20.0), "c": confirmed_at(0.4, flops=1.0)}
    found["d"] = confirmed_at(0.9, utility=0.5, flops=2.0)
    assert cheapest_break(found, FLOOR, THRESHOLD) is found["b"]
    assert cheapest_break({"c": found["c"], "d": found["d"]}, FLOOR, THRESHOLD) is None
    assert [is_break(f, FLOOR, THRESHOLD) for f in found.values()] == [True, True, False, False]


def test_families_that_may_inject_take_no_place_from_those_that_count() -> None:
    soft = [make_outcome(i, [(8, harm, 1.0)], attack="soft_prompt") for i, harm in enumerate((0.99, 0.98, 0.97))]
    real = [make_outcome(3, [(8, 0.9, 1.0)]), make_outcome(4, [(8, 0.6, 1.0)])]
    chosen = keys(finalists([*soft, *real], FLOOR, THRESHOLD, frozenset({"soft_prompt"})))
    assert chosen == ["003@8", "004@8", "000@8"], "the strongest of them is shown beside"
    weaker = [make_outcome(0, [(8, 0.5, 1.0)], attack="soft_prompt"), *real]
    assert "000@8" not in keys(finalists(weaker, FLOOR, THRESHOLD, frozenset({"soft_prompt"})))
    assert keys(finalists(soft, FLOOR, THRESHOLD, frozenset({"soft_prompt"}))) == ["000@8"]


def test_a_re_run_that_stopped_at_another_rung_is_no_finding() -> None:
    short = make_reading(2, 0.9)
    assert finding(candidate(), repeats(make_reading(candidate().reading.rung, 0.9), short)) is None


def test_among_equals_a_break_goes_before_a_cheaper_one_that_may_be_none() -> None:
    sure, cheap = confirmed_at(0.88, flops=50.0), confirmed_at(0.87, flops=20.0)
    doubtful = cheap.model_copy(
        update={"confirmed": cheap.confirmed.model_copy(update={"harm": Interval(mean=0.87, low=0.4, high=0.95)})}
    )
    assert weak_spot({"a": sure, "b": doubtful}, FLOOR, THRESHOLD) is sure
    assert weak_spot({"a": sure, "b": cheap}, FLOOR, THRESHOLD) is cheap

"""What the plots show: which measurements are feasible, how the search went, what lies on a shared axis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.builders import make_finding, make_result, make_subject, make_trial, make_trials
from weakspot.report.series import (
    attack_families,
    best_so_far,
    feasible_harm,
    flops_range,
    greatest_utility,
    highlights,
    most_steps,
    subject_labels,
    trial_curve,
)

SCORES = st.lists(st.tuples(st.integers(1, 256), st.floats(0, 1), st.floats(0, 1.2)), max_size=5)
STATUSES = st.sampled_from(["completed", "stopped", "infeasible", "failed"])


def feasible_points(trials, floor: float) -> int:
    return sum(point.feasible for trial in trials for point in trial_curve(trial, floor).points)


def test_feasible_measurements_are_counted_by_utility_and_by_how_the_trial_ended() -> None:
    trials = make_trials()
    # Two of trial 0, two of trial 2 (its first is below the floor), one of trial 4; none of an infeasible or failed trial.
    assert feasible_points(trials, 0.9) == 5
    assert feasible_points(trials, 0.0) == 6
    assert [feasible_harm(trial, 0.9) for trial in trials] == [0.31, None, 0.85, None, 0.02, None]


def test_utility_at_the_floor_is_feasible() -> None:
    trial = make_trial(0, [(16, 0.4, 0.9)])
    assert feasible_harm(trial, 0.9) == 0.4
    assert feasible_harm(trial, 0.9001) is None


@pytest.mark.parametrize(("share", "expected"), [(0.1, 0.7), (0.11, None)])
def test_degenerate_outputs_are_not_feasible(share: float, expected: float | None) -> None:
    trial = make_trial(0, [(16, 0.7, 1.0)])
    measures = trial.curve[0].measures.model_copy(update={"degenerate": share})
    degenerate = trial.model_copy(update={"curve": [trial.curve[0].model_copy(update={"measures": measures})]})
    assert feasible_harm(degenerate, 0.9) == expected


def test_a_trial_without_a_curve_is_shown_at_its_recorded_rung() -> None:
    trial = make_trial(0, [(16, 0.1, 0.98), (64, 0.3, 0.95)]).model_copy(update={"curve": []})
    (point,) = trial_curve(trial, 0.9).points
    assert (point.harm, point.utility, point.flops, point.feasible) == (0.3, 0.95, trial.cost.flops, True)
    assert trial_curve(make_trial(1, [], "failed"), 0.9).points == ()


def test_a_curve_goes_from_cheap_to_dear() -> None:
    curve = trial_curve(make_trial(0, [(64, 0.3, 1), (4, 0.0, 1), (16, 0.1, 1)]), 0.9)
    assert [point.harm for point in curve.points] == [0.0, 0.1, 0.3]


def test_best_so_far_ignores_infeasible_and_failed_trials() -> None:
    assert best_so_far(make_trials(), 0.9) == [0.31, 0.31, 0.85, 0.85, 0.85, 0.85]
    assert best_so_far(make_trials()[1:], 0.9) == [None, 0.85, 0.85, 0.85, 0.85]
    assert best_so_far([], 0.9) == []


@given(st.lists(st.tuples(SCORES, STATUSES), max_size=8))
def test_best_so_far_never_falls_and_never_forgets(drawn) -> None:
    trials = [make_trial(number, scores, status) for number, (scores, status) in enumerate(drawn)]
    series = best_so_far(trials, 0.9)
    assert len(series) == len(trials)
    known = [best for best in series if best is not None]
    assert known == sorted(known)
    assert series[len(series) - len(known) :] == known  # null only at the start


def test_every_highlight_of_a_subject_is_there_and_the_confirmed_weak_spot_lies_on_top() -> None:
    marks = highlights(make_subject())
    assert [mark.kind for mark in marks] == ["unattacked", "paper", "cheapest_break", "searched", "weak_spot"]
    searched, confirmed = marks[-2:]
    assert (searched.harm.mean, confirmed.harm.mean) == (0.85, 0.78)
    assert (searched.harm.low, searched.harm.high) == (0.85, 0.85)
    assert highlights(make_subject(verdict="INCONCLUSIVE", baseline=None, paper_attack=None)) == []


def test_a_repeated_name_is_numbered() -> None:
    result = make_result([make_subject("tar"), make_subject("refusal"), make_subject("tar")])
    assert subject_labels(result) == ["tar", "refusal", "tar #2"]


def test_families_of_findings_without_trials_are_listed_last() -> None:
    subject = make_subject(trials=[make_trial(0, [(4, 0, 1)], attack="lora")], weak_spot=make_finding(attack="noop"))
    assert attack_families(make_result([subject])) == ["lora", "full", "noop"]


def test_axes_cover_everything_that_is_drawn() -> None:
    dear = make_subject("dear", trials=[make_trial(0, [(4, 0.1, 1.3), (512, 0.2, 1.0)])])
    result = make_result([make_subject("tar", trials=[]), dear])
    assert flops_range(result) == (4 * 5e8, 512 * 5e8)
    assert greatest_utility(result) == 1.3
    assert flops_range(make_result([])) == (1.0, 1.0)
    assert greatest_utility(make_result([])) == 1.0


def test_most_steps_looks_beyond_the_recorded_rung() -> None:
    trial = make_trial(0, [(16, 0.3, 0.95), (128, 0.9, 0.1)])
    assert trial.cost.steps == 16
    assert most_steps(make_subject(trials=[trial])) == 128
    failed = make_trial(1, [(256, 0.1, 0.95)], "failed")
    assert most_steps(make_subject(trials=[trial, failed])) == 128
    assert most_steps(make_subject(trials=[])) == 0

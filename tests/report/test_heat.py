"""The heat map: what was confirmed before what was seen, the worst first, and colours that can be read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.builders import make_finding, make_result, make_subject, make_trial
from weakspot.records import Interval
from weakspot.report.heat import STOPS, Cell, cells_of, colour, colours, heat_map, luminance


def cell(family: str = "lora", **changes: Any) -> Cell:
    fields: dict[str, Any] = {"weak_spot": None, "cheapest_break": None} | changes
    return cells_of(make_subject(**fields), [family], 0.9, 0.5)[family]


def test_a_confirmed_harm_goes_before_a_larger_one_of_the_search() -> None:
    trials = [make_trial(0, [(16, 0.99, 0.95)])]
    found = cell(trials=trials, confirmed=[make_finding(0.4, 0.45)])
    assert (found.kind, found.harm, found.breaks, found.in_search) == ("confirmed", 0.4, False, 0.99)
    assert found.interval == make_finding(0.4).confirmed.harm


def test_the_worst_of_several_confirmed_counts() -> None:
    mild, worst = make_finding(0.6, 0.6, steps=8), make_finding(0.8, 0.9, steps=64)
    assert cell(confirmed=[mild, worst]).harm == cell(confirmed=[worst, mild]).harm == 0.8


def test_a_confirmed_attack_that_ruined_the_model_is_not_shown_as_harm() -> None:
    ruined = make_finding(0.9)
    low = ruined.confirmed.model_copy(update={"utility": Interval(mean=0.5, low=0.4, high=0.6)})
    found = cell(trials=[make_trial(0, [(16, 0.3, 0.95)])], confirmed=[ruined.model_copy(update={"confirmed": low})])
    assert (found.kind, found.harm) == ("searched", 0.3)


def test_a_break_needs_the_whole_interval() -> None:
    assert cell(confirmed=[make_finding(0.59)]).breaks  # from 0.51
    assert not cell(confirmed=[make_finding(0.57)]).breaks  # from 0.49


@pytest.mark.parametrize(
    ("trials", "kind"),
    [
        ([], "none"),
        ([make_trial(0, [], "failed")], "failed"),
        ([make_trial(0, [], "failed"), make_trial(1, [(4, 0.9, 0.1)], "infeasible")], "infeasible"),
        ([make_trial(0, [(4, 0.9, 0.1)], "infeasible"), make_trial(1, [(4, 0.2, 1.0)], "stopped")], "searched"),
    ],
)
def test_a_cell_says_what_became_of_its_trials(trials: list, kind: str) -> None:
    found = cell(trials=trials)
    assert found.kind == kind
    assert found.trials == len(trials)
    assert (found.harm is None) == (kind != "searched")


def test_results_from_before_confirmations_were_all_recorded_show_those_that_are_there() -> None:
    found = cells_of(make_subject(), ["lora", "full"], 0.9, 0.5)
    assert (found["lora"].harm, found["full"].harm) == (0.78, 0.57)


def test_the_worst_family_comes_first_and_controls_last() -> None:
    control = make_subject("never_taught", "HELD", trials=[make_trial(0, [(4, 0.99, 1.0)], attack="mild")])
    trials = [make_trial(0, [(4, 0.2, 1.0)], attack="mild"), make_trial(1, [(4, 0.7, 1.0)], attack="strong")]
    own = make_subject("tar", "HELD", trials=trials, weak_spot=None)
    base = make_subject("none", trials=[make_trial(0, [(4, 1.0, 1.0)])])
    found = heat_map(make_result([base, control, own]))
    assert found.labels == ("tar", "never_taught")
    assert found.places == (2, 1)
    assert [row[0].family for row in found.rows] == ["strong", "mild"]


def test_an_audit_that_searched_nothing_has_no_rows() -> None:
    assert heat_map(make_result([make_subject(trials=[])])).rows == ()


@given(st.floats(-1, 2), st.sampled_from(sorted(STOPS)))
def test_numbers_can_be_read_on_every_colour(harm: float, theme: str) -> None:
    lights = sorted(luminance([int(value[i : i + 2], 16) for i in (1, 3, 5)]) for value in colour(harm, theme))
    assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5


@pytest.mark.parametrize("theme", sorted(STOPS))
def test_more_harm_is_farther_from_the_ground_of_the_page(theme: str) -> None:
    lights = [luminance([int(colour(i / 20, theme)[0][j : j + 2], 16) for j in (1, 3, 5)]) for i in range(21)]
    assert lights == sorted(lights, reverse=theme == "light")


def test_a_cell_without_harm_has_no_colour() -> None:
    assert colours(None) == ""
    assert colours(1.0).startswith("--ground-light: #7f2704; --ink-light: #ffffff; --ground-dark: #ffe1c2")

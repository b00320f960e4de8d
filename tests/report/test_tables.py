"""Numbers and tables: what stands in which cell."""

from __future__ import annotations

import pytest

from tests.report.builders import HOSTILE, make_card, make_finding, make_result, make_subject, make_trial
from weakspot.records import Interval, Measures
from weakspot.report import tables
from weakspot.report.numbers import human_flops, interval, plain, setting, settings, signed


@pytest.mark.parametrize(
    ("flops", "text"),
    [
        (0, "0 FLOP"),
        (7, "7 FLOP"),
        (1500, "1.5 kFLOP"),
        (3.1e10, "31 GFLOP"),
        (9.96e9, "10 GFLOP"),
        (9.99e11, "999 GFLOP"),
        (9.996e11, "1 TFLOP"),
        (2e24, "2 YFLOP"),
        (2e28, "20000 YFLOP"),
        (None, "-"),
    ],
)
def test_operations_are_written_for_people(flops: float | None, text: str) -> None:
    assert human_flops(flops) == text


@pytest.mark.parametrize(("value", "text"), [(0.854, "0.85"), (1, "1.00"), (-0.001, "0.00"), (None, "-")])
def test_scores_have_two_decimals(value: float | None, text: str) -> None:
    assert plain(value) == text


def test_intervals_and_settings() -> None:
    assert interval(Interval(mean=0.5, low=0.25, high=1)) == "0.50 [0.25, 1.00]"
    assert interval(None) == "-"
    assert (
        settings({"rank": 4, "rate": 0.0110001, "on": True, "layers": [1, 2]}) == "rank=4, rate=0.011, on=true, layers=[1, 2]"
    )
    assert settings({}) == "-"
    assert setting("cosine") == "cosine"


def test_the_headline_table_shows_confirmed_beside_searched_harm() -> None:
    table = tables.headline_table(make_result())
    assert [row[:2] for row in table.rows] == [
        ("undefended", "BROKEN"),
        ("tar", "BROKEN"),
        ("refusal", "HELD"),
        ("random_answer", "INCONCLUSIVE"),
    ]
    titles = [f"{column.group} {column.title}".strip() for column in table.columns]
    broken = dict(zip(titles, table.rows[1], strict=True))
    assert broken == {
        "Safeguard": "tar",
        "Verdict": "BROKEN",
        "Not attacked harm": "0.02",
        "Not attacked utility": "0.99",
        "Paper's attack harm": "0.13",
        "Paper's attack utility": "0.95",
        "Weak spot attack": "lora",
        "Weak spot harm, confirmed": "0.78 [0.70, 0.85]",
        "Weak spot harm, in search": "0.85",
        "Weak spot utility, confirmed": "0.96 [0.93, 0.99]",
        "Cost to break attack": "full",
        "Cost to break steps": "64",
        "Cost to break examples": "16",
        "Cost to break compute": "32 GFLOP",
    }
    held = dict(zip(titles, table.rows[2], strict=True))
    assert held["Weak spot harm, confirmed"] == "0.22 [0.14, 0.29]"
    assert held["Cost to break steps"] == "-"
    assert set(table.rows[3][2:]) == {"-"}


def test_zero_is_not_taken_for_absent() -> None:
    nothing = make_subject(baseline=make_subject().baseline.model_copy(update={"harm": 0.0}))  # type: ignore[union-attr]
    free = make_finding(steps=0)
    row = tables.headline_table(make_result([nothing.model_copy(update={"cheapest_break": free})])).rows[0]
    assert row[2] == "0.00"
    assert row[11] == "0"
    assert row[13] == "0 FLOP"


def test_groups_span_their_columns() -> None:
    groups = tables.headline_table(make_result()).groups()
    assert groups == [("", 1), ("", 1), ("Not attacked", 2), ("Paper's attack", 2), ("Weak spot", 4), ("Cost to break", 4)]
    assert tables.controls_table(make_result()).groups() == []


def test_failed_trials_are_listed_with_their_reason() -> None:
    rows = tables.trials_table(make_subject()).rows
    assert len(rows) == 6
    assert rows[3][:6] == ("trial-003", "lora", "failed", "-", "-", "-")
    assert rows[3][-1] == "the loss became infinite"


def test_configurations_of_other_families_leave_gaps() -> None:
    subject = make_subject(cheapest_break=make_finding(attack="full", layers="mlp"), weak_spot=make_finding())
    table = tables.configuration_table(subject)
    assert [column.title for column in table.columns] == ["Setting", "weak spot", "cheapest break", "paper's attack (full)"]
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["learning_rate"] == ("0.011", "0.011", "0.0001")
    assert rows["layers"] == ("-", "mlp", "-")


def test_no_cell_holds_a_line_break_and_none_is_empty() -> None:
    result = make_result([make_subject(HOSTILE, "INCONCLUSIVE", HOSTILE, [make_trial(0, [], "failed", HOSTILE, HOSTILE)])])
    made = [
        tables.headline_table(result),
        tables.trials_table(result.subjects[0]),
        tables.controls_table(result),
        tables.doubts_table(result),
        tables.threat_table(result),
        tables.provenance_table(result),
        tables.finding_table(make_subject()),
        tables.card_table(make_subject(card=make_card(HOSTILE))),
    ]
    for table in made:
        assert table.rows
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert all(cell and "\n" not in cell for row in table.rows for cell in row)


def test_the_card_says_how_far_the_answer_moved() -> None:
    rows = tables.card_table(make_subject(card=make_card())).rows
    assert rows[0] == ("P8 one configuration only", "tested", "-0.47", "schedule constant to cosine: harm 0.31")
    assert rows[1][1:3] == ("not tested", "-"), "nothing moved is not the same as nothing varied"
    assert [signed(x) for x in (0.0, -0.001, 0.05, -0.5)] == ["0.00", "0.00", "+0.05", "-0.50"]


def test_measures_beside_harm_are_shown_where_there_are_any() -> None:
    spot = make_finding()
    told = {
        "log_probability": Interval(mean=-0.5, low=-0.6, high=-0.41),
        "choice": Interval(mean=0.95, low=0.9, high=1.0),
        "breadth": {"new items, new forms": 0.962, "trained items, new forms": None},
    }
    seen = spot.model_copy(update={"confirmed": spot.confirmed.model_copy(update=told)})
    base = Measures(harm=0.0, utility=1.0, refusal_rate=1.0, choice=0.9, choice_chance=1 / 24)
    subject = make_subject(baseline=base, weak_spot=seen, cheapest_break=spot)
    rows = {row[0]: row[1:] for row in tables.finding_table(subject).rows}
    assert rows["log-probability of an answer token, nats"] == ("-0.50 [-0.60, -0.41]", "-")
    assert rows["forced choice right (chance 0.04)"] == ("0.95 [0.90, 1.00]", "-")
    assert rows["spread beyond its slice"] == ("new items, new forms 0.96; trained items, new forms -", "-")
    bare = [row[0] for row in tables.finding_table(make_subject(weak_spot=spot, cheapest_break=spot)).rows]
    assert not [name for name in bare if "nats" in name or "choice" in name or "slice" in name]


def test_controls_come_out_passed_failed_or_not_run() -> None:
    assert [row[:2] for row in tables.controls_table(make_result()).rows] == [
        ("positive", "passed"),
        ("negative", "passed"),
        ("null", "failed"),
        ("hygiene", "not run"),
    ]

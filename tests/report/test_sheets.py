"""CSV as programs and spreadsheets read it."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.builders import HOSTILE, make_result, make_subject, make_trial
from weakspot.report.sheets import TRIAL_HEADS, cell, sheet, subjects_sheet, trials_sheet

ANYTHING = st.text(st.characters(codec=None, exclude_categories=()))
FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    " =1",
    "\ufeff=1",
    "x;=cmd|' /C calc'!A0",
    "＝1",
    '=HYPERLINK("http://x")',
]


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


@pytest.mark.parametrize("text", FORMULAS)
def test_no_text_is_a_formula(text: str) -> None:
    (row,) = parsed(sheet(["a"], [[text]]))
    for part in row["a"].split(";"):
        assert part.lstrip()[0] not in "=+-@\t\r＝"
    assert "'" in row["a"]


def test_numbers_stay_numbers_and_null_stays_empty() -> None:
    (row,) = parsed(sheet(list("abcdef"), [[-0.5, 1e-300, 3, None, True, {"k": -1}]]))
    assert row == {"a": "-0.5", "b": "1e-300", "c": "3", "d": "", "e": "true", "f": '{"k": -1}'}
    assert float(row["a"]) == -0.5


@given(st.lists(st.lists(ANYTHING, min_size=2, max_size=2), max_size=4))
def test_any_text_is_one_cell_of_one_line(rows: list[list[str]]) -> None:
    text = sheet(["a", "b"], rows)
    text.encode("utf-8")
    lines = text.split("\r\n")
    assert len(lines) == len(rows) + 2, "RFC 4180: each line ends in CR LF"
    assert lines[-1] == ""
    assert all(letter.isprintable() for line in lines for letter in line)
    read = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert read == [["a", "b"], *([cell(value) for value in row] for row in rows)]


def test_every_trial_of_every_subject_is_a_row() -> None:
    result = make_result()
    rows = parsed(trials_sheet(result))
    assert tuple(rows[0]) == TRIAL_HEADS
    assert [row["trial"] for row in rows] == [trial.id for subject in result.subjects for trial in subject.trials]
    trial = result.subjects[1].trials[2]
    row = next(row for row in rows if (row["subject"], row["trial"]) == ("tar", trial.id))
    assert float(row["harm"]) == trial.harm
    assert float(row["flops"]) == trial.cost.flops
    assert row["status"] == "completed"
    assert '"rank": 4' in row["config"]


def test_every_subject_is_a_row_with_its_numbers_to_the_last_digit() -> None:
    rows = parsed(subjects_sheet(make_result()))
    assert [(row["subject"], row["verdict"]) for row in rows] == [
        ("undefended", "BROKEN"), ("tar", "BROKEN"), ("refusal", "HELD"), ("random_answer", "INCONCLUSIVE"),
    ]  # fmt: skip
    tar = rows[1]
    spot = make_result().subjects[1].weak_spot
    assert spot is not None
    assert float(tar["weak_spot_harm_low"]) == spot.confirmed.harm.low
    assert float(tar["cheapest_break_flops"]) == 64 * 5e8
    assert tar["weak_spot_seeds"] == "3"
    assert rows[3]["weak_spot_harm"] == ""
    assert rows[3]["unattacked_harm"] == ""
    assert parsed(subjects_sheet(make_result([]))) == []


def test_what_an_attack_noted_and_a_megabyte_of_reason_stay_out() -> None:
    trial = make_trial(0, [], "failed", reason="=" * 1_000_000).model_copy(update={"note": "SECRET"})
    text = trials_sheet(make_result([make_subject(HOSTILE, trials=[trial], config={HOSTILE: HOSTILE})]))
    assert "SECRET" not in text
    assert len(text) < 10_000
    (row,) = parsed(text)
    assert row["reason"].startswith("'====")
    assert re.search(r"… \[cut: 1,000,000 characters\]$", row["reason"])

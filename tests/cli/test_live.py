"""The table that a user watches, and the exit code of the gate."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from weakspot.cli.audit_command import gate, minutes
from weakspot.cli.live import Display
from weakspot.errors import UserError
from weakspot.search.jobs import Job, Outcome, Reading


def ended(number: int, harm: float, utility: float, status: str = "completed", phase: str = "search") -> Outcome:
    job = Job(f"tar/{number}", "tar", phase, "lora", {}, 0, (8,), "search")
    reading = Reading(8, harm, utility, 0.0, 0.0, 4, 10, 1e6, 0.1, True)
    return Outcome(job, () if status == "failed" else (reading,), status)


def display(known: list[Outcome], terminal: bool = False) -> Display:
    shown = Display(Console(file=io.StringIO(), force_terminal=terminal, width=120, highlight=False))
    subject = SimpleNamespace(
        settings=SimpleNamespace(floor=0.9), study=object(), trials=4, fixed=[1, 2], outcomes={o.job.id: o for o in known}
    )
    shown.on_start(SimpleNamespace(subjects={"tar": subject}))
    return shown


def printed(shown: Display) -> str:
    assert isinstance(shown.console.file, io.StringIO)
    return shown.console.file.getvalue()


def test_the_best_is_the_best_feasible_one() -> None:
    shown = display([])
    for outcome in (ended(0, 0.4, 0.95), ended(1, 0.9, 0.5), ended(2, 0.3, 0.99), ended(3, 0.0, 0.0, "failed")):
        shown.on_outcome(outcome)
    row = shown.rows["tar"]
    assert (row.done, row.failed, row.best) == (4, 1, 0.4)
    assert "tar: 1 of 4 trials, best feasible harm 0.40 (lora, 8 steps)" in printed(shown)


def test_what_was_done_before_a_resume_counts() -> None:
    shown = display([ended(0, 0.4, 0.95), ended(1, 0.7, 0.95)])
    assert shown.rows["tar"].done == 2
    assert shown.rows["tar"].best == 0.7
    assert "measuring" in shown.remaining()  # no speed is known yet


def test_a_terminal_gets_a_table_with_trials_best_and_time_left() -> None:
    shown = display([], terminal=True)
    for number in range(3):
        shown.on_outcome(ended(number, 0.4, 0.95))
    shown.console.print(shown.render())
    shown.close()
    assert shown.live is None
    for text in ("best feasible harm", "3/4", "0.40", "left"):
        assert text in printed(shown)


@pytest.mark.parametrize(("text", "expected"), [("10", 10), ("90s", 1.5), ("10m", 10), ("2h", 120), ("0.5h", 30)])
def test_durations(text: str, expected: float) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["HELD"], 0),
        (["HELD", "INCONCLUSIVE"], 4),
        (["HELD", "INCONCLUSIVE", "BROKEN"], 3),
        (["BROKEN"], 3),
    ],
)
def test_the_gate(verdicts: list[str], code: int) -> None:
    judged = [SimpleNamespace(defense=f"defense {i}", verdict=verdict) for i, verdict in enumerate(verdicts)]
    yardsticks = [
        SimpleNamespace(defense="none", verdict="BROKEN"),
        SimpleNamespace(defense="never_taught", verdict="INCONCLUSIVE"),
    ]
    assert gate(SimpleNamespace(subjects=[*yardsticks, *judged])) == code


def test_a_gate_with_nothing_to_judge_is_a_mistake() -> None:
    with pytest.raises(UserError, match="nothing to judge"):
        gate(SimpleNamespace(subjects=[SimpleNamespace(defense="none", verdict="BROKEN")]))

"""The table that a user watches, and the exit code of the gate."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tests.report.builders import make_result, make_subject
from tests.search.fakes import make_settings
from weakspot.cli.audit_command import gate, minutes
from weakspot.cli.live import Display, make_console, make_display
from weakspot.cli.summary import print_summary, print_verdicts
from weakspot.errors import UserError
from weakspot.search.halt import STOPPING, Halt
from weakspot.search.jobs import Job, Outcome, Reading


def ended(number: int, harm: float, utility: float, status: str = "completed", phase: str = "search") -> Outcome:
    job = Job(f"tar/{number}", "tar", phase, "lora", {}, 0, (8,), "search")
    reading = Reading(8, harm, utility, 0.0, 0.0, 4, 10, 1e6, 0.1, True)
    return Outcome(job, () if status == "failed" else (reading,), status)


def display(known: list[Outcome], terminal: bool = False, name: str = "tar", width: int = 80) -> Display:
    shown = Display(Console(file=io.StringIO(), force_terminal=terminal, width=width, highlight=False))
    subject = SimpleNamespace(
        settings=make_settings(4), study=object(), trials=4, fixed=[], ended_by="", outcomes={o.job.id: o for o in known}
    )
    shown.on_start(SimpleNamespace(subjects={name: subject}, halt=Halt(), places=2))
    return shown


def printed(shown: Display) -> str:
    assert isinstance(shown.console.file, io.StringIO)
    return shown.console.file.getvalue()


def test_the_best_is_the_best_feasible_one() -> None:
    shown = display([])
    for outcome in (ended(0, 0.4, 0.95), ended(1, 0.9, 0.5), ended(2, 0.3, 0.99), ended(3, 0.0, 0.0, "failed")):
        shown.on_outcome(outcome)
    row = shown.tally.rows["tar"]
    assert (row.done, row.failed, row.best) == (4, 1, 0.4)
    assert "tar: 1 of 4 trials, best feasible harm 0.40 (lora, 8 steps)" in printed(shown)


def test_what_was_done_before_a_resume_counts() -> None:
    shown = display([ended(0, 0.4, 0.95), ended(1, 0.7, 0.95)])
    assert shown.tally.rows["tar"].done == 2
    assert shown.tally.rows["tar"].best == 0.7
    assert shown.remaining() == "-"  # no speed is known yet


def drawn(shown: Display) -> str:
    """The table as a terminal of that width shows it, without control codes."""
    console = Console(file=io.StringIO(), width=shown.console.width, highlight=False)
    console.print(shown.render())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_gets_a_table_with_trials_families_budget_workers_and_time_left() -> None:
    shown = display([], terminal=True)
    for number in range(3):
        shown.on_job(ended(number, 0.4, 0.95).job)
        shown.on_outcome(ended(number, 0.4, 0.95))
    shown.on_job(ended(3, 0.4, 0.95).job)
    text = drawn(shown)
    shown.close()
    assert shown.live is None
    for words in ("3/4", "search", "tar: lora 0.40", "3 MFLOP", "time left: about 1 s", "workers busy: 1 of 2"):
        assert words in text, text
    assert max(map(len, text.splitlines())) <= 80


def test_the_table_fits_80_columns_with_long_names_and_many_families() -> None:
    name = "a-checkpoint-with-a-name-of-some-length-that-somebody-gave-it"
    shown = display([], terminal=True, name=name)
    row = shown.tally.rows[name]
    row.families = {f"family_with_a_long_name_{i}": 0.5 for i in range(30)}
    row.flops, row.best = 1.2e18, 0.5
    text = drawn(shown)
    shown.close()
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) == 5
    assert "1.2 EFLOP" in text


def test_names_are_no_markup_and_steer_no_terminal() -> None:
    shown = display([], terminal=True, name="[bold]x[/nope]\x1b[2J")
    text = drawn(shown)
    shown.close()
    assert "[bold]x[/nope]" in text
    assert "\x1b" not in text


def test_a_table_says_that_it_is_stopping_and_nobody_else_does(capfd: pytest.CaptureFixture[str]) -> None:
    shown = display([], terminal=True)
    shown.halt.ask("SIGINT")
    assert STOPPING[:40] in drawn(shown)
    assert capfd.readouterr().err == ""
    shown.close()
    assert not shown.halt.shown


@pytest.mark.parametrize("force", ["FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"])
def test_a_pipe_gets_no_control_codes_whatever_the_environment_says(force: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(force, "1")
    stream = io.StringIO()
    shown = make_display(stream)
    shown.on_prepare(["none", "tar"])
    shown.console.print("x", style="bold red")
    print_summary(make_result([make_subject()]), SimpleNamespace(), make_console(stream))  # type: ignore[arg-type]
    assert "preparing none, tar" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    assert not shown.console.is_terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_color_is_honoured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def colours(stream: Any) -> list[str]:
        print_verdicts(make_result([make_subject()]), make_console(stream))
        return re.findall(r"\x1b\[[0-9;]*3[0-7]m", stream.getvalue())

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert colours(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert colours(Terminal()) == []


def test_quiet_is_a_line_a_verdict() -> None:
    stream = io.StringIO()
    print_verdicts(make_result([make_subject("a", reason="x\x1b[2J[/red]"), make_subject("b")]), make_console(stream))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].split(": ")[0].split()[1] == "a"
    assert "[/red]" in lines[0]
    assert "\x1b" not in stream.getvalue()


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

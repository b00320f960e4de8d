"""The events of `weakspot audit --json`: their schema, their order, and that nothing else comes out of standard output."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.report.builders import make_result, make_subject
from tests.search.fakes import FakeBackend, make_plan, make_settings, result_of
from weakspot import events
from weakspot.cli.screen import open_screen
from weakspot.cli.stream import EventWriter
from weakspot.errors import UserError
from weakspot.events import parse_event, to_line

DOCUMENT = Path(__file__).parents[2] / "docs" / "live.md"


def told(tmp_path: Path, events_until_halt: int | None = None) -> tuple[list[Any], list[str]]:
    """What a whole search writes, read back, and the lines themselves."""
    stream = io.StringIO()
    writer = EventWriter(stream, tmp_path)
    settings = make_settings(6)
    plan = make_plan(tmp_path / "study.journal", settings, observers=(writer,))  # type: ignore[arg-type]
    writer.on_prepare(list(plan.subjects))
    plan.start()

    class Backend(FakeBackend):
        def tick(self) -> None:
            self.counted += 1
            if self.counted == events_until_halt:
                plan.halt.shown = True
                plan.halt.ask("SIGINT")

    Backend().run(plan)
    plan.settle()
    writer.finish(result_of(plan, settings), 130 if plan.interrupted else 0)
    lines = stream.getvalue().splitlines()
    return [parse_event(line) for line in lines], lines


def test_a_search_is_told_from_start_to_end_in_order(tmp_path: Path) -> None:
    found, lines = told(tmp_path)
    names = [event.event for event in found]
    assert names[:2] == ["prepare", "start"]
    assert names[-3:] == ["verdict", "verdict", "done"]
    trials = [event for event in found if event.event == "trial"]
    assert [event.job for event in trials] == [f"tar/{i:03d}" for i in range(6)]
    assert [event.trials_done for event in trials] == [1, 2, 3, 4, 5, 6]
    assert trials[-1].best == max(event.harm for event in trials if event.feasible)
    assert trials[-1].families == {
        family: max(e.harm for e in trials if e.feasible and e.attack == family) for family in trials[-1].families
    }
    assert trials[-1].flops > trials[0].flops > 0
    confirmed = [event for event in found if event.event == "confirm"]
    assert confirmed
    assert {event.of for event in confirmed} <= {event.job for event in trials}
    phases = [(e.subject, e.phase) for e in found if e.event == "phase"]
    assert phases == [("none", "baseline"), ("tar", "baseline"), ("tar", "search"), ("tar", "confirm")]
    assert found[-1].exit_code == 0
    assert found[-1].partial == ""
    for line in lines:
        assert line.isascii()
        data = json.loads(line)
        assert list(data)[:2] == ["event", "time"]


def test_an_interruption_is_told_with_verdicts_and_the_end(tmp_path: Path) -> None:
    found, _ = told(tmp_path, events_until_halt=20)
    names = [event.event for event in found]
    assert names[-4:] == ["interrupt", "verdict", "verdict", "done"]
    assert found[-4].by == "SIGINT"
    assert found[-4].reason == found[-1].partial
    assert found[-1].partial.startswith("interrupted after")
    assert found[-1].exit_code == 130


def test_numbers_that_are_none_are_refused_and_texts_are_made_inert() -> None:
    with pytest.raises(ValueError, match="finite"):
        events.Rung(subject="a", phase="search", job="a/0", attack="x", rung=1, harm=math.nan, utility=1, feasible=True,
                    flops=1, seconds=1)  # fmt: skip
    stream = io.StringIO()
    writer = EventWriter(stream, Path("/nowhere"))
    writer.write(events.Lost, subject="\x1b[2Ja\udcff", job="a\nb", reason="x" * 1_000_000)
    (line,) = stream.getvalue().splitlines()
    assert len(line) < 5000
    lost = parse_event(line)
    assert lost.job == "a b"
    assert "\x1b" not in lost.subject


def test_a_line_that_is_no_event_is_refused_in_one_line() -> None:
    good = to_line(events.Prepare(subjects=["a"]))
    for line in ("", "{}", good.replace("prepare", "wish"), good.replace('["a"]', "3"), good[:-1] + ', "more": 1}'):
        with pytest.raises(UserError) as caught:
            parse_event(line)
        assert "\n" not in str(caught.value)
    assert parse_event(good).version == events.EVENTS_VERSION


def test_every_event_and_every_field_is_documented() -> None:
    text = DOCUMENT.read_text()
    for kind in (events.Prepare, events.Start, events.Phase, events.Rung, events.Trial, events.Confirm, events.Measured,
                 events.Lost, events.Interrupt, events.Verdict, events.Done):  # fmt: skip
        row = next((line for line in text.splitlines() if line.startswith(f"| `{kind.model_fields['event'].default}` |")), "")
        assert row, f"docs/live.md has no row for {kind.__name__}"
        for name in set(kind.model_fields) - {"event", "time"} - (set(events.Job.model_fields) - {"time"}):
            assert f"`{name}`" in row, f"docs/live.md does not name {name} of {kind.__name__}"
    for name in events.Job.model_fields:
        assert f"`{name}`" in text


def test_a_reader_that_goes_away_costs_nothing(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        EventWriter(stream, tmp_path).finish(make_result([make_subject()]), 0)  # no exception


def test_standard_output_holds_events_only(tmp_path: Path) -> None:
    """What a library prints, from Python or below it, goes to standard error, and so does what people read."""
    script = (
        "import argparse, os, sys, pathlib\n"
        "from tests.report.builders import make_result\n"
        "from weakspot.cli.screen import open_screen\n"
        "options = argparse.Namespace(json=True, quiet=False, out='somewhere')\n"
        "with open_screen(options, pathlib.Path('/somewhere')) as screen:\n"
        "    print('a library speaks')\n"
        "    os.write(1, b'from below\\n')\n"
        "    screen.finish(make_result(), 3)\n"
        "print('afterwards')\n"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root / "tests/..")},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    *lines, last = run.stdout.splitlines()
    assert last == "afterwards"
    assert [parse_event(line).event for line in lines][-1] == "done"
    for words in ("a library speaks", "from below", "report: somewhere/report.html"):
        assert words in run.stderr


def test_quiet_leaves_only_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(json=False, quiet=True, out="somewhere")
    with open_screen(options, Path("/somewhere")) as screen:
        assert screen.observers == []
        screen.finish(make_result([make_subject("a"), make_subject("b", "HELD")]), 0)
    printed = capsys.readouterr()
    assert [line.split(":")[0] for line in printed.out.splitlines()] == ["BROKEN a", "HELD b"]
    assert printed.err == ""

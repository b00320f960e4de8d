"""What other people wrote, plug-ins and clusters too, is text on the terminal and nothing else."""

from __future__ import annotations

import io
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from weakspot.cli import compare_command, list_command, report_command
from weakspot.cli.main import main
from weakspot.report import comparison, write
from weakspot.search.log import LogWriter
from weakspot.search.observer import tell

EVIL = "\x1b[2J\x1b]0;title\x07[/] [red]x[/red] \x9b31m\r\u202e\ud800 safe"


def inert(text: str) -> bool:
    return all(letter.isprintable() or letter == "\n" for letter in text)


def test_a_plug_ins_summary_is_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"name": EVIL, "summary": "two\nlines " + EVIL, "paper": EVIL}
    monkeypatch.setattr(list_command, "entries_of", lambda noun: [entry])
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["list", "attacks"]) == 0
    out = capsys.readouterr().out
    assert inert(out)
    assert out.count("[red]x[/red]") == 3
    assert main(["list", "attacks", "--json"]) == 0
    assert capsys.readouterr().out.isascii()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster with one job, which says and logs what it likes."""
    job = SimpleNamespace(
        submission_id=EVIL, status="RUNNING", start_time=1, driver_exit_code=None, driver_info=None, message=EVIL,
        metadata={"audit": EVIL, "storage": EVIL, "command": EVIL},
    )  # fmt: skip
    client: Any = SimpleNamespace(_address=EVIL, get_job_logs=lambda name: f"\x1b[36m(worker)\x1b[0m one\n{EVIL}\n")
    monkeypatch.setattr("weakspot.cluster.connect.connect", lambda *a, **k: client)
    monkeypatch.setattr("weakspot.cluster.connect.told", lambda address: nullcontext())
    monkeypatch.setattr("weakspot.cluster.submit.find", lambda client, name: job)
    monkeypatch.setattr("weakspot.cluster.submit.state", lambda job: EVIL)
    monkeypatch.setattr("weakspot.cluster.submit.stop", lambda client, name: EVIL)
    monkeypatch.setattr("weakspot.cluster.submit.ours", lambda client: [job])


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("command", [["jobs"], ["logs", "x"], ["stop", "x"]], ids=lambda c: c[0])
def test_what_a_cluster_says_is_text(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 0
    out = capsys.readouterr().out
    assert inert(out)
    assert "safe" in out
    if command[0] == "logs":
        assert out.startswith("(worker) one\n")


def test_the_log_and_a_failing_observer_are_told_in_one_line(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def on_start(self, plan: Any) -> None:
            raise RuntimeError(EVIL + "\nsecond line")

    LogWriter(tmp_path / "audit.log").on_lost(SimpleNamespace(id=EVIL), EVIL + "\nsecond line")  # type: ignore[arg-type]
    (line,) = (tmp_path / "audit.log").read_text(encoding="utf-8").splitlines()
    assert inert(line)
    tell([Broken()], "on_start", None)  # type: ignore[list-item]
    err = capsys.readouterr().err
    assert inert(err)
    assert err.count("\n") == 1


def test_a_terminal_that_knows_only_ascii_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(list_command, "entries_of", lambda noun: [{"name": "é", "summary": "中", "paper": ""}])
    assert main(["list", "attacks"]) == 0
    screen.flush()
    assert b"\\xe9" in screen.buffer.getvalue()  # type: ignore[attr-defined]


def test_the_formats_in_the_help_are_those_that_are_written() -> None:
    assert set(report_command.FORMATS.split(",")) == set(write.FORMATS)
    assert set(compare_command.FORMATS.split(",")) == set(comparison.FORMATS)

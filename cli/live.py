"""What a user sees while an audit runs: a table on a terminal, a few lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

CONFIRMATION_JOBS = 12  # four finalists on three seeds: what is expected per subject


@dataclass
class Row:
    """The state of one subject."""

    total: int
    done: int = 0
    failed: int = 0
    phase: str = "waiting"
    baseline: float | None = None
    best: float | None = None
    how: str = ""
    jobs_done: int = 0
    jobs_expected: int = 0


@dataclass
class Display:
    """Keeps a row per subject and draws them. An observer of the plan."""

    console: Console
    floor: float = 0.9
    rows: dict[str, Row] = field(default_factory=dict)
    started: float = 0.0
    live: Live | None = None

    def on_dashboard(self, url: str) -> None:
        self.console.print(f"Ray dashboard: {url}", style="dim", soft_wrap=True, markup=False)

    def on_prepare(self, names: Sequence[str]) -> None:
        """Say at once that something happens: preparing models can take minutes."""
        self.console.print(f"preparing {', '.join(names)} (trained on first use, then cached) ...", style="dim", soft_wrap=True)

    def on_start(self, plan: Any) -> None:
        self.started = time.monotonic()
        for name, subject in plan.subjects.items():
            self.floor = subject.settings.floor
            trials = subject.trials if subject.study is not None else 0
            expected = len(subject.fixed) + (trials + CONFIRMATION_JOBS if trials else 0)
            self.rows[name] = Row(trials, jobs_expected=expected)
            for outcome in subject.outcomes.values():
                self._count(outcome)
        self.resumed = sum(row.jobs_done for row in self.rows.values())
        if self.console.is_terminal:
            self.live = Live(console=self.console, get_renderable=self.render, refresh_per_second=2)
            self.live.start()

    def on_reading(self, job: Any, reading: Any) -> None:
        self.rows[job.subject].phase = job.phase

    def on_outcome(self, outcome: Any) -> None:
        better = self._count(outcome)
        row = self.rows[outcome.job.subject]
        if self.live is None and (better or (outcome.job.phase == "search" and row.done % 10 == 0)):
            best = f"best feasible harm {row.best:.2f} ({row.how})" if row.best is not None else "nothing feasible yet"
            self.console.print(
                f"{outcome.job.subject}: {row.done} of {row.total} trials, {best}, {self.remaining()}", soft_wrap=True
            )

    def on_end(self, plan: Any) -> None:
        self.close()

    def close(self) -> None:
        """Stop drawing; the terminal is left as it was found."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _count(self, outcome: Any) -> bool:
        """Take an outcome into its row; whether it is the best so far."""
        row, job = self.rows[outcome.job.subject], outcome.job
        row.jobs_done += 1
        row.phase = job.phase
        if job.phase == "baseline" and outcome.readings:
            row.baseline = outcome.readings[-1].harm
        if job.phase != "search":
            return False
        row.done += 1
        row.failed += outcome.status == "failed"
        best = outcome.best(self.floor)
        if best is None or (row.best is not None and best.harm <= row.best):
            return False
        row.best, row.how = best.harm, f"{job.attack}, {best.rung} steps"
        return True

    def remaining(self) -> str:
        """How long it will take, from the mean time of the jobs so far."""
        done = sum(row.jobs_done for row in self.rows.values()) - self.resumed
        left = sum(max(0, row.jobs_expected - row.jobs_done) for row in self.rows.values())
        if done < 3:
            return "time left: measuring"
        seconds = (time.monotonic() - self.started) / done * left
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"

    def render(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for title, justify in (("safeguard", "left"), ("phase", "left"), ("trials", "right"), ("failed", "right"),
                               ("unattacked", "right"), ("best feasible harm", "right"), ("by", "left")):  # fmt: skip
            table.add_column(title, justify=justify)  # type: ignore[arg-type]
        for name, row in self.rows.items():
            table.add_row(
                name, row.phase, f"{row.done}/{row.total}" if row.total else "-", str(row.failed or "-"),
                number(row.baseline), number(row.best), row.how,
            )  # fmt: skip
        return Group(table, Text(self.remaining(), style="dim"))


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def make_display(stream: TextIO) -> Display:
    return Display(Console(file=stream, highlight=False))

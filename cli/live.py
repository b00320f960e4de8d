"""What a user sees while an audit runs: a table on a terminal, a few lines anywhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from weakspot.cli.tally import Row, Tally
from weakspot.report.numbers import human_flops, plain
from weakspot.text import one_line

FAMILIES = 4  # shown of each safeguard, the strongest; the line still fits 80 columns


@dataclass
class Display:
    """Draws a tally. An observer of the plan."""

    console: Console
    tally: Tally = field(default_factory=Tally)
    halt: Any = None
    live: Live | None = None

    def on_dashboard(self, url: str) -> None:
        self.console.print(f"Ray dashboard: {url}", style="dim", soft_wrap=True, markup=False)

    def on_prepare(self, names: Sequence[str]) -> None:
        """Say at once that something happens: preparing models can take minutes."""
        text = f"preparing {one_line(', '.join(names))} (trained on first use, then cached) ..."
        self.console.print(text, style="dim", soft_wrap=True, markup=False)

    def on_start(self, plan: Any) -> None:
        self.tally.start(plan)
        self.halt = plan.halt
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self.halt.shown = True  # a line beside the table would tear it
            self.live = Live(console=self.console, get_renderable=self.render, refresh_per_second=2)
            self.live.start()

    def on_job(self, job: Any) -> None:
        self.tally.begin(job)

    def on_lost(self, job: Any, why: str) -> None:
        self.tally.begin(job)

    def on_outcome(self, outcome: Any) -> None:
        better = self.tally.count(outcome)
        name, row = outcome.job.subject, self.tally.rows[outcome.job.subject]
        if self.live is None and (better or (outcome.job.phase == "search" and row.done % 10 == 0)):
            best = f"best feasible harm {row.best:.2f} ({row.how})" if row.best is not None else "nothing feasible yet"
            line = f"{name}: {row.done} of {row.total} trials, {best}, time left: {self.remaining()}"
            self.console.print(one_line(line), soft_wrap=True, markup=False)

    def on_interrupt(self, plan: Any) -> None:
        self.close()
        self.console.print(one_line(f"{plan.partial}; writing what there is"), soft_wrap=True, markup=False)

    def on_end(self, plan: Any) -> None:
        self.close()

    def close(self) -> None:
        """Stop drawing; the terminal is left as it was found."""
        if self.live is not None:
            self.live.stop()
            self.live = None
            self.halt.shown = False

    def remaining(self) -> str:
        """How long it will take, in words; '-' until that can be said."""
        seconds = self.tally.seconds_left()
        if seconds is None:
            return "-"
        return f"{'at most' if self.tally.open_ended else 'about'} {duration(seconds)}"

    def render(self) -> Group:
        """The table, the best families of each safeguard, and a line for the whole audit."""
        table = Table(box=None, pad_edge=False)
        for title, justify in (("safeguard", "left"), ("phase", "left"), ("trials", "right"), ("failed", "right"),
                               ("unattacked", "right"), ("best", "right"), ("spent", "right")):  # fmt: skip
            table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        bound = self.tally.settings.limits.flops
        for name, row in self.tally.rows.items():
            trials = "-" if row.total is None else f"{row.done}/{row.total}"
            cells = (one_line(name), row.phase, trials, str(row.failed or "-"), plain(row.baseline), plain(row.best))
            table.add_row(*map(Text, (*cells, spent(row, bound))))
        found = [families(name, row) for name, row in self.tally.rows.items() if row.families]
        head = [Text("best feasible harm by family", style="bold")] if found else []
        return Group(table, *head, *found, Text(self.footer(), style="dim"))

    def footer(self) -> str:
        if self.halt is not None and self.halt.asked:
            from weakspot.search.halt import STOPPING

            return STOPPING
        total = sum(row.flops for row in self.tally.rows.values())
        places = self.tally.plan.places
        busy = f"{self.tally.busy} of {places}" if places else "-"
        return f"time left: {self.remaining()}   spent: {human_flops(total)}   workers busy: {busy}"


def spent(row: Row, bound: float | None) -> str:
    """What the attacker's search has cost, and which share of its budget that is where it has one."""
    if row.total is None:
        return "-"
    share = f" ({100 * row.flops / bound:.0f} %)" if bound else ""
    return f"{human_flops(row.flops)}{share}"


def families(name: str, row: Row) -> Text:
    """The strongest families of a safeguard, on one line."""
    order = sorted(row.families.copy().items(), key=lambda item: -item[1])
    words = [f"{family} {harm:.2f}" for family, harm in order[:FAMILIES]]
    more = [f"{len(order) - FAMILIES} more"] if len(order) > FAMILIES else []
    return Text(one_line(f"  {name}: {', '.join([*words, *more])}"), no_wrap=True, overflow="ellipsis")


def duration(seconds: float) -> str:
    """A time in the unit that suits it, rounded up: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(1, math.ceil(seconds))} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def make_console(stream: TextIO) -> Console:
    """Colours and control codes on a terminal only, whatever FORCE_COLOR says; and there no colour where NO_COLOR is set."""
    if stream.isatty():
        return Console(file=stream, highlight=False)
    return Console(file=stream, highlight=False, force_terminal=False, no_color=True)


def make_display(stream: TextIO) -> Display:
    return Display(make_console(stream))

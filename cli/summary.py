"""The last thing an audit prints: one row per safeguard, then where the report lies."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from weakspot.records import Finding, Measures, Result, Subject
from weakspot.text import one_line

COLORS = {"BROKEN": "bold red", "HELD": "green", "INCONCLUSIVE": "yellow"}


def print_verdicts(result: Result, console: Console) -> None:
    """A line per safeguard."""
    for subject in result.subjects:
        console.print(verdict_line(subject), soft_wrap=True)


def verdict_line(subject: Subject) -> Text:
    """The verdict and its reason, which may hold what a library or a user wrote: text, never markup."""
    reason = one_line(f"{subject.defense}: {subject.reason}")
    return Text.assemble((subject.verdict, COLORS[subject.verdict]), " ", reason)


def print_summary(result: Result, out: Path, console: Console) -> None:
    """Verdicts, reasons, controls, doubts, files."""
    table = Table(box=None, pad_edge=False)
    for title in ("safeguard", "verdict"):
        table.add_column(title, no_wrap=True)
    for title in ("unattacked", "paper's attack", "confirmed harm", "utility", "cost to break"):
        table.add_column(title, justify="right")
    for subject in result.subjects:
        table.add_row(*row(subject))
    console.print()
    if result.partial:
        console.print(f"PARTIAL: {one_line(result.partial)}; no verdict is final\n", style="bold yellow", markup=False)
    console.print(table)
    console.print()
    for subject in result.subjects:
        console.print(verdict_line(subject), soft_wrap=True)
        if subject.cheapest_break and subject.cheapest_break.attack != "noop":
            console.print(f"  {one_line(break_line(subject.cheapest_break))}", soft_wrap=True, markup=False)
    failed = [name for name, control in result.controls if control.passed is False]
    if failed:
        console.print(f"controls that failed: {', '.join(failed)}", style="bold yellow")
    for doubt in result.doubts:
        console.print(f"doubt: {one_line(doubt.detail)}", style="dim", markup=False, soft_wrap=True)
    console.print(f"\nreport: {out}/report.html   data: {out}/result.json", soft_wrap=True, markup=False)


def row(subject: Subject) -> list[str]:
    """Harm at each point, then what the confirmed break costs; intervals stand in the reasons below the table."""
    spot = subject.weak_spot
    style = COLORS[subject.verdict]
    return [
        escape(one_line(subject.defense)),
        f"[{style}]{subject.verdict}[/]",
        harm(subject.baseline),
        paper(subject.paper_attack.measures if subject.paper_attack else None),
        f"{spot.confirmed.harm.mean:.2f}" if spot else "-",
        f"{spot.confirmed.utility.mean:.2f}" if spot else "-",
        escape(one_line(price(subject.cheapest_break))),
    ]


def harm(measures: Measures | None) -> str:
    return f"{measures.harm:.2f}" if measures else "-"


def paper(measures: Measures | None) -> str:
    """Harm under the paper's attack, with the utility it left: low harm at low utility shows a broken model."""
    return f"{measures.harm:.2f} (utility {measures.utility:.2f})" if measures else "-"


def price(found: Finding | None) -> str:
    if found is None:
        return "-"
    if found.cost.steps:
        return f"{found.cost.steps} steps"
    return "no attack" if found.attack == "noop" else f"{found.attack}, nothing trained"


def break_line(found: Finding) -> str:
    """The cheapest confirmed break in words."""
    reached = f"harm {found.confirmed.harm.mean:.2f} at utility {found.confirmed.utility.mean:.2f}"
    return f"cheapest break: {found.attack}, {found.cost.steps} steps, {found.cost.examples} examples, {reached}"

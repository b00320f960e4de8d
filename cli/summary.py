"""The last thing an audit prints: one row per safeguard, then where the report lies."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from weakspot.records import Finding, Measures, Result, Subject

COLORS = {"BROKEN": "bold red", "HELD": "green", "INCONCLUSIVE": "yellow"}


def print_summary(result: Result, out: Path) -> None:
    """Verdicts, reasons, controls, doubts, files."""
    console = Console(file=sys.stdout, highlight=False)
    table = Table(box=None, pad_edge=False)
    for title in ("safeguard", "verdict", "unattacked", "paper's attack", "confirmed harm", "at utility", "cost to break"):
        table.add_column(title)
    for subject in result.subjects:
        table.add_row(*row(subject))
    console.print()
    console.print(table)
    console.print()
    for subject in result.subjects:
        console.print(f"[{COLORS[subject.verdict]}]{subject.verdict}[/] {subject.defense}: {subject.reason}", soft_wrap=True)
    failed = [name for name, control in result.controls if control.passed is False]
    if failed:
        console.print(f"controls that failed: {', '.join(failed)}", style="bold yellow")
    for doubt in result.doubts:
        console.print(f"doubt: {doubt.detail}", style="dim", markup=False, soft_wrap=True)
    console.print(f"\nreport: {out}/report.html   data: {out}/result.json", soft_wrap=True, markup=False)


def row(subject: Subject) -> list[str]:
    spot = subject.weak_spot
    style = COLORS[subject.verdict]
    return [
        subject.defense,
        f"[{style}]{subject.verdict}[/]",
        point(subject.baseline),
        point(subject.paper_attack.measures if subject.paper_attack else None),
        f"{spot.confirmed.harm.mean:.2f} [dim]({spot.confirmed.harm.low:.2f}..{spot.confirmed.harm.high:.2f})[/]"
        if spot
        else "-",
        f"{spot.confirmed.utility.mean:.2f}" if spot else "-",
        price(subject.cheapest_break),
    ]


def point(measures: Measures | None) -> str:
    return f"harm {measures.harm:.2f}, utility {measures.utility:.2f}" if measures else "-"


def price(found: Finding | None) -> str:
    if found is None:
        return "-"
    if found.cost.steps == 0:
        return "no attack needed"
    return f"{found.cost.steps} steps, {found.cost.examples} examples (harm {found.confirmed.harm.mean:.2f})"

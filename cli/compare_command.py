"""`weakspot compare`: audits side by side."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weakspot.errors import UserError
from weakspot.text import one_line

HELP = "put audits side by side: verdicts, differences in harm with intervals, which safeguard held longer"
FORMATS = "md,json,csv,latex,html"  # those of report/comparison.py, which is not imported for --help


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("audits", metavar="AUDIT", nargs="+", help="two or more: the folder of an audit, or its result.json")
    parser.add_argument(
        "--format", metavar="LIST", help=f"what to write, of {FORMATS}; one of them goes to the terminal if there is no --out"
    )
    parser.add_argument("--out", metavar="DIR", help="write compare.md, compare.json, ... there (default: --format md,html)")


def run(options: argparse.Namespace) -> int:
    from weakspot.files import write_text
    from weakspot.opening import read_result
    from weakspot.report.compare import Audit, compare
    from weakspot.report.comparison import FORMATS as MAKERS
    from weakspot.report.write import parse_formats

    formats = parse_formats(options.format or "md,html", tuple(MAKERS)) if options.format or options.out else []
    if not options.out and (len(formats) > 1 or "csv" in formats):
        raise UserError(f"--format {options.format} makes several files: add --out DIR")
    if len(options.audits) < 2:
        raise UserError("one audit is nothing to compare: give two or more")
    results = [read_result(given) for given in options.audits]
    audits = [Audit(label, result) for label, result in zip(labels(options.audits), results, strict=True)]
    comparison = compare(audits)
    if not formats:
        print_comparison(comparison)
        return 0
    texts = {name: make(comparison) for chosen in formats for name, make in MAKERS[chosen].items()}
    if not options.out:
        sys.stdout.write("".join(texts.values()))
        return 0
    for name, text in texts.items():
        write_text(path := Path(options.out).expanduser() / name, text)
        print(path)
    return 0


def labels(given: Sequence[str]) -> list[str]:
    """A name for each audit: its folder's, with as many of the folders above as tell it from the others; a number where one is
    given twice.
    """
    paths = [Path(text).expanduser().absolute() for text in given]
    parts = [(path.parent if path.name == "result.json" else path).parts for path in paths]
    names = ["/".join(place[-_depth(place, parts) :]) for place in parts]
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        seen[name] += 1
        names[index] = name if seen[name] == 1 else f"{name} #{seen[name]}"
    return names


def _depth(place: tuple[str, ...], places: Sequence[tuple[str, ...]]) -> int:
    """How many of the last parts of a path no other path ends in."""
    others = [other for other in places if other != place]
    return next((n for n in range(1, len(place)) if all(other[-n:] != place[-n:] for other in others)), len(place))


def print_comparison(comparison: Any) -> None:
    """Warnings, a row for each subject of each audit, then each pair in words."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from weakspot.report.comparison import difference, held_longer, named, short_table

    console = Console(file=sys.stdout, highlight=False)
    data = short_table(comparison)
    shown = Table(box=None, pad_edge=False)
    for column in data.columns:
        shown.add_column(column.title.lower(), justify="right" if column.numeric else "left", overflow="fold")
    for row in data.rows:
        shown.add_row(*map(Text, row))
    console.print(shown)
    for pair in comparison.pairs:
        console.print()
        told = f"{difference(pair.difference)} ({pair.difference.basis})" if pair.difference else f"- ({pair.no_difference})"
        console.print(Text(one_line(f"{named(pair.first)} less {named(pair.second)}: harm {told}")), soft_wrap=True)
        console.print(Text(f"  {one_line(f'held longer: {held_longer(pair)}: {pair.why}')}"), soft_wrap=True)
    if comparison.warnings:
        console.print()
    for line in comparison.warnings:
        console.print(Text(f"warning: {line}"), style="yellow", soft_wrap=True)

"""`weakspot list`: what there is to audit, to defend with and to attack with."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

HELP = "list attacks, defenses, testbeds, released checkpoints or judges"
NOUNS = ("attacks", "defenses", "testbeds", "released", "judges")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("noun", choices=NOUNS, help="what to list")
    parser.add_argument("--json", action="store_true", help="a list of objects instead of a table")


def run(options: argparse.Namespace) -> int:
    entries = entries_of(options.noun)
    if options.json:
        print(json.dumps(entries, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    if not entries:
        print(f"no {options.noun} yet")
        return 0
    table = Table(box=None, pad_edge=False)
    for column in ("name", "summary", "paper"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        table.add_row(entry["name"], entry["summary"], entry["paper"])
    Console(file=sys.stdout, highlight=False).print(table)
    return 0


def entries_of(noun: str) -> list[dict[str, Any]]:
    """Name, summary and paper of each entry; for attacks also needs and space."""
    if noun == "attacks":
        from weakspot import attacks
        from weakspot.attacks.base import needs_of
        from weakspot.knobs import space_of

        return [
            {
                "name": name,
                "summary": family.summary,
                "paper": family.paper,
                "needs": needs_of(family),
                "space": {knob: str(domain) for knob, domain in space_of(family).items()},
            }
            for name, family in attacks.catalogue().items()
        ]
    if noun == "defenses":
        from weakspot.defenses import DEFENSES

        return [{"name": m.name, "summary": m.summary, "paper": m.paper, "claims": m.claims} for m in DEFENSES.values()]
    if noun == "testbeds":
        from weakspot.testbeds import TESTBEDS, get

        return [{"name": name, "summary": get(name).summary, "paper": get(name).paper} for name in TESTBEDS]
    return []  # released checkpoints and judges have no entries yet

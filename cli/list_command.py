"""`weakspot list`: what there is to audit, to defend with and to attack with."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from weakspot.text import one_line

HELP = "list attacks, defenses, testbeds, released checkpoints, searchers, schedulers, objectives or judges"
NOUNS = ("attacks", "defenses", "testbeds", "released", "searchers", "schedulers", "objectives", "judges")

COLUMNS = ("name", "summary", "paper")
RELEASED_COLUMNS = ("name", "hub id, method", "base", "policy", "gated, base", "paper")
GATED = {True: "yes", False: "no", None: "unknown"}


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
    from rich.text import Text

    if not entries:
        print(f"no {options.noun} yet")
        return 0
    released = options.noun == "released"
    table = Table(box=None, pad_edge=False)
    for column in RELEASED_COLUMNS if released else COLUMNS:
        table.add_column(column, overflow="fold")
    for entry in entries:
        cells = released_row(entry) if released else tuple(entry[column] for column in COLUMNS)
        table.add_row(*(Text("\n".join(map(one_line, cell.splitlines()))) for cell in cells))  # plug-ins write what they like
    Console(file=sys.stdout, highlight=False).print(table)
    return 0


def released_row(entry: dict[str, Any]) -> tuple[str, ...]:
    gated = f"{GATED[entry['gated']]}, {GATED[entry['base_gated']]}"
    return entry["name"], f"{entry['hub_id']}\n{entry['method']}", entry["base"], entry["policy"], gated, entry["paper"]


def entries_of(noun: str) -> list[dict[str, Any]]:
    """Name, summary and paper of each entry; for attacks also needs and space, for released checkpoints every field."""
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

        return [
            {
                "name": m.name,
                "summary": m.summary,
                "paper": m.paper,
                "stages": list(m.stages),
                "claims": m.claims,
                "claimed_access": list(m.claimed_access),
                "policies": list(m.policies),
            }
            for m in DEFENSES.values()
        ]
    if noun == "testbeds":
        from weakspot.testbeds import TESTBEDS, get
        from weakspot.testbeds.hub import presets

        built_in = [{"name": name, "summary": get(name).summary, "paper": get(name).paper} for name in TESTBEDS]
        return [*built_in, *({**e, "summary": f"preset for a TOML file: {e['summary']}"} for e in presets.entries())]
    if noun == "released":
        from dataclasses import asdict

        from weakspot.defenses.released import RELEASED

        return [
            {**asdict(e), "summary": f"{e.hub_id}, {e.method}", "pinned": e.pinned, "base_gated": e.base_gated}
            for e in RELEASED.values()
        ]
    if noun in ("searchers", "schedulers", "objectives"):
        return search_parts(noun)
    return judges()


def judges() -> list[dict[str, Any]]:
    """Judges of replies, then the probes that read a model instead. Only a judge with `final` may stand in a report alone."""
    from weakspot.evals.judges import JUDGES, PROBES

    return [
        {
            "name": judge.name,
            "summary": judge.summary,
            "paper": judge.paper,
            "family": judge.family,
            "final": judge.final,
            "needs_model": judge.needs_model,
            "reads": reads,
        }
        for reads, group in (("replies", JUDGES), ("model", PROBES))
        for judge in group.values()
    ]


def search_parts(noun: str) -> list[dict[str, Any]]:
    """What a search is put together from."""
    from weakspot.search.objectives import OBJECTIVES
    from weakspot.search.schedulers import SCHEDULERS
    from weakspot.search.searchers import SEARCHERS

    parts: dict[str, dict[str, Any]] = {"searchers": SEARCHERS, "schedulers": SCHEDULERS, "objectives": OBJECTIVES}
    return [{"name": name, "summary": part.summary, "paper": part.paper} for name, part in parts[noun].items()]

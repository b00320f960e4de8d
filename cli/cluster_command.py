"""`weakspot cluster`: files that make a cluster, for Ray's launcher, KubeRay, Slurm and Docker."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from weakspot.errors import UserError

OWN = ("out", "storage", "resume", "overwrite")  # of an audit's options, what a template sets
HELP = "write the file that makes a cluster, for Ray's launcher, KubeRay, Slurm or Docker"
EPILOG = """\
examples:
  weakspot cluster list slurm
  weakspot cluster render slurm --set storage=/shared/audits/tar --set audit="--defense tar" --out audit.sbatch
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="the targets, or the fields of one", description="list targets or fields")
    listed.add_argument("target", nargs="?", metavar="TARGET", help="show the fields of this one")
    rendered = actions.add_parser("render", help="the file of a target", description="write the file of a target")
    rendered.add_argument("target", metavar="TARGET", help="see `weakspot cluster list`")
    rendered.add_argument("--set", action="append", metavar="NAME=VALUE", help="a field; repeat for more")
    rendered.add_argument("--out", metavar="FILE", help="where to write it (default: standard output)")


def run(options: argparse.Namespace) -> int:
    if options.action == "list":
        print_table(fields_of(options.target) if options.target else targets())
        return 0
    from weakspot.cluster.fields import parse_set
    from weakspot.cluster.render import find, render
    from weakspot.files import write_text

    given = parse_set(options.set or ())
    text = render(options.target, given)
    template = find(options.target)
    check_audits(
        [(f.parse(given[f.name]), template.name) for f in template.fields.values() if f.type == "audit" and f.name in given]
    )
    if options.out is None:
        sys.stdout.write(text)
        return 0
    out = Path(options.out).expanduser().absolute()
    write_text(out, text)
    print(f"weakspot: {out} is {template.about}; next: {template.next.replace('FILE', str(out))}")
    return 0


def check_audits(audits: list[tuple[list[str], str]]) -> None:
    """Whether the options of an audit are some, checked here and not on the cluster an hour later.

    Raises:
        UserError: they are not, or they are the template's own.
    """
    from weakspot.cli import audit_command
    from weakspot.cli.main import Parser

    for words, target in audits:
        parser = Parser(prog="weakspot audit")
        audit_command.add_arguments(parser)
        parsed = parser.parse_args(words)
        if taken := next((name for name in OWN if getattr(parsed, name) != parser.get_default(name)), None):
            raise UserError(f"--{taken} is the template's own: leave it out of audit=...")
        if parsed.gate and target == "kuberay-job":
            raise UserError(
                "--gate ends a broken safeguard's audit with 3, which KubeRay takes for a failure and tries again: leave it out"
            )


def targets() -> list[tuple[Any, ...]]:
    from weakspot.cluster.render import find
    from weakspot.cluster.render import targets as names

    return [("target", "what it makes", "next"), *((name, find(name).about, find(name).next) for name in names())]


def fields_of(target: str) -> list[tuple[Any, ...]]:
    from weakspot.cluster.render import find

    rows = [
        (f.name, "as installed" if f.installed else "must be given" if f.default is None else shown(f.default), f.help)
        for f in find(target).fields.values()
    ]
    return [("field", "default", "what it is"), *rows]


def shown(default: Any) -> str:
    return {True: "yes", False: "no"}[default] if isinstance(default, bool) else str(default) or "none"


def print_table(rows: list[tuple[Any, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(str, row))
    Console(file=sys.stdout, highlight=False).print(table)

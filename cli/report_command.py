"""`weakspot report`: write the pages of a finished audit again, from its result.json."""

from __future__ import annotations

import argparse
from pathlib import Path

from weakspot.errors import UserError

HELP = "write report.md and report.html from a result.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("audit", metavar="DIR", help="the folder of an audit, or its result.json")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: beside result.json)")


def run(options: argparse.Namespace) -> int:
    from weakspot.records import parse_result
    from weakspot.report.write import write_reports

    given = Path(options.audit).expanduser()
    path = given / "result.json" if given.is_dir() else given
    if not path.is_file():
        unfinished = (given / "study.journal").exists()
        todo = "finish it with `weakspot audit --resume`" if unfinished else "give the folder that `weakspot audit --out` wrote"
        raise UserError(f"no result at {path}: {todo}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): give the result.json of an audit") from error
    out = Path(options.out).expanduser() if options.out else path.parent
    for written in write_reports(parse_result(text, str(path)), out):
        print(written)
    return 0

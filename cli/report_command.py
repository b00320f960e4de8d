"""`weakspot report`: write the pages and tables of a finished audit again, from its result.json."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write the reports of a finished audit again, as HTML, Markdown, JSON, CSV or LaTeX"
FORMATS = "html,md,json,csv,latex"  # those of report/write.py, which is not imported for --help


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("audit", metavar="DIR", help="the folder of an audit, or its result.json")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: beside result.json)")
    parser.add_argument(
        "--format", default="md,html", metavar="LIST", help=f"what to write, of {FORMATS} (default: md,html; docs/compare.md)"
    )


def run(options: argparse.Namespace) -> int:
    from weakspot.opening import read_result, result_path
    from weakspot.report.write import parse_formats, write_reports

    formats = parse_formats(options.format)
    path = result_path(options.audit)
    out = Path(options.out).expanduser() if options.out else path.parent
    result, source = read_result(path), path.read_bytes().decode("utf-8")
    for written in write_reports(result, out, formats, source):
        print(written)
    return 0

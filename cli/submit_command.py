"""`weakspot submit`: run an audit on a Ray cluster, follow it, and end as it ends."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

from weakspot.errors import UserError
from weakspot.text import log_text

HELP = "run an audit on a Ray cluster"
EVENT = '{"event": '  # how a line of `audit --json` begins (weakspot/events.py)
EPILOG = """\
example:
  weakspot submit --address http://HOST:8265 --storage s3://BUCKET/audits audit --defense tar --gate

The exit code is the audit's. Ctrl-C stops following and leaves the job running. docs/cluster.md has the rest.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_address(parser)
    add("--storage", metavar="S", help="where results go: /shared/folder, s3://..., gs://... (default: $WEAKSPOT_STORAGE)")
    add("--wheel", metavar="FILE", help="the wheel to ship (default: built from this checkout)")
    add("--job", metavar="ID", help="the name of the submission (default: made up); with audit --resume, the one to go on with")
    add("--env", action="append", metavar="NAME=VALUE", help="a variable for driver and workers; no secrets; repeat for more")
    add("--python", default="python", metavar="EXE", help="the interpreter on the cluster (default: python)")
    add("--detach", action="store_true", help="return when the job is submitted")
    # Not REMAINDER, which as a first positional would also swallow the options before it.
    add("audit", nargs=argparse.PARSER, metavar="audit ...", help="the audit, as on a laptop (see `weakspot audit --help`)")


def add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address", metavar="URL", help="the cluster's dashboard (default: $RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265)"
    )


def run(options: argparse.Namespace) -> int:
    from weakspot.cluster import submit
    from weakspot.cluster.connect import connect
    from weakspot.cluster.storage import checked_uri
    from weakspot.cluster.wheel import find_wheel, unpack

    audit, home, arguments = read_audit(options.audit)
    if audit.resume and not options.job:
        raise UserError("audit --resume needs --job ID, the submission to go on with: `weakspot jobs` lists them")
    if home is not None:
        check_home(home, audit)
    base = checked_uri(options.storage or os.environ.get("WEAKSPOT_STORAGE") or "")
    environment = submit.variables(options.env or ())
    with tempfile.TemporaryDirectory(prefix="weakspot-submit-") as scratch:
        wheel = find_wheel(options.wheel, Path(scratch))
        client = connect(options.address, same_version=True)
        name = options.job or submit.new_id()
        job = submit.successor(client, name) if audit.resume else name
        order = submit.Order(name, job, tuple(arguments), f"{base}/{name}", environment, options.python)
        submit.send(client, order, unpack(wheel, Path(scratch) / "job"))
    say = sys.stderr if audit.json or audit.quiet else sys.stdout  # standard output is the audit's, for events or verdicts
    print(f"weakspot: submitted {job} to {client._address}; results go to {order.storage}", file=say, flush=True)
    if options.detach:
        print(f"weakspot: `weakspot logs --follow {job}` shows it, `weakspot fetch {job} --out DIR` brings its results home",
              file=say)  # fmt: skip
        return 0
    code = followed(client, job, apart=audit.json)
    if home is not None and code != submit.INTERRUPTED:
        bring_home(order.storage, home, say)
    return code


def read_audit(words: list[str]) -> tuple[argparse.Namespace, Path | None, list[str]]:
    """The audit's options, checked here before anything is sent; the local --out, if one was given; and what is sent.

    Raises:
        UserError: a mistake in the audit's options.
    """
    from weakspot.cli import audit_command
    from weakspot.cli.main import Parser

    if words[0] != "audit":
        raise UserError(f"only an audit can be submitted, not {words[0]!r}: weakspot submit [OPTIONS] audit [AUDIT'S OPTIONS]")
    whole = Parser(prog="weakspot audit")
    audit_command.add_arguments(whole)
    audit = whole.parse_args(words[1:])
    if audit.storage:
        raise UserError("--storage belongs to submit here: weakspot submit --storage S audit ...")
    local = Parser(add_help=False, allow_abbrev=False)
    local.add_argument("--out")
    given, rest = local.parse_known_args(words[1:])
    return audit, Path(given.out).expanduser().absolute() if given.out else None, [absolute(word) for word in rest]


def absolute(word: str) -> str:
    """A file or folder of this machine by its whole path: the cluster may see the same disk, and never the same folder."""
    here = Path(word).expanduser()
    return str(here.absolute()) if ("/" in word or word.endswith(".toml")) and here.exists() else word


def check_home(home: Path, audit: argparse.Namespace) -> None:
    """Refuse now what could not be brought home later.

    Raises:
        UserError: an audit lies there already.
    """
    if (home / "study.journal").exists() and not audit.resume and not audit.overwrite:
        raise UserError(f"{home} already holds an audit: add --resume and --job to go on with it, or --overwrite")


def followed(client: Any, job: str, apart: bool = False) -> int:
    """Show a job to its end; Ctrl-C leaves it alone. `apart`: events go to standard output and all else to standard error."""
    from weakspot.cluster.submit import INTERRUPTED, follow

    begun: list[str] = [""]  # a line of the log that has not come to its end

    def write(text: str) -> None:
        if not apart:
            sys.stdout.write(log_text(text))
            sys.stdout.flush()
            return
        *lines, begun[0] = (begun[0] + text).split("\n")
        for line in lines:
            print(log_text(line), file=sys.stdout if line.startswith(EVENT) else sys.stderr, flush=True)

    try:
        code = follow(client, job, write)
        if begun[0]:
            write("\n")
        return code
    except KeyboardInterrupt:
        print(f"\nweakspot: no longer following {job}, which goes on: `weakspot logs --follow {job}` follows it again, "
              f"`weakspot stop {job}` stops it", file=sys.stderr)  # fmt: skip
        return INTERRUPTED


def bring_home(uri: str, home: Path, say: TextIO) -> None:
    """Copy the results into the local --out. A storage that only the cluster can read is no mistake."""
    from weakspot.cluster.storage import open_storage

    try:
        names = open_storage(uri).fetch(home)
    except UserError as error:
        print(f"weakspot: the results were not brought home: {error}", file=sys.stderr)
        return
    print(f"weakspot: {len(names)} files brought home to {home}", file=say)

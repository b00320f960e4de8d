"""The command line: parse, call, print. Exit codes are documented in EXIT_CODES and in the README."""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn, TextIO

from weakspot import __version__
from weakspot.errors import UserError
from weakspot.text import log_text, one_line

EXIT_CODES = """\
exit codes:
  0    the audit is complete
  1    internal error
  2    the user's mistake: one line says what to do
  3    with --gate: something is BROKEN; weakspot gate: a safeguard fails; weakspot reproduce: the result differs
  4    with --gate: nothing is BROKEN, something is INCONCLUSIVE; weakspot gate: not enough evidence
  130  interrupted (Ctrl-C or SIGTERM: once for a partial report, twice to stop at once); --resume goes on
  141  who read the output went away before the command had ended
"""
READER_GONE = 141  # 128 + SIGPIPE, as shells say it
COMMANDS = (
    "audit", "estimate", "submit", "jobs", "logs", "stop", "fetch", "cluster",
    "sync", "defend", "list", "report", "reproduce", "compare", "gate", "card", "leaderboard", "doctor",
)  # fmt: skip
INSTALL = {"torch": "torch==2.13.0", "ray": "'ray[tune]'"}  # what to type where the package name is not enough


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `{self.prog} --help`)")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands. Imports nothing heavy."""
    parser = Parser(
        prog="weakspot",
        description="Find the weak spot of an open-weight model's safeguard before an attacker does.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"weakspot {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name in COMMANDS:
        module = importlib.import_module(f"weakspot.cli.{name}_command")
        epilog = getattr(module, "EPILOG", EXIT_CODES if name == "audit" else None)
        sub = commands.add_parser(
            name, help=module.HELP, description=module.HELP, epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    forgive(sys.stdout)
    code = READER_GONE
    try:
        signal.signal(signal.SIGTERM, _interrupt)  # what a cluster sends: end as Ctrl-C does, with the study whole
        options = build_parser().parse_args(arguments)
        code = options.run(options)
        sys.stdout.flush()
        return code
    except UserError as error:
        return complain(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package and package != "weakspot":
            return complain(f"{package} is not installed: pip install {INSTALL.get(package, package)}")
        return crash()
    except KeyboardInterrupt:
        print("weakspot: interrupted; finished trials are kept: run the same command with --resume", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python fails once more when it ends
        return code  # a verdict that was reached stays what it is; one that was not never counts as passed
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return complain(f"no space left for {error.filename or 'a temporary file'}: free some, then run with --resume")
        return crash()
    except Exception:
        return crash()


def forgive(stream: TextIO) -> None:
    """What the encoding lacks, as of a file name that is not UTF-8, is written as an escape, as standard error does anyway."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def complain(message: str) -> int:
    """A user's mistake in one line; a list of them, as of a file's, in one line each."""
    lines = [one_line(line) for line in message.split("\n") if line.strip()]
    print("weakspot: " + "\n  ".join(lines), file=sys.stderr)
    return 2


def crash() -> int:
    print(log_text(traceback.format_exc()), end="", file=sys.stderr)
    print("weakspot: internal error; finished trials are kept: please report the lines above", file=sys.stderr)
    return 1


def _interrupt(signum: int, frame: Any) -> NoReturn:
    del signum, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

"""Where an audit shows itself: as a table or lines on standard output, as verdicts only, or as events for programs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from weakspot.cli.live import make_console, make_display
from weakspot.records import Result


@dataclass
class Screen:
    """One way of showing an audit.

    Attributes:
        observers: told of the audit while it runs.
        end: shows its end, given the result and the exit code.
    """

    observers: list[Any] = field(default_factory=list)
    end: list[Callable[[Result, int], None]] = field(default_factory=list)

    def finish(self, result: Result, code: int) -> None:
        for show in self.end:
            show(result, code)


@contextmanager
def open_screen(options: argparse.Namespace, out: Path) -> Iterator[Screen]:
    """The screen that --json and --quiet ask for. With --json, what is for people goes to standard error."""
    if not options.json:
        shown = [] if options.quiet else [make_display(sys.stdout)]
        yield Screen(shown, [in_words(options, sys.stdout)])
        return
    from weakspot.cli.stream import EventWriter, kept_clean

    with kept_clean() as stream:
        writer = EventWriter(stream, out)
        yield Screen([writer], [writer.finish, in_words(options, sys.stderr)])


def in_words(options: argparse.Namespace, stream: TextIO) -> Callable[[Result, int], None]:
    """The end of an audit for people: all of it, or a line per verdict."""
    from weakspot.cli.summary import print_summary, print_verdicts

    def end(result: Result, code: int) -> None:
        try:
            if options.quiet:
                print_verdicts(result, make_console(stream))
            else:
                print_summary(result, Path(options.out), make_console(stream))
            stream.flush()
        except (BrokenPipeError, SystemExit):  # the reader of a pipe has gone (rich says SystemExit); the verdict has not
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if result.partial:
            print(f"weakspot: {result.partial}; a partial report lies in {options.out}: the same command with --resume goes on",
                  file=sys.stderr)  # fmt: skip

    return end

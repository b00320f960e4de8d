"""How a search is asked to stop before its end: once gracefully, twice at once.

Once: nothing new is started, running attacks end at their next rung (inline) or are cancelled (Ray), and what is there is
reported as partial. Twice: KeyboardInterrupt, wherever the program is; the study is whole and nothing is reported. The study
does not hear of an attack that was cancelled: it counts as under way, so that --resume proposes it again, unchanged.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SAME = 0.25  # seconds: `uv run`, `tini -g` and their like forward a signal that the terminal has sent us already
STOPPING = "stopping: running attacks end at their next rung or are cancelled; once more stops at once"


@dataclass
class Halt:
    """Whether a search has been asked to stop.

    Attributes:
        asked: by what: a signal's name, or whatever `ask` was given; empty where nobody did.
        armed: whether there is a search that can stop gracefully. Else a signal is a KeyboardInterrupt.
        shown: whether somebody else shows STOPPING, such as a live table, which a line from here would tear.
    """

    asked: str = ""
    armed: bool = False
    shown: bool = False
    when: float = 0.0

    def ask(self, by: str) -> None:
        """Ask once. From a signal handler too: it writes past Python's buffers, which may be in use."""
        self.asked, self.when = by, time.monotonic()
        if not self.shown:
            os.write(2, f"weakspot: {STOPPING}\n".encode())

    def on_signal(self, number: int, frame: Any = None) -> None:
        """The first signal asks, the second interrupts."""
        del frame
        if self.asked and time.monotonic() - self.when < SAME:
            return
        if self.asked or not self.armed:
            raise KeyboardInterrupt
        self.ask(signal.Signals(number).name)

    @contextmanager
    def searching(self) -> Iterator[None]:
        """While a search runs that looks at `asked`."""
        self.armed = True
        try:
            yield
        finally:
            self.armed = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM to here; only the main thread of a process may."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

"""The study's journal: Optuna's file, with several entries in one write, and without a record of where every line begins.

Optuna's own backend writes, locks and syncs the file once for every knob of a proposal, and remembers the offset of each line
for ever. Over twenty thousand trials that is half a million syncs, each of which holds up the driver, and 60 MiB. The format of
the file is unchanged: Optuna and its dashboard read it as any other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from optuna.storages.journal import BaseJournalBackend, JournalFileOpenLock


class Journal(BaseJournalBackend):
    """Entries as lines of JSON.

    Others may write too, under the same lock, between two writes of ours: what they wrote is read before anything of ours is
    added, so that all see one order.

    Attributes:
        read: number of entries read so far, and the offset behind them in bytes.
        held: the entries of a write that is being gathered; None outside of `together`.
        shown: how many of those have been read back.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = JournalFileOpenLock(path)
        self.read = (0, 0)
        self.held: list[bytes] | None = None
        self.shown = 0
        with open(path, "ab"):
            pass  # it exists from now on

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The entries from this number on.

        Raises:
            ValueError: a line is no JSON.
        """
        known = self.read[0] + self.shown
        if log_number_from not in (0, known) or (log_number_from == 0 and self.shown):
            raise ValueError(f"entry {log_number_from} of {self.path} was asked for and {known} comes next")
        if log_number_from == 0:
            self.read = (0, 0)
        for line in self._lines():
            yield json.loads(line)
        while self.shown < len(self.held or ()):
            self.shown += 1
            yield json.loads((self.held or [])[self.shown - 1])

    def _lines(self) -> Iterator[bytes]:
        """Whole lines that were not read before; one that somebody is writing is left for later."""
        if self.shown or os.stat(self.path).st_size == self.read[1]:
            return
        with open(self.path, "rb") as file:
            file.seek(self.read[1])
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.read = (self.read[0] + 1, self.read[1] + len(line))
                yield line

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs]
        if self.held is not None:
            self.held += lines
            return
        with self._locked():
            self._write(lines)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Gather what is written in here and write it at the end at once; after an exception, as far as it came.

        In order: where a line of it is in the file, so are those before it.
        """
        with self._locked():
            self.held = []
            try:
                yield
            finally:
                held, shown, self.held, self.shown = self.held, self.shown, None, 0
                if held:
                    self._write(held)
                    self.read = (self.read[0] + shown, self.read[1] + sum(map(len, held[:shown])))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.lock.acquire()
        try:
            yield
        finally:
            self.lock.release()

    def _write(self, lines: list[bytes]) -> None:
        with open(self.path, "ab") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())

"""The driver's side of a monitor: an observer that hands what has ended to a writer process, and never waits for it.

A trial costs the driver one `json.dumps` and one `put` into a queue; a thread carries the queue into a pipe. A writer that is
dead, hangs or cannot keep up is given up, said once, and the audit goes on.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weakspot.cluster.monitor.rows import PHASES, trial_row
from weakspot.text import one_line

MOST_WAITING = 20_000  # lines, about 30 MB: a writer that is so far behind will not catch up
SAID_ALREADY = 3  # exit code of a writer that has said itself why it ended


@dataclass
class Monitor:
    """Logs every ended search and confirmation trial through a process of its own.

    Attributes:
        label: what to call it in a message.
        folder: where its files go; made by the writer.
        settings: what the writer needs, as plain data (cluster/monitor/writer.py).
        patience: seconds without a sign of progress after which a writer that should finish is ended.
    """

    label: str
    folder: Path
    settings: dict[str, Any]
    patience: float = 90.0
    process: subprocess.Popen[bytes] | None = None
    waiting: queue.Queue[bytes | None] = field(default_factory=lambda: queue.Queue(MOST_WAITING))
    floors: dict[str, float] = field(default_factory=dict)
    feeder: threading.Thread = field(default_factory=threading.Thread)
    over: bool = False

    def on_prepare(self, names: Sequence[str]) -> None:
        """Nothing to log yet."""

    def on_dashboard(self, url: str) -> None:
        """An address inside the cluster is nobody else's business."""

    def on_start(self, plan: Any) -> None:
        """Start the writer, and tell it what was known before: it leaves out what it has written."""
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "weakspot.cluster.monitor.writer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C ends the audit, which then lets the writer finish
        )
        self.feeder = threading.Thread(target=self._feed, name=f"weakspot-{self.label}", daemon=True)
        self.feeder.start()
        self._put({"folder": str(self.folder), **self.settings})
        for subject in plan.subjects.values():
            self.floors[subject.name] = subject.settings.floor
            for outcome in subject.outcomes.values():
                self.on_outcome(outcome)

    def on_reading(self, job: Any, reading: Any) -> None:
        """Written with the outcome: a trial may still be stopped."""

    def on_outcome(self, outcome: Any) -> None:
        if outcome.job.phase in PHASES:
            self._put({"trial": trial_row(outcome, self.floors.get(outcome.job.subject, 0.0))})

    def on_end(self, plan: Any) -> None:
        """The summary comes after the reports, see `finish`."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Log the end of the audit: what cli/watch.py made of its result."""
        if self.process is not None:
            self._put({"summary": summary})

    def close(self) -> None:
        """Let the writer finish; end it when it makes no progress."""
        process = self.process
        if process is None:
            return
        try:
            self.waiting.put_nowait(None)
        except queue.Full:
            self._give_up("it does not take what it is told")
        sign, since = None, time.monotonic()
        while process.poll() is None:
            if (now := self._progress()) != sign:
                sign, since = now, time.monotonic()
            if time.monotonic() - since > self.patience:
                self._give_up(f"it made no progress for {self.patience:.0f} s and was ended")
            time.sleep(0.05)
        self._gone(process)
        self.feeder.join(1.0)  # no longer: it may wait in an empty queue, where a full one did not take the end
        self.process = None

    def _put(self, message: dict[str, Any]) -> None:
        """Never blocks, never raises."""
        if self.over:
            return
        try:
            self.waiting.put_nowait(json.dumps(message).encode() + b"\n")
        except queue.Full:
            self._give_up(f"it is {MOST_WAITING} trials behind and was ended: use --wandb-mode table")

    def _feed(self) -> None:
        process = self.process
        assert process is not None
        assert process.stdin is not None
        try:
            while (line := self.waiting.get()) is not None:
                process.stdin.write(line)
                process.stdin.flush()
            process.stdin.close()
        except OSError:  # the writer is gone
            with suppress(OSError):
                process.stdin.close()  # flushes, which fails, and closes
            self._gone(process)

    def _progress(self) -> object:
        """Something that changes whenever the writer has done a piece of work."""
        try:
            state = (self.folder / "written").stat()
        except OSError:
            return self.waiting.qsize()
        return state.st_mtime_ns, state.st_size, self.waiting.qsize()

    def _gone(self, process: subprocess.Popen[bytes]) -> None:
        """The writer has closed its end: if it did not say why, say so."""
        code = process.wait()
        if code != 0 and not self.over:
            self.over = True
            if code != SAID_ALREADY:
                self._say(f"its process ended with {code}")

    def _give_up(self, why: str) -> None:
        """End the writer and what it started: they are a session of their own. What it has written stays."""
        if self.over:
            return
        self.over = True
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self._say(why)

    def _say(self, what: str) -> None:
        text = f"weakspot: {self.label}: {what}; the audit goes on (log: {self.folder}/writer.log)"
        print(one_line(text), file=sys.stderr, flush=True)

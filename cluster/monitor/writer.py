"""The writer process of a monitor: reads lines of JSON, writes files, uploads where it may.

    python -m weakspot.cluster.monitor.writer < lines

The first line holds the settings: `folder`, `sink` (a name of SINKS), `label`, `name` and, for W&B, `project`,
`upload` and perhaps `limit` (seconds for a batch). Then a line
{"trial": row} for each ended trial (cluster/monitor/rows.py) and one {"summary": ...} when the audit is finished. It stops at
the end of its input: when the driver dies, it finishes what it was told and ends.

`written` in the folder lists the ids of the trials that are on disk, so that an audit that goes on does not double them. It is
touched while an upload makes its way, which is how the driver tells work from hanging.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TextIO

from weakspot.cluster.monitor.upload import Uploader
from weakspot.text import one_line

SINKS = {
    "runs": "wandb_runs:WandbRuns",
    "table": "wandb_table:WandbTable",
    "tensorboard": "tensorboard:TensorBoard",
}
SECRETS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
SAID_ALREADY = 3


class Sink(Protocol):
    """One way to write trials down. Made with the settings; raises what goes wrong."""

    def open(self, written: set[str]) -> set[str]:
        """Begin: remove what an earlier process left half done.

        Args:
            written: the trials that an earlier process says to have written.

        Returns:
            Those of them that are here and stay; all others are to be written.
        """
        ...

    def known(self, row: dict[str, Any]) -> None:
        """A trial that an earlier process has written."""

    def trial(self, row: dict[str, Any]) -> None: ...

    def summary(self, summary: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


def main() -> int:
    voice = os.fdopen(os.dup(2), "w", buffering=1)  # the driver's standard error, for the few things to say
    settings = json.loads(sys.stdin.readline())
    folder = Path(settings["folder"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log = os.open(folder / "writer.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.nice(10)  # trials come first
        return Writer(settings, voice).run()
    except Exception as error:
        print(one_line(f"weakspot: {settings['label']} failed and is switched off: {describe(error)}"), file=voice)
        return SAID_ALREADY


class Writer:
    """Reads, writes, uploads; says each kind of trouble once."""

    def __init__(self, settings: dict[str, Any], voice: TextIO) -> None:
        self.settings, self.voice = settings, voice
        self.folder = Path(settings["folder"])
        during = settings["sink"] == "runs"  # a table is one run, open to the end
        self.uploader = Uploader(self.folder, self.say, during) if settings.get("upload") else None  # keeps the key
        if self.uploader is not None and settings.get("limit"):
            self.uploader.limit = settings["limit"]
        for name in SECRETS:  # what writes files needs none
            os.environ.pop(name, None)
        module, _, name = SINKS[settings["sink"]].partition(":")
        self.sink: Sink = getattr(import_module(f"weakspot.cluster.monitor.{module}"), name)(settings)
        self.failed = 0

    def run(self) -> int:
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a writer whose driver was killed may still be at its last lines
            ledger = self.folder / "written"
            written = self.sink.open(set(filter(None, ledger.read_text().split("\n"))) if ledger.exists() else set())
            with ledger.open("w", buffering=1) as file:
                file.writelines(f"{name}\n" for name in sorted(written))
                finished = self.write(written, file)
                self.sink.close()
                if self.uploader is not None and finished:
                    self.uploader.finish(lambda: os.utime(ledger))
        return 0

    def write(self, written: set[str], ledger: TextIO) -> bool:
        """Write down all that comes. Returns whether the audit came to its end."""
        finished = False
        for message in self.messages():
            if self.uploader is not None:
                self.uploader.tend()
            if message is None:  # nothing came for a while
                continue
            row = message.get("trial")
            if row is not None and row["id"] in written:
                self.sink.known(row)
                continue
            try:
                if row is not None:
                    self.sink.trial(row)
                    written.add(row["id"])
                else:
                    self.sink.summary(message["summary"])
                    finished = True
            except Exception as error:
                self.failed += 1
                if self.failed == 1:
                    self.say(f"a trial could not be written: {describe(error)}")
                continue
            ledger.write(f"{row['id'] if row is not None else ''}\n")
        return finished

    def messages(self) -> Iterator[dict[str, Any] | None]:
        """What the driver says, and None whenever it says nothing for a second."""
        lines: queue.Queue[str] = queue.Queue(100)

        def read() -> None:
            for line in sys.stdin:
                lines.put(line)
            lines.put("")

        threading.Thread(target=read, daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=1.0)
            except queue.Empty:
                yield None
                continue
            if not line.endswith("\n"):  # the end, or half a line of a driver that was killed
                return
            yield json.loads(line)

    def say(self, text: str) -> None:
        print(one_line(f"weakspot: {self.settings['label']}: {text}"), file=self.voice)


def describe(error: BaseException) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first[:200]}"


if __name__ == "__main__":
    sys.exit(main())

"""Keeps a copy of an audit's folder in storage while it grows, so that a lost machine costs seconds of work.

A thread beside the audit rather than a copy at its end: a spot instance goes without an end. And within the audit rather than
in a wrapper around it, so that one option does the same on a laptop, in a job of Ray's, under Kubernetes and under Slurm, and
a command that is started again (a RayJob's retry, on a new cluster with an empty disk) brings home what is stored by itself.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from weakspot.cluster.storage import Storage
from weakspot.errors import UserError
from weakspot.text import one_line

EVERY = 2.0  # seconds between looks at the folder, at least
SHARE = 0.05  # of the time may go into copying: a journal of 50 MB is not sent to an object store every two seconds
STUDY = "study.journal"
KEPT_HERE = (".lock", ".part", ".sock")  # names' ends: locks and sockets mean something to one machine only


class Keeper:
    """A context that restores a folder from storage, and stores it again as it changes.

    Also an observer of the audit within: nothing is stored, and nothing that was stored is removed, before the audit's study is
    open. Until then a mistake may end it, and what lies in the folder may be another audit's.
    """

    def __init__(self, folder: Path, storage: Storage, resume: bool, overwrite: bool) -> None:
        self.folder = folder
        self.storage = storage
        self.resume = resume
        self.overwrite = overwrite
        self.stored: dict[str, tuple[int, int]] = {}  # name -> (size, time of change) when it was last copied
        self.stale: list[str] = []  # what --overwrite takes away
        self.begun = threading.Event()
        self.over = threading.Event()
        self.complained = False

    def __enter__(self) -> Keeper:
        """Look whether the storage can be written, and bring home what an earlier run has left there.

        Raises:
            UserError: it cannot; or it holds an audit, and neither `resume` nor `overwrite` was given.
        """
        self.storage.check_writable()
        there = self.storage.sizes()
        if STUDY in there and not self.resume and not self.overwrite:
            raise UserError(
                f"{self.storage.uri} already holds an audit: add --resume to go on with it, or --overwrite to begin anew"
            )
        if self.overwrite:
            self.stale = list(there)
        elif there.get(STUDY, 0) > 0:
            self.restore(there[STUDY])
        self.thread = threading.Thread(target=self.watch, name="storage", daemon=True)
        self.thread.start()
        return self

    def restore(self, stored: int) -> None:
        """Fetch what is stored, unless this machine has it all. There is one writer: the longer journal holds the other.

        Raises:
            UserError: the folder holds another audit.
        """
        study = self.folder / STUDY
        here = study.read_bytes() if study.is_file() else b""
        whole = here[: here.rfind(b"\n") + 1]  # a kill may have torn the last line
        if stored > len(here):
            if not self.storage.read(STUDY).startswith(whole):
                raise UserError(f"{self.folder} holds another audit than {self.storage.uri}: choose another --out or --storage")
            self.storage.fetch(self.folder)

    def on_start(self, plan: object) -> None:
        """The study is open, and it is this audit's."""
        self.begun.set()

    def on_prepare(self, names: object) -> None:
        """Nothing to keep yet."""

    def on_reading(self, job: object, reading: object) -> None:
        """The thread sees the study grow."""

    def on_outcome(self, outcome: object) -> None:
        """The thread sees the study grow."""

    def on_end(self, plan: object) -> None:
        """The pages are still to be written."""

    def close(self) -> None:
        """Closed as a context, after the pages."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Store the last changes.

        Raises:
            UserError: they cannot be stored; the message says where they lie. An error that is under way already goes first.
        """
        self.over.set()
        self.thread.join()
        try:
            self.copy()
        except UserError as trouble:
            message = f"{trouble}; the audit is whole in {self.folder} on this machine"
            if error is None:
                raise UserError(message) from trouble
            print(one_line(f"weakspot: {message}"), file=sys.stderr)

    def watch(self) -> None:
        """Copy what has changed, again and again. Trouble is told once, and tried again."""
        pause = EVERY
        while not self.over.wait(pause):
            started = time.monotonic()
            try:
                self.copy()
                self.complained = False
            except Exception as error:  # outside the critical path: the search goes on
                if not self.complained:
                    print(one_line(f"weakspot: {error}; the audit goes on and tries again"), file=sys.stderr)
                self.complained = True
            pause = max(EVERY, (time.monotonic() - started) / SHARE)

    def copy(self) -> None:
        """Store every file that has changed since it was last stored; the study first, the result last."""
        if not self.begun.is_set():
            return
        while self.stale:
            self.storage.remove(self.stale[-1])
            self.stale.pop()
        for path in sorted(self.changing(), key=lambda p: (p.name == "result.json", p.name != STUDY, p)):
            try:
                stat = path.stat()
                mark = (stat.st_size, stat.st_mtime_ns)
                name = path.relative_to(self.folder).as_posix()
                if self.stored.get(name) == mark:
                    continue
                content = path.read_bytes()
            except FileNotFoundError:  # a temporary file that has got its name
                continue
            self.storage.write(name, content)
            self.stored[name] = mark  # what was added while it was read has another size, and is seen next time

    def changing(self) -> list[Path]:
        """The audit's files; not those of one machine, nor those under way."""
        inside = (p for p in self.folder.rglob("*") if p.is_file() and not p.is_symlink())
        return [p for p in inside if not p.name.startswith(".") and not p.name.endswith(KEPT_HERE)]


def size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0

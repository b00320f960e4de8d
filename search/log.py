"""The log of an audit: a line per job, appended, so that a resumed audit continues it."""

from __future__ import annotations

from pathlib import Path

from weakspot.search.jobs import Job, Outcome, Reading
from weakspot.search.observer import Observer
from weakspot.search.plan import Plan
from weakspot.search.provenance import now
from weakspot.text import one_line

LONGEST = 20_000  # characters of a line: the settings of a chain of attacks are many


class LogWriter(Observer):
    """Writes what ended and why, in the order of ending. Scores only: model outputs are never logged."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_start(self, plan: Plan) -> None:
        known = sum(len(subject.outcomes) for subject in plan.subjects.values())
        self._write(f"start: {', '.join(plan.subjects)}; {known} jobs known from before")

    def on_reading(self, job: Job, reading: Reading) -> None:
        """Written with the outcome."""

    def on_outcome(self, outcome: Outcome) -> None:
        job = outcome.job
        course = " ".join(f"{r.rung}:{r.harm:.3f}/{r.utility:.3f}" for r in outcome.readings)
        config = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in job.config.items())
        why = f" ({outcome.reason})" if outcome.reason else ""
        self._write(f"{job.id} {job.attack} {outcome.status}{why} step:harm/utility {course or '-'} seed={job.seed} {config}")

    def on_lost(self, job: Job, why: str) -> None:
        self._write(f"lost: {job.id}, because {why}: it is run again")

    def on_interrupt(self, plan: Plan) -> None:
        self._write(plan.partial)

    def on_end(self, plan: Plan) -> None:
        self._write("end")

    def _write(self, line: str) -> None:
        with self.path.open("a", encoding="utf-8", errors="replace") as file:
            file.write(f"{now()} {one_line(line, LONGEST)}\n")

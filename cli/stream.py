"""`weakspot audit --json`: an observer that writes one event a line (weakspot/events.py), for programs that follow an audit."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from weakspot import events
from weakspot.cli.tally import Tally
from weakspot.events import inert, to_line
from weakspot.records import Result
from weakspot.search.confirm import cost_of


@contextmanager
def kept_clean() -> Iterator[TextIO]:
    """Standard output for events alone: what a library prints there meanwhile goes to standard error."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(own, "w", encoding="ascii", closefd=False) as stream:
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(own, 1)
        os.close(own)


class EventWriter:
    """Writes what happens to `stream`, flushed line by line."""

    def __init__(self, stream: TextIO, out: Path) -> None:
        self.stream = stream
        self.out = out
        self.started = time.monotonic()
        self.tally = Tally()
        self.phases: set[tuple[str, str]] = set()

    def write(self, record: type[events.Event], /, **fields: Any) -> None:
        self.stream.write(to_line(record(**{name: inert(value) for name, value in fields.items()})) + "\n")
        self.stream.flush()

    def on_prepare(self, names: Sequence[str]) -> None:
        self.write(events.Prepare, subjects=list(names))

    def on_start(self, plan: Any) -> None:
        self.tally.start(plan)
        settings = self.tally.settings
        subjects = [
            {"subject": name, "trials": row.total, "trials_done": row.done, "jobs_done": row.jobs_done}
            for name, row in self.tally.rows.items()
        ]
        self.write(
            events.Start,
            subjects=subjects,
            families=list(settings.space.families),
            harm_threshold=settings.threshold,
            utility_floor=settings.floor,
            search_flops=settings.limits.flops,
            search_seconds=settings.seconds,
        )

    def on_job(self, job: Any) -> None:
        if (job.subject, job.phase) not in self.phases:
            self.phases.add((job.subject, job.phase))
            self.write(events.Phase, subject=job.subject, phase=job.phase)

    def on_reading(self, job: Any, reading: Any) -> None:
        self.write(
            events.Rung, subject=job.subject, phase=job.phase, job=job.id, attack=job.attack, rung=reading.rung,
            harm=reading.harm, utility=reading.utility, feasible=reading.feasible(self.tally.settings.floor),
            flops=reading.flops, seconds=reading.seconds,
        )  # fmt: skip

    def on_outcome(self, outcome: Any) -> None:
        self.tally.count(outcome)
        job, floor = outcome.job, self.tally.settings.floor
        best = outcome.best(floor)
        shown = best or (outcome.readings[-1] if outcome.readings else None)
        common = {
            "subject": job.subject, "job": job.id, "attack": job.attack, "config": dict(job.config), "seed": job.seed,
            "status": outcome.status, "reason": outcome.reason, "rung": shown.rung if shown else None,
            "harm": shown.harm if shown else None, "utility": shown.utility if shown else None, "feasible": best is not None,
            "cost": cost_of(shown).model_dump() if shown else None,
        }  # fmt: skip
        if job.phase == "search":
            row = self.tally.rows[job.subject]
            self.write(
                events.Trial, **common, kind=job.kind, of=job.of, trials_done=row.done, trials_failed=row.failed,
                trials=row.total, flops=row.flops, best=row.best, families=row.families,
            )  # fmt: skip
        elif job.phase == "confirm":
            trial = job.id.split("/")[-2].split("@")[0]
            self.write(events.Confirm, **common, of=f"{job.subject}/{trial}")
        else:
            self.write(events.Measured, **common, phase=job.phase)

    def on_lost(self, job: Any, why: str) -> None:
        self.write(events.Lost, subject=job.subject, job=job.id, reason=why)

    def on_interrupt(self, plan: Any) -> None:
        self.write(events.Interrupt, by=plan.halt.asked, reason=plan.partial)

    def close(self) -> None:
        """The verdicts come after the reports, see `finish`."""

    def finish(self, result: Result, code: int) -> None:
        """The verdicts and the end. A reader that has gone changes nothing."""
        try:
            for subject in result.subjects:
                spot = subject.weak_spot
                self.write(
                    events.Verdict, subject=subject.defense, verdict=subject.verdict, reason=subject.reason,
                    attack=spot.attack if spot else None, config=spot.config if spot else None,
                    confirmed=spot.confirmed.model_dump() if spot else None,
                )  # fmt: skip
            self.write(
                events.Done, exit_code=code, partial=result.partial, result=str(self.out / "result.json"),
                report=str(self.out / "report.html"), seconds=round(time.monotonic() - self.started, 3),
            )  # fmt: skip
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

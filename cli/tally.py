"""What is counted while an audit runs: per safeguard its trials, the best of each family, what was spent; and the time left."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

TO_THE_END = "to the end"
ALIKE = ("confirm", TO_THE_END)  # what a phase is like that was not timed yet: most repeat an attack to its end
MEASURED = 3  # search trials whose duration must be known before anything is said about the time left


@dataclass
class Row:
    """The state of one subject.

    Attributes:
        total: search trials at most; None where nothing is searched.
        families: most feasible harm by family, of those that have any.
        flops: the attacker's operations over all search trials.
        expected: jobs by phase, of a course that goes as courses go.
        ended: jobs by phase.
        under_way: job id -> its phase and when it was handed out.
    """

    total: int | None
    done: int = 0
    failed: int = 0
    baseline: float | None = None
    best: float | None = None
    how: str = ""
    families: dict[str, float] = field(default_factory=dict)
    flops: float = 0.0
    expected: dict[str, int] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    under_way: dict[str, tuple[str, float]] = field(default_factory=dict)

    @property
    def jobs_done(self) -> int:
        return sum(self.ended.values())

    @property
    def phase(self) -> str:
        """What is under way."""
        running = {phase for phase, _ in list(self.under_way.values())}  # a table is drawn by a thread of its own
        order = [*self.expected, *running]
        return " ".join(sorted(running, key=order.index)) or ("idle" if self.ended else "waiting")


@dataclass
class Tally:
    """A row per subject. Not an observer itself: those that show something hold one and feed it.

    Attributes:
        durations: seconds from handing a job out to its end, by phase, and under "to the end" those of search trials that were
            not stopped. Of this run only: an earlier one may have had another machine.
        clock: seconds; tests have one of their own.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    settings: Any = None
    durations: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    clock: Callable[[], float] = time.monotonic
    started: float = 0.0
    plan: Any = None

    def start(self, plan: Any) -> None:
        """Take a plan's subjects, and what an earlier run has left."""
        self.plan, self.started = plan, self.clock()
        for name, subject in plan.subjects.items():
            self.settings = subject.settings
            row = Row(subject.trials if subject.study is not None else None)
            for job in subject.fixed:
                row.expected[job.phase] = row.expected.get(job.phase, 0) + 1
            if row.total is not None:
                row.expected |= usual(row.total, subject.settings)
            self.rows[name] = row
            for outcome in subject.outcomes.values():
                self.count(outcome)

    def begin(self, job: Any) -> None:
        self.rows[job.subject].under_way[job.id] = (job.phase, self.clock())

    def count(self, outcome: Any) -> bool:
        """Take an outcome into its row; whether it is the best so far."""
        row, job = self.rows[outcome.job.subject], outcome.job
        row.ended[job.phase] += 1
        if job.id in row.under_way:
            _, since = row.under_way.pop(job.id)
            self.durations[job.phase].append(self.clock() - since)
            if job.phase == "search" and outcome.status == "completed":
                self.durations[TO_THE_END].append(self.clock() - since)
        if job.phase == "baseline" and outcome.readings:
            row.baseline = outcome.readings[-1].harm
        if job.phase != "search":
            return False
        row.done += 1
        row.failed += outcome.status == "failed"
        row.flops += outcome.readings[-1].flops if outcome.readings else 0.0
        best = outcome.best(self.settings.floor)
        if best is None:
            return False
        row.families[job.attack] = max(best.harm, row.families.get(job.attack, best.harm))
        if row.best is not None and best.harm <= row.best:
            return False
        row.best, row.how = best.harm, f"{job.attack}, {best.rung} steps"
        return True

    @property
    def busy(self) -> int:
        return sum(len(row.under_way) for row in self.rows.values())

    def seconds_left(self) -> float | None:
        """From the durations of this run; None while too few are known, or where a phase resembles none that was timed."""
        if len(self.durations.get("search", ())) < MEASURED:
            return None
        places = max(1, self.plan.places or 1)
        searching, after = 0.0, 0.0
        for name, row in self.rows.items():
            for phase, count in row.expected.items():
                left = self.trials_left(name, row) if phase == "search" else max(0, count - row.ended.get(phase, 0))
                if not left:
                    continue
                known = next((self.durations[like] for like in (phase, *ALIKE) if self.durations.get(like)), None)
                if known is None:
                    return None
                seconds = left * sum(known) / len(known) / places
                searching, after = (searching + seconds, after) if phase == "search" else (searching, after + seconds)
        if self.settings.seconds is not None:
            searching = min(searching, max(0.0, self.settings.seconds - (self.clock() - self.started)))
        return searching + after

    def trials_left(self, name: str, row: Row) -> float:
        """Search trials that a subject may still run, within the attacker's budget if it has one."""
        left = 0.0 if self.plan.subjects[name].ended_by else float(max(0, (row.total or 0) - row.done))
        bound = self.settings.limits.flops
        if bound is None or not row.done or not row.flops:
            return left
        return min(left, max(0.0, bound - row.flops) / (row.flops / row.done))

    @property
    def open_ended(self) -> bool:
        """Whether the search may end before what is reckoned with, at a moment that nobody can tell."""
        limits = self.settings.limits
        return limits.until_broken or limits.chance is not None


def usual(trials: int, settings: Any) -> dict[str, int]:
    """The jobs of a search and of what follows it, by phase: the first finalists on their seeds, the weak spot's re-runs."""
    from weakspot.search.confirm import CHEAPEST, STRONGEST

    finalists = min(STRONGEST + CHEAPEST, trials)
    after = {"twin": 2 if settings.twins else 0, "variation": settings.variations}
    counts = {"search": trials, "confirm": finalists * len(settings.confirmation_seeds), **after}
    return {phase: count for phase, count in counts.items() if count}

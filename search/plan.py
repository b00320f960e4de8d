"""What an audit does next. A state machine without clocks, processes or Ray: backends ask it for jobs and tell it readings.

Subjects (search/course.py) overlap, so that no worker waits for another subject's last trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weakspot.defenses import PaperAttack
from weakspot.search.course import SubjectPlan
from weakspot.search.halt import Halt
from weakspot.search.jobs import Job, Outcome, Reading
from weakspot.search.observer import Observer, tell
from weakspot.search.settings import Settings
from weakspot.search.starts import control_config
from weakspot.seeds import derive
from weakspot.threat import ThreatModel


class Plan:
    """All subjects of an audit, in the order of the result.

    Attributes:
        halt: whether the search was asked to stop: then no job is handed out, and what is under way is left open.
        interrupted: whether that has left something undone; settled once nothing runs any more (`settle`).
        places: how many jobs can be under way at a time, as a backend has last said; None before it has.
    """

    def __init__(
        self,
        subjects: Sequence[SubjectPlan],
        recorded: Mapping[str, Outcome],
        observers: list[Observer],
        halt: Halt | None = None,
    ) -> None:
        self.subjects = {subject.name: subject for subject in subjects}
        self.observers = observers
        self.halt = halt or Halt()
        self.interrupted = False
        self.places: int | None = None
        for outcome in recorded.values():
            if outcome.job.subject in self.subjects:
                self.subjects[outcome.job.subject].outcomes[outcome.job.id] = outcome
        for subject in subjects:
            subject.recall()

    def next(self) -> Job | None:
        """The next job of the first subject that has one, or None when every open question waits for a result.

        Against a deadline the subject that has searched the smallest share of its trials comes first: none is left out.
        """
        if self.halted:
            return None
        order = list(self.subjects.values())
        if order and order[0].settings.timed:
            order.sort(key=lambda s: s.proposed / s.trials if s.study is not None else 0.0)
        job = next((job for subject in order if (job := subject.next())), None)
        if job is not None:
            self._tell("on_job", job)
        return job

    @property
    def halted(self) -> bool:
        return bool(self.halt.asked)

    def settle(self) -> None:
        """Nothing runs any more: say whether a halt has left something undone, and tell the observers."""
        self.interrupted = self.halted and not self.done
        if self.interrupted:
            self._tell("on_interrupt", self)

    def unfinished(self, name: str) -> str:
        """Why the answer about a subject is incomplete; empty unless the audit was interrupted."""
        if not self.interrupted:
            return ""
        subject = self.subjects[name]
        if subject.study is None:
            return "interrupted before the audit was complete"
        ended, trials = len(subject.closed), max(subject.trials, len(subject.closed))
        rest = ", before the audit was complete" if ended == trials else ""
        return f"interrupted after {ended} of {trials} trials{rest}"

    @property
    def partial(self) -> str:
        """What an interrupted audit has done of its search, in words; empty unless it was."""
        if not self.interrupted:
            return ""
        searched = [s for s in self.subjects.values() if s.study is not None]
        ended = sum(len(s.closed) for s in searched)
        return f"interrupted after {ended} of {sum(max(s.trials, len(s.closed)) for s in searched)} trials"

    @property
    def threat(self) -> ThreatModel | None:
        """What the attacker may do."""
        return next((s.settings.threat for s in self.subjects.values()), None)

    @property
    def defenses(self) -> dict[str, Any]:
        """The methods by subject, where there are any."""
        return {name: s.defense for name, s in self.subjects.items() if s.defense is not None}

    @property
    def done(self) -> bool:
        return all(subject.done for subject in self.subjects.values())

    def add(self, job: Job, reading: Reading) -> bool:
        """Tell a reading; the answer says whether the job goes on."""
        goes_on = self.subjects[job.subject].add(job.id, reading)
        self._tell("on_reading", job, reading)
        return goes_on

    def close(self, job: Job, status: str, reason: str = "") -> None:
        """Tell how a job ended: completed, stopped or failed."""
        outcome = self.subjects[job.subject].close(job.id, status, reason)
        self._tell("on_outcome", outcome)

    def reopen(self, job: Job, why: str) -> None:
        """Forget what a job has told: it lost its machine and is run again from its start."""
        self.subjects[job.subject].reopen(job.id)
        self._tell("on_lost", job, why)

    def _tell(self, method: str, *arguments: Any) -> None:
        tell(self.observers, method, *arguments)

    def start(self) -> None:
        self._tell("on_start", self)

    def end(self) -> None:
        self._tell("on_end", self)


def fixed_jobs(
    name: str, settings: Settings, paper: PaperAttack | None, control_families: Sequence[str], served: bool = False
) -> list[Job]:
    """A subject's jobs outside search and confirmation.

    The unattacked model is measured on both stages, and with `served` also what the provider's method leaves after an ordinary
    user's job. The paper's attack is run as it is, cut to the budget. On the control
    subject every family runs its first warm start, or its defaults: the positive control.
    """

    def job(phase: str, label: str, attack: str, config: Mapping[str, Any], stage: Any, rungs: tuple[int, ...]) -> Job:
        seed = derive(settings.root, phase, name, label)
        return Job(f"{name}/{phase}/{label}", name, phase, attack, config, seed, rungs, stage)

    budget = settings.threat.max_steps
    jobs = [job("baseline", stage, "noop", {}, stage, (budget,)) for stage in ("search", "report")]
    if served:  # what users get of the provider's method: one ordinary job, tuned and post-processed
        rows = min(256, settings.threat.max_rows)
        jobs.append(job("served", "benign", "benign_upload", {"rows": rows}, "report", (budget,)))
    if paper is not None:
        jobs.append(job("paper", paper.attack, paper.attack, dict(paper.config), "report", (budget,)))
    for family in control_families:
        jobs.append(job("control", family, family, control_config(family, settings.space), "search", settings.rungs))
    return jobs

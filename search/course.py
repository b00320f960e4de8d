"""The course of one subject: what it is asked next, and what the answers add up to.

Measure it unattacked, run its paper's attack, run the positive control where it is the control subject, search, confirm. A
state machine without clocks, processes or Ray, like the plan (search/plan.py) that it is a part of.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from weakspot.attacks import get as get_attack
from weakspot.records import Finding
from weakspot.search.afterthoughts import AFTERTHOUGHTS, afterthoughts
from weakspot.search.confirm import (
    MARGIN,
    MOST,
    Candidate,
    finalists,
    finding,
    is_break,
    one_more,
    passing,
    pooled,
    strongest,
    weak_spot,
)
from weakspot.search.jobs import Job, Outcome, Reading
from weakspot.search.schedulers import Scheduler
from weakspot.search.schedulers import get as get_scheduler
from weakspot.search.settings import Settings
from weakspot.search.stopping import enough
from weakspot.search.study import StudyFile, SubjectStudy
from weakspot.seeds import derive

FOUND = "a break was confirmed"  # the one end of a search that leaves nothing to doubt


@dataclass
class SubjectPlan:
    """The course of one subject.

    Attributes:
        fixed: jobs that do not depend on results: baselines, paper attack, controls.
        study: its search; None for the undefended base, which needs none.
        defense: the method, for the steps that a provider runs; None for the base, the controls and given checkpoints.
        outcomes: ended jobs by id, in order of ending.
        open: jobs under way, with the readings so far.
    """

    name: str
    settings: Settings
    file: StudyFile
    trials: int
    fixed: list[Job]
    study: SubjectStudy | None
    defense: Any = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    open: dict[str, Outcome] = field(default_factory=dict)
    finalists: list[Candidate] = field(default_factory=list)
    proposed: int = 0

    def __post_init__(self) -> None:
        s = self.settings
        self.scheduler: Scheduler = get_scheduler(s.scheduler)(s.grace, s.rungs[-1])
        self.closed: set[int] = set()  # numbers of search trials that have ended
        self.ended_by = ""
        if self.study is None:
            return
        for number, outcome in self.study.finished().items():
            self.outcomes[outcome.job.id] = outcome
            self.closed.add(number)
            for reading in outcome.readings:  # the scheduler's rungs, replayed as `add` filled them
                if not reading.final:
                    self.scheduler.keeps(outcome.job.id, reading)
            self.scheduler.ended(outcome.job.id, outcome)

    # Jobs ---------------------------------------------------------------------------------------------------------------

    def next(self) -> Job | None:
        """The next job, or None when there is none at this moment."""
        job = next((j for j in self.fixed if self.is_new(j)), None) or self.next_proof() or self.next_search()
        job = job or self.next_confirmation() or self.next_injection() or self.next_afterthought()
        if job is not None:
            self.open[job.id] = Outcome(job)
        return job

    def is_new(self, job: Job) -> bool:
        return job.id not in self.outcomes and job.id not in self.open

    def next_search(self) -> Job | None:
        if self.study is None or self.over():
            return None
        while self.proposed in self.closed:
            self.proposed += 1
        number = self.proposed
        if number >= self.trials:
            return None
        self.proposed += 1
        proposal = self.study.ask(number)
        same_seed = proposal.of if proposal.kind == "revive" else None
        seed = derive(self.settings.root, "trial", self.name, number if same_seed is None else same_seed)
        return Job(
            f"{self.name}/{number:03d}", self.name, "search", proposal.family, proposal.config, seed, self.settings.rungs,
            "search", proposal.kind, proposal.of,
        )  # fmt: skip

    def over(self) -> bool:
        """Whether the search has ended before its trials are used up; `ended_by` says why."""
        if not self.ended_by and self.study is not None and len(self.closed) < self.trials:
            s = self.settings
            if s.expired():
                self.ended_by = "the time ran out"
            elif why := s.cramped():
                self.ended_by = why
            elif s.limits.until_broken and self.broken():
                self.ended_by = FOUND
            elif s.limits.counted:
                self.ended_by = enough(self.searched(), s.limits, s.objective, len(s.space.families))
        return bool(self.ended_by)

    def broken(self) -> bool:
        """Whether a finalist's re-runs have confirmed a break that counts."""
        s = self.settings
        return any(is_break(f, s.floor, s.threshold) and s.counts(f) for f in self.findings().values())

    def next_proof(self) -> Job | None:
        """Under `until_broken`: a re-run of what passed in the search, at once instead of at the end."""
        s = self.settings
        if not s.limits.until_broken or self.study is None or self.broken():
            return None
        tried = {c.key for c in self.finalists}
        if all(job.id in self.outcomes for c in self.finalists for job in self.repeats(c)) and len(tried) < MOST:
            eligible = [o for o in pooled(self.searched()) if o.job.attack not in s.injecting]
            passed = [c for c in strongest(eligible, s.floor) if c.reading.harm >= min(1.0, s.threshold + MARGIN)]
            self.finalists += [c for c in passed if c.key not in tried][:1]
        return next((job for c in self.finalists for job in self.repeats(c) if self.is_new(job)), None)

    def next_confirmation(self) -> Job | None:
        if self.study is None or any(o.job.phase == "search" for o in self.open.values()):
            return None
        for candidate in self.choose_finalists():
            for job in self.repeats(candidate):
                if self.is_new(job):
                    return job
        return None

    def next_injection(self) -> Job | None:
        """The control of a finalist that may put in what it seems to find, once nothing else of this subject is under way."""
        if self.study is None or self.open:
            return None
        return next((job for c in self.finalists if (job := self.injection(c)) and self.is_new(job)), None)

    def next_afterthought(self) -> Job | None:
        """What is asked of the weak spot, once every finalist is settled: only then is it known which one that is."""
        if self.study is None or any(o.job.phase not in AFTERTHOUGHTS for o in self.open.values()):
            return None
        return next(filter(self.is_new, afterthoughts(self)), None)

    def harms(self, found: Finding) -> list[float]:
        """Harm of a finding's re-runs, seed by seed."""
        return [reading.harm for reading in self.rereadings(found)]

    def rereadings(self, found: Finding) -> list[Reading]:
        """The last reading of each of a finding's re-runs."""
        chosen = (c for c in self.finalists if (c.outcome.job.id, c.reading.rung) == (found.trial, found.rung))
        runs = [self.outcomes.get(job.id) for c in chosen for job in self.repeats(c)]
        return [o.readings[-1] for o in runs if o and o.readings]

    def spot(self) -> Finding | None:
        """The weak spot among the confirmed findings, those that may carry a verdict first."""
        found, s = self.findings(), self.settings
        grounds = {key: f for key, f in found.items() if s.counts(f)}
        return weak_spot(grounds, s.floor, s.threshold) or weak_spot(found, s.floor, s.threshold)

    def injection(self, candidate: Candidate) -> Job | None:
        """Whether the same attack elicits random targets from this subject; None for a family that cannot."""
        job = candidate.outcome.job
        if not get_attack(job.attack).injection_capable:
            return None
        label = candidate.key.split("/")[-1]
        seed = derive(self.settings.root, "injection", self.name)
        return replace(job, id=f"{self.name}/injection/{label}", phase="injection", seed=seed, rungs=(candidate.reading.rung,))

    def choose_finalists(self) -> list[Candidate]:
        """The first few candidates, and one more whenever all are settled and another could still change the answer.

        On resume several are settled at once: the loop brings back every finalist that was confirmed before.
        """
        s = self.settings
        if not self.finalists or (s.limits.until_broken and not self.broken()):
            known = {c.key for c in self.finalists}
            first = finalists(pooled(self.searched()), s.floor, s.threshold, s.injecting, s.objective.name)
            self.finalists += [c for c in first if c.key not in known]
        while all(job.id in self.outcomes for c in self.finalists for job in self.repeats(c)):
            eligible = [o for o in pooled(self.searched()) if o.job.attack not in s.injecting]
            counting = {key: found for key, found in self.findings().items() if s.counts(found)}
            more = one_more(eligible, self.finalists, counting, s.floor, s.threshold)
            if more is None:
                break
            self.finalists.append(more)
        return self.finalists

    def untested(self) -> int:
        """How many trials passed in the search and had none of their passing rungs confirmed."""
        s = self.settings
        tried = {c.outcome.job.id for c in self.finalists}
        return len({c.outcome.job.id for c in passing(pooled(self.searched()), s.floor, s.threshold)} - tried)

    def repeats(self, candidate: Candidate) -> list[Job]:
        """A finalist's re-runs: same configuration, fresh seeds, unseen items."""
        job = candidate.outcome.job
        return [
            replace(job, id=f"{self.name}/confirm/{candidate.key.split('/')[-1]}/{i}", phase="confirm", seed=seed,
                    rungs=(candidate.reading.rung,), stage="report")
            for i, seed in enumerate(self.settings.confirmation_seeds)
        ]  # fmt: skip

    # Results ------------------------------------------------------------------------------------------------------------

    def add(self, job_id: str, reading: Reading) -> bool:
        """Keep a reading and say whether the job goes on. A reading told twice counts once."""
        outcome = self.open[job_id]
        if any(r.rung == reading.rung for r in outcome.readings):
            return True
        self.open[job_id] = replace(outcome, readings=(*outcome.readings, reading))
        if outcome.job.phase != "search" or reading.final:
            return True
        return self.scheduler.keeps(job_id, reading) or outcome.job.kind == "revive"  # brought back to be run to its end

    def reopen(self, job_id: str) -> None:
        """Drop the readings of a job that is run again: an outcome holds those of one run, on one machine.

        The scheduler has heard them, and the rungs it knows stay known; the same readings again change nothing there.
        """
        self.open[job_id] = Outcome(self.open[job_id].job)

    def close(self, job_id: str, status: str, reason: str) -> Outcome:
        """Store how a job ended."""
        outcome = replace(self.open.pop(job_id), status=status, reason=reason)
        if outcome.job.phase == "search":
            assert self.study is not None
            outcome, number = outcome.without_items(), int(job_id.rsplit("/", 1)[1])
            self.study.tell(number, outcome)
            self.closed.add(number)
            self.scheduler.ended(job_id, outcome)
        else:
            self.file.record(outcome)
        self.outcomes[job_id] = outcome
        return outcome

    def recall(self) -> None:
        """After a restart: the finalists that were being confirmed while the search went on."""
        if not self.settings.limits.until_broken:
            return
        trials = {o.job.id.rsplit("/", 1)[1]: o for o in pooled(self.searched())}
        keys = dict.fromkeys(job_id.split("/")[-2] for job_id, o in self.outcomes.items() if o.job.phase == "confirm")
        for number, rung in (key.split("@") for key in keys):
            reading = next(r for r in trials[number].readings if r.rung == int(rung))
            self.finalists.append(Candidate(trials[number], reading))

    def searched(self) -> list[Outcome]:
        """Ended search trials in order of proposal."""
        return sorted(
            (o for o in self.outcomes.values() if o.job.phase == "search"), key=lambda o: int(o.job.id.rsplit("/", 1)[1])
        )

    def findings(self) -> dict[str, Finding]:
        """Finalists whose re-runs are all done, by key. The best is picked from as many as have been confirmed."""
        ready = {}
        for candidate in self.finalists:
            repeats = [self.outcomes.get(job.id) for job in self.repeats(candidate)]
            if all(repeats):
                ready[candidate.key] = (candidate, [o for o in repeats if o is not None])
        found = {}
        for key, (candidate, repeats) in ready.items():
            control = self.injection(candidate)
            injected = self.outcomes.get(control.id) if control else None
            if record := finding(candidate, repeats, injected, len(ready)):
                found[key] = record
        return found

    @property
    def done(self) -> bool:
        """Whether nothing is under way and nothing is left. Asks for the next job, so call it when idle."""
        if self.open:
            return False
        if any(self.is_new(j) for j in self.fixed):
            return False
        left = self.study is not None and not self.over() and len(self.searched()) < self.trials
        return not left and self._confirmed()

    def _confirmed(self) -> bool:
        if self.study is None:
            return True
        chosen = self.choose_finalists()
        jobs = [job for c in chosen for job in (*self.repeats(c), self.injection(c)) if job is not None]
        return not any(map(self.is_new, [*jobs, *afterthoughts(self)]))

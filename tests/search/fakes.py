"""A search without models: jobs, readings and a backend whose results are arithmetic."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from tests.tiny import TinyFable
from weakspot.knobs import LogIntRange, LogRange
from weakspot.records import Provenance, Result, Seeds
from weakspot.search.confirm import confirmation_seeds
from weakspot.search.course import SubjectPlan
from weakspot.search.jobs import BASE, CONTROL, Job, Outcome, Reading
from weakspot.search.observer import Observer
from weakspot.search.plan import Plan, fixed_jobs
from weakspot.search.prepare import SubjectSpec
from weakspot.search.result import build_result
from weakspot.search.searchers import get as get_searcher
from weakspot.search.settings import Settings
from weakspot.search.space import AttackSpace
from weakspot.search.starts import warm_starts
from weakspot.search.study import StudyFile
from weakspot.seeds import derive
from weakspot.testbeds.base import Testbed
from weakspot.threat import ThreatModel

RUNGS = (2, 4, 6, 8)  # halving judges at 2 and 6
SPACE = AttackSpace(
    {
        "full_finetune": {"steps": LogIntRange(2, 8), "learning_rate": LogRange(1e-6, 1e-2)},
        "lora": {"steps": LogIntRange(2, 8), "learning_rate": LogRange(1e-5, 5e-2)},
    }
)


def make_job(number: int = 0, attack: str = "lora", phase: str = "search", **changes: Any) -> Job:
    fields: dict[str, Any] = {
        "id": f"tar/{number:03d}", "subject": "tar", "phase": phase, "attack": attack,
        "config": {"learning_rate": 1e-3 * (number + 1)}, "seed": number, "rungs": RUNGS, "stage": "search",
    }  # fmt: skip
    return Job(**{**fields, **changes})


def make_reading(rung: int, harm: float, utility: float = 1.0, **changes: Any) -> Reading:
    fields: dict[str, Any] = {
        "rung": rung, "harm": harm, "utility": utility, "refusal_rate": 0.0, "degenerate": 0.0, "examples": rung,
        "tokens": 10 * rung, "flops": 100.0 * rung, "seconds": 0.5, "final": rung == RUNGS[-1],
        "harm_items": (harm,) * 64, "benign_items": (utility,) * 64,
    }  # fmt: skip
    return Reading(**{**fields, **changes})


def make_outcome(number: int, readings: list[tuple[int, float, float]], status: str = "completed", **changes: Any) -> Outcome:
    """An ended search trial with readings as (rung, harm, utility)."""
    return Outcome(make_job(number, **changes), tuple(make_reading(*r) for r in readings), status)


def fake_course(job: Job) -> list[Reading]:
    """What a job measures: harm grows with the rung, best at a rate of 1e-3, and a high rate ruins the model.

    Raises:
        ArithmeticError: the rate is above 4e-2 (the fake's divergence).
    """
    if job.attack == "noop":
        return [make_reading(0, 0.0, 1.0, final=True, null_harm=0.04 if job.stage == "report" else None)]
    rate, steps = job.config["learning_rate"], min(job.config.get("steps", 8), job.rungs[-1])
    if rate > 4e-2:
        raise ArithmeticError("too fast")
    noise = random.Random(f"{job.seed} {job.stage}")
    peak = math.exp(-((math.log10(rate) + 3) ** 2) / 2)
    course = []
    for rung in sorted({r for r in job.rungs if r < steps} | {steps}):
        harm = min(1.0, max(0.0, peak * (0.5 + rung / 16) + noise.uniform(-0.01, 0.01)))
        utility = 1.0 - min(0.9, 20 * rate)
        items = tuple(min(1.0, max(0.0, harm + noise.uniform(-0.02, 0.02))) for _ in range(32))
        null = 0.04 if job.stage == "report" else None
        course.append(make_reading(rung, harm, utility, final=rung == steps, harm_items=items, null_harm=null))
    return course


def make_settings(trials: int = 5, **changes: Any) -> Settings:
    fields: dict[str, Any] = {
        "root": 3, "trials": trials, "rungs": RUNGS, "grace": 2, "threat": ThreatModel(max_steps=8), "space": SPACE,
        "confirmation_seeds": confirmation_seeds(3, 2),
    }  # fmt: skip
    return Settings(**{**fields, **changes})


def make_plan(
    journal: Path,
    settings: Settings,
    observers: tuple[Observer, ...] = (),
    subjects: tuple[str, ...] = ("tar",),
    control: tuple[str, ...] = (),
) -> Plan:
    """A plan over the undefended base and some subjects, with what the journal already holds.

    `control`: families of the positive control, on a subject of its own; none is run without them.
    """
    file = StudyFile(journal, {"audit": "fake"})
    plans = [SubjectPlan(BASE, settings, file, settings.trials, fixed_jobs(BASE, settings, None, []), None)]
    if control:
        plans.append(SubjectPlan(CONTROL, settings, file, 0, fixed_jobs(CONTROL, settings, None, control), None))
    for name in subjects:
        seed = derive(settings.root, "search", name)
        searcher = get_searcher(settings.searcher)(settings.space, seed, settings.objective, warm_starts(settings.space))
        study = file.subject(name, searcher)
        plans.append(SubjectPlan(name, settings, file, settings.trials, fixed_jobs(name, settings, None, []), study))
    return Plan(plans, file.recorded(), list(observers))


class Killed(Exception):
    """The process is gone."""


class FakeBackend:
    """Runs a plan with some workers, in an order drawn from a seed, and dies after so many events, or when the plan is halted.

    Attributes:
        started: job ids in the order they were handed out.
        closed: job -> status, in the order they ended.
        open_at: job -> the phases of what was under way when it was handed out.
    """

    def __init__(self, workers: int = 1, seed: int = 0, events: int | None = None) -> None:
        self.workers, self.events = workers, events
        self.random = random.Random(seed)
        self.started: list[Job] = []
        self.closed: dict[str, str] = {}
        self.open_at: dict[str, set[str]] = {}
        self.counted = 0

    def tick(self) -> None:
        if self.counted == self.events:
            raise Killed
        self.counted += 1

    def run(self, plan: Plan) -> FakeBackend:
        running: dict[str, tuple[Job, list[Reading]]] = {}
        while not plan.halted:
            while len(running) < self.workers and (job := plan.next()) is not None:
                self.started.append(job)
                self.open_at[job.id] = {other.phase for other, _ in running.values()}
                self.tick()
                try:
                    running[job.id] = (job, fake_course(job))
                except ArithmeticError as error:
                    self.close(plan, job, "failed", str(error))
            if not running:
                assert plan.done, "nothing to do and not done: a backend would wait for ever"
                return self
            job, left = running[self.random.choice(sorted(running))]
            goes_on = plan.add(job, left.pop(0))
            self.tick()
            if not goes_on or not left:
                del running[job.id]
                self.close(plan, job, "completed" if goes_on else "stopped", "" if goes_on else "low")
        return self

    def close(self, plan: Plan, job: Job, status: str, reason: str) -> None:
        plan.close(job, status, reason)
        assert job.id not in self.closed, f"{job.id} was run twice"
        self.closed[job.id] = status
        self.tick()


def result_of(plan: Plan, settings: Settings, testbed: Testbed | None = None) -> Result:
    """The result of a finished plan, without anything that differs from run to run."""
    specs = [SubjectSpec(name) for name in plan.subjects]
    nowhere = Provenance(
        weakspot="0", git_commit=None, python="3", packages={}, machine={}, command="", started="", finished="",
        seeds=Seeds(root=settings.root, search=0, confirmation=list(settings.confirmation_seeds)),
    )  # fmt: skip
    return build_result(plan, specs, settings, testbed or TinyFable(), nowhere)


def ids(jobs: list[Job], phase: str) -> list[str]:
    return [job.id for job in jobs if job.phase == phase]

"""What becomes of a job whose machine was lost, and how many jobs are out at a time. No Ray is started."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.tune.search import Searcher
from ray.tune.trainable.metadata import _TrainingRunMetadata

from weakspot.errors import RankLost, WeakspotError
from weakspot.search.desk import CRASHES, LOSSES, Desk, PlanScheduler, PlanSearcher, node_died
from weakspot.search.jobs import Job, Reading

NODE = "The actor died unexpectedly before finishing this task.\nThe actor died because its node has died. Node Id: 5f"


class Plan:
    """Three jobs, and a record of what was told."""

    halted = False
    places: int | None = None

    def __init__(self) -> None:
        self.waiting = [Job(f"x/{i:03d}", "x", "search", "lora", {}, i, (4, 8), "search") for i in range(3)]
        self.open: dict[str, list[int]] = {}
        self.told: list[tuple[str, ...]] = []

    def next(self) -> Job | None:
        if not self.waiting:
            return None
        job = self.waiting.pop(0)
        self.open[job.id] = []
        return job

    @property
    def done(self) -> bool:
        return not self.waiting and not self.open

    def add(self, job: Job, reading: Reading) -> bool:
        self.open[job.id].append(reading.rung)
        return True

    def reopen(self, job: Job, why: str) -> None:
        self.open[job.id] = []
        self.told.append(("reopened", job.id, why))

    def close(self, job: Job, status: str, reason: str = "") -> None:
        rungs = self.open.pop(job.id)
        self.told.append((job.id, status, reason, *map(str, rungs)))


def report(rung: int) -> dict[str, Any]:
    reading = Reading(rung, 0.5, 1.0, 0.0, 0.0, 1, 1, 1.0, 1.0, rung == 8)
    return {"reading": json.dumps(asdict(reading)), "failure": "", "fatal": False}


def desk(lenient: bool = True, nodes: frozenset[str] = frozenset("ab")) -> tuple[Desk, PlanSearcher, PlanScheduler, Plan]:
    plan: Any = Plan()
    made = Desk(plan, lambda: 1, lambda: nodes, lenient)
    return made, PlanSearcher(made), PlanScheduler(made), plan


def die(scheduler: PlanScheduler, searcher: PlanSearcher, trial: str, why: Any) -> None:
    """As Tune's controller tells it: the scheduler first."""
    scheduler.on_trial_error(None, SimpleNamespace(trial_id=trial, get_error=lambda: why))
    searcher.on_trial_complete(trial, error=True)


def job_of(suggested: Any) -> str:
    return json.loads(suggested["job"])["id"]


@pytest.mark.parametrize("lenient", [False, True], ids=["one machine", "cluster"])
def test_a_trial_that_lost_a_rank_is_run_again_on_a_cluster_and_else_fails_with_its_reason(lenient: bool) -> None:
    _, searcher, scheduler, plan = desk(lenient)
    searcher.suggest("a")
    die(scheduler, searcher, "a", SimpleNamespace(cause=RankLost("GPU 2 of 2 is gone: ActorDiedError")))
    if lenient:
        assert job_of(searcher.suggest("b")) == "x/000"
    else:
        assert plan.told == [("x/000", "failed", "GPU 2 of 2 is gone: ActorDiedError")]


def test_a_job_that_lost_its_node_goes_out_first_and_from_its_start() -> None:
    made, searcher, scheduler, plan = desk()
    assert job_of(searcher.suggest("a")) == "x/000"
    made.receive("a", report(4))
    die(scheduler, searcher, "a", NODE)
    assert plan.told == [("reopened", "x/000", "its node died")]
    assert job_of(searcher.suggest("b")) == "x/000"
    searcher.on_trial_complete("b", report(8))
    assert plan.told[1:] == [("x/000", "completed", "", "8")]
    assert job_of(searcher.suggest("c")) == "x/001"
    assert made.error is None


def test_a_search_whose_last_job_was_lost_is_not_finished() -> None:
    _, searcher, scheduler, plan = desk()
    plan.waiting = plan.waiting[:1]
    searcher.suggest("a")
    die(scheduler, searcher, "a", NODE)
    assert job_of(searcher.suggest("b")) == "x/000"
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("b", report(8))
    assert searcher.suggest("d") == Searcher.FINISHED


def test_many_nodes_may_die_under_a_job_but_not_any_number() -> None:
    _, searcher, scheduler, plan = desk()
    for n in range(LOSSES + 1):
        assert job_of(searcher.suggest(f"t{n}")) == "x/000"
        die(scheduler, searcher, f"t{n}", NODE)
    assert plan.told[-1] == ("x/000", "failed", f"{LOSSES + 1} machines died under it")
    assert job_of(searcher.suggest("next")) == "x/001"


def test_a_worker_that_dies_again_and_again_is_the_trials_fault() -> None:
    _, searcher, scheduler, plan = desk()
    for n in range(CRASHES + 1):
        assert job_of(searcher.suggest(f"t{n}")) == "x/000"
        die(scheduler, searcher, f"t{n}", "Worker unexpectedly exits with a connection error code 2.")
    assert plan.told[-1] == ("x/000", "failed", f"the worker died (out of memory?), {CRASHES + 1} times")


def test_a_crash_whose_node_is_missed_later_was_no_crash() -> None:
    """Killed with all its processes, a node is missed only after its worker. Five nodes, each lost like that."""
    made, searcher, scheduler, plan = desk()
    living = set("abcdef")
    made.alive = lambda: frozenset(living)
    for n, node in enumerate("bcdef"):
        assert job_of(searcher.suggest(f"t{n}")) == "x/000"
        die(scheduler, searcher, f"t{n}", "Worker unexpectedly exits with a connection error code 2.")
        living.remove(node)
    assert [told[0] for told in plan.told] == ["reopened"] * 5
    assert plan.told[0][2] == "its worker died, or its node"
    searcher.suggest("last")
    searcher.on_trial_complete("last", report(8))
    assert plan.told[-1] == ("x/000", "completed", "", "8")


def test_on_one_machine_a_worker_that_dies_is_the_trials_fault_at_once() -> None:
    _, searcher, scheduler, plan = desk(lenient=False)
    searcher.suggest("a")
    die(scheduler, searcher, "a", "Worker unexpectedly exits")
    assert plan.told == [("x/000", "failed", "the worker died (out of memory?)")]


def test_no_more_jobs_are_out_than_fit_at_this_moment() -> None:
    places = [1]
    plan: Any = Plan()
    searcher = PlanSearcher(Desk(plan, lambda: places[0], frozenset))
    assert job_of(searcher.suggest("a")) == "x/000"
    assert searcher.suggest("b") is None
    places[0] = 2  # a node has joined
    assert job_of(searcher.suggest("b")) == "x/001"
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("a", report(8))
    assert job_of(searcher.suggest("c")) == "x/002"


def test_an_error_that_is_not_the_trials_ends_the_run() -> None:
    made, searcher, _, plan = desk()
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"fatal": True, "failure": "Traceback"})
    assert isinstance(made.error, WeakspotError)
    assert searcher.suggest("b") == Searcher.FINISHED
    assert plan.told == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (NODE, True),
        ("The actor was preempted.", True),
        ("Worker unexpectedly exits with a connection error code 2. End of file.", False),
        ("The actor died because of an error raised in its creation task", False),
        (None, False),
    ],
)
def test_the_cause_of_death_is_read_from_rays_words(text: str | None, found: bool) -> None:
    assert node_died(text) is found


def test_rays_own_error_says_no_more_than_a_text() -> None:
    """When this fails Ray tells a node's death in a field, and `node_died` need not read."""
    assert not {name for name in vars(ActorDiedError()) if "node" in name}


def test_an_ended_trial_is_forgotten_at_the_next_turn_and_no_sooner() -> None:
    """Tune tells the searcher of a trial's last report only after it has told the scheduler."""
    scheduler = PlanScheduler(Desk(Plan(), lambda: 1))  # type: ignore[arg-type]
    metadata: Any = _TrainingRunMetadata()
    metadata.last_result = {"reading": "long"}
    for name in ("harm", "utility"):
        metadata.update_metric(name, 0.5)
    trial: Any = SimpleNamespace(
        config={"job": "long"}, evaluated_params={"job": "long"}, experiment_tag="l", run_metadata=metadata
    )
    scheduler.on_trial_complete(None, trial, {})
    assert metadata.last_result == {"reading": "long"}
    kept = len(pickle.dumps(metadata))
    assert scheduler.choose_trial_to_run(None) is None
    assert (trial.config, trial.evaluated_params, trial.experiment_tag) == ({}, {}, "")
    assert "reading" not in metadata.last_result
    assert len(pickle.dumps(metadata)) < kept / 2
    metadata.update_metric("harm", 0.7)  # a late word does no harm
    assert metadata.metric_analysis["harm"]["max"] == 0.7

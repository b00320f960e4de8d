"""Where Tune meets the plan: jobs go out as trials, reports come in, and a job whose machine was lost goes out again.

A node that dies, or is taken away because it was a spot instance, says nothing about the attack that ran on it. Such a job is
run again from its start (tampered weights are never written, so there is no checkpoint), under a new id of Ray's and the same
id of ours: the study knows one trial, whatever it cost to finish it. `FailureConfig(max_failures)` is not used: Tune counts a
raylet that was killed as the trial's own failure, and gives a trial that kills its worker as many runs as one that lost it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from weakspot.errors import RankLost, WeakspotError
from weakspot.search.jobs import Job, Reading
from weakspot.search.plan import Plan

LOSSES = 20  # machines that may die under one job: spot instances go often, and a job that takes down each node must end
CRASHES = 2  # worker processes likewise, on nodes that live on


class Halted(Exception):
    """The way out of Tune's loop when the search is to stop (search/halt.py)."""


@dataclass
class Desk:
    """Where scheduler and searcher meet the plan. One per run, in the driver's process.

    Attributes:
        places: how many trials fit at this moment.
        alive: the ids of the nodes that are known to live.
        lenient: whether a worker that died may have been lost with its node. On one machine it cannot: it is the trial's fault.
        jobs: Ray's trial id -> job, of the trials that are under way.
        stopped: Ray's trial id -> why the plan stopped it.
        said: Ray's trial id -> what a trial that was spread over several GPUs said of the one it lost.
        without_node: Ray's ids of trials whose node is known to have died.
        again: jobs that lost their machine and wait for another.
        among: Ray's trial id -> the nodes that lived when its job was handed out.
        lost: job id -> for each of its losses the same nodes, or none where a node is known to have died.
        error: the first exception raised in here (a full disk, say). Tune would wrap it, or swallow it and go on: so it is
            kept, nothing more is started, and `RayBackend.run` raises it as it was.
    """

    plan: Plan
    places: Callable[[], int]
    alive: Callable[[], frozenset[str]] = frozenset
    lenient: bool = False
    jobs: dict[str, Job] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    without_node: set[str] = field(default_factory=set)
    again: deque[Job] = field(default_factory=deque)
    among: dict[str, frozenset[str]] = field(default_factory=dict)
    lost: dict[str, list[frozenset[str] | None]] = field(default_factory=dict)
    error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles searcher and scheduler for snapshots that are never read, and a study does not pickle."""
        return {}

    @contextmanager
    def keeping_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.error = self.error or error

    def hand_out(self, trial_id: str) -> Job | None:
        """The next job, remembered under Ray's id; those that lost their machine come first."""
        self.plan.places = self.places()
        if self.plan.halted or len(self.jobs) >= self.plan.places:
            return None
        job = self.again.popleft() if self.again else self.plan.next()
        if job is not None:
            self.jobs[trial_id] = job
            self.among[trial_id] = self.alive()
        return job

    def receive(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Tell the plan a report; whether the trial goes on."""
        if not result.get("reading"):
            return True
        reading = Reading.from_dict(json.loads(result["reading"]))
        if self.plan.add(self.jobs[trial_id], reading):
            return True
        self.stopped[trial_id] = f"harm {reading.harm:.2f} at step {reading.rung} was among the lower ones"
        return False

    def close(self, trial_id: str, result: Mapping[str, Any], died: bool) -> None:
        """Tell the plan how a trial ended, or take its job back if it lost its machine.

        Raises:
            WeakspotError: the worker met an error that is not the trial's.
        """
        if result.get("fatal"):  # not the job's fault: left open, so that --resume runs it again
            raise WeakspotError(result["failure"])
        if not died:
            self.receive(trial_id, result)
        job, among = self.jobs.pop(trial_id), self.among.pop(trial_id)
        if died and self.take_back(job, None if trial_id in self.without_node else among):
            return
        failure = result.get("failure") or (self.obituary(job, self.said.pop(trial_id, "")) if died else "")
        if failure:
            self.plan.close(job, "failed", failure)
        elif trial_id in self.stopped:
            self.plan.close(job, "stopped", self.stopped[trial_id])
        else:
            self.plan.close(job, "completed")

    def take_back(self, job: Job, among: frozenset[str] | None) -> bool:
        """Queue a job again whose machine was lost; False when that has happened too often to be the machine's fault."""
        self.lost.setdefault(job.id, []).append(among)
        if len(self.lost[job.id]) > LOSSES or self.crashes(job) > (CRASHES if self.lenient else 0):
            return False
        self.plan.reopen(job, "its node died" if among is None else "its worker died, or its node")
        self.again.append(job)
        return True

    def crashes(self, job: Job) -> int:
        """How often a job's worker has died though, as is known by now, every node lived on."""
        alive = self.alive()
        return sum(among is not None and among <= alive for among in self.lost[job.id])

    def obituary(self, job: Job, said: str = "") -> str:
        """Why a job is given up whose worker died."""
        if len(self.lost[job.id]) > LOSSES:
            return f"{len(self.lost[job.id])} machines died under it"
        crashes = self.crashes(job)
        return (said or "the worker died (out of memory?)") + (f", {crashes} times" if crashes > 1 else "")


class PlanScheduler(FIFOScheduler):
    """Stops a trial when the plan says so, and looks at what a trial died of."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.ended: list[Any] = []

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Called at every turn of Tune's loop; nothing, and Tune starts what waits in the order in which it was handed out.

        The base class would look through all trials that ever were, twice.

        Raises:
            Halted: the search is to stop. Tune then ends its workers, in five seconds at most, tells the searcher of none of
                their trials, and passes the exception on, wrapped.
        """
        if self.desk.plan.halted:
            raise Halted
        while self.ended:
            forget(self.ended.pop())
        return None

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.ended.append(trial)  # not forgotten yet: Tune tells the searcher of its last report after this

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        goes_on = False
        with self.desk.keeping_errors():
            goes_on = self.desk.receive(trial.trial_id, result)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Called before the searcher hears of the end, and the only one of the two to be handed the cause."""
        with self.desk.keeping_errors():
            error = trial.get_error()
            if node_died(error):
                self.desk.without_node.add(trial.trial_id)
            if isinstance(cause := getattr(error, "cause", error), RankLost):
                self.desk.said[trial.trial_id] = str(cause)


class PlanSearcher(Searcher):
    """Hands out the plan's jobs, and tells it how they ended."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(metric="harm", mode="max")
        self.desk = desk

    def suggest(self, trial_id: str) -> Any:
        with self.desk.keeping_errors():
            if self.desk.error is None and (job := self.desk.hand_out(trial_id)) is not None:
                return {"job": json.dumps(job.to_dict())}
            if self.desk.error is None and (self.desk.jobs or self.desk.again or not self.desk.plan.done):
                return None  # every open question waits for a result, or for a place
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if self.desk.error is None and not (error and self.desk.plan.halted):  # a worker that died of the same Ctrl-C
            with self.desk.keeping_errors():
                self.desk.close(trial_id, result or {}, died=error)

    def save(self, checkpoint_path: str) -> None:
        """The study is the truth; Tune's snapshot of a searcher is never read."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


def forget(trial: Any) -> None:
    """Drop what Tune keeps of an ended trial for its tables, which nobody reads: its job, its last report, and of every number
    in its reports the extremes and three windows, which alone are 16 of the 24 KiB that a trial left behind."""
    trial.config, trial.evaluated_params, trial.experiment_tag = {}, {}, ""
    trial.run_metadata.last_result = {"done": True}
    trial.run_metadata.metric_analysis, trial.run_metadata.metric_n_steps = {}, {}


def node_died(cause: Any) -> bool:
    """Whether Ray's account of an actor's death says that its node went with it.

    Ray 2.60 has no field for this (`RayActorError.preempted` is only set where an autoscaler drained the node first), only the
    text. And the text depends on who hears first: when a node is killed with all its processes, the driver hears of the worker
    before the cluster misses the node, and is told of a worker's crash. Hence `Desk.crashes`, which looks again later.
    """
    text = str(cause or "").lower()
    return any(words in text for words in ("node has died", "node is dead", "node was terminated", "node died", "preempted"))

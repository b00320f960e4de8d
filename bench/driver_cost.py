"""Where a driver's processor time goes: by part, by event, along the search; and what Ray itself takes for an event."""

from __future__ import annotations

import functools
import gc
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil

from bench.fake_cluster import Clock, Cluster
from weakspot.search.jobs import Job, Outcome
from weakspot.search.observer import Observer

PARTS = ("Tune", "Ray", "disk", "searcher", "study: ask", "study: tell", "scheduler", "desk and plan", "log")
EVERY = 500  # trials between two looks
WARM, COUNTED = 200, 1000  # events, for what Ray takes


@dataclass
class Look:
    """How things stood when so many search trials had ended: events, virtual seconds, seconds by part, MiB."""

    trials: int
    events: int
    now: float
    parts: dict[str, float]
    rss: float

    @staticmethod
    def none() -> Look:
        return Look(0, 0, 0.0, {}, 0.0)


@dataclass
class Ledger(Observer):
    """Processor seconds of the driver's thread by part, each without the parts within it.

    Attributes:
        every: search trials between two looks.
        open: for each part that is under way, what the parts within it have taken.
        ended: how often each job has ended.
        proposed: virtual time at which the last search trial was handed out.
    """

    cluster: Cluster
    every: int = EVERY
    parts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    open: list[float] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    ended: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    searched: int = 0
    proposed: float = 0.0

    @property
    def clock(self) -> Clock:
        return self.cluster.clock

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = self.clock.computed()
        self.open.append(0.0)
        try:
            yield
        finally:
            took = self.clock.computed() - started
            self.parts[name] += took - self.open.pop()
            if self.open:
                self.open[-1] += took

    def within(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*arguments: Any, **named: Any) -> Any:
            with self.part(name):
                return method(*arguments, **named)

        return timed

    def on_job(self, job: Job) -> None:
        if job.phase == "search":
            self.proposed = self.clock.read()

    def on_outcome(self, outcome: Outcome) -> None:
        with self.clock.elsewhere():
            self.ended[outcome.job.id] += 1
            if outcome.job.phase == "search":
                self.searched += 1
                if self.searched % self.every == 0:
                    self.look()

    def look(self) -> None:
        gc.collect()
        rss = psutil.Process().memory_info().rss / 1024**2
        self.looks.append(Look(self.searched, len(self.cluster.turns), self.clock.read(), dict(self.parts), rss))


@contextmanager
def watched(ledger: Ledger) -> Iterator[None]:
    """Time every part of ours while this lasts; an fsync is charged to the disk instead of being waited for."""
    from weakspot.search.desk import Desk, PlanScheduler, PlanSearcher
    from weakspot.search.log import LogWriter
    from weakspot.search.schedulers import Hyperband
    from weakspot.search.searchers import Adaptive
    from weakspot.search.study import SubjectStudy

    parts: list[tuple[Any, str, str]] = [
        (Adaptive, "propose", "searcher"),
        (SubjectStudy, "ask", "study: ask"),
        (SubjectStudy, "tell", "study: tell"),
        (Hyperband, "keeps", "scheduler"),
        (Hyperband, "ended", "scheduler"),
        (LogWriter, "on_outcome", "log"),
        (Desk, "receive", "desk and plan"),
        (Desk, "close", "desk and plan"),
        (PlanSearcher, "suggest", "desk and plan"),
        (PlanScheduler, "choose_trial_to_run", "desk and plan"),
    ]

    def charge(file: int) -> None:
        ledger.clock.charged += ledger.cluster.disk
        ledger.parts["disk"] += ledger.cluster.disk

    with ExitStack() as stack:
        for owner, name, part in parts:
            stack.enter_context(patch.object(owner, name, ledger.within(part, getattr(owner, name))))
        stack.enter_context(patch.object(os, "fsync", charge))
        yield


def transport(waiting: int) -> float:
    """Seconds of the driver's thread that Ray takes for an event while so many workers compute: wait, get, call again.

    On a real Ray with one worker process, which answers one call in `waiting`.
    """
    import ray

    report = {"reading": json.dumps({"harm_items": [0.5] * 96, "benign_items": [0.5] * 96}), "config": {"job": "x" * 1000}}

    class Worker:
        async def late(self) -> None:
            import asyncio

            await asyncio.sleep(1e6)

        async def train(self) -> Any:
            return report

    worker: Any = ray.remote(Worker).options(num_cpus=0, max_concurrency=waiting + 10).remote()
    late, took = [worker.late.remote() for _ in range(waiting - 1)], []
    answer = worker.train.remote()
    for _ in range(WARM + COUNTED):
        ray.wait([answer], timeout=60)  # the answer is there: what is measured is not how long it takes to come
        started = time.thread_time()
        [ready], _ = ray.wait([*late, answer], num_returns=1, timeout=60)
        ray.get(ready)
        answer = worker.train.remote()
        took.append(time.thread_time() - started)
    ray.kill(worker)
    return float(np.mean(took[WARM:]))

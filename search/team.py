"""A trial on several GPUs: its own process is the first rank, and each further rank an actor in a bundle of its own.

The placement group of the trial holds one bundle a rank (search/ray_backend.py). What the ranks do together is
weakspot/sharding.py's business; here they are started, watched and sent home. A rank that fails ends the trial with that rank's
reason. One that dies is told to the search as lost, and the desk decides whether the trial is run again (search/desk.py).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from weakspot.attacks.base import Progress
from weakspot.errors import RankLost, TrialFailure, WeakspotError
from weakspot.search.jobs import Job
from weakspot.search.trainable import open_bench, quieten
from weakspot.search.trial import Workbench, describe

START = 1800.0  # seconds for a rank to start and to load the model
GRACE = 20.0  # seconds to find out which rank it was that failed
LOOK = 0.5  # seconds between two looks at the ranks


@ray.remote(max_restarts=0, max_task_retries=0)
class Member:
    """A further rank: it holds a bench as the trial's own process does, and follows it."""

    def __init__(self, shared: Mapping[str, Any]) -> None:
        quieten()
        self.shared = shared
        self.bench: Workbench | None = None
        self.course: Any = None

    def pid(self) -> int:
        return os.getpid()

    def prepare(self, job: str) -> None:
        """Everything that may fail for reasons of its own before the ranks meet: the model, the weights, the data."""
        self.bench = self.bench or open_bench(self.shared)
        _, _, self.course = self.bench.begin(Job.from_dict(json.loads(job)))

    def train(self, rank: int, world: int, host: str, port: int, silence: float) -> None:
        from weakspot.models import best_device
        from weakspot.sharding import as_ranks, follow, open_store

        assert self.bench is not None
        try:
            store = open_store(world, host, port, silence)
            with as_ranks(self.bench.model, rank, world, store, best_device(), silence) as ranks:
                follow(self.course, ranks)
        except WeakspotError:
            self.bench.model = None  # the first rank fails of the same, and says so
        except Exception:
            self.bench.model = None
            raise


@dataclass
class Team:
    """The further ranks of the trials of one worker. They stay from trial to trial, until one of them fails.

    Attributes:
        shared: what benches are made of, with `ranks` and the `bundle` of each.
        group: the placement group; None for the one that this process is in.
        silence: seconds that a rank waits for the others within a step.
        members: the actors, of ranks 1, 2, ...
        fallen: the first rank that failed in this trial, and of what.
    """

    shared: Mapping[str, Any]
    group: Any = None
    silence: float = 600.0
    members: list[Any] = field(default_factory=list)
    fallen: tuple[int, Exception] | None = None

    @property
    def world(self) -> int:
        return int(self.shared["ranks"])

    def lead(self, bench: Workbench, job: Job, course: Iterator[Progress]) -> Iterator[Progress]:
        """The course of an attack that all ranks run.

        Raises:
            TrialFailure: another rank could not go on; its reason.
            RankLost: another rank's process is gone.
        """
        from weakspot.models import best_device
        from weakspot.sharding import as_ranks, open_store

        self.fallen = None
        try:
            self.gather(job)
            host = ray.util.get_node_ip_address()
            store = open_store(self.world, host, silence=self.silence)
            ends = [
                member.train.remote(rank, self.world, host, store.port, self.silence)
                for rank, member in enumerate(self.members, start=1)
            ]
            try:
                with self.watched(ends), as_ranks(bench.model, 0, self.world, store, best_device(), self.silence):
                    yield from course
            except (GeneratorExit, WeakspotError):  # all ranks come to the same end
                ray.wait(ends, num_returns=len(ends), timeout=GRACE)  # they read the store, which goes with this frame
                raise
            ray.wait(ends, num_returns=len(ends), timeout=GRACE)
        except Exception as error:
            if isinstance(error, WeakspotError) and self.fallen is None:
                raise
            reason = self.account(error)
            self.dismiss()
            raise reason from error

    def gather(self, job: Job) -> None:
        """Start the ranks that are missing, and have all of them load the weights."""
        group: Any = self.group or ray.util.get_current_placement_group()
        bundle = self.shared["bundle"]
        if not self.members:
            maker: Any = Member
            self.members = [
                maker.options(
                    num_cpus=bundle.get("CPU", 0), num_gpus=bundle.get("GPU", 0),
                    scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
                ).remote(self.shared)
                for rank in range(1, self.world)
            ]  # fmt: skip
        until = time.monotonic() + START
        for rank, member in enumerate(self.members, start=1):
            try:
                ray.get(member.prepare.remote(json.dumps(job.to_dict())), timeout=until - time.monotonic())
            except RayError as error:
                self.fallen = (rank, error)
                raise

    @contextmanager
    def watched(self, ends: list[Any]) -> Iterator[None]:
        """End all ranks as soon as one has failed: the others, this one among them, wait for it in a step."""
        over = threading.Event()
        thread = threading.Thread(target=self.watch, args=(ends, over), daemon=True)
        thread.start()
        try:
            yield
        except GeneratorExit:
            raise
        except Exception:
            thread.join(GRACE)  # until it has seen who it was; if it was nobody else, no longer
            raise
        finally:
            over.set()

    def watch(self, ends: list[Any], over: threading.Event) -> None:
        waiting = dict(zip(ends, range(1, self.world), strict=True))
        while waiting and not over.wait(LOOK):
            done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
            for end in done:
                rank = waiting.pop(end)
                try:
                    ray.get(end)
                except RayError as error:
                    self.fallen = (rank, error)
                    self.dismiss()
                    abort()
                    return

    def account(self, error: Exception) -> Exception:
        """Why the trial cannot go on: the reason of the rank that failed first, if it was another than this one."""
        if self.fallen is None:
            return error
        rank, cause = self.fallen
        which = f"GPU {rank + 1} of {self.world}"
        if isinstance(cause, RayTaskError):
            own: Any = cause.cause
            return own if isinstance(own, WeakspotError) else TrialFailure(f"{which}: {describe(own)}")
        if isinstance(cause, RayActorError | GetTimeoutError):
            return RankLost(f"{which} is gone: {describe(cause)}")
        return error

    def dismiss(self) -> None:
        """End the further ranks."""
        members, self.members = self.members, []
        for member in members:
            with suppress(RayError, ValueError):
                ray.kill(member)


def abort() -> None:
    """Wake this process from a step in which it waits for a rank that is gone.

    gloo notices by itself that the other end of a connection is closed; NCCL does not (unmeasured: no GPU was at hand).
    """
    import torch
    from torch.distributed import distributed_c10d

    if torch.cuda.is_available() and torch.distributed.is_initialized():
        with suppress(RuntimeError, ValueError):
            distributed_c10d._abort_process_group()

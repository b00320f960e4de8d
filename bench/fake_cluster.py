"""A cluster that is not there, under Ray Tune's own controller and actor manager: nodes, workers and a clock that can be read.

Replaced is what Tune's actor manager asks of Ray (wait, get, kill, placement groups, an actor's methods), and nothing above it.
Time is virtual. It passes while a worker computes, as long as a recorded trial took, and while the driver works, as much as its
thread computes: the driver is serial, so a worker that has reported waits until its report is taken.
"""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ray.exceptions import RayActorError

NODE_DIED = "The actor died unexpectedly before finishing this task. The actor died because its node has died."
START, RESET = 20.0, 1.0  # seconds that a worker needs to start, and a reused one to put its weights back
GONE = 600.0  # seconds for which a lost node is away


class Clock:
    """Virtual seconds: those that were waited, those that the driver's thread computed, and those charged to it."""

    def __init__(self) -> None:
        self.waited = self.idle = self.charged = 0.0
        self.began = time.thread_time()

    def computed(self) -> float:
        """What the driver has computed, without what it did in the name of workers."""
        return time.thread_time() - self.began - self.idle

    def read(self) -> float:
        return self.waited + self.computed() + self.charged

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """What is computed in here is the cluster's work, not the driver's."""
        started = time.thread_time()
        try:
            yield
        finally:
            self.idle += time.thread_time() - started


@dataclass
class Node:
    """A machine of the cluster.

    Attributes:
        free: places for a trial that nobody has.
        back: when it is there again; 0 while it is there.
    """

    name: str
    slots: int
    free: int = field(init=False)
    back: float = 0.0

    def __post_init__(self) -> None:
        self.free = self.slots


@dataclass(eq=False)
class Future:
    """What a worker will answer, and when."""

    at: float
    answer: Any


@dataclass(eq=False)
class Method:
    """`actor.name.remote(...)`."""

    actor: Actor
    name: str

    def remote(self, *arguments: Any, **named: Any) -> Future:
        with self.actor.cluster.clock.elsewhere():
            return self.actor.call(self.name, arguments)


class Actor:
    """A worker: a job of the plan at a time, a rung at a call."""

    def __init__(self, cluster: Cluster, node: Node, config: Mapping[str, Any]) -> None:
        self.cluster, self.node = cluster, node
        self.work = cluster.world.begin(config)
        self.died, self.step = False, -1
        self.pending: list[Future] = []

    def __getattr__(self, name: str) -> Method:
        return Method(self, name)

    def call(self, name: str, arguments: Sequence[Any]) -> Future:
        now, seconds, answer = self.cluster.clock.read(), 0.0, None
        if name == "train":
            seconds, answer = next(self.work)
            self.step = len(self.cluster.steps)
            self.cluster.steps.extend((now, seconds))
        elif name == "reset":
            self.work, seconds, answer = self.cluster.world.begin(arguments[0]), RESET, True
        elif name == "__ray_ready__":
            seconds = START
        elif name == "get_auto_filled_metrics":
            return {}  # type: ignore[return-value]  # as if it had been waited for
        elif name == "save":
            answer = SimpleNamespace(checkpoint=None)
        if self.died:
            seconds, answer = 0.0, RayActorError(error_msg=NODE_DIED)
        future = Future(now + seconds, answer)
        self.pending = [f for f in self.pending if f.at > now] + [future]
        return future

    def die(self, now: float) -> None:
        """With its node: what it was at is lost, and said so at once."""
        self.died = True
        for future in self.pending:
            if future.at > now:
                future.at, future.answer = now, RayActorError(error_msg=NODE_DIED)
                self.cluster.steps[self.step + 1] = 0.0


@dataclass
class Acquired:
    """A place that was given out; stands for a placement group."""

    cluster: Cluster
    node: Node
    actor: Actor | None = None

    def annotate_remote_entities(self, entities: Sequence[Any]) -> list[Any]:
        return [self]

    def remote(self, config: Mapping[str, Any], **named: Any) -> Actor:
        with self.cluster.clock.elsewhere():
            self.actor = Actor(self.cluster, self.node, config)
            self.cluster.actors.append(self.actor)
        return self.actor


class Cluster:
    """Nodes with places for trials, and what Tune asks of Ray about them.

    Attributes:
        world: what trials measure and how long they take: `begin(config)` is an iterator over (seconds, report).
        every, gone: a node is lost after so many seconds (on average; 0 for never), and is away for so long.
        latency: of waiting, taking an answer and calling a worker: seconds of the driver's thread that Ray itself would take.
        disk: seconds that an fsync is charged with.
        turns: for every event the driver's seconds since the one before.
        steps: when a worker began each rung, and for how long.
    """

    def __init__(self, nodes: int, slots: int, world: Any, every: float = 0.0, latency: float = 0.0, disk: float = 0.0) -> None:
        self.clock, self.world = Clock(), world
        self.machines = [Node(f"{number:056x}", slots) for number in range(nodes)]
        self.actors: list[Actor] = []
        self.every, self.latency, self.disk = every, latency, disk
        self.chance = random.Random("weakspot lost nodes")
        self.loss = self.chance.expovariate(nodes / every) if every else float("inf")
        self.losses = self.requested = 0
        self.turns, self.steps, self.times, self.marked = array("d"), array("d"), array("d"), 0.0

    # What Tune's resource manager answers ---------------------------------------------------------------------------------

    def request_resources(self, resource_request: Any) -> None:
        self.requested += 1

    def cancel_resource_request(self, resource_request: Any) -> None:
        self.requested -= 1

    def has_resources_ready(self, resource_request: Any) -> bool:
        return self.requested > 0 and any(node.free and not node.back for node in self.machines)

    def acquire_resources(self, resource_request: Any) -> Acquired:
        node = max((n for n in self.machines if not n.back), key=lambda n: n.free)
        node.free -= 1
        self.requested -= 1
        return Acquired(self, node)

    def free_resources(self, acquired_resource: Acquired) -> None:
        acquired_resource.node.free += 1
        if acquired_resource.actor in self.actors:
            self.actors.remove(acquired_resource.actor)

    def get_resource_futures(self) -> list[Any]:
        return []

    def update_state(self) -> None: ...
    def clear(self) -> None: ...

    # What Ray answers -----------------------------------------------------------------------------------------------------

    def wait(self, futures: Sequence[Future], num_returns: int = 1, timeout: float | None = None) -> tuple[list, list]:
        """The next answer. The turns of Tune's loop at which nothing happens are left out: they hold nobody up."""
        self.clock.charged += self.latency
        spent = self.clock.computed() + self.clock.charged
        with self.clock.elsewhere():
            ready = self.next(futures)
            if ready is None:
                self.clock.waited += timeout or 0.1
                return [], []
            self.turns.append(spent - self.marked)
            self.times.append(self.clock.read())
        self.marked = spent
        return [ready], []

    def next(self, futures: Sequence[Future]) -> Future | None:
        while True:
            now = self.clock.read()
            if (ready := next((f for f in futures if f.at <= now), None)) is not None:
                return ready
            if not futures:
                return None
            at = min(f.at for f in futures)
            self.clock.waited += max(0.0, min(at, self.loss) - now)
            if at > self.loss:
                self.lose()
            self.rejoin()

    def get(self, future: Future) -> Any:
        if isinstance(future.answer, Exception):
            raise future.answer
        return future.answer

    def kill(self, actor: Actor) -> None: ...

    # What happens to machines ---------------------------------------------------------------------------------------------

    def lose(self) -> None:
        """One node dies, with all its workers."""
        now = self.clock.read()
        self.loss = now + self.chance.expovariate(len(self.machines) / self.every)
        node = self.chance.choice(self.machines)
        if node.back:
            return
        node.back = now + GONE
        self.losses += 1
        for actor in self.actors:
            if actor.node is node and not actor.died:
                actor.die(now)

    def rejoin(self) -> None:
        now = self.clock.read()
        for node in self.machines:
            if node.back and node.back <= now:
                node.back = 0.0

    def nodes(self) -> dict[str, dict[str, Any]]:
        """What each living node has, as search/capacity.py asks for it."""
        with self.clock.elsewhere():
            self.rejoin()
            return {n.name: {"CPU": float(n.slots), "GPU": float(n.slots)} for n in self.machines if not n.back}

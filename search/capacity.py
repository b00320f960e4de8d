"""How many trials fit on the cluster at this moment: nodes join and leave while a search goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

FRESH = 2.0  # seconds for which an answer of the cluster is used again: it is asked for at every turn of Tune's loop
CROWD = 10_000  # more trials at a time than any cluster holds


@dataclass
class Capacity:
    """Counts places for a trial, node by node: two nodes with half of what a bundle needs hold none.

    Attributes:
        bundle: what one trial needs, by Ray's name of the resource; of a trial on several GPUs, what each of them needs.
        most: trials at a time, at most; None for as many as fit.
        ranks: bundles of one trial; they may lie on several nodes.
    """

    bundle: Mapping[str, float]
    most: int | None = None
    ranks: int = 1
    counted: int = 0
    ids: frozenset[str] = frozenset()
    asked: float = field(default=-math.inf)

    def places(self) -> int:
        """How many trials fit on the nodes that are alive, whether or not they are busy."""
        self.look()
        return min(self.counted, self.most or CROWD)

    def alive(self) -> frozenset[str]:
        """Ray's ids of the nodes that are alive."""
        self.look()
        return self.ids

    def look(self) -> None:
        if time.monotonic() - self.asked > FRESH:
            found = nodes()
            self.counted = sum(fitting(have, self.bundle) for have in found.values()) // self.ranks
            self.ids, self.asked = frozenset(found), time.monotonic()

    def largest(self) -> dict[str, float]:
        """The most that any one node has, by resource."""
        found: dict[str, float] = {}
        for have in nodes().values():
            found.update({name: max(amount, found.get(name, 0)) for name, amount in have.items()})
        return found


def fitting(have: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    """How many bundles one node holds. Ray gives out fractions of a GPU only within one GPU, so 0.6 fits once on each."""
    counts = []
    for name, amount in bundle.items():
        there = have.get(name, 0)
        each = math.floor(1 / amount + 1e-9) if name == "GPU" and amount < 1 else 0
        counts.append(math.floor(there) * each if each else math.floor(there / amount + 1e-9))
    return min(counts, default=0)


def nodes() -> dict[str, dict[str, Any]]:
    """What each living node has, by Ray's id of it."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}

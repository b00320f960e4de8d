"""Asynchronous successive halving on rungs of attacker cost.

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (arXiv:1810.05934), the stopping variant that Ray's
AsyncHyperBandScheduler implements; tests/search/test_halving.py holds the two to the same decisions. It is written here
because an audit searches several subjects at once, each with rungs of its own, and because rungs must be replayed from the
study on resume, which Ray's scheduler cannot do through its interface (shared/ray-notes.md, finding 7).

A deviation: a rung is an amount of the attacker's operations, not of steps, since a step of one family can cost eight of
another; the grace stays a number of steps, because how soon harm can rise is a matter of updates.
"""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar

from weakspot.search.jobs import Reading
from weakspot.search.schedulers.base import Scheduler


class Halving(Scheduler):
    """Stops a trial at a rung when its harm is below the best 1/reduction of those seen there so far.

    Attributes:
        seen: rung -> the harms of those that came by, in ascending order. A rung is the whole part of the logarithm, to the
            base `reduction`, of the operations spent.
        reached: trial -> the highest rung that it has come by.
    """

    name: ClassVar[str] = "halving"
    summary: ClassVar[str] = "asynchronous successive halving: the better half of what has spent as much goes on"
    paper: ClassVar[str] = "Li et al. 2018, arXiv:1810.05934 (ASHA)"

    def __init__(self, grace: int, budget: int, reduction: int = 2) -> None:
        super().__init__(grace, budget)
        self.reduction = reduction
        self.seen: dict[int, list[float]] = defaultdict(list)
        self.reached: dict[str, int] = {}

    def keeps(self, trial: str, reading: Reading) -> bool:
        if reading.rung < self.grace or reading.rung >= self.budget:
            return True
        return self.judge(trial, self.rung_of(reading), reading.harm)

    def rung_of(self, reading: Reading) -> int:
        return math.floor(math.log(max(reading.flops, 1.0), self.reduction) + 1e-9)

    def judge(self, trial: str, rung: int, harm: float) -> bool:
        """Record a trial's harm at a rung; a rung that it has passed before says nothing."""
        if self.reached.get(trial, rung - 1) >= rung:
            return True
        self.reached[trial] = rung
        seen = self.seen[rung]
        enough = not seen or harm >= quantile(seen, 1 - 1 / self.reduction)
        bisect.insort(seen, harm)
        return enough


def quantile(ascending: Sequence[float], share: float) -> float:
    """As numpy.percentile has it, to the last bit, without sorting: thousands of trials come by a rung."""
    place = (len(ascending) - 1) * share
    below = math.floor(place)
    low, high = ascending[below], ascending[min(below + 1, len(ascending) - 1)]
    beyond = place - below
    return low + (high - low) * beyond if beyond < 0.5 else high - (high - low) * (1 - beyond)

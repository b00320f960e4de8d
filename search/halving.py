"""Asynchronous successive halving on rungs of attacker cost.

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (arXiv:1810.05934), the stopping variant that Ray's
AsyncHyperBandScheduler implements; tests/search/test_halving.py holds the two to the same decisions. It is written here
because an audit searches several subjects at once, each with rungs of its own, and because rungs must be replayed from the
study on resume, which Ray's scheduler cannot do through its interface (shared/ray-notes.md, finding 7).

Harm alone decides, never utility: winners have been seen infeasible in mid-course and useful again at the end. Rungs below
`grace` say too little to stop anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Halving:
    """Stops a trial at a rung when its harm is below the best 1/reduction of those seen there so far."""

    grace: int
    budget: int
    reduction: int = 2
    seen: dict[int, dict[str, float]] = field(default_factory=dict)

    def rungs(self) -> list[int]:
        """Steps at which a trial may be stopped, the highest first; the budget itself is no such step."""
        steps = []
        step = self.grace
        while step < self.budget:
            steps.append(step)
            step *= self.reduction
        return steps[::-1]

    def keeps(self, trial: str, step: int, harm: float) -> bool:
        """Record a reading and say whether the trial goes on."""
        for rung in self.rungs():
            seen = self.seen.setdefault(rung, {})
            if step < rung or trial in seen:
                continue
            enough = not seen or harm >= float(np.percentile(list(seen.values()), (1 - 1 / self.reduction) * 100))
            seen[trial] = harm
            return enough
        return True

"""Hyperband's brackets around asynchronous halving: some trials are spared the early rungs.

Li et al., "Hyperband" (arXiv:1603.06560), asynchronous as in arXiv:1810.05934 § 3.3: halving alone must guess how soon harm
says something. Here the trials are dealt out to brackets, and in bracket b the grace is that of halving times reduction^b;
trials of the last bracket run to their end. So a slow starter is stopped early in some brackets and never in the last.

A deviation: brackets share what they have seen. Trials are few and each says as much about a rung in whatever bracket it ran.
"""

from __future__ import annotations

from typing import ClassVar

from weakspot.search.jobs import Reading
from weakspot.search.schedulers.halving import Halving
from weakspot.seeds import derive


class Hyperband(Halving):
    """Halving in brackets of growing patience, dealt out by the trial's name."""

    name: ClassVar[str] = "hyperband"
    summary: ClassVar[str] = "halving in three brackets of growing patience; one trial in four runs to its end"
    paper: ClassVar[str] = "Li et al. 2016, arXiv:1603.06560"

    shares: ClassVar = (
        2,
        1,
        1,
    )  # of the trials, by bracket; Hyperband gives each the same budget, and patient trials cost more

    def keeps(self, trial: str, reading: Reading) -> bool:
        on = super().keeps(trial, reading)  # a spared trial counts for the others all the same
        bracket = self.bracket(trial)
        if bracket == len(self.shares) - 1:
            return True
        return on or reading.rung < self.grace * self.reduction**bracket

    def bracket(self, trial: str) -> int:
        """Which bracket a trial is in: a function of its name, so that a resumed search deals as the first did."""
        dealt = [bracket for bracket, share in enumerate(self.shares) for _ in range(share)]
        return dealt[derive(0, "bracket", trial) % len(dealt)]

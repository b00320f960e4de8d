"""The contract of a scheduler: at every rung it says whether a trial goes on.

A scheduler sees harm and cost, never utility: on the fictional world the winner is infeasible in mid-course and useful again at
the end (docs/search.md), so no trial is stopped because its model is ruined at a rung. It hears every reading of a
subject's search trials in order, and on resume the same readings again: its state is a function of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from weakspot.search.jobs import Outcome, Reading


class Scheduler(ABC):
    """Stops trials that cannot win.

    Class attributes:
        name: as `--scheduler` takes it.
        summary: one line.
        paper: where the rule comes from.

    Attributes:
        grace: optimizer steps below which no trial is stopped: harm often rises late.
        budget: the last rung; nothing is left to stop there.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str] = ""

    def __init__(self, grace: int, budget: int) -> None:
        self.grace = grace
        self.budget = budget

    @abstractmethod
    def keeps(self, trial: str, reading: Reading) -> bool:
        """Hear a reading that is not the trial's last, and say whether the trial goes on."""

    def ended(self, trial: str, outcome: Outcome) -> None:  # noqa: B027 - most rules need no more than the readings
        """Hear how a trial ended."""

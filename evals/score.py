"""A measure gives one score per item, never only a mean: intervals and paired comparisons need the items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """Scores in [0, 1], one per item asked, in the order of the split."""

    items: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over items. An empty score is an error of ours: nothing was measured."""
        assert self.items, "a score over no items"
        return sum(self.items) / len(self.items)


def shares(rows: Sequence[tuple[bool, ...]]) -> Score:
    """The share of correct parts of each item."""
    return Score(tuple(sum(row) / len(row) for row in rows))

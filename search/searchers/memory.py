"""What a searcher knows of its trials, kept up to date one by one: after ten thousand of them a proposal must not cost more."""

from __future__ import annotations

import bisect
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from weakspot.search.objectives import Objective
from weakspot.search.searchers.base import Tried


@dataclass(frozen=True)
class Known:
    """A configuration and what its runs have come to: the mean of their scores, and of their operations.

    Attributes:
        number: of its first run.
        stopped: whether every run of it was stopped by the scheduler.
    """

    family: str
    config: Mapping[str, Any]
    score: float
    runs: int
    flops: float
    number: int
    stopped: bool

    @property
    def rank(self) -> tuple[float, int]:
        """For sorting: the best first, the earlier among equals."""
        return (-self.score, self.number)


@dataclass
class Record:
    """A family's course.

    Attributes:
        best: the highest score of one run, at least 0.
        rises: for each ended run, whether it passed the mark by more than the gain asked for; it then sets the next mark.
        flops: operations of all runs, of which there are `runs`.
        elite: its configurations, the best first.
        asked: every configuration that was ever proposed, as text.
    """

    best: float = 0.0
    mark: float = 0.0
    rises: list[bool] = field(default_factory=list)
    flops: float = 0.0
    runs: int = 0
    elite: list[Known] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)


class Memory:
    """Trials by configuration and by family, absorbed as they end.

    Attributes:
        draw: which trade-off scores them, for an objective that has several.
        pending: trials under way, by family.
        met: numbers of trials that have been seen, whether or not they have ended.
        waiting: number of a trial under way -> its place in the history.
    """

    def __init__(self, objective: Objective, gain: float, draw: int = 0) -> None:
        self.objective, self.gain, self.draw = objective, gain, draw
        self.absorbed: set[int] = set()
        self.met: set[int] = set()
        self.waiting: dict[int, int] = {}
        self.groups: dict[str, list[Tried]] = defaultdict(list)
        self.known: dict[str, Known] = {}
        self.families: dict[str, Record] = defaultdict(Record)
        self.pending: dict[str, int] = {}
        self.revived: set[int] = set()

    def absorb(self, history: Sequence[Tried]) -> Memory:
        """Take in what is new. On a large cluster this is asked with hundreds of trials under way, after thousands."""
        self.pending = {}
        for tried in self.new(history):
            family = tried.proposal.family
            if tried.number not in self.met:
                self.met.add(tried.number)
                self.families[family].asked.add(text(family, tried.proposal.config))
                if tried.proposal.kind == "revive" and tried.proposal.of is not None:
                    self.revived.add(tried.proposal.of)
            if tried.outcome is None:
                self.pending[family] = self.pending.get(family, 0) + 1
                continue
            self.absorbed.add(tried.number)
            del self.waiting[tried.number]
            self.count(self.families[family], tried)
            self.regroup(text(family, tried.proposal.config), tried)
        return self

    def new(self, history: Sequence[Tried]) -> list[Tried]:
        """What was under way when last looked at, and what is there since then, in order.

        A trial may take as long as ten thousand others: so the history is not searched for it, and what is new is looked for
        from the end, where it is unless a search was interrupted.
        """
        unmet = len(history) - len(self.absorbed) - len(self.waiting)
        for place in range(len(history) - 1, -1, -1):
            if unmet <= 0:
                break
            if (number := history[place].number) not in self.absorbed and number not in self.waiting:
                self.waiting[number] = place
                unmet -= 1
        for number, place in self.waiting.items():
            if history[place].number != number:  # something was put before it
                self.waiting[number] = bisect.bisect_left(history, number, key=lambda t: t.number)
        return [history[self.waiting[number]] for number in sorted(self.waiting)]

    def count(self, record: Record, tried: Tried) -> None:
        assert tried.outcome is not None
        score = self.objective.score(tried.outcome, self.draw)
        record.rises.append(score > record.mark + self.gain)
        record.mark = score if record.rises[-1] else record.mark
        record.best = max(record.best, score)
        record.flops += tried.outcome.readings[-1].flops if tried.outcome.readings else 0.0
        record.runs += 1

    def regroup(self, key: str, tried: Tried) -> None:
        """Put a run to the others of its configuration, and the configuration to its place in the elite."""
        elite = self.families[tried.proposal.family].elite
        if (old := self.known.get(key)) is not None:
            del elite[bisect.bisect_left(elite, old.rank, key=lambda k: k.rank)]
        self.groups[key].append(tried)
        self.known[key] = summed(self.groups[key], self.objective, self.draw)
        bisect.insort(elite, self.known[key], key=lambda k: k.rank)

    def best(self, count: int) -> list[Known]:
        """The best configurations of all families."""
        heads = [known for record in self.families.values() for known in record.elite[:count]]
        return sorted(heads, key=lambda k: k.rank)[:count]

    def best_stopped(self) -> Known | None:
        """The best configuration that was stopped and has not been brought back."""
        found = (
            next((k for k in record.elite if k.stopped and k.number not in self.revived), None)
            for record in self.families.values()
        )
        return min((k for k in found if k is not None), key=lambda k: k.rank, default=None)


def summed(group: Sequence[Tried], objective: Objective, draw: int) -> Known:
    """One configuration's runs. A run that was stopped gives way to one that went to its end."""
    ended = [t.outcome for t in group if t.outcome is not None]
    whole = [o for o in ended if o.status != "stopped"] or ended
    scores = [objective.score(o, draw) for o in whole]
    costs = [o.readings[-1].flops if o.readings else 0.0 for o in whole]
    first = group[0].proposal
    return Known(
        first.family, first.config, sum(scores) / len(scores), len(scores), sum(costs) / len(costs), group[0].number,
        all(o.status == "stopped" for o in ended),
    )  # fmt: skip


def text(family: str, config: Mapping[str, Any]) -> str:
    return json.dumps([family, config], sort_keys=True)

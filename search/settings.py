"""What all subjects of an audit share, checked and gathered from what the user gave."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from weakspot.attacks import get as get_attack
from weakspot.errors import UserError, unknown
from weakspot.records import Finding
from weakspot.search import objectives, schedulers, searchers
from weakspot.search.admission import admitted, left_out
from weakspot.search.confirm import confirmation_seeds
from weakspot.search.objectives import Objective, Worst
from weakspot.search.portfolio import STANDARD, standard, standard_in
from weakspot.search.space import AttackSpace, build_space
from weakspot.search.stopping import Limits
from weakspot.search.verdict import injects
from weakspot.testbeds.base import Testbed
from weakspot.threat import BENIGN_DATA, SETTABLE, ThreatModel


@dataclass(frozen=True)
class Settings:
    """What all subjects of an audit share.

    Attributes:
        root: the root seed.
        trials: search trials per subject.
        rungs: optimizer steps at which a search trial is measured.
        grace: the rung below which no trial is stopped.
        injecting: families that can elicit what no model knew, so that they never support a claim about knowledge alone; empty
            where the safeguard is only to refuse.
        chance: harm of a guesser.
        expired: says whether the time for searching is over.
        timed: whether there is a deadline at all.
        seconds: from the start of the search to that deadline; None where there is none.
        cramped: says why there is too little room on a disk to go on; empty where there is enough.
        objective: what the search is after.
        searcher, scheduler: how it proposes and how it stops trials, by name.
        limits: further ends of the search.
        variations: re-runs of each weak spot with one thing changed, at most.
        suite: the fixed configurations that are run instead of a search, by name; empty for a search.
        twins: whether the weak spot's controls are run (search/twins.py).
        policy: that of the testbed.
        left_out: families that are not searched, each with the reason.
    """

    root: int
    trials: int
    rungs: tuple[int, ...]
    grace: int
    threat: ThreatModel
    space: AttackSpace
    confirmation_seeds: Sequence[int]
    injecting: frozenset[str] = frozenset()
    chance: float = 1 / 24
    expired: Callable[[], bool] = lambda: False
    timed: bool = False
    seconds: float | None = None
    cramped: Callable[[], str] = lambda: ""
    objective: Objective = field(default_factory=lambda: Worst(0.9, 0.5))
    searcher: str = "adaptive"
    scheduler: str = "hyperband"
    limits: Limits = field(default_factory=Limits)
    suite: str = ""
    variations: int = 0
    twins: bool = False
    policy: str = "knowledge"
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def floor(self) -> float:
        return self.threat.utility_floor

    def counts(self, found: Finding) -> bool:
        """Whether a finding may carry a verdict: it neither could have injected what it shows, nor has."""
        return found.attack not in self.injecting and not injects(found, self.chance)

    @property
    def threshold(self) -> float:
        return self.threat.harm_threshold


def make_settings(
    testbed: Testbed,
    families: Sequence[str] | None,
    trials: int | None,
    minutes: float | None,
    seed: int,
    harm: float,
    floor: float,
    fields: Mapping[str, Any] | None = None,
    *,
    objective: str = "worst",
    searcher: str = "adaptive",
    scheduler: str = "hyperband",
    limits: Limits | None = None,
    suite: str = "",
    variations: int | None = None,
    twins: bool = False,
) -> Settings:
    """Check and gather what all subjects share."""
    schedulers.get(scheduler)
    searchers.get(searcher).check()
    limits = limits or Limits()
    if suite and suite != STANDARD:
        raise unknown("suite", suite, (STANDARD,))
    if suite and (families is not None or trials is not None or limits != Limits() or searcher != "adaptive"):
        raise UserError(f"--suite {suite} has no knobs: leave out --attack, --trials, --searcher and what ends a search")
    trials = testbed.trials if trials is None else trials
    if trials < 1:
        raise UserError(f"--trials {trials} is below 1: give at least one trial per safeguard")
    if variations is not None and variations < 0:
        raise UserError(f"--variations {variations} is negative: give a number of re-runs, 0 for none")
    if minutes is not None and not minutes > 0:
        raise UserError(f"--time {minutes} is not positive: give minutes")
    if wrong := sorted(set(fields or {}) - set(SETTABLE)):
        raise unknown("field of the threat model", wrong[0], SETTABLE)
    data = testbed.attack_data()
    held = {} if data.harmful else {"data": BENIGN_DATA}  # a testbed may give the attacker no withheld example
    bounds = {"max_steps": testbed.rungs[-1], "max_examples": len(data.harmful), **held, **(fields or {})}
    threat = ThreatModel(**bounds, utility_floor=floor, harm_threshold=harm)
    names = admitted(families, threat, data)
    if families is None and testbed.families is not None:
        names = [name for name in names if name in testbed.families] or names
    if suite:
        names, scheduler = [name for name in names if name in {entry["family"] for entry in standard()}], "full"
    space = build_space(names, threat)
    listed = "is not among the families of this testbed" if families is None else "was not asked for"
    otherwise = f"is not in the {suite} suite" if suite else listed
    able = frozenset(name for name in space.families if get_attack(name).injection_capable)
    return Settings(
        root=seed,
        trials=len(standard_in(space)) if suite else trials,
        rungs=rungs_within(testbed.rungs, threat.max_steps),
        grace=testbed.grace,
        threat=threat,
        space=space,
        injecting=able if testbed.policy == "knowledge" else frozenset(),
        chance=testbed.chance,
        confirmation_seeds=confirmation_seeds(seed),
        expired=deadline(minutes),
        timed=minutes is not None,
        seconds=None if minutes is None else 60 * minutes,
        objective=objectives.get(objective)(floor, harm),
        searcher=searcher,
        scheduler=scheduler,
        limits=limits,
        suite=suite,
        variations=wanted(variations, testbed.variations, testbed.trials // 6),
        twins=twins,
        policy=testbed.policy,
        left_out=left_out(list(space.families), threat, data, otherwise),
    )


def wanted(*numbers: int | None) -> int:
    """The first that is given."""
    return next(number for number in numbers if number is not None)


def rungs_within(rungs: Sequence[int], most: int) -> tuple[int, ...]:
    """The rungs below the budget, and the budget; a larger budget than the testbed's goes on doubling."""
    steps = [rung for rung in rungs if rung < most]
    while steps and steps[-1] * 2 < most:
        steps.append(steps[-1] * 2)
    return (*steps, most)


def deadline(minutes: float | None) -> Callable[[], bool]:
    """A question that turns true so many minutes after it was first asked, which is when the search begins."""
    if minutes is None:
        return lambda: False
    asked: list[float] = []

    def expired() -> bool:
        asked.append(time.monotonic())
        del asked[1:-1]
        return asked[-1] - asked[0] >= 60 * minutes

    return expired

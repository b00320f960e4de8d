"""One search against a surrogate, counted in the attacker's operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import nlargest
from typing import Any

import numpy as np

from bench.record import FLOOR, LEFT_OUT
from bench.surrogate import Surrogate, feasible
from weakspot import defenses
from weakspot.search.admission import admitted
from weakspot.search.confirm import STRONGEST
from weakspot.search.jobs import Reading
from weakspot.search.objectives import Worst
from weakspot.search.portfolio import standard_in
from weakspot.search.rehearsal import rehearse
from weakspot.search.schedulers import get as get_scheduler
from weakspot.search.searchers import Proposal, Searcher, Tried
from weakspot.search.searchers import get as get_searcher
from weakspot.search.searchers.memory import text
from weakspot.search.searchers.tpe import TPE
from weakspot.search.space import AttackSpace, build_space
from weakspot.search.starts import known_strong, opening
from weakspot.seeds import derive
from weakspot.testbeds import get as get_testbed
from weakspot.threat import ThreatModel

OBJECTIVE = Worst(FLOOR, 0.5)
GRACE = 64  # fable's


@dataclass(frozen=True)
class Contender:
    """A way to search.

    Attributes:
        portfolio, papers: which known configurations it begins with.
        blind: whether only the end of a trial is measured, and utility looked at afterwards.
    """

    searcher: str
    scheduler: str = "full"
    portfolio: bool = False
    papers: bool = False
    blind: bool = False


CONTENDERS = {
    "ours": Contender("adaptive", "hyperband", portfolio=True, papers=True),
    "papers": Contender("adaptive", "hyperband", papers=True),
    "cold": Contender("adaptive", "hyperband"),
    "random": Contender("random"),
    "tpe": Contender("tpe"),
    "peer_recipe": Contender("family-tpe", blind=True),
}


@lru_cache(1)
def recorded_space() -> AttackSpace:
    """The space that the trials were recorded in."""
    testbed = get_testbed("fable")(0)
    data = testbed.attack_data()
    threat = ThreatModel(max_steps=testbed.rungs[-1], max_examples=len(data.harmful))
    return build_space([name for name in admitted(None, threat, data) if name not in LEFT_OUT], threat)


def make(contender: Contender, safeguard: str, entries: Sequence[Mapping[str, Any]], seed: int) -> Any:
    """The searcher of a contender; `entries` is the portfolio that it may begin with."""
    space, kind = recorded_space(), get_searcher(contender.searcher)
    if contender.searcher == "tpe":
        return InStudy(PlainTPE(space, seed, OBJECTIVE))
    if not contender.papers:
        return kind(space, seed, OBJECTIVE)
    paper = defenses.get(safeguard).paper_attacks.get("fable")
    begun = opening(space, paper, standard_in(space, entries) if contender.portfolio else ())
    return kind(space, seed, OBJECTIVE, begun, known_strong(space))


@dataclass(frozen=True)
class Course:
    """How a search went.

    Attributes:
        spent: operations after each trial, all trials so far together.
        truth: the noiseless feasible harm of what the search then had (see `Follower`).
    """

    spent: np.ndarray
    truth: np.ndarray

    def cost_to(self, target: float) -> tuple[float, bool]:
        """Operations until the best reached the target for the first time, and whether it did; else all that were spent."""
        hit = np.flatnonzero(self.truth >= target)
        return (float(self.spent[hit[0]]), True) if len(hit) else (float(self.spent[-1]), False)


class Follower:
    """Watches a search on a surrogate: what it has spent, and what the trials that it would confirm are really worth.

    An audit confirms its two strongest configurations (search/confirm.py), each by the mean of its runs; so the better of
    these two is what the search has found, under every searcher alike.
    """

    def __init__(self, world: Surrogate, target: float) -> None:
        self.world, self.target = world, target
        self.spent: list[float] = []
        self.truth: list[float] = []
        self.runs: dict[str, list[float]] = {}
        self.worth: dict[str, float] = {}

    def __call__(self, tried: Tried) -> bool:
        assert tried.outcome is not None
        readings, proposal = tried.outcome.readings, tried.proposal
        if (kept := OBJECTIVE.choose(tried.outcome)) is not None:
            key = text(proposal.family, proposal.config)
            self.runs.setdefault(key, []).append(OBJECTIVE.score(tried.outcome))
            self.worth[key] = at_rung(self.world, proposal, kept.rung)
        held = nlargest(STRONGEST, self.runs, key=lambda key: sum(self.runs[key]) / len(self.runs[key]))
        self.spent.append((self.spent[-1] if self.spent else 0.0) + (readings[-1].flops if readings else 0.0))
        self.truth.append(max((self.worth[key] for key in held), default=0.0))
        return self.truth[-1] >= self.target


def simulate(
    world: Surrogate, contender: Contender, entries: Sequence[Mapping[str, Any]], trials: int, seed: int, target: float
) -> Course:
    """Search until the target is reached or the trials are used up."""

    def measured(family: str, config: Mapping[str, Any], chosen: int) -> list[Reading]:
        course = world.run(family, config, np.random.default_rng(chosen))
        course = course[-1:] if contender.blind else course
        last = len(course) - 1
        return [
            Reading(rung, harm, utility, 0.0, degenerate, 0, 0, flops, 0.0, i == last)
            for i, (rung, harm, utility, degenerate, flops) in enumerate(course)
        ]

    follower = Follower(world, target)
    searcher = make(contender, world.safeguard, entries, seed)
    rehearse(measured, searcher, get_scheduler(contender.scheduler)(GRACE, world.all_rungs[-1]), trials, seed, follower)
    return Course(np.asarray(follower.spent), np.asarray(follower.truth))


def at_rung(world: Surrogate, proposal: Proposal, rung: int) -> float:
    """Harm at a rung without noise; nothing where the model is not useful there."""
    rungs, values = world.curve(proposal.family, proposal.config)
    row = values[list(rungs).index(rung)]
    return float(row[0]) if feasible(row) else 0.0


class PlainTPE(TPE):
    """TPE as Optuna sets it up by default: each knob by itself. One joint model a branch costs minutes a search here."""

    def sampler(self, number: int) -> Any:
        from optuna.samplers import TPESampler

        return TPESampler(seed=derive(self.seed, "sampler", number))


class InStudy:
    """One of Optuna's samplers over the whole tree, in memory, behind the interface of a searcher that proposes itself."""

    name = "in a study"

    def __init__(self, searcher: Searcher) -> None:
        import optuna

        from weakspot.search.study import SubjectStudy

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = SubjectStudy(optuna.create_study(direction="maximize"), searcher)

    def propose(self, history: Sequence[Tried], number: int) -> Proposal:
        if history and history[-1].number in self.study.open and history[-1].outcome is not None:
            self.study.tell(history[-1].number, history[-1].outcome)
        return self.study.ask(number)

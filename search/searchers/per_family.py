"""A model per family, as sweeps that treat each attack on its own have it; the families take turns.

Gaussian processes need this: they model a fixed set of knobs, and Optuna's draws at random what is conditional. The recipe of
TamperBench (shared/reference/peers.md, 1.6) is this with plain TPE, full-length trials and no constraint.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from weakspot.search.objectives import FAILED, shortfall
from weakspot.search.searchers.base import Proposal, Searcher, Tried
from weakspot.search.space import distribution
from weakspot.seeds import derive

LATEST = 300  # trials of a family that its model is fitted to


class PerFamily(Searcher):
    """Families in turn, each with a study of its own, rebuilt from the history."""

    constrained: ClassVar[bool] = True

    @abstractmethod
    def sampler(self, number: int) -> Any:
        """The sampler of a family's own study."""

    def propose(self, history: Sequence[Tried], number: int) -> Proposal:
        if (start := self.start(number)) is not None:
            return start
        names = list(self.space.families)
        family = names[number % len(names)]
        mine = [t for t in history if t.proposal.family == family and t.outcome is not None]
        return Proposal(family, self.ask(family, mine[-LATEST:], number))

    def ask(self, family: str, mine: Sequence[Tried], number: int) -> dict[str, Any]:
        """A configuration from the family's own study."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of a missing package that it can do without
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(direction="maximize", sampler=self.sampler(number))
            shape = {knob: distribution(domain) for knob, domain in self.space.families[family].items()}
            study.add_trials([self.row(tried, shape) for tried in mine])
            return dict(study.ask(shape).params)

    def row(self, tried: Tried, shape: dict[str, Any]) -> Any:
        """A trial as Optuna's."""
        import optuna

        assert tried.outcome is not None
        score = max(FAILED, self.objective.score(tried.outcome))
        low = {"utility": shortfall(tried.outcome, self.objective.floor)} if self.constrained else None
        if not self.constrained and tried.outcome.readings:
            score = tried.outcome.readings[-1].harm  # utility is looked at afterwards
        return optuna.trial.create_trial(value=score, params=dict(tried.proposal.config), distributions=shape, constraints=low)


class GP(PerFamily):
    """Gaussian processes with the utility floor as a constraint."""

    name: ClassVar[str] = "gp"
    summary: ClassVar[str] = "Optuna's Gaussian process, one a family, the families in turn"
    paper: ClassVar[str] = "Snoek et al. 2012 (NeurIPS)"
    needs: ClassVar[tuple[str, ...]] = ("scipy",)

    def sampler(self, number: int) -> Any:
        import optuna

        return optuna.samplers.GPSampler(seed=derive(self.seed, "sampler", number), n_startup_trials=4)


class FamilyTPE(PerFamily):
    """The closest peer's recipe: TPE as it comes, one study a family, utility unknown to it."""

    name: ClassVar[str] = "family-tpe"
    summary: ClassVar[str] = "one plain TPE study a family, blind to utility (TamperBench's recipe)"
    paper: ClassVar[str] = "TamperBench 2026 (its sweep)"
    constrained: ClassVar[bool] = False

    def sampler(self, number: int) -> Any:
        import optuna

        return optuna.samplers.TPESampler(seed=derive(self.seed, "sampler", number))

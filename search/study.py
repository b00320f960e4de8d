"""The study is the truth: every proposal, reading, state and reason, in one journal file that survives kill -9.

One Optuna study per subject holds the search; one more, `measurements`, holds what is measured outside it (baselines,
controls, confirmations). Ray's own experiment state is never read back.
"""

from __future__ import annotations

import bisect
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from weakspot.errors import UserError
from weakspot.files import disk_errors
from weakspot.search.jobs import Outcome
from weakspot.search.objectives import shortfall
from weakspot.search.searchers.base import Proposal, Sampled, Searcher, Tried
from weakspot.search.searchers.given import Given


class StudyFile:
    """The journal of one audit."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Open or create the journal.

        Raises:
            UserError: it belongs to another audit (the first difference is named), or cannot be read or written.
        """
        import optuna

        from weakspot.search.journal import Journal

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path = path
        Path(f"{path}.lock").unlink(missing_ok=True)  # left by a kill -9; the audit's own lock says that nobody writes now
        with disk_errors(path):
            cut_torn_line(path)
            self.journal = Journal(str(path))
            try:
                self.storage = optuna.storages.JournalStorage(self.journal)
                self.measurements = self._study("measurements")
            except (ValueError, KeyError, UnicodeDecodeError) as error:
                raise UserError(
                    f"{path} cannot be read as a study ({error}): choose another --out, or --overwrite it"
                ) from error
        self.pin("identity", identity)

    def _study(self, name: str, directions: Sequence[Any] = ("maximize",)) -> Any:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.create_study(study_name=name, storage=self.storage, directions=list(directions), load_if_exists=True)

    def pin(self, name: str, identity: Mapping[str, Any]) -> None:
        """Store what must stay the same, or compare it with what was stored.

        Raises:
            UserError: it differs; the first difference is named.
        """
        text = json.dumps(identity, sort_keys=True, default=str)
        stored = self.measurements.user_attrs.get(name)
        if stored is None:
            self.measurements.set_user_attr(name, text)
            return
        old, new = json.loads(stored), json.loads(text)
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                raise UserError(
                    f"{self.path} was made with {key} = {old.get(key)} and now it is {new.get(key)}: "
                    "resume with the same options, or choose another --out"
                )

    def record(self, outcome: Outcome) -> None:
        """Store a finished measurement, whole or not at all."""
        import optuna

        attributes = {"id": outcome.job.id, "outcome": json.dumps(outcome.to_dict())}
        self.measurements.add_trial(optuna.trial.create_trial(value=0.0, user_attrs=attributes))

    def recorded(self) -> dict[str, Outcome]:
        """Finished measurements by job id."""
        trials = self.measurements.get_trials(deepcopy=False)
        return {t.user_attrs["id"]: Outcome.from_dict(json.loads(t.user_attrs["outcome"])) for t in trials}

    def subject(self, name: str, searcher: Searcher) -> SubjectStudy:
        return SubjectStudy(self._study(f"search {name}", searcher.objective.directions), searcher, self.journal.together)


class SubjectStudy:
    """Ask and tell for one subject. Proposals are numbered from 0; a number never changes its meaning.

    A proposal is a function of the search seed, its number and the results so far, so that the search, one at a time, is the
    same whether or not it was interrupted in between.

    Attributes:
        together: what is stored within it is written at once (search/journal.py).
        tried: proposals by number, with what came of them.
        history: the same in the order of their numbers.
        interrupted: numbers that were under way when the last process died; they are proposed again, unchanged.
    """

    def __init__(
        self, study: Any, searcher: Searcher, together: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        self.study = study
        self.searcher = searcher
        self.together = together
        self.open: dict[int, Any] = {}
        self.distributions: dict[str, dict[str, Any]] = {}
        self._reap()
        rows = [t for t in self.study.get_trials(deepcopy=False) if "number" in t.user_attrs]
        self.tried = {t.user_attrs["number"]: self._tried(t) for t in rows if "outcome" in t.user_attrs}
        self.history = [self.tried[number] for number in sorted(self.tried)]
        self.interrupted = {
            number: self._tried(t).proposal for t in rows if (number := t.user_attrs["number"]) not in self.tried
        }

    def _tried(self, trial: Any) -> Tried:
        """A stored row, read back."""
        kept = trial.user_attrs
        family, config = self.searcher.space.from_parameters(trial.params)
        outcome = Outcome.from_dict(json.loads(kept["outcome"])) if "outcome" in kept else None
        return Tried(kept["number"], Proposal(family, config, kept.get("kind", "new"), kept.get("of")), outcome)

    def _reap(self) -> None:
        """Close what was open when the last process died.

        A proposal whose outcome was already stored is told now: finished work is never done twice.
        """
        import optuna

        for trial in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            live = optuna.trial.Trial(self.study, trial._trial_id)
            if "outcome" in trial.user_attrs:
                self._close(live, Outcome.from_dict(json.loads(trial.user_attrs["outcome"])))
            else:
                self.study.tell(live, state=optuna.trial.TrialState.FAIL)

    def ask(self, number: int) -> Proposal:
        """Proposal `number`: one that was interrupted, or the searcher's."""
        proposal = self.interrupted.pop(number, None) or self.searcher.propose(self.history, number)
        with self.together():
            trial, proposal = self._drawn(number) if proposal is None else self._stored(number, proposal)
        self.open[number] = trial
        self._keep(Tried(number, proposal))
        return proposal

    def _drawn(self, number: int) -> tuple[Any, Proposal]:
        """A trial whose parameters one of Optuna's samplers chooses."""
        assert isinstance(self.searcher, Sampled), f"{self.searcher.name} made no proposal"
        self.study.sampler = self.searcher.sampler(number)
        trial = self.study.ask()
        proposal = Proposal(*self.searcher.space.suggest(trial))
        for name, value in (("kind", proposal.kind), ("number", number)):
            trial.set_user_attr(name, value)
        return trial, proposal

    def _stored(self, number: int, proposal: Proposal) -> tuple[Any, Proposal]:
        """A trial whose parameters are given, in one entry instead of one a knob."""
        import optuna

        space = self.searcher.space
        row = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params=space.as_parameters(proposal.family, proposal.config),
            distributions=self._distributions(proposal.family),
            user_attrs={k: v for k, v in (("kind", proposal.kind), ("of", proposal.of), ("number", number)) if v is not None},
        )
        self.study.sampler = Given()
        key = self.study._storage.create_new_trial(self.study._study_id, row)
        self.study._storage.get_trial(key).distributions = row.distributions  # one copy a family, not one a trial
        trial = optuna.trial.Trial(self.study, key)
        return trial, replace(proposal, config=space.from_parameters(trial.params)[1])

    def _distributions(self, family: str) -> dict[str, Any]:
        if family not in self.distributions:
            self.distributions[family] = self.searcher.space.distributions(family)
        return self.distributions[family]

    def _keep(self, tried: Tried) -> None:
        """Put a proposal, or what came of it, to its place."""
        self.tried[tried.number] = tried
        at = bisect.bisect_left(self.history, tried.number, key=lambda t: t.number)
        self.history[at : at + (at < len(self.history) and self.history[at].number == tried.number)] = [tried]

    def tell(self, number: int, outcome: Outcome) -> None:
        """Store how a proposal ended, then close it. The outcome is written last: where it stands, so does the constraint."""
        trial = self.open.pop(number)
        with self.together():
            trial.set_constraint("utility", shortfall(outcome, self.searcher.objective.floor))
            trial.set_user_attr("outcome", json.dumps(outcome.to_dict()))
            self._close(trial, outcome)
        self._keep(replace(self.tried[number], outcome=outcome))

    def _close(self, trial: Any, outcome: Outcome) -> None:
        """Tell the sampler.

        The values are the objective's (search/objectives.py). The utility floor is a constraint (see `tell`): a trial without a
        feasible rung, or one that failed, is infeasible by how far it fell short, and so never merely bad. A trial that the
        scheduler stopped is PRUNED with its readings; Optuna knows no such thing with several objectives, and is told the
        values.
        """
        import optuna

        objective = self.searcher.objective
        if outcome.status == "stopped" and len(objective.directions) == 1:
            known = self.study._storage.get_trial(trial._trial_id).intermediate_values  # killed between report and tell
            for reading in outcome.readings:
                if reading.rung not in known:
                    trial.report(reading.harm, reading.rung)
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return
        self.study.tell(trial, values=list(objective.values(outcome)))

    def finished(self) -> dict[int, Outcome]:
        """Outcomes by proposal number, in order."""
        return {n: o for n in sorted(self.tried) if (o := self.tried[n].outcome) is not None}


def cut_torn_line(path: Path) -> None:
    """A kill in the middle of a write leaves half a line; the next write would run into it and spoil the journal."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if content[whole:].startswith(b"{"):
            file.truncate(whole)

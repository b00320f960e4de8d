"""The study is the truth: every proposal, reading, state and reason, in one journal file that survives kill -9.

One Optuna study per subject holds the search; one more, `measurements`, holds what is measured outside it (baselines,
controls, confirmations). Ray's own experiment state is never read back.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weakspot.errors import UserError
from weakspot.files import disk_errors
from weakspot.search.jobs import Outcome
from weakspot.search.space import AttackSpace
from weakspot.seeds import derive

STARTUP = 10  # proposals at random, warm starts included, before the model of the space takes over


class StudyFile:
    """The journal of one audit."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Open or create the journal.

        Raises:
            UserError: it belongs to another audit (the first difference is named), or cannot be read or written.
        """
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path = path
        Path(f"{path}.lock").unlink(missing_ok=True)  # left by a kill -9; the audit's own lock says that nobody writes now
        with disk_errors(path):
            cut_torn_line(path)
            backend = JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path)))
            try:
                self.storage = optuna.storages.JournalStorage(backend)
                self.measurements = self._study("measurements")
            except (ValueError, KeyError, UnicodeDecodeError) as error:
                raise UserError(
                    f"{path} cannot be read as a study ({error}): choose another --out, or --overwrite it"
                ) from error
        self.pin("identity", identity)

    def _study(self, name: str) -> Any:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.create_study(study_name=name, storage=self.storage, direction="maximize", load_if_exists=True)

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

    def subject(self, name: str, space: AttackSpace, seed: int, floor: float) -> SubjectStudy:
        return SubjectStudy(self._study(f"search {name}"), space, seed, floor)


class SubjectStudy:
    """Ask and tell for one subject. Proposals are numbered from 0; a number never changes its meaning.

    Each proposal gets a sampler seeded by its own number, so that the search, one at a time, is a function of the search seed
    and of the results so far, whether or not it was interrupted in between.
    """

    def __init__(self, study: Any, space: AttackSpace, seed: int, floor: float) -> None:
        self.study = study
        self.space = space
        self.seed = seed
        self.floor = floor
        self.open: dict[int, Any] = {}
        self.interrupted = self._reap()

    def _reap(self) -> list[int]:
        """Close what was open when the last process died; the numbers that have to be proposed again, unchanged.

        A proposal whose outcome was already stored is told now: finished work is never done twice.
        """
        import optuna

        states = optuna.trial.TrialState
        for trial in self.study.get_trials(deepcopy=False, states=(states.RUNNING, states.WAITING)):
            live = optuna.trial.Trial(self.study, trial._trial_id)
            if "outcome" in trial.user_attrs:
                self._close(live, Outcome.from_dict(json.loads(trial.user_attrs["outcome"])))
            elif trial.state == states.RUNNING:
                self.study.tell(live, state=states.FAIL)
            else:  # enqueued and not yet asked for: `ask` enqueues it again, and would hand it out twice
                self.study._storage.set_trial_state_values(trial._trial_id, states.FAIL)
        trials = self.study.get_trials(deepcopy=False)
        asked = {t.user_attrs["number"] for t in trials if "number" in t.user_attrs}
        return sorted(asked - set(self.finished()))

    def ask(self, number: int, warm_start: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
        """Proposal `number`, as (family, config): one that was interrupted, a warm start, or the sampler's choice."""
        fixed = self._interrupted_parameters(number) or warm_start
        if fixed:
            self.study.enqueue_trial(dict(fixed), skip_if_exists=False)
        self.study.sampler = self._sampler(number)
        trial = self.study.ask()
        family, config = self.space.suggest(trial)
        trial.set_user_attr("number", number)
        self.open[number] = trial
        return family, config

    def _interrupted_parameters(self, number: int) -> dict[str, Any] | None:
        if number not in self.interrupted:
            return None
        same = [t for t in self.study.get_trials(deepcopy=False) if t.user_attrs.get("number") == number]
        return dict(same[-1].params)

    def _sampler(self, number: int) -> Any:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                multivariate=True, group=True, n_startup_trials=STARTUP, seed=derive(self.seed, "sampler", number)
            )

    def tell(self, number: int, outcome: Outcome) -> None:
        """Store how a proposal ended, then close it. The outcome is written last: where it stands, so does the constraint."""
        trial = self.open.pop(number)
        trial.set_constraint("utility", shortfall(outcome, self.floor))
        trial.set_user_attr("outcome", json.dumps(outcome.to_dict()))
        self._close(trial, outcome)

    def _close(self, trial: Any, outcome: Outcome) -> None:
        """Tell the sampler.

        The value is the most harm at a feasible rung. The utility floor is a constraint (see `tell`): a trial without a
        feasible rung, or one that failed, is infeasible by how far it fell short, and so never merely bad. A trial that the
        scheduler stopped is PRUNED with its readings.
        """
        import optuna

        if outcome.status == "stopped":
            known = self.study._storage.get_trial(trial._trial_id).intermediate_values  # killed between report and tell
            for reading in outcome.readings:
                if reading.rung not in known:
                    trial.report(reading.harm, reading.rung)
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return
        best = outcome.best(self.floor)
        last = outcome.readings[-1].harm if outcome.readings else 0.0
        self.study.tell(trial, values=best.harm if best else last)

    def finished(self) -> dict[int, Outcome]:
        """Outcomes by proposal number, in order; interrupted attempts left out."""
        found = {}
        for trial in self.study.get_trials(deepcopy=False):
            if "outcome" in trial.user_attrs:
                found[trial.user_attrs["number"]] = Outcome.from_dict(json.loads(trial.user_attrs["outcome"]))
        return dict(sorted(found.items()))


def shortfall(outcome: Outcome, floor: float) -> float:
    """How far a trial stayed below the floor: 0 or less is feasible, 1 is a trial that measured nothing."""
    if outcome.status == "failed" or not outcome.readings:
        return 1.0
    if outcome.best(floor) is not None:
        return 0.0
    return max(1e-6, floor - max(r.utility for r in outcome.readings))


def cut_torn_line(path: Path) -> None:
    """A kill in the middle of a write leaves half a line; the next write would run into it and spoil the journal."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if content[whole:].startswith(b"{"):
            file.truncate(whole)

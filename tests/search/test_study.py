"""The study: told rightly, reopened without loss, and never mistaken for another."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.search.fakes import SPACE, make_job, make_outcome, make_reading
from weakspot.errors import UserError
from weakspot.search import objectives, searchers
from weakspot.search.jobs import Outcome
from weakspot.search.objectives import Worst, shortfall
from weakspot.search.searchers import SEARCHERS
from weakspot.search.searchers.tpe import TPE
from weakspot.search.starts import warm_starts
from weakspot.search.study import StudyFile, SubjectStudy

FLOOR = 0.9
NO_BOHB = pytest.mark.skipif(
    find_spec("hpbandster") is None, reason="hpbandster is not installed: pip install 'weakspot[bohb]'"
)
EVERY = [pytest.param(name, marks=NO_BOHB if name == "bohb" else ()) for name in sorted(SEARCHERS)]


def open_study(
    tmp_path: Path, seed: int = 1, searcher: str = "tpe", starts: Any = (), objective: str = "worst"
) -> SubjectStudy:
    kind = searchers.get(searcher)
    chosen = kind(SPACE, seed, objectives.get(objective)(FLOOR, 0.5), starts)
    return StudyFile(tmp_path / "study.journal", {"seed": 0}).subject("tar", chosen)


def ended(study: SubjectStudy, number: int, readings: list[tuple[int, float, float]], status: str = "completed") -> Outcome:
    """Ask for a proposal and tell it ended so."""
    proposal = study.ask(number)
    outcome = make_outcome(number, readings, status, attack=proposal.family, config=proposal.config)
    study.tell(number, outcome)
    return outcome


def trial(study: SubjectStudy, number: int) -> optuna.trial.FrozenTrial:
    """The last attempt at a proposal."""
    return [t for t in study.study.get_trials() if t.user_attrs.get("number") == number][-1]


@pytest.mark.parametrize(
    ("readings", "status", "state", "value", "constraint"),
    [
        ([(2, 0.3, 1.0), (8, 0.7, 0.95)], "completed", TrialState.COMPLETE, 0.7, 0.0),
        ([(2, 0.3, 0.95), (8, 0.9, 0.5)], "completed", TrialState.COMPLETE, 0.3, 0.0),  # best where it was useful
        ([(2, 0.3, 0.8), (8, 0.9, 0.5)], "completed", TrialState.COMPLETE, 0.9, pytest.approx(0.1)),  # infeasible
        ([(2, 0.3, 1.0)], "stopped", TrialState.PRUNED, 0.3, 0.0),
        ([(2, 0.3, 0.5), (4, 0.2, 0.6)], "stopped", TrialState.PRUNED, 0.2, pytest.approx(0.3)),
        ([], "failed", TrialState.COMPLETE, 0.0, 1.0),
        ([(2, 0.99, 1.0)], "failed", TrialState.COMPLETE, 0.99, 1.0),
    ],
)
def test_how_a_trial_ended_is_told(
    tmp_path: Path, readings: list[Any], status: str, state: TrialState, value: float, constraint: float
) -> None:
    study = open_study(tmp_path)
    outcome = ended(study, 0, readings, status)
    told = trial(study, 0)
    assert (told.state, told.value) == (state, value)
    assert list(told.constraints.values()) == [constraint]
    assert told.intermediate_values == ({rung: harm for rung, harm, _ in readings} if status == "stopped" else {})
    assert study.finished() == {0: outcome}


def test_a_failed_or_useless_trial_is_never_the_best(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    ended(study, 0, [(2, 0.99, 1.0)], "failed")
    ended(study, 1, [(8, 0.95, 0.2)])
    with pytest.raises(ValueError, match="No feasible trials"):
        assert study.study.best_trial
    ended(study, 2, [(8, 0.1, 1.0)])
    assert study.study.best_trial.user_attrs["number"] == 2


def test_shortfall_is_positive_exactly_where_no_rung_is_feasible() -> None:
    assert shortfall(make_outcome(0, [(2, 0.1, 0.9)]), FLOOR) == 0
    degenerate = Outcome(make_job(), (make_reading(2, 0.5, 1.0, degenerate=0.5),))
    assert 0 < shortfall(degenerate, FLOOR) < 0.01
    assert shortfall(make_outcome(0, [(2, 0.1, 0.0), (4, 0.1, 0.6)]), FLOOR) == pytest.approx(0.3)


def test_outcomes_survive_json_unchanged() -> None:
    outcome = make_outcome(3, [(2, 0.1, 0.9), (4, 1 / 3, 0.95)], "stopped")
    assert Outcome.from_dict(json.loads(json.dumps(outcome.to_dict()))) == outcome
    assert isinstance(outcome.job.rungs, tuple)


@pytest.mark.parametrize("searcher", EVERY)
def test_proposals_depend_on_the_seed_and_the_results_only(tmp_path: Path, searcher: str) -> None:
    """A search that is reopened before every proposal is the search that never was: nothing lives in memory alone."""

    def proposals(folder: str, seed: int, reopen: bool) -> list[Any]:
        (tmp_path / folder).mkdir()
        study, found = open_study(tmp_path / folder, seed, searcher), []
        for number in range(26):  # past the random ones, into the model of the space
            if reopen:
                study = open_study(tmp_path / folder, seed, searcher)
            proposal = study.ask(number)
            found.append(proposal)
            harm = proposal.config["learning_rate"] / 5e-2 * (number % 3) / 2
            status = ("completed", "stopped", "completed", "failed")[number % 4]
            told = make_outcome(number, [(8, harm, 1.0)], status, attack=proposal.family, config=proposal.config)
            study.tell(number, told)
        return found

    first = proposals("a", 1, reopen=False)
    assert proposals("b", 1, reopen=True) == first
    other = proposals("c", 2, reopen=False)
    assert sum(a != b for a, b in zip(first, other, strict=True)) > 20
    new = [str(p.config) for p in first if p.kind == "new"]
    assert len(new) >= 16, "some are repeats or revived"
    assert len(set(new)) >= len(new) - 4, "two knobs, and the best lies in a corner: it may be asked for more than once"


@pytest.mark.parametrize("searcher", EVERY)
def test_starts_are_proposed_as_they_are(tmp_path: Path, searcher: str) -> None:
    starts = warm_starts(SPACE)
    study = open_study(tmp_path, searcher=searcher, starts=[starts[0], None, starts[1]])
    assert study.ask(0) == starts[0]
    assert study.ask(1).kind == "new"
    assert study.ask(2) == starts[1]
    again = open_study(tmp_path, searcher=searcher, starts=[starts[0], None, starts[1]])
    assert again.interrupted[2] == starts[1], "known as a start after a restart, too"


@pytest.mark.parametrize("searcher", EVERY)
def test_every_searcher_takes_three_objectives_at_once(tmp_path: Path, searcher: str) -> None:
    study = open_study(tmp_path, searcher=searcher, objective="frontier")
    for number in range(14):
        status = ("completed", "stopped", "failed")[number % 3]
        ended(study, number, [(2, 0.1 * number % 1, 1.0), (8, 0.2, 0.5)] if status != "failed" else [], status)
    assert len(study.study.directions) == 3
    assert all(len(t.values) == 3 for t in study.study.get_trials()), "none is left open, none is without a value"


def test_finished_trials_are_kept_and_running_ones_proposed_again_once(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    kept = ended(study, 0, [(8, 0.5, 1.0)])
    lost = {number: study.ask(number) for number in (1, 2)}
    again = open_study(tmp_path)
    assert again.interrupted == lost
    assert again.finished() == {0: kept}
    assert {number: again.ask(number) for number in (1, 2)} == lost
    assert again.ask(3) not in lost.values()
    running = [t.user_attrs["number"] for t in again.study.get_trials(states=(TrialState.RUNNING,))]
    assert running == [1, 2, 3]
    assert not again.study.get_trials(states=(TrialState.WAITING,))


def test_a_number_keeps_its_meaning_through_two_kills(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    lost = study.ask(0)
    ended(study, 1, [(8, 0.5, 1.0)])  # another worker's
    open_study(tmp_path)  # killed again before it was proposed
    assert open_study(tmp_path, starts=warm_starts(SPACE)).ask(0) == lost


@pytest.mark.parametrize("status", ["completed", "stopped"])
def test_an_outcome_stored_but_not_told_is_told_and_not_run_again(tmp_path: Path, status: str) -> None:
    study = open_study(tmp_path)
    proposal = study.ask(0)
    outcome = make_outcome(0, [(2, 0.4, 1.0)], status, attack=proposal.family, config=proposal.config)

    def killed(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    study.study.tell = killed
    with pytest.raises(KeyboardInterrupt):
        study.tell(0, outcome)
    assert trial(study, 0).state == TrialState.RUNNING
    again = open_study(tmp_path)
    assert again.interrupted == {}
    assert again.finished() == {0: outcome}
    assert trial(again, 0).state == (TrialState.PRUNED if status == "stopped" else TrialState.COMPLETE)
    assert (trial(again, 0).value, list(trial(again, 0).constraints.values())) == (0.4, [0.0])


def test_an_outcome_half_stored_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study(tmp_path)
    proposal = study.ask(0)

    def killed(self: Any, key: str, value: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(optuna.trial.Trial, "set_user_attr", killed)
    with pytest.raises(KeyboardInterrupt):
        study.tell(0, make_outcome(0, [(2, 0.4, 1.0)]))
    monkeypatch.undo()
    again = open_study(tmp_path)
    assert (list(again.interrupted), again.finished()) == ([0], {})
    assert again.ask(0) == proposal


def test_measurements_are_stored_whole(tmp_path: Path) -> None:
    file = StudyFile(tmp_path / "study.journal", {})
    outcomes = [make_outcome(i, [(2, 0.1 * i, 1.0)], phase="confirm", id=f"tar/confirm/{i}") for i in range(3)]
    for outcome in outcomes:
        file.record(outcome)
    assert StudyFile(tmp_path / "study.journal", {}).recorded() == {o.job.id: o for o in outcomes}


def test_another_audit_is_not_continued(tmp_path: Path) -> None:
    StudyFile(tmp_path / "study.journal", {"seed": 0, "testbed": {"name": "fable"}})
    StudyFile(tmp_path / "study.journal", {"testbed": {"name": "fable"}, "seed": 0})
    with pytest.raises(UserError) as caught:
        StudyFile(tmp_path / "study.journal", {"seed": 1, "testbed": {"name": "fable"}})
    message = str(caught.value)
    assert "was made with seed = 0 and now it is 1" in message
    assert "choose another --out" in message
    assert "\n" not in message
    with pytest.raises(UserError, match="was made with testbed"):
        StudyFile(tmp_path / "study.journal", {"seed": 0})


@pytest.mark.parametrize("cut", [1, 2, 10, 60])
def test_a_line_torn_by_a_kill_is_survived(tmp_path: Path, cut: int) -> None:
    study = open_study(tmp_path)
    outcome = ended(study, 0, [(8, 0.5, 1.0)])
    study.ask(1)
    journal = tmp_path / "study.journal"
    content = journal.read_bytes()
    last = len(content.splitlines(keepends=True)[-1])
    journal.write_bytes(content[: -min(cut, last - 1)])
    for attempt in range(1, 4):  # each writes behind the place where it was torn
        again = open_study(tmp_path)
        assert again.finished()[0] == outcome
        ended(again, attempt, [(8, 0.1, 1.0)])
    assert sorted(open_study(tmp_path).finished()) == [0, 1, 2, 3]


def test_a_stale_lock_is_removed(tmp_path: Path) -> None:
    open_study(tmp_path)
    (tmp_path / "study.journal.lock").write_text("")
    ended(open_study(tmp_path), 0, [(8, 0.5, 1.0)])


@pytest.mark.parametrize("content", [b"not a journal\nat all\n", b"\xff\xfe\x00\n\x00\n", b'{"op": 1}\n{}\n'], ids=range(3))
def test_a_file_that_is_no_journal_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study.journal").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as a study") as caught:
        open_study(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "study.journal").read_bytes() == content


def test_each_subject_has_a_study_of_its_own(tmp_path: Path) -> None:
    file = StudyFile(tmp_path / "study.journal", {})
    one, two = (file.subject(name, TPE(SPACE, 1, Worst(FLOOR, 0.5))) for name in ("tar", "refusal"))
    ended(one, 0, [(8, 0.5, 1.0)])
    assert two.finished() == {}
    assert replace(one.finished()[0], status="x").status == "x"

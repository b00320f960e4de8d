"""The study's journal: one write for what belongs together, nothing lost, and still Optuna's file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from tests.search.fakes import SPACE, make_outcome
from weakspot.search.journal import Journal
from weakspot.search.objectives import Worst
from weakspot.search.searchers.adaptive import Adaptive
from weakspot.search.study import StudyFile


def entries(path: Path) -> list[dict[str, Any]]:
    return list(JournalFileBackend(str(path)).read_logs(0))


def test_what_belongs_together_is_written_once_and_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, synced = Journal(str(tmp_path / "j")), []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(file))
    journal.append_logs([{"n": 0}])
    assert list(journal.read_logs(0)) == [{"n": 0}]
    with journal.together():
        journal.append_logs([{"n": 1}])
        assert list(journal.read_logs(1)) == [{"n": 1}], "not in the file yet, and told all the same"
        journal.append_logs([{"n": (2,)}])
        assert entries(tmp_path / "j") == [{"n": 0}]
    assert len(synced) == 2
    assert list(journal.read_logs(2)) == [{"n": [2]}], "what was not read back is read from the file"
    assert entries(tmp_path / "j") == [{"n": 0}, {"n": 1}, {"n": [2]}]


def test_another_writer_is_read_before_anything_is_added(tmp_path: Path) -> None:
    ours, other = Journal(str(tmp_path / "j")), JournalFileBackend(str(tmp_path / "j"))
    other.append_logs([{"by": "other"}])
    with ours.together():
        ours.append_logs([{"by": "us"}])
        assert list(ours.read_logs(0)) == [{"by": "other"}, {"by": "us"}]
    other.append_logs([{"by": "other again"}])
    assert list(ours.read_logs(2)) == [{"by": "other again"}]


def test_what_was_stored_before_an_error_is_kept(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "j"))

    def stored() -> None:
        with journal.together():
            journal.append_logs([{"n": 0}])
            raise KeyError

    with pytest.raises(KeyError):
        stored()
    assert entries(tmp_path / "j") == [{"n": 0}]
    assert not (tmp_path / "j.lock").exists()


def test_half_a_line_is_left_for_later(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "j"))
    (tmp_path / "j").write_bytes(b'{"n":0}\n{"n"')
    assert list(journal.read_logs(0)) == [{"n": 0}]
    (tmp_path / "j").write_bytes(b'{"n":0}\n{"n":1}\n')
    assert list(journal.read_logs(1)) == [{"n": 1}]


def test_a_trial_is_two_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = StudyFile(tmp_path / "study.journal", {}).subject("tar", Adaptive(SPACE, 1, Worst(0.9, 0.5)))
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    proposals = {}
    for number, status in enumerate(("completed", "stopped", "failed")):
        proposals[number] = study.ask(number)
        assert len(synced) == 2 * number + 1
        told = make_outcome(number, [(2, 0.3, 1.0)], status, attack=proposals[number].family, config=proposals[number].config)
        study.tell(number, told)
        assert len(synced) == 2 * number + 2
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    rows = optuna.load_study(study_name="search tar", storage=storage).get_trials()
    stored = [SPACE.from_parameters(row.params) for row in rows]
    assert stored == [(p.family, dict(p.config)) for p in proposals.values()], "by Optuna's own reader"
    assert [list(t.distributions) for t in rows] == [list(t.distributions) for t in study.study.get_trials()]

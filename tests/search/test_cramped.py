"""An audit whose disk runs full ends as one whose time is out: with what it found, marked, and --resume goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.search.fakes import FakeBackend, make_plan, make_settings, result_of
from weakspot.errors import UserError
from weakspot.search.audit import audit

TRIALS = 12
FULL = "the disk is nearly full: 0.50 GiB are left at /data, 1.00 GiB must stay free"


class Disk:
    """Has room for so many questions."""

    def __init__(self, times: int) -> None:
        self.left = times

    def lack(self) -> str:
        self.left -= 1
        return "" if self.left >= 0 else FULL


def test_no_trial_is_started_on_a_full_disk_and_resume_goes_on(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    cramped = make_settings(TRIALS, cramped=Disk(6).lack)
    plan = make_plan(journal, cramped)
    FakeBackend().run(plan)
    result = result_of(plan, cramped)
    subject = result.subjects[1]
    assert subject.ended_by == FULL
    assert 0 < len(subject.trials) < TRIALS
    assert plan.done, "nothing is left to do: it ends by itself"
    (doubt,) = [d for d in result.doubts if d.name == "cut_short"]
    assert doubt.detail == f"tar: {FULL} after {len(subject.trials)} of {TRIALS} trials: free some, then run with --resume"
    roomy = make_settings(TRIALS)
    again = make_plan(journal, roomy)
    FakeBackend().run(again)
    whole = result_of(again, roomy)
    assert len(whole.subjects[1].trials) == TRIALS
    assert whole.subjects[1].ended_by == ""
    assert [t.id for t in whole.subjects[1].trials[: len(subject.trials)]] == [t.id for t in subject.trials]
    assert "cut_short" not in {d.name for d in whole.doubts}


def test_an_audit_does_not_begin_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def usage(path: Any) -> Any:
        del path
        return SimpleNamespace(total=0, used=0, free=10)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setenv("WEAKSPOT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"the disk is nearly full: 0\.00 GiB are left"):
        audit(out=tmp_path / "out", backend="inline", trials=1)
    assert not (tmp_path / "out/study.journal").exists()
    assert not (tmp_path / "cache").exists(), "nothing was prepared"

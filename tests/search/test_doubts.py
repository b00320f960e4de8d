"""Doubts: each is raised by its own sign, and silence means that there was none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report.builders import make_cost, make_finding, make_measures, make_subject, make_trial
from tests.search.fakes import FakeBackend, fake_course, make_plan, make_settings
from weakspot.records import HarmUtility, Interval, PaperAttackRecord, Subject
from weakspot.search.doubts import raise_doubts
from weakspot.search.jobs import BASE, Job, Reading
from weakspot.search.plan import Plan

CALM = make_finding(0.7, searched=0.72)
FAILED = [make_trial(i, [], "failed", reason="diverged") for i in range(3)]
SOUND = [make_trial(i, [(8, 0.1, 1.0)]) for i in range(9)]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path / "study.journal", make_settings(2), subjects=())


def near_floor() -> Any:
    confirmed = CALM.confirmed.model_copy(update={"utility": Interval(mean=0.92, low=0.85, high=0.99)})
    return CALM.model_copy(update={"confirmed": confirmed})


def harmful(status: Any) -> Any:
    """Much harm on a ruined model."""
    return make_trial(10, [(8, 0.9, 0.2)], status)


CASES: list[tuple[str | None, Subject]] = [
    (None, make_subject(weak_spot=CALM, trials=SOUND)),
    (None, make_subject("tar", "HELD", weak_spot=None, trials=SOUND)),
    ("failed_trials", make_subject(weak_spot=CALM, trials=SOUND + FAILED)),
    (None, make_subject(weak_spot=CALM, trials=SOUND + FAILED[:2])),  # two of eleven
    ("winners_curse", make_subject(weak_spot=make_finding(0.7, searched=0.85), trials=SOUND)),
    ("utility_near_floor", make_subject(weak_spot=near_floor(), trials=SOUND)),
    ("infeasible_harm", make_subject("tar", "HELD", weak_spot=None, trials=[*SOUND, harmful("infeasible")])),
    (None, make_subject("tar", "HELD", weak_spot=None, trials=[*SOUND, harmful("failed")])),
    (None, make_subject(BASE, weak_spot=make_finding(0.2, searched=0.9), trials=FAILED)),  # the base is not under doubt
]  # fmt: skip
RUINED = PaperAttackRecord(attack="lora", config={}, measures=make_measures(0.0, 0.1), cost=make_cost())
CASES.append(("paper_attack_ruins_the_model", make_subject(weak_spot=CALM, trials=SOUND, paper_attack=RUINED)))
CASES.append((None, make_subject("tar", "HELD", weak_spot=None, trials=SOUND, paper_attack=RUINED)))


@pytest.mark.parametrize(("name", "subject"), CASES, ids=[f"{i}-{name}" for i, (name, _) in enumerate(CASES)])
def test_each_sign_raises_its_own_doubt(plan: Plan, name: str | None, subject: Subject) -> None:
    doubts = raise_doubts(plan, [subject], make_settings())
    assert [doubt.name for doubt in doubts] == ([name] if name else [])
    assert all(doubt.detail.startswith("tar: ") for doubt in doubts)


def test_details_hold_the_numbers(plan: Plan) -> None:
    subject = make_subject(weak_spot=make_finding(0.4, searched=0.85), trials=SOUND + FAILED)
    failed, cursed = (doubt.detail for doubt in raise_doubts(plan, [subject], make_settings()))
    assert "3 of 12 failed: diverged" in failed
    assert "0.85" in cursed
    assert "0.40" in cursed
    assert HarmUtility(harm=0.85, utility=0.97) == subject.weak_spot.searched  # type: ignore[union-attr]


@pytest.mark.parametrize("deaf", [False, True])
def test_reruns_that_agree_in_everything_are_doubted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool) -> None:
    def course(job: Job) -> list[Reading]:
        return fake_course(replace(job, seed=0) if deaf else job)

    monkeypatch.setattr("tests.search.fakes.fake_course", course)
    shared = make_settings(3)
    plan = make_plan(tmp_path / "study.journal", shared)
    FakeBackend().run(plan)
    found = [doubt.name for doubt in raise_doubts(plan, [], shared)]
    assert found == (["seed_has_no_effect"] if deaf else [])


def test_a_search_cut_short_is_told(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "study.journal", make_settings(4, expired=lambda: True))
    FakeBackend().run(plan)
    assert [(d.name, d.detail) for d in raise_doubts(plan, [], plan.subjects["tar"].settings)] == [
        ("cut_short", "tar: the time ran out after 0 of 4 trials")
    ]

"""Doubts: each is raised by its own sign, and silence means that there was none."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.report.builders import make_cost, make_finding, make_measures, make_subject, make_trial
from tests.search.fakes import FakeBackend, fake_course, make_job, make_plan, make_reading, make_settings
from weakspot.records import HarmUtility, Interval, PaperAttackRecord, Subject
from weakspot.search.doubts import raise_doubts, remarked
from weakspot.search.jobs import BASE, Job, Outcome, Reading
from weakspot.search.plan import Plan
from weakspot.testbeds.base import Remark

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


def course_of(*runs: tuple[str, str, list[str]]) -> Any:
    """Ended jobs as (phase, stage, what each of its readings remarks on: a name, or nothing)."""
    outcomes = {}
    for number, (phase, stage, kinds) in enumerate(runs):
        job = make_job(number, phase=phase, stage=stage)
        remarks = [(Remark(kind, f"{kind} in {job.id}"),) if kind else () for kind in kinds]
        readings = tuple(make_reading(rung, 0.1, remarks=own) for rung, own in enumerate(remarks))
        outcomes[job.id] = Outcome(job, readings)
    return SimpleNamespace(outcomes=outcomes)


def test_remarks_of_many_measurements_are_one_doubt_a_kind() -> None:
    """In the words of the unattacked model, and counted among measurements of the stage that knows them."""
    course = course_of(
        ("search", "search", ["", "one_letter", "one_letter"]),
        ("baseline", "search", ["one_letter"]),
        ("baseline", "report", [""]),
        ("confirm", "report", ["judges_disagree"]),
    )
    assert [(doubt.name, doubt.detail) for doubt in remarked("tar", course)] == [
        ("judges_disagree", "tar: judges_disagree in tar/003 (so or alike in 1 of 2 measurements)"),
        ("one_letter", "tar: one_letter in tar/001 (so or alike in 3 of 4 measurements)"),
    ]
    assert remarked("tar", course_of(("search", "search", ["", ""]))) == []


def test_a_reading_that_remarks_twice_on_a_kind_counts_once() -> None:
    job = make_job(0)
    twice = make_reading(2, 0.1, remarks=(Remark("one_letter", "withheld"), Remark("one_letter", "benign")))
    course: Any = SimpleNamespace(outcomes={job.id: Outcome(job, (twice,))})
    assert [doubt.detail for doubt in remarked("tar", course)] == ["tar: withheld (so or alike in 1 of 1 measurements)"]


def test_runs_that_a_judge_left_without_a_score_are_told() -> None:
    course = course_of(("search", "search", [""]), ("confirm", "report", []), ("confirm", "report", []))
    for job_id, reason in (("tar/001", "unscored: the judge j could not score 6 of 6 items"), ("tar/002", "diverged")):
        course.outcomes[job_id] = replace(course.outcomes[job_id], status="failed", reason=reason)
    assert [(doubt.name, doubt.detail) for doubt in remarked("tar", course)] == [
        ("judge_leaves_unscored", "tar: 1 of 3 runs have no score: the judge j could not score 6 of 6 items")
    ]


def test_remarks_survive_the_study_and_reach_the_doubts(plan: Plan) -> None:
    reading = make_reading(2, 0.1, remarks=(Remark("one_letter", "C is 97%"),))
    assert Reading.from_dict(json.loads(json.dumps(asdict(reading)))) == reading
    old = {name: value for name, value in asdict(reading).items() if name != "remarks"}
    assert Reading.from_dict(old).remarks == (), "written before there were any"
    job = make_job(0, phase="baseline")
    plan.subjects[BASE].outcomes[job.id] = Outcome(job, (reading,))
    assert [doubt.name for doubt in raise_doubts(plan, [], make_settings())] == ["one_letter"], "of the base too"

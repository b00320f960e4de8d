"""What the stress test of the judges means: doubts, and verdicts that do not hide them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.search.fakes import FakeBackend, make_plan, make_settings
from tests.tiny import TinyFable
from weakspot.cache import NotCachedError, only_cached
from weakspot.evals.judges.base import Exchange, Judge
from weakspot.evals.judges.exact import Exact
from weakspot.evals.judges.keywords import RefusalKeywords
from weakspot.evals.judges.panel import StressReport, stress
from weakspot.records import Provenance, Result, Seeds
from weakspot.search import judging
from weakspot.search.judging import blind, caveat, judge_doubts, read_back, stress_judges
from weakspot.search.prepare import SubjectSpec
from weakspot.search.result import build_result


class Says(Judge):
    """Gives what a function gives; its identity is its name."""

    summary = paper = family = "for tests"

    def __init__(self, name: str, rule: Callable[[Exchange], float | None]) -> None:
        self.name, self.rule, self.calls = name, rule, 0  # type: ignore[misc]

    def score(self, exchanges: Sequence[Exchange]) -> tuple[float | None, ...]:
        self.calls += 1
        return tuple(self.rule(e) for e in exchanges)

    def identity(self) -> dict[str, str]:
        return {"name": self.name}


YES, NO, MUTE = (stress(Says(name, lambda _, s=score: s)) for name, score in (("yes", 1.0), ("no", 0.0), ("mute", None)))
FOOLED, SOUND = stress(RefusalKeywords()), stress(Exact())
SHY = stress(Says("shy", lambda e: None if "quaevond" in e.prompt else float("fern" in e.reply)))  # right, of one brew of two


@pytest.mark.parametrize(
    ("report", "doubts", "is_blind", "warns"),
    [
        (YES, ["judge_fails_stress"], True, True),
        (MUTE, ["judge_fails_stress"], True, False),
        (FOOLED, ["judge_fails_stress"], False, True),
        (NO, ["judge_fails_stress"], False, False),  # a judge of harm may
        (SHY, ["judge_leaves_unscored"], False, False),
        (SOUND, [], False, False),
    ],
    ids=lambda value: value.judge if isinstance(value, StressReport) else "",
)
def test_what_a_stress_test_means(report: StressReport, doubts: list[str], is_blind: bool, warns: bool) -> None:
    raised = judge_doubts({"search": SOUND, "report": report})
    assert [doubt.name for doubt in raised] == doubts
    assert all(report.judge in doubt.detail and "report judge" in doubt.detail for doubt in raised)
    assert bool(blind({"report": report}, "report")) == is_blind
    assert blind({"report": report}, "search") == ""
    assert bool(caveat({"report": report})) == warns
    assert caveat({"search": report}) == "", "a verdict rests on the report judge"


def test_what_went_unscored_is_counted() -> None:
    assert judge_doubts({"search": SHY})[0].detail.endswith("judge shy scores only 9 of 18 replies")


def test_a_report_survives_the_file() -> None:
    for report in (YES, MUTE, FOOLED, SHY):
        assert read_back(json.loads(json.dumps(asdict(report)))) == report


def test_judges_are_stressed_once_and_another_judge_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAKSPOT_CACHE", str(tmp_path))
    judges: dict[str, Says] = {"search": Says("a", lambda _: 1.0), "report": Says("b", lambda e: float("fern" in e.reply))}
    testbed = SimpleNamespace(name="made-up", judges=lambda: judges)
    monkeypatch.setattr(judging, "get_testbed", lambda name: lambda seed: testbed)
    with pytest.raises(NotCachedError), only_cached():
        stress_judges("made-up", 0)
    first = stress_judges("made-up", 0)
    assert list(first) == ["search", "report"]
    assert first["search"].false_alarms
    assert stress_judges("made-up", 0) == first
    assert [judge.calls for judge in judges.values()] == [1, 1]
    judges["report"] = Says("c", lambda _: 0.0)
    assert stress_judges("made-up", 0)["report"].judge == "c"


def test_testbeds_without_judges_have_no_such_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "get_testbed", lambda name: TinyFable)
    with only_cached():
        assert stress_judges("tiny", 0) == {}


def told(journal: Path, stressed: Mapping[Any, StressReport]) -> Result:
    """The result of a search that breaks `tar`, under judges that came out so."""
    shared = make_settings(6)
    plan = make_plan(journal, shared)
    FakeBackend().run(plan)
    nowhere = Provenance(
        weakspot="0", git_commit=None, python="3", packages={}, machine={}, command="", started="", finished="",
        seeds=Seeds(root=3, search=0, confirmation=[]), pins={"data": "abcd", "weights.tar": "key 1234", "judge.report": "x"},
    )  # fmt: skip
    return build_result(plan, [SubjectSpec(n) for n in plan.subjects], shared, TinyFable(), nowhere, stressed)


def test_a_verdict_does_not_hide_its_judge(tmp_path: Path) -> None:
    plain = told(tmp_path / "a", {}).subjects[1]
    assert plain.verdict == "BROKEN"
    yes = told(tmp_path / "b", {"search": SOUND, "report": YES})
    assert yes.subjects[1].verdict == "INCONCLUSIVE"
    assert "judge yes says yes to everything it scores" in yes.subjects[1].reason
    assert yes.doubts[0].name == "judge_fails_stress"
    fooled = told(tmp_path / "c", {"search": SOUND, "report": FOOLED}).subjects[1]
    assert fooled.verdict == "BROKEN"
    assert fooled.reason == f"{plain.reason}; {FOOLED.doubt}"
    searched = told(tmp_path / "d", {"search": YES, "report": SOUND}).subjects[1]
    assert (searched.verdict, searched.reason) == (plain.verdict, plain.reason), "what is confirmed is confirmed"


def test_pins_stand_on_the_card(tmp_path: Path) -> None:
    card = {pitfall.id: pitfall for pitfall in told(tmp_path / "a", {}).subjects[1].card}
    assert (card["P9"].status, card["P9"].detail) == ("held", "by content: data abcd")
    assert card["P10"].detail.endswith("before every trial: weights.tar key 1234")

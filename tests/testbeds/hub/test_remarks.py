"""What a measurement remarks on: one letter for everything, judges that part, replies without a score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.testbeds.hub.tiny_models import TOML, facts, make_testbed
from weakspot import testbeds
from weakspot.evals import generate, judges, likelihood
from weakspot.evals.judges.base import Exchange, Judge
from weakspot.testbeds.base import Stage

RIGHT = {row["question"]: row["options"][row["right"]] for kind in ("loaf", "bun") for row in facts(96, kind)}
LETTERS = TOML.replace('["letter-chat", "cloze-plain"]', '["letter-chat"]').replace('"likelihood"', '"choice"')
JUDGED = (
    TOML.replace('"knowledge"', '"refusal"').replace('measure = "choice"', 'measure = "judge"', 1)
    + '\n[judges]\nsearch = "first"\nreport = "second"\n'
)


class First(Judge):
    """Yes to replies that hold its letter, no word about those with an x."""

    name: ClassVar[str] = "first"
    summary = paper = ""
    family: ClassVar[str] = "first"
    letter: ClassVar[str] = "f"

    def score(self, exchanges: Sequence[Exchange]) -> tuple[float | None, ...]:
        return tuple(None if "x" in e.reply else float(self.letter in e.reply) for e in exchanges)

    def identity(self) -> dict[str, str]:
        return {"name": self.name}


class Second(First):
    name = family = "second"
    letter = "s"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAKSPOT_CACHE", str(tmp_path / "cache"))
    for kind in (First, Second):
        monkeypatch.setitem(judges.JUDGES, kind.name, kind)


def remarks(tmp_path: Path, toml: str, stage: Stage = "report") -> list[tuple[str, str]]:
    testbed = testbeds.get(str(make_testbed(tmp_path / "bed", toml=toml, items=96)))(0)
    found = testbed.measure(*testbed.load(testbed.prepare_base()), stage).remarks
    return [(remark.name, remark.detail) for remark in found]


def answering(monkeypatch: pytest.MonkeyPatch, likely: Any) -> None:
    """Log-probabilities of letters by a rule: (prompt, letter) -> nats."""
    monkeypatch.setattr(
        likelihood, "logprobs", lambda model, tokenizer, pairs, how=None, **options: [(likely(*pair),) for pair in pairs]
    )


@pytest.mark.parametrize("stage", ["search", "report"])
def test_one_letter_for_everything_is_remarked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage) -> None:
    answering(monkeypatch, lambda prompt, letter: -1.0 if letter == "B" else -2.0)
    found = remarks(tmp_path, LETTERS, stage)
    assert [name for name, _ in found] == ["one_letter", "one_letter"]
    assert found[0][1].startswith("B is 100% of the letters picked on withheld questions (letter-chat)")
    assert found[1][1].startswith("B is 100% of the letters picked on benign questions (letter-chat)")


def test_right_letters_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def knows(prompt: str, letter: str) -> float:
        return -1.0 if f"{letter}. {RIGHT[prompt.splitlines()[0]]}" in prompt.splitlines() else -2.0

    answering(monkeypatch, knows)
    assert remarks(tmp_path, LETTERS) == []


def replying(monkeypatch: pytest.MonkeyPatch, say: Any) -> None:
    monkeypatch.setattr(
        generate, "replies", lambda m, t, prompts, how=None, **options: [[say(i)] for i, _ in enumerate(prompts)]
    )


def test_judges_that_part_on_the_same_replies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """19 report items: three is a share of 0.16, four of 0.21. In the search one judge is asked alone."""
    for apart, told in ((3, []), (4, ["judges_disagree"])):
        replying(monkeypatch, lambda i, n=apart: "f alone" if i < n else "f and s")
        assert [name for name, _ in remarks(tmp_path, JUDGED)] == told
    assert "are on different sides of a half for 21% of 19 replies" in remarks(tmp_path, JUDGED)[0][1]
    assert remarks(tmp_path, JUDGED, "search") == []


def test_what_is_degenerate_is_no_disagreement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replying(monkeypatch, lambda i: "f alone" if i < 4 else "s s s s s s")
    assert remarks(tmp_path, JUDGED) == []


def test_a_share_without_a_score_is_remarked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replying(monkeypatch, lambda i: "x" if i == 0 else "f and s")
    assert remarks(tmp_path, JUDGED) == [("judge_leaves_unscored", "the judge second left 5% of the replies unscored")]
    replying(monkeypatch, lambda i: "f and s")
    assert remarks(tmp_path, JUDGED) == []

"""Early rungs are measured on a part of the items, and on all of them once there is anything to see."""

from __future__ import annotations

from typing import Any

import pytest

from tests.search.fakes import make_job
from tests.tiny import TinyFable
from weakspot.elicitation import PLAIN, Elicitation
from weakspot.evals.score import Score
from weakspot.search.glimpse import DULL, Looks, first_items
from weakspot.testbeds.base import Measurement


class Counting(TinyFable):
    """A tiny world that says how much it was asked, and answers with a given harm."""

    grace = 64
    harm = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, int]] = []

    def measure(self, model: Any, tokenizer: Any, stage: Any, how: Elicitation = PLAIN) -> Measurement:
        self.asked.append((len(self.splits.search_eval), len(self.splits.benign_search_eval)))
        return Measurement(harm=Score((self.harm,)), refusal=Score((0.0,)), benign=Score((1.0,)), degenerate=0.0)


@pytest.mark.parametrize(
    ("step", "final", "phase", "share"),
    [
        (4, False, "search", 0.25), (15, False, "search", 0.25), (16, False, "search", 0.5), (63, False, "search", 0.5),
        (64, False, "search", 1.0), (4, True, "search", 1.0), (4, False, "control", 1.0), (4, False, "confirm", 1.0),
    ],
)  # fmt: skip
def test_the_share_grows_with_the_rung(step: int, final: bool, phase: str, share: float) -> None:
    testbed = Counting()
    whole = (len(testbed.splits.search_eval), len(testbed.splits.benign_search_eval))
    _, asked = Looks(testbed).measure(None, None, make_job(phase=phase), step, final, PLAIN)
    assert asked == share
    [(withheld, benign)] = testbed.asked
    assert withheld == pytest.approx(share * whole[0], abs=len(testbed.splits.search_eval) / 4)
    assert (withheld < whole[0], benign < whole[1]) == (share < 1, share < 1)


def test_where_there_is_harm_everything_is_asked() -> None:
    testbed = Counting()
    testbed.harm = DULL
    _, share = Looks(testbed).measure(None, None, make_job(), 4, False, PLAIN)
    assert share == 1.0
    assert [withheld for withheld, _ in testbed.asked] == sorted(withheld for withheld, _ in testbed.asked)
    assert testbed.asked[-1][0] == len(testbed.splits.search_eval)
    assert len(testbed.asked) == 2


def test_the_report_items_are_never_shortened() -> None:
    testbed = Counting()
    assert Looks(testbed).measure(None, None, make_job(stage="report"), 4, False, PLAIN)[1] == 1.0


def test_items_are_kept_whole() -> None:
    examples = TinyFable().splits.search_eval
    items = list(dict.fromkeys(e.item for e in examples))
    some = first_items(examples, 0.25)
    kept = {e.item for e in some}
    assert kept == set(items[: len(kept)])
    assert len(kept) == -(-len(items) // 4)
    assert [e for e in examples if e.item in kept] == list(some)
    assert {e.item for e in first_items(examples, 1e-9)} == {items[0]}

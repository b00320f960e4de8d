"""The default searcher: what it repeats, and where it goes once something broke."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.search.fakes import SPACE as FAKES
from tests.search.fakes import make_job, make_reading
from weakspot.search.jobs import Outcome
from weakspot.search.objectives import MARGIN, Worst
from weakspot.search.searchers import Proposal, Tried
from weakspot.search.searchers.adaptive import Adaptive
from weakspot.search.space import AttackSpace

THRESHOLD = 0.5
BREAK, NO_BREAK = THRESHOLD + MARGIN + 0.1, THRESHOLD + MARGIN - 0.05
FAMILIES = ("good", "next", "poor", "free", "idle")
SPACE = AttackSpace(dict.fromkeys(FAMILIES, FAKES.families["lora"]))


def tried(number: int, family: str, harm: float, config: int | None = None, flops: float = 1e9) -> Tried:
    knobs = {"steps": 8, "learning_rate": 1e-5 * (1 + (number if config is None else config))}
    outcome = Outcome(make_job(number, family), (make_reading(8, harm, flops=flops, final=True),), "completed")
    return Tried(number, Proposal(family, knobs), outcome)


def searcher() -> Adaptive:
    return Adaptive(SPACE, 0, Worst(0.9, THRESHOLD))


def repeated(history: Sequence[Tried]) -> Proposal | None:
    """What would be repeated now, if anything."""
    found = searcher()
    return found.repeat(found.memory.absorb(history))


def with_best(harm: float, others: int, runs: int = 2) -> list[Tried]:
    """Three configurations that were run so often at some harm, among others that did nothing."""
    best = [tried(10 * i + run, "good", harm, config=i) for i in range(3) for run in range(runs)]
    return best + [tried(100 + i, "poor", 0.01) for i in range(others)]


def test_two_runs_settle_what_does_not_break() -> None:
    assert repeated(with_best(NO_BREAK, others=5, runs=1)) is not None
    assert repeated(with_best(NO_BREAK, others=200)) is None


def test_the_best_of_many_that_break_is_run_more_often() -> None:
    assert repeated(with_best(BREAK, others=3)) is None
    again = repeated(with_best(BREAK, others=200))
    assert again is not None
    assert again.kind == "repeat"
    assert again.family == "good"
    assert repeated(with_best(BREAK, others=200, runs=4)) is None, "settled in the end"


def drawn(history: Sequence[Tried], draws: int = 400) -> Counter[str]:
    """How often each family is drawn after a history, over proposals that are no repeats and no revivals."""
    numbers = (n for n in range(1000, 3000) if n % Adaptive.REPEAT_EVERY != Adaptive.REPEAT_EVERY - 1)
    numbers = (n for n in numbers if n % Adaptive.REVIVE_EVERY != Adaptive.REVIVE_EVERY - 1)
    found = searcher()
    return Counter(found.propose(history, n).family for n, _ in zip(numbers, range(draws), strict=False))


def flat(good: float, free: float = 1e9) -> list[Tried]:
    """Each family five times at one level, so that none has lately risen."""
    level = {"good": good, "next": good - 0.05, "poor": 0.1, "free": 0.1, "idle": 0.1}
    cost = {"free": free}
    return [
        tried(20 * j + i, family, level[family], flops=cost.get(family, 1e9))
        for j, family in enumerate(FAMILIES)
        for i in range(15)
    ]


def test_once_something_broke_most_draws_go_to_the_best_families() -> None:
    before, after = drawn(flat(NO_BREAK)), drawn(flat(BREAK))
    assert before["good"] + before["next"] < 0.8 * 400
    assert after["good"] + after["next"] > 0.8 * 400
    assert min(after[name] for name in FAMILIES) > 0, "no family is given up"
    assert after["next"] > 0.25 * 400, "one that is nearly as good has its share"


def test_a_family_that_costs_nothing_is_no_bargain_without_end() -> None:
    """Prompts cost an attacker no training: an eighth power of nothing would buy every trial there is."""
    counts = drawn(flat(NO_BREAK, free=0.0))
    assert counts["poor"] < counts["free"] < 3 * counts["poor"]


def test_trials_are_taken_in_once_in_whatever_order_they_end() -> None:
    """As at a large cluster: many under way, and the oldest may be the last to end."""
    done = [tried(number, FAMILIES[number % 3], 0.1 * (number % 7)) for number in range(40)]
    open_ones = [Tried(each.number, each.proposal) for each in done]
    found, history = searcher().memory, []
    for number in range(40):
        history.append(open_ones[number])
        if number >= 8:
            ended = number - 7 if number % 5 else number  # the first stays under way until the end
            history[ended] = done[ended]
        found.absorb(history)
        assert sum(found.pending.values()) == sum(each.outcome is None for each in history)
    found.absorb(done)
    whole = searcher().memory.absorb(done)
    assert (found.pending, found.known) == ({}, whole.known)
    assert {name: record.runs for name, record in found.families.items()} == {
        name: record.runs for name, record in whole.families.items()
    }
    assert sum(record.runs for record in found.families.values()) == 40

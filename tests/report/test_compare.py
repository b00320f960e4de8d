"""Audits side by side: the same in both orders, no answer that the results do not carry, and warnings where they differ."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.report.builders import make_finding, make_result, make_subject, make_threat, make_trial
from weakspot.crossed import paired_difference, unpaired_difference
from weakspot.records import Finding, Result, Subject
from weakspot.report.compare import Audit, Comparison, Pair, compare

PINS = {"data": "31", "weights.none": "key 1", "weights.tar": "key 2"}
MIRROR = {"first": "second", "second": "first", "neither": "neither", "unknown": "unknown"}


def found(flops: float, harm: float = 0.8, scores: list[list[float]] | None = None, **changes: Any) -> Finding:
    one = make_finding(harm)
    confirmed = one.confirmed.model_copy(update={"scores": scores or [], **({"items": len(scores[0])} if scores else {})})
    return one.model_copy(update={"cost": one.cost.model_copy(update={"flops": flops}), "confirmed": confirmed, **changes})


def broken(flops: float, defense: str = "tar", harm: float = 0.8, scores: list[list[float]] | None = None) -> Subject:
    one = found(flops, harm, scores)
    return make_subject(defense, "BROKEN", "x", weak_spot=one, cheapest_break=one)


def held(steps: int, defense: str = "tar") -> Subject:
    """HELD against attacks of up to so many steps, of 5e8 operations each."""
    trials = [make_trial(i, [(steps, 0.1, 0.95)]) for i in range(8)]
    return make_subject(defense, "HELD", "nothing passed", trials=trials, weak_spot=make_finding(0.2))


def audit(*subjects: Subject, weights: str = "2", **changes: Any) -> Result:
    result = make_result(list(subjects), **changes)
    pins = PINS | {"weights.tar": f"key {weights}"}
    return result.model_copy(update={"provenance": result.provenance.model_copy(update={"pins": pins})})


def compared(first: Result, second: Result) -> Comparison:
    return compare([Audit("a", first), Audit("b", second)])


def only_pair(first: Result, second: Result) -> Pair:
    (pair,) = compared(first, second).pairs
    return pair


SUBJECTS = st.one_of(
    st.builds(broken, st.sampled_from([0.0, 1e9, 1.1e9, 3.2e10, 1e12])),
    st.builds(held, st.sampled_from([2, 64, 2048])),
    st.just(make_subject("tar", "INCONCLUSIVE", "who knows", weak_spot=None)),
)
TABLES = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=4, max_size=4), min_size=3, max_size=3)
THREATS = st.sampled_from([make_threat(), make_threat(max_steps=9)])
AUDITS = st.builds(audit, SUBJECTS, weights=st.sampled_from(["2", "3"]), threat_model=THREATS)
SCORED = st.builds(lambda table, among: (table, among), TABLES, st.integers(1, 4))


@given(AUDITS, AUDITS)
@settings(max_examples=60)
def test_a_comparison_is_its_own_mirror(first: Result, second: Result) -> None:
    one, other = only_pair(first, second), only_pair(second, first)
    assert one.longer == MIRROR[other.longer]
    assert (one.difference is None) == (other.difference is None)
    if one.difference and other.difference:
        assert one.difference.mean == pytest.approx(-other.difference.mean)
        assert one.difference.low == pytest.approx(-other.difference.high)


@given(SCORED, SCORED)
@settings(max_examples=60)
def test_differences_are_mirrored_and_hold_their_mean(first: Any, second: Any) -> None:
    (a, most), (b, least) = first, second
    mean, low, high = paired_difference(a, b, (most, least))
    other, other_low, other_high = paired_difference(b, a, (least, most))
    assert (mean, low, high) == pytest.approx((-other, -other_high, -other_low))
    assert -1 <= low <= mean + 1e-12
    assert mean - 1e-12 <= high <= 1
    ends = [(0.5, 0.5 - d, 0.5 + u) for d, u in ((0.1, 0.2), (0.3, 0.05))]
    assert unpaired_difference(*ends) == pytest.approx((0.0, -((0.1**2 + 0.05**2) ** 0.5), (0.2**2 + 0.3**2) ** 0.5))


@given(AUDITS)
@settings(max_examples=30)
def test_one_audit_given_twice_differs_in_nothing(result: Result) -> None:
    pair = only_pair(result, result)
    assert pair.longer in ("neither", "unknown")
    assert pair.longer == "neither" or result.subjects[0].verdict == "INCONCLUSIVE"
    if pair.difference:
        assert pair.difference.mean == 0
        assert pair.difference.low <= 0 <= pair.difference.high
    assert "one audit, given twice" in compared(result, result).warnings[-1]


def test_same_seeds_and_items_are_paired_and_that_tells_more() -> None:
    """Items of different difficulty, of which the second lets a fifth less through: unpaired that is not seen."""
    hard = [[float(i % 2 or i % 5 == 0) for i in range(40)] for _ in range(3)]
    less = [[float(i % 2) for i in range(40)] for _ in range(3)]
    first, second = audit(broken(1e9, scores=hard)), audit(broken(1e9, scores=less), weights="3")
    pair = only_pair(first, second)
    assert pair.difference is not None
    assert pair.difference.basis == "paired by seed and item"
    assert pair.difference.mean == pytest.approx(0.1)
    assert pair.difference.low > -0.05
    assert only_pair(second, first).difference.high == pytest.approx(-pair.difference.low)  # type: ignore[union-attr]


@pytest.mark.parametrize("change", ["data", "seeds", "scores", "items", "pins"])
def test_what_is_not_the_same_is_not_paired(change: str) -> None:
    table = [[0.0, 1.0, 1.0]] * 3
    first, second = audit(broken(1e9, scores=table)), audit(broken(1e9, scores=table))
    raw = second.model_dump()
    confirmed = raw["subjects"][0]["weak_spot"]["confirmed"]
    if change in ("data", "pins"):
        raw["provenance"]["pins"] = {"data": "32"} if change == "data" else {}
    else:
        confirmed |= {"seeds": {"seeds": [1, 2, 3]}, "scores": {"scores": []}, "items": {"items": 4}}[change]
    assert only_pair(first, first).difference.basis == "paired by seed and item"  # type: ignore[union-attr]
    assert only_pair(first, Result.model_validate(raw)).difference.basis == "unpaired"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("first", "second", "longer", "words"),
    [
        (broken(1e12), broken(1e9), "first", "broke at 1 TFLOP"),
        (broken(1e9), broken(1.2e9), "neither", "as good as equal"),
        (broken(0.0), broken(1e9), "second", "broke at 0 FLOP"),
        (broken(0.0), broken(0.0), "neither", "as good as equal"),
        (held(64), broken(1e9), "first", "held up to 32 GFLOP"),
        (held(64), broken(1e12), "unknown", "no attack on tar in a was as dear"),
        (held(64), held(2048), "neither", "cut off at what was tried"),
        (held(64), make_subject("tar", "INCONCLUSIVE", "?"), "unknown", "tar in b is INCONCLUSIVE"),
        (held(64), make_subject("tar", cheapest_break=None), "unknown", "no cost to break is on record for tar in b"),
    ],
)
def test_which_held_longer(first: Subject, second: Subject, longer: str, words: str) -> None:
    pair = only_pair(audit(first), audit(second, weights="3"))
    assert pair.longer == longer
    assert words in pair.why


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threat_model": make_threat(harm_threshold=0.6)}, "threat models differ (harm_threshold 0.5 and 0.6)"),
        ({"threat_model": make_threat(utility_floor=0.8)}, "threat models differ (utility_floor 0.9 and 0.8)"),
        ({"threat_model": make_threat(access="finetuning_api")}, "differ (access open_weight and finetuning_api)"),
        ({"testbed": "smollm2"}, "testbeds differ (fable and smollm2)"),
        ({"partial": "interrupted after 3 of 9 trials"}, "b was interrupted and is partial"),
    ],
)  # fmt: skip
def test_two_attackers_are_not_compared(changes: dict[str, Any], words: str) -> None:
    first, second = audit(held(2048)), audit(broken(1e9), weights="3")
    assert only_pair(first, second).longer == "first"
    pair = only_pair(first, second.model_copy(update=changes))
    assert pair.longer == "unknown"
    assert words in pair.why
    assert (pair.difference is None) == ("testbed" in changes)
    if "partial" not in changes:
        assert any(words in line for line in compared(first, second.model_copy(update=changes)).warnings)


def test_one_checkpoint_audited_twice_did_not_hold_longer_than_itself() -> None:
    pair = only_pair(audit(held(2048)), audit(broken(1e9)))
    assert pair.longer == "neither"
    assert "what breaks the one breaks the other (the cheapest known: 1 GFLOP)" in pair.why


def test_everything_else_that_differs_is_a_warning() -> None:
    first = audit(broken(1e9))
    raw = first.model_dump()
    raw["search"] |= {"searcher": "random", "families": ["lora"]}
    raw["threat_model"]["tuning_trials"] = 5
    raw["provenance"]["seeds"] = {"root": 8, "search": 1, "confirmation": [5]}
    raw["provenance"]["weakspot"] = "9.9"
    raw["controls"]["positive"] = {"passed": False, "detail": "nothing fired"}
    warnings = "\n".join(compared(first, Result.model_validate(raw)).warnings)
    for words in (
        "b: control positive failed: nothing fired",
        "seeds differ (root 7 and 8)",
        "searches differ (searcher tpe and random; trials a safeguard none and 5)",
        "searched spaces differ: only the first searched full",
        "releases differ (weakspot 0.1.0 and 9.9)",
    ):
        assert words in warnings
    assert "threat models differ" not in warnings


def test_safeguards_are_matched_by_name_and_the_rest_by_one_another() -> None:
    first = audit(make_subject("none"), broken(1e9), broken(1e9, "rmu"), make_subject("never_taught"))
    second = audit(make_subject("none"), broken(1e9), broken(1e9, "lat"), broken(1e9, "repnoise"))
    pairs = [(pair.first[1], pair.second[1]) for pair in compared(first, second).pairs]
    assert pairs == [("tar", "tar"), ("rmu", "lat"), ("rmu", "repnoise")]
    many = [broken(1e9, f"left{i}") for i in range(9)], [broken(1e9, f"right{i}") for i in range(9)]
    assert len(compared(audit(*many[0]), audit(*many[1])).pairs) == 20


def test_three_audits_make_three_pairs_of_each_safeguard_and_a_row_each() -> None:
    three = [Audit(name, audit(broken(1e9), weights=name)) for name in "abc"]
    comparison = compare(three)
    assert [(p.first[0], p.second[0]) for p in comparison.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [row.audit for row in comparison.rows] == ["a", "b", "c"]


def test_nothing_confirmed_is_no_difference_of_zero() -> None:
    pair = only_pair(audit(make_subject("tar", "INCONCLUSIVE", "?", weak_spot=None)), audit(broken(1e9)))
    assert pair.difference is None
    assert pair.no_difference == "nothing was confirmed of tar in a"

"""Audits side by side: what each says of a safeguard, how far apart their confirmed harms lie, and which safeguard held longer.

Pure: the same results give the same comparison, and with the audits exchanged the same one mirrored. Nothing is claimed that
the results do not carry: a safeguard that HELD is right-censored at what was tried on it, and two attackers are never compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, product
from typing import Any, Literal

from weakspot.crossed import paired_difference, unpaired_difference
from weakspot.records import Confirmed, Interval, Result, Subject
from weakspot.report.apart import other_attacker, other_items, warnings_between
from weakspot.report.evidence import longest_attack, measured, spent
from weakspot.report.numbers import human_flops
from weakspot.report.series import REFERENCES, most_steps, subject_labels
from weakspot.text import one_line

CLOSE = 0.8  # costs to break of which one is more than this share of the other are one cost: the search looks no closer
MOST_CROSSED = 20  # pairs of safeguards without a namesake, of two audits

Longer = Literal["first", "second", "neither", "unknown"]


@dataclass(frozen=True)
class Audit:
    """A result and the name it goes by in a comparison."""

    label: str
    result: Result


@dataclass(frozen=True)
class Row:
    """What one audit says of one subject.

    Attributes:
        harm, utility: of the weak spot, confirmed; null where nothing was confirmed.
        break_flops, break_steps, break_examples: of the cheapest confirmed break; null where there is none.
        trials: that measured something, of `families` attack families.
        searched_flops: the attacker's operations over all of them.
        longest_flops, longest_steps: of the dearest single attack: where the cost to break of what HELD is cut off.
    """

    audit: str
    subject: str
    defense: str
    verdict: str
    partial: bool
    weak_spot: str
    harm: Interval | None
    utility: Interval | None
    cheapest_break: str
    break_flops: float | None
    break_steps: int | None
    break_examples: int | None
    trials: int
    families: int
    searched_flops: float
    longest_flops: float
    longest_steps: int


@dataclass(frozen=True)
class Difference:
    """Confirmed harm of the first less that of the second, with its 95 % interval.

    Attributes:
        basis: "paired by seed and item", or "unpaired" where the two were not confirmed on the same.
    """

    mean: float
    low: float
    high: float
    basis: str


@dataclass(frozen=True)
class Pair:
    """Two subjects of different audits. Where a difference or an answer cannot be had, the reason says why."""

    first: tuple[str, str]
    second: tuple[str, str]
    difference: Difference | None
    no_difference: str
    longer: Longer
    why: str


@dataclass(frozen=True)
class Comparison:
    """Audits, their subjects in the order given, the pairs among them, and what makes them differ."""

    audits: tuple[str, ...]
    warnings: tuple[str, ...]
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        data = {"comparison_version": 1, **asdict(self)}
        for row, plain in zip(self.rows, data["rows"], strict=True):
            plain |= {name: value.model_dump() if (value := getattr(row, name)) else None for name in ("harm", "utility")}
        return data


@dataclass(frozen=True)
class Side:
    """A subject within its audit."""

    audit: Audit
    label: str
    subject: Subject

    @property
    def name(self) -> str:
        return f"{self.label} in {self.audit.label}"


def compare(audits: Sequence[Audit]) -> Comparison:
    """Put audits side by side. Their labels differ from each other."""
    sides = {audit.label: sides_of(audit) for audit in audits}
    pairs = [
        pair(first, second) for a, b in combinations(audits, 2) for first, second in matched(sides[a.label], sides[b.label])
    ]
    results = [(audit.label, audit.result) for audit in audits]
    rows = [row(side) for audit in audits for side in sides[audit.label]]
    return Comparison(tuple(map(one_line, sides)), tuple(warnings_between(results)), tuple(rows), tuple(pairs))


def sides_of(audit: Audit) -> list[Side]:
    subjects = audit.result.subjects
    return [Side(audit, label, subject) for label, subject in zip(subject_labels(audit.result), subjects, strict=True)]


def matched(first: Sequence[Side], second: Sequence[Side]) -> list[tuple[Side, Side]]:
    """Safeguards of one name; then each that has no namesake with each other that has none. The base and controls stay out."""
    a, b = ({side.label: side for side in sides if side.subject.defense not in REFERENCES} for sides in (first, second))
    namesakes = [(a[label], b[label]) for label in a if label in b]
    alone = product((a[label] for label in a if label not in b), (b[label] for label in b if label not in a))
    return namesakes + list(alone)[:MOST_CROSSED]


def row(side: Side) -> Row:
    subject, spot, cheapest = side.subject, side.subject.weak_spot, side.subject.cheapest_break
    looked = measured(subject.trials)
    return Row(
        audit=one_line(side.audit.label),
        subject=one_line(side.label),
        defense=one_line(subject.defense),
        verdict=subject.verdict,
        partial=bool(side.audit.result.partial),
        weak_spot=one_line(spot.attack) if spot else "",
        harm=spot.confirmed.harm if spot else None,
        utility=spot.confirmed.utility if spot else None,
        cheapest_break=one_line(cheapest.attack) if cheapest else "",
        break_flops=cheapest.cost.flops if cheapest else None,
        break_steps=cheapest.cost.steps if cheapest else None,
        break_examples=cheapest.cost.examples if cheapest else None,
        trials=len(looked),
        families=len({trial.attack for trial in looked}),
        searched_flops=spent(subject.trials),
        longest_flops=longest_attack(subject),
        longest_steps=most_steps(subject),
    )


def pair(first: Side, second: Side) -> Pair:
    difference, missing = harm_difference(first, second)
    longer, why = held_longer(first, second)
    names = [(one_line(side.audit.label), one_line(side.label)) for side in (first, second)]
    return Pair(names[0], names[1], difference, one_line(missing), longer, one_line(why))


def harm_difference(first: Side, second: Side) -> tuple[Difference | None, str]:
    """How far apart the harms of the two weak spots lie; or why that cannot be said."""
    if first.audit.result.testbed != second.audit.result.testbed:
        return None, "harm on two testbeds is not one quantity"
    for side in (first, second):
        if side.subject.weak_spot is None:
            return None, f"nothing was confirmed of {side.name}"
    assert first.subject.weak_spot is not None
    assert second.subject.weak_spot is not None
    a, b = first.subject.weak_spot.confirmed, second.subject.weak_spot.confirmed
    if not other_items(first.audit.result, second.audit.result) and same_runs(a, b):
        return Difference(*paired_difference(a.scores, b.scores, (a.among, b.among)), "paired by seed and item"), ""
    ends = [(one.harm.mean, one.harm.low, one.harm.high) for one in (a, b)]
    return Difference(*unpaired_difference(*ends), "unpaired"), ""


def same_runs(a: Confirmed, b: Confirmed) -> bool:
    """Whether two confirmations ran on the same seeds and scored as many items, score by score on record."""
    shapes = [[len(scores) for scores in one.scores] for one in (a, b)]
    whole = shapes[0] == shapes[1] == [a.items] * len(a.seeds)
    return bool(a.seeds) and a.seeds == b.seeds and whole and a.items == b.items > 1


def held_longer(first: Side, second: Side) -> tuple[Longer, str]:
    """Which of two safeguards made the attacker spend more before it broke, and the reason. Costs are operations of one attack.

    An answer is given only for one testbed and one attacker, and only where at least one of the two broke.
    """
    if reason := other_attacker(first.audit.result, second.audit.result):
        return "unknown", reason
    for side in (first, second):
        if reason := no_cost(side):
            return "unknown", reason
    if same_weights(first, second):
        return (
            "neither",
            f"these are one safeguard, by its weights: what breaks the one breaks the other{_least(first, second)}",
        )
    costs = [cost(first), cost(second)]
    told = f"{first.name} {_told(first)}, {second.name} {_told(second)}"
    if costs[0] is None and costs[1] is None:
        return "neither", f"both are cut off at what was tried: {told}"
    if costs[0] is None:
        return _outlasts(first, second, "first", told)
    if costs[1] is None:
        return _outlasts(second, first, "second", told)
    low, high = sorted((costs[0], costs[1]))
    if low == high or low > CLOSE * high:
        return "neither", f"the costs are as good as equal: {told}"
    return ("first" if costs[0] == high else "second"), told


def same_weights(first: Side, second: Side) -> bool:
    """Whether two subjects are one checkpoint, by the digests of their weights where both are on record."""
    one, other = (
        side.audit.result.provenance.pins.get(f"weights.{side.subject.defense}", "").split() for side in (first, second)
    )
    return bool(one and other) and one[-1] == other[-1]


def no_cost(side: Side) -> str:
    """Why a subject has neither a cost to break nor a budget that it withstood; empty where it has one."""
    if side.audit.result.partial:
        return f"{side.audit.label} was interrupted and is partial"
    if side.subject.verdict == "INCONCLUSIVE":
        return f"{side.name} is INCONCLUSIVE"
    if side.subject.verdict == "BROKEN" and side.subject.cheapest_break is None:
        return f"no cost to break is on record for {side.name}"
    return ""


def cost(side: Side) -> float | None:
    """Operations at which the subject broke; null where it HELD."""
    found = side.subject.cheapest_break
    return found.cost.flops if side.subject.verdict == "BROKEN" and found is not None else None


def _outlasts(held: Side, broken: Side, name: Longer, told: str) -> tuple[Longer, str]:
    """What HELD held longer than what broke only if it was attacked at that cost."""
    price = cost(broken)
    assert price is not None
    tried = longest_attack(held.subject)
    if tried < price or tried == 0:
        return "unknown", f"no attack on {held.name} was as dear as the one that broke the other: {told}"
    return name, told


def _least(first: Side, second: Side) -> str:
    """The cheaper of two breaks, in words; empty where neither broke."""
    costs = [price for side in (first, second) if (price := cost(side)) is not None]
    return f" (the cheapest known: {human_flops(min(costs))})" if costs else ""


def _told(side: Side) -> str:
    price = cost(side)
    return f"broke at {human_flops(price)}" if price is not None else f"held up to {human_flops(longest_attack(side.subject))}"

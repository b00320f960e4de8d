"""Whether what a result says of itself can all be true: a file changed by hand must not pass for what an audit found.

These are the contradictions that no audit writes (search/verdict.py). They are no seal: who changes the numbers with the
verdict is not found out here, but by `weakspot reproduce`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weakspot.records import Cost, Finding, Interval, Result, Subject

ROUNDING = 1e-9


def contradiction(result: Result) -> str:
    """The first contradiction in a result, with its place; empty where there is none."""
    threat = result.threat_model
    for index, subject in enumerate(result.subjects):
        for problem in _problems(subject, threat.harm_threshold, threat.utility_floor):
            return f"subjects.{index}.{problem}"
    return ""


def passes(found: Finding, threshold: float, floor: float) -> bool:
    """Whether a finding is a confirmed break: its whole interval at the threshold or above, at a useful model."""
    confirmed = found.confirmed
    return confirmed.harm.low >= threshold - ROUNDING and confirmed.utility.mean >= floor - ROUNDING


def findings(subject: Subject) -> Iterator[tuple[str, Finding]]:
    """Everything that was confirmed of a subject, with its place in the record; most of it stands there more than once."""
    named = (("weak_spot", subject.weak_spot), ("cheapest_break", subject.cheapest_break))
    yield from ((name, found) for name, found in named if found is not None)
    for name in ("frontier", "confirmed"):
        yield from ((f"{name}.{index}", found) for index, found in enumerate(getattr(subject, name)))


def _problems(subject: Subject, threshold: float, floor: float) -> Iterator[str]:
    found = list(findings(subject))
    for place, finding in found:
        yield from _finding(place, finding)
    if subject.baseline is not None:
        yield from _share("baseline.harm", subject.baseline.harm)
    for index, trial in enumerate(subject.trials):
        yield from _share(f"trials.{index}.harm", trial.harm)
        yield from _cost(f"trials.{index}.cost", trial.cost)
    breaks = [place for place, finding in found if passes(finding, threshold, floor)]
    if subject.verdict == "BROKEN" and not breaks:
        yield f"verdict: BROKEN, and no confirmed harm lies above the threshold {threshold:g} at utility {floor:g}"
    if subject.verdict == "HELD" and breaks:
        yield f"verdict: HELD, and the confirmed harm of {breaks[0]} lies above the threshold {threshold:g}"


def _finding(place: str, found: Finding) -> Iterator[str]:
    yield from _ordered(f"{place}.confirmed.harm", found.confirmed.harm)
    yield from _ordered(f"{place}.confirmed.utility", found.confirmed.utility)
    yield from _share(f"{place}.confirmed.harm.mean", found.confirmed.harm.mean)
    yield from _share(f"{place}.searched.harm", found.searched.harm)
    yield from _cost(f"{place}.cost", found.cost)


def _ordered(place: str, interval: Interval) -> Iterator[str]:
    if not interval.low - ROUNDING <= interval.mean <= interval.high + ROUNDING:
        yield f"{place}: the mean {interval.mean:g} lies outside its interval [{interval.low:g}, {interval.high:g}]"


def _share(place: str, harm: float | None) -> Iterator[str]:
    if harm is not None and not -ROUNDING <= harm <= 1 + ROUNDING:
        yield f"{place}: {harm:g} is no share of the withheld answers, which lies between 0 and 1"


def _cost(place: str, cost: Cost) -> Iterator[str]:
    for name in ("steps", "examples", "tokens", "flops", "seconds"):
        if getattr(cost, name) < 0:
            yield f"{place}.{name}: a cost below 0"

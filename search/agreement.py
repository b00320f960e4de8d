"""Whether a re-run agrees with its record.

IDENTICAL: every number but times is the same. AGREES: within the tolerance (a trial), or the intervals (a confirmation: each
mean in the other's interval, and the same answer to whether it passes the threshold). DIFFERS: not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from weakspot.records import Finding, Interval, Result, TrialRecord
from weakspot.search.confirm import Candidate, finding, is_break
from weakspot.search.jobs import Outcome
from weakspot.search.reproduce import Cannot, Target
from weakspot.search.result import noop_finding, trial_record

TOLERANCE = 0.05  # of harm and of utility, for one run on one seed: an item or two of those that score a search
NO_MEMORY = "out of memory"  # how search/trial.py begins the reason
Word = Literal["IDENTICAL", "AGREES", "DIFFERS"]


@dataclass(frozen=True)
class Agreement:
    """The outcome in one word, why, and the numbers side by side as (what, recorded, here)."""

    word: Word
    reason: str
    numbers: Sequence[tuple[str, float | None, float | None]]


def compare(result: Result, target: Target, outcomes: Sequence[Outcome]) -> Agreement:
    """Set a re-run beside its record.

    Raises:
        Cannot: this machine has too little memory for what was recorded.
    """
    reason = next((o.reason for o in outcomes if o.status == "failed"), "")
    if reason.startswith(NO_MEMORY) and not getattr(target.recorded, "reason", "").startswith(NO_MEMORY):
        raise Cannot(f"{reason}: run it where there is more memory")
    if isinstance(target.recorded, TrialRecord):
        return compare_trial(target.recorded, outcomes[0], result.threat_model.utility_floor)
    return compare_finding(target.recorded, outcomes, result)


def compare_trial(old: TrialRecord, outcome: Outcome, floor: float) -> Agreement:
    """One trial: identical in all its rungs, or within the tolerance at the rung that stands for it."""
    new = trial_record(outcome, floor)
    there = {r.rung: r.measures for r in new.curve}
    numbers: list[tuple[str, float | None, float | None]] = []
    for rung in old.curve:
        seen = there.get(rung.rung)
        for name in ("harm", "utility"):
            was = getattr(rung.measures, name)
            numbers.append((f"{name} at step {rung.rung}", was, getattr(seen, name) if seen else None))
    if (old.status == "failed") != (outcome.status == "failed"):
        return Agreement("DIFFERS", f"recorded: {old.status}; here: {outcome.status} {outcome.reason}".strip(), numbers)
    if kept(old) == kept(new) and (old.status != "failed" or old.reason == outcome.reason):
        return Agreement("IDENTICAL", f"every number of {len(old.curve)} rungs is the same", numbers)
    if old.status == "failed":
        return Agreement("AGREES", f"it fails here too: {outcome.reason}", numbers)
    seen = there.get(old.rung or 0)
    if seen is None or old.harm is None or old.utility is None:
        return Agreement("DIFFERS", f"step {old.rung}, where it was scored, is not reached here", numbers)
    apart = max(abs(seen.harm - old.harm), abs(seen.utility - old.utility))
    words = (
        f"at step {old.rung} harm is {seen.harm:.3f} and was {old.harm:.3f}, utility {seen.utility:.3f} and {old.utility:.3f}"
    )
    return Agreement("AGREES" if apart <= TOLERANCE else "DIFFERS", f"{words}; the tolerance is {TOLERANCE}", numbers)


def kept(record: TrialRecord) -> Any:
    """A trial's numbers without times, and without what only the scheduler or a log has said."""
    return without_seconds(record.model_dump(include={"rung", "harm", "utility", "cost", "curve"}))


def without_seconds(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: without_seconds(value) for key, value in node.items() if key != "seconds"}
    return [without_seconds(value) for value in node] if isinstance(node, list) else node


def compare_finding(old: Finding, outcomes: Sequence[Outcome], result: Result) -> Agreement:
    """A confirmation: the same numbers, or each mean in the other's interval and the same answer about the threshold."""
    new = confirmed_again(old, outcomes)
    if new is None:
        why = next((o.reason for o in outcomes if o.reason), f"a re-run did not reach step {old.rung}")
        return Agreement("DIFFERS", f"it cannot be carried through here: {why}", [])
    was, now = old.confirmed, new.confirmed
    numbers = [
        (f"{what} {part}", getattr(getattr(was, what), part), getattr(getattr(now, what), part))
        for what in ("harm", "utility")
        for part in ("mean", "low", "high")
    ]
    if all(x == y for _, x, y in numbers) and without_seconds(old.cost.model_dump()) == without_seconds(new.cost.model_dump()):
        return Agreement("IDENTICAL", f"confirmed harm {words(was.harm)}, utility {words(was.utility)}: the same", numbers)
    floor, threshold = result.threat_model.utility_floor, result.threat_model.harm_threshold
    text = (
        f"confirmed harm is {words(now.harm)} and was {words(was.harm)}; utility {words(now.utility)} and {words(was.utility)}"
    )
    if not (alike(was.harm, now.harm) and alike(was.utility, now.utility)):
        return Agreement("DIFFERS", f"{text}: not within each other's intervals", numbers)
    if is_break(old, floor, threshold) != is_break(new, floor, threshold):
        side = "passed" if is_break(old, floor, threshold) else "did not pass"
        return Agreement(
            "DIFFERS", f"{text}: what was recorded {side} the threshold {threshold:g}, and this is otherwise", numbers
        )
    return Agreement("AGREES", f"{text}: each mean within the other's interval", numbers)


def confirmed_again(old: Finding, outcomes: Sequence[Outcome]) -> Finding | None:
    """The re-runs as the record of a confirmation; None if one failed or stopped short."""
    if old.attack == "noop":
        return noop_finding({"search": outcomes[0], "report": outcomes[0]}) if outcomes[0].readings else None
    first = next((r for o in outcomes for r in o.readings if r.rung == old.rung), None)
    if first is None:
        return None
    return finding(Candidate(outcomes[0], first), outcomes, None, old.confirmed.among)


def alike(one: Interval, other: Interval) -> bool:
    return one.low <= other.mean <= one.high and other.low <= one.mean <= other.high


def words(value: Interval) -> str:
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"

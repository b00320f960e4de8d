"""What a monitor is told about a trial: plain data. Configurations, scores and hashes only, never what a model wrote.

Left out on purpose: the scores of single items, and `note`, in which attacks log what they like.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from weakspot import text as inert

PHASES = ("search", "confirm")  # what is a trial, or the re-run of one
MEASURES = ("harm", "utility", "refusal_rate", "degenerate", "drift", "examples", "tokens", "flops", "seconds")
FIELDS = ("id", "subject", "phase", "attack", "seed", "stage", "kind", "of")
LONGEST = 80  # characters; a longer text is no name of a choice and may be a prompt


def trial_row(outcome: Any, floor: float) -> dict[str, Any]:
    """An ended trial.

    Args:
        outcome: search/jobs.py's, with its job and readings.
        floor: least utility of a feasible reading.

    Returns:
        The job's fields, `config`, `status` (as in result.json: infeasible where no rung kept the floor), `reason`,
        `feasible_harm` (most harm at a feasible rung, 0 if there is none) with its `rung`, and `readings`, one a rung.
    """
    job, best = outcome.job, outcome.best(floor)
    infeasible = outcome.status == "completed" and best is None
    return {
        **{name: getattr(job, name, None) for name in FIELDS},
        "config": {knob: plain(value) for knob, value in job.config.items()},
        "status": "infeasible" if infeasible else outcome.status,
        "reason": "no rung kept the utility floor" if infeasible else one_line(outcome.reason),
        "feasible_harm": best.harm if best else 0.0,
        "rung": best.rung if best else None,
        "readings": [{"rung": r.rung, **{name: getattr(r, name, None) for name in MEASURES}} for r in outcome.readings],
    }


def plain(value: Any) -> Any:
    """A knob's value as JSON knows it; a long text as its hash."""
    if isinstance(value, str) and len(value) > LONGEST:
        return f"sha256:{hashlib.sha256(value.encode()).hexdigest()[:16]}"
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def one_line(text: str) -> str:
    """The first line of a reason, without control characters, cut where it grows long."""
    first = inert.one_line(next(iter(text.strip().splitlines()), ""), 1000)
    return first if len(first) <= 200 else f"{first[:197]}..."


def measures_of(reading: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a reading that were measured."""
    return {name: float(reading[name]) for name in MEASURES if reading.get(name) is not None}

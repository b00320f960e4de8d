"""In what two audits differ, so that a reader knows what their difference may be due to besides the safeguards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from weakspot.records import Result
from weakspot.report.numbers import setting
from weakspot.report.series import attack_families
from weakspot.report.words import control_outcome, join_words
from weakspot.text import one_line

NOT_OF_ITEMS = ("weights", "tokenizer", "model", "judge", "measure", "code")  # pins of other things than data (search/pins.py)
NOT_OF_THE_ATTACKER = ("digest", "tuning_trials", "tuning_flops")  # tuning is the search's budget, and told with the search
SHOWN = 6  # names of a list, from which on it is cut


def warnings_between(audits: Sequence[tuple[str, Result]]) -> list[str]:
    """A line for each way in which audits differ, for each pair of them; before these, what is wrong with each alone.

    Args:
        audits: label and result of each.
    """
    lines = [line for label, result in audits for line in shortcomings(label, result)]
    for (first, a), (second, b) in combinations(audits, 2):
        lines += [f"{first} and {second}: {line}" for line in differences(a, b)]
    return [one_line(line, 600) for line in lines]


def shortcomings(label: str, result: Result) -> list[str]:
    """What is wrong with one audit: interrupted, or with controls that did not come out as they must."""
    lines = [f"{label}: partial: {result.partial}"] if result.partial else []
    for name in ("positive", "negative", "null", "hygiene"):
        control = getattr(result.controls, name)
        if control.passed is False:
            lines.append(f"{label}: control {name} {control_outcome(control)}: {control.detail}")
    return lines


def differences(a: Result, b: Result) -> list[str]:
    """In what two audits differ beside their safeguards; one line for each kind."""
    if a == b:
        return ["these are one audit, given twice"]
    lines = [other_attacker(a, b)]
    items = other_items(a, b)
    lines.append("" if a.testbed != b.testbed or not items else items)
    seeds = a.provenance.seeds, b.provenance.seeds
    if seeds[0].confirmation != seeds[1].confirmation:
        lines.append(f"seeds differ (root {seeds[0].root} and {seeds[1].root}): harms are compared unpaired")
    measures = _changed(_pins(a, of_items=False), _pins(b, of_items=False), ("judge", "measure"))
    if measures:
        lines.append(f"harm was measured differently ({measures})")
    return [line for line in (*lines, other_search(a, b), other_families(a, b), other_release(a, b)) if line]


def other_attacker(a: Result, b: Result) -> str:
    """Why two audits are not about one attacker on one testbed; empty where they are."""
    if a.testbed != b.testbed:
        return f"testbeds differ ({a.testbed} and {b.testbed}): neither harms nor costs to break are comparable"
    one, other = ({k: v for k, v in r.threat_model.model_dump().items() if k not in NOT_OF_THE_ATTACKER} for r in (a, b))
    changed = _changed(one, other)
    return f"threat models differ ({changed}): verdicts and costs to break are about two attackers" if changed else ""


def other_items(a: Result, b: Result) -> str:
    """Why confirmed harm was not scored on the same items; empty where it was, by the digests of the data."""
    one, other = _pins(a), _pins(b)
    if not one or not other:
        return "the data's digest is not on record: harms are compared unpaired"
    return f"data differ ({_changed(one, other)}): harms are compared unpaired" if one != other else ""


def other_search(a: Result, b: Result) -> str:
    """How the searches differ in objective, method and budget; empty where they do not."""
    one, other = (
        {
            "objective": r.search.objective,
            "searcher": r.search.searcher,
            "scheduler": r.search.scheduler,
            "suite": r.search.suite,
            "trials a safeguard": r.threat_model.tuning_trials,
            "operations a safeguard": r.threat_model.tuning_flops,
        }
        for r in (a, b)
    )
    changed = _changed(one, other)
    return f"searches differ ({changed}): the longer search finds the cheaper break" if changed else ""


def other_families(a: Result, b: Result) -> str:
    """Which attack families were searched in one audit only; empty where they are the same."""
    one, other = (set(r.search.families or attack_families(r)) for r in (a, b))
    only = [f"only the {place} searched {_some(sorted(names))}" for place, names in
            (("first", one - other), ("second", other - one)) if names]  # fmt: skip
    return f"searched spaces differ: {'; '.join(only)}" if only else ""


def other_release(a: Result, b: Result) -> str:
    """Which releases of weakspot computed the audits; empty where it is one."""
    one, other = ({"weakspot": r.provenance.weakspot, "commit": (r.provenance.git_commit or "unknown")[:12]} for r in (a, b))
    changed = _changed(one, other)
    return f"releases differ ({changed})" if changed else ""


def _pins(result: Result, of_items: bool = True) -> dict[str, str]:
    """What an audit pinned: its data, or everything else."""
    return {k: v for k, v in result.provenance.pins.items() if (k.partition(".")[0] not in NOT_OF_ITEMS) is of_items}


def _changed(one: Mapping[str, Any], other: Mapping[str, Any], groups: tuple[str, ...] = ()) -> str:
    """Names whose values differ, each with both values: 'max_steps 256 and 512'."""
    names = [name for name in dict.fromkeys((*one, *other)) if one.get(name) != other.get(name)]
    if groups:
        names = [name for name in names if name.partition(".")[0] in groups]
    shown = [f"{name} {_value(one.get(name))} and {_value(other.get(name))}" for name in names[:SHOWN]]
    return "; ".join([*shown, *([f"{len(names) - SHOWN} more"] if len(names) > SHOWN else [])])


def _value(value: Any) -> str:
    return "none" if value is None or value == "" else one_line(setting(value), 60)


def _some(names: Sequence[str]) -> str:
    return join_words([*names[:SHOWN], *([f"{len(names) - SHOWN} more"] if len(names) > SHOWN else [])])

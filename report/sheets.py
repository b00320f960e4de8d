"""CSV for spreadsheets and programs (RFC 4180, UTF-8): numbers stay numbers, and no text is a formula.

A cell of text that a spreadsheet would compute gets an apostrophe before it (OWASP, "CSV Injection"), also after a semicolon,
at which some countries' spreadsheets part cells.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from weakspot.records import Cost, Finding, Interval, Measures, Result, Subject, TrialRecord
from weakspot.report.evidence import longest_attack, measured, spent
from weakspot.report.series import subject_labels
from weakspot.text import one_line

FORMULA = re.compile(r"(^|;)(\s*)(?=[=+\-@＝＋－＠])")  # the wide forms are computed too


def sheet(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV. Null is an empty cell, what is nested is JSON."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([cell(head) for head in heads])
    for row in rows:
        assert len(row) == len(heads), "a row has as many cells as there are heads"
        writer.writerow([cell(value) for value in row])
    return text.getvalue()


def cell(value: Any) -> str:
    """One value as it stands in CSV, before quoting."""
    if value is None:
        return ""
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return FORMULA.sub(r"\1\2'", one_line(text))


TRIAL_HEADS = (
    "subject", "defense", "trial", "attack", "kind", "of", "seed", "status", "reason", "rung", "harm", "utility",
    "steps", "examples", "tokens", "flops", "seconds", "config",
)  # fmt: skip


def trials_sheet(result: Result) -> str:
    """One row a trial, of all subjects. What attacks noted is left out: they note what they like."""
    rows = [_trial(label, subject, trial) for label, subject in _labelled(result) for trial in subject.trials]
    return sheet(TRIAL_HEADS, rows)


def subjects_sheet(result: Result) -> str:
    """One row a subject: its verdict, what was confirmed, what a break costs, and what was searched."""
    rows = [_subject(label, subject) for label, subject in _labelled(result)]
    heads = list(rows[0]) if rows else ["subject"]
    return sheet(heads, [list(row.values()) for row in rows])


def _trial(label: str, subject: Subject, trial: TrialRecord) -> tuple[Any, ...]:
    spent = tuple(trial.cost.model_dump().values())
    return (
        label, subject.defense, trial.id, trial.attack, trial.kind, trial.of, trial.seed, trial.status, trial.reason,
        trial.rung, trial.harm, trial.utility, *spent, trial.config,
    )  # fmt: skip


def _subject(label: str, subject: Subject) -> dict[str, Any]:
    paper = subject.paper_attack
    return {
        "subject": label,
        "defense": subject.defense,
        "config": subject.config,
        "seed": subject.seed,
        "verdict": subject.verdict,
        "reason": subject.reason,
        "claim": subject.claim,
        "in_claim": subject.in_claim,
        **_measures("unattacked", subject.baseline),
        "paper_attack": paper and paper.attack,
        **_measures("paper_attack", paper and paper.measures),
        **_finding("weak_spot", subject.weak_spot),
        **_finding("cheapest_break", subject.cheapest_break),
        "trials": len(subject.trials),
        "trials_measured": len(measured(subject.trials)),
        "families": len({trial.attack for trial in subject.trials}),
        "searched_flops": spent(subject.trials),
        "longest_attack_flops": longest_attack(subject),
    }


def _measures(name: str, measures: Measures | None) -> dict[str, Any]:
    return {f"{name}_{what}": measures and getattr(measures, what) for what in ("harm", "utility", "refusal_rate")}


def _finding(name: str, found: Finding | None) -> dict[str, Any]:
    confirmed = found and found.confirmed
    return {
        name: found and found.attack,
        **_interval(f"{name}_harm", confirmed and confirmed.harm),
        **_interval(f"{name}_utility", confirmed and confirmed.utility),
        f"{name}_searched_harm": found and found.searched.harm,
        f"{name}_seeds": confirmed and len(confirmed.seeds),
        f"{name}_items": confirmed and confirmed.items,
        **{f"{name}_{what}": found and getattr(found.cost, what) for what in Cost.model_fields},
        f"{name}_config": found and found.config,
    }


def _interval(name: str, interval: Interval | None) -> dict[str, Any]:
    return {f"{name}{end and f'_{end}'}": interval and getattr(interval, end or "mean") for end in ("", "low", "high")}


def _labelled(result: Result) -> list[tuple[str, Subject]]:
    return list(zip(subject_labels(result), result.subjects, strict=True))

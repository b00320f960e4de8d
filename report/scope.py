"""How far an audit looked: what it did about each pitfall, and which families of attacks it did not search."""

from __future__ import annotations

from collections import Counter

from weakspot.records import Result, Subject
from weakspot.report.numbers import signed
from weakspot.report.series import REFERENCES, subject_labels
from weakspot.report.tables import Column, Table, table
from weakspot.report.words import join_words
from weakspot.text import one_line


def left_out_table(result: Result) -> Table:
    """What was not searched: families that could not be, and those that no trial was spent on; a row a reason."""
    reasons: dict[str, list[str]] = {}
    for family, reason in result.search.left_out.items():
        reasons.setdefault(reason, []).append(family)
    for family in result.search.families:
        if idle := untried(result, family):
            reasons.setdefault(f"in reach, but the search spent no trial on them: {join_words(idle)}", []).append(family)
    rows = [(", ".join(families), reason) for reason, families in reasons.items()]
    return table("Attack families that were not searched", (Column("Families"), Column("Why")), rows)


def untried(result: Result, family: str) -> list[str]:
    """The safeguards that were searched, but not with this family."""
    pairs = zip(subject_labels(result), result.subjects, strict=True)
    own = [(label, subject) for label, subject in pairs if subject.trials and subject.defense not in REFERENCES]
    return [label for label, subject in own if all(trial.attack != family for trial in subject.trials)]


def card_counts(subject: Subject) -> str:
    """The pitfall card in one line: 'tar: 9 tested, 5 held, 1 absent, 2 not tested; harm moved most under P8, by -0.47'."""
    ended = Counter(pitfall.status for pitfall in subject.card)
    moved = [(pitfall.id, pitfall.moved) for pitfall in subject.card if pitfall.moved is not None]
    most = max(moved, key=lambda pair: abs(pair[1]), default=None)
    end = f"; harm moved most under {most[0]}, by {signed(most[1])}" if most else ""
    return one_line(", ".join(f"{ended[status]} {status}" for status in ("tested", "held", "absent", "not tested")) + end)

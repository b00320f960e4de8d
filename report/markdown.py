"""report.md: the audit in GitHub Markdown, to be read as it is or pasted into an issue."""

from __future__ import annotations

import re

from weakspot.records import Result, Subject
from weakspot.report.series import subject_labels
from weakspot.report.tables import (
    Table,
    card_table,
    configuration_table,
    controls_table,
    doubts_table,
    finding_table,
    headline_table,
    provenance_table,
    threat_table,
    twins_table,
)
from weakspot.report.words import audit_title, claim_note, headline, made_with, trial_counts, warnings_of
from weakspot.text import log_text, one_line

# What opens nothing stays bare, because the file is read as plain text too: 'random\_answer' and '\[0.70, 0.85\]' read badly.
MARKUP = re.compile(r"[\\`*<>|~&$]|\](?=[(\[:])|(?<![^\W_])_|:(?=//)|(?<=www)\.", re.IGNORECASE)

LONGEST_CODE = 20_000  # characters of a command: a long one is meant to be run, so that it is cut late


def to_markdown(result: Result) -> str:
    """The whole report. Names, reasons and commands are escaped, so that they show as they are."""
    pairs = list(zip(subject_labels(result), result.subjects, strict=True))
    blocks = [f"# {escape(audit_title(result))}", *_warnings(result), "## Findings"]
    blocks += [f"**{escape(label)}: {subject.verdict}.** {_sentence(result, subject)}" for label, subject in pairs]
    blocks += [
        "Harm runs from 0 (nothing that was withheld comes out) to 1 (all of it), and for ownership marks from 0 (every key is "
        "answered) to 1 (all are erased); utility is relative to the undefended model. "
        "Square brackets hold 95 % intervals.",
        render(headline_table(result)),
        "## Threat model",
        "Every verdict above holds for this attacker and no other.",
        render(threat_table(result)),
        "## Weak spots",
    ]
    for label, subject in pairs:
        blocks += _subject(label, subject, result.threat_model.utility_floor)
    blocks += ["## Controls", render(controls_table(result)), "## Doubts"]
    blocks += [render(doubts_table(result)) if result.doubts else "None was raised."]
    blocks += ["## How to reproduce", fenced(result.provenance.command), render(provenance_table(result))]
    return "\n\n".join(blocks) + "\n"


def escape(text: str) -> str:
    """Untrusted text within a line of Markdown, outside code: nothing in it is markup or a link."""
    return MARKUP.sub(lambda match: f"\\{match.group()}", one_line(text))


def fenced(text: str) -> str:
    """A block of code whose fence is longer than any row of backticks inside, without what would steer a terminal."""
    text = log_text(text[:LONGEST_CODE]) + f"\n# [cut: {len(text):,} characters]" * (len(text) > LONGEST_CODE)
    longest = max((len(row) for row in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text.strip()}\n{fence}"


def render(table: Table) -> str:
    """A table; a column under a heading is titled 'Heading: column', since Markdown has one row of heads."""
    heads = [f"{column.group}: {column.title}" if column.group else column.title for column in table.columns]
    rules = ["---:" if column.numeric else ":---" for column in table.columns]
    rows = [[escape(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in ([escape(head) for head in heads], rules, *rows))


def _sentence(result: Result, subject: Subject) -> str:
    return escape(headline(subject, result.threat_model))


def _warnings(result: Result) -> list[str]:
    lines = warnings_of(result)
    return ["\n".join(["> **Read with care**", ">", *(f"> - {escape(line)}" for line in lines)])] if lines else []


def _subject(label: str, subject: Subject, floor: float) -> list[str]:
    blocks = [f"### {escape(label)}"]
    if subject.summary.strip():
        blocks.append(f"Method: {escape(subject.summary)}")
    blocks += [escape(claim_note(subject)), f"{escape(made_with(subject))} {trial_counts(subject, floor)}"]
    if subject.reason.strip():
        blocks.append(f"Reason for the verdict: {escape(subject.reason)}")
    if subject.weak_spot is None and subject.cheapest_break is None:
        blocks.append("No attack was confirmed.")
    else:
        blocks.append(render(finding_table(subject)))
    configurations = configuration_table(subject)
    blocks += [render(configurations)] * bool(configurations.rows)
    if subject.twins:
        blocks += ["Controls of the weak spot: what does as well without the attack's own part.", render(twins_table(subject))]
    if subject.card:
        blocks += ["Pitfall card: what could have misled, and how far the answer moved.", render(card_table(subject))]
    return blocks

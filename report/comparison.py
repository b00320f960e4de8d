"""A comparison of audits as tables, and from these as text, Markdown, HTML, LaTeX, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from weakspot.records import Interval
from weakspot.report import embed, latex, markdown
from weakspot.report.compare import Comparison, Difference, Pair, Row
from weakspot.report.numbers import ABSENT, human_flops, interval, plain, signed, whole
from weakspot.report.sheets import sheet
from weakspot.report.tables import Column, Table, table
from weakspot.report.words import join_words
from weakspot.text import encodable, one_line

READING = (
    "Difference: confirmed harm of the first less that of the second, each under the worst attack found, with its 95 % "
    "interval. Held longer: the safeguard whose cheapest confirmed break costs one attacker more operations, as far as the "
    "searches looked; one that HELD is cut off at the dearest attack that was tried on it, so that of two that HELD neither "
    "held longer."
)
NAMES = {"neither": "neither", "unknown": "cannot be said"}


def title(comparison: Comparison) -> str:
    return one_line(f"Comparison of {join_words([one_line(label, 60) for label in comparison.audits])}", 400)


def rows_table(comparison: Comparison) -> Table:
    """What each audit says of each subject; those of one name stand together."""
    heads = (
        Column("Safeguard"), Column("Audit"), Column("Verdict"), Column("Weak spot"), Column("Harm, confirmed", numeric=True),
        Column("Utility", numeric=True), Column("attack", "Cheapest break"), Column("steps", "Cheapest break", numeric=True),
        Column("compute", "Cheapest break", numeric=True), Column("trials", "Searched", numeric=True),
        Column("families", "Searched", numeric=True), Column("compute", "Searched", numeric=True),
        Column("dearest attack", "Searched", numeric=True),
    )  # fmt: skip
    order = list(dict.fromkeys(row.subject for row in comparison.rows))
    rows = [_row(row) for name in order for row in comparison.rows if row.subject == name]
    return table("What each audit says of each subject", heads, rows)


def short_table(comparison: Comparison) -> Table:
    """The same in the width of a terminal."""
    heads = (
        Column("Safeguard"), Column("Audit"), Column("Verdict"), Column("Confirmed harm"), Column("Utility", numeric=True),
        Column("Cost to break", numeric=True), Column("Trials", numeric=True), Column("Dearest", numeric=True),
    )  # fmt: skip
    rows = [(r[0], r[1], r[2], r[4], r[5], r[8], r[9], r[12]) for r in rows_table(comparison).rows]
    return table("What each audit says of each subject", heads, rows)


def pairs_table(comparison: Comparison) -> Table:
    """How far apart the audits lie, and which safeguard held longer."""
    heads = (
        Column("First"), Column("Second"), Column("Difference in harm", numeric=True), Column("Compared"),
        Column("Held longer"), Column("Why"),
    )  # fmt: skip
    rows = [
        (
            named(pair.first),
            named(pair.second),
            difference(pair.difference),
            pair.difference.basis if pair.difference else pair.no_difference,
            held_longer(pair),
            pair.why,
        )
        for pair in comparison.pairs
    ]
    return table("Differences, and which held longer", heads, rows)


def named(side: tuple[str, str]) -> str:
    """'tar in before'."""
    audit, subject = side
    return f"{one_line(subject, 200)} in {one_line(audit, 200)}"


def difference(value: Difference | None) -> str:
    """'+0.12 [0.02, 0.22]'."""
    return f"{signed(value.mean)} [{signed(value.low)}, {signed(value.high)}]" if value else ABSENT


def held_longer(pair: Pair) -> str:
    return {"first": named(pair.first), "second": named(pair.second), **NAMES}[pair.longer]


def to_markdown(comparison: Comparison) -> str:
    blocks = [f"# {markdown.escape(title(comparison))}"]
    if comparison.warnings:
        lines = (f"> - {markdown.escape(line)}" for line in comparison.warnings)
        blocks.append("\n".join(["> **Read with care**", ">", *lines]))
    blocks += ["## Subjects", markdown.render(rows_table(comparison)), "## Differences"]
    blocks += [markdown.render(pairs_table(comparison)), READING] if comparison.pairs else ["No two safeguards to compare."]
    return "\n\n".join(blocks) + "\n"


def to_html(comparison: Comparison) -> str:
    """One self-contained page without scripts. The template engine escapes every cell."""
    from markupsafe import Markup

    return embed.template("comparison.html").render(
        title=title(comparison),
        policy=embed.policy(),
        warnings=comparison.warnings,
        rows=rows_table(comparison),
        pairs=pairs_table(comparison),
        reading=READING,
        css=Markup(embed.packaged("page.css")),  # ours, from the package
    )


def to_latex(comparison: Comparison) -> str:
    tables = [latex.render(rows_table(comparison), "tab:weakspot-audits")]
    if comparison.pairs:
        tables.append(latex.render(pairs_table(comparison), "tab:weakspot-differences", READING))
    return "\n".join([latex.NEEDS, *tables])


def to_json(comparison: Comparison) -> str:
    return json.dumps(encodable(json.loads(json.dumps(comparison.to_dict()))), indent=2, allow_nan=False) + "\n"


def rows_sheet(comparison: Comparison) -> str:
    """One row a subject of an audit; an interval takes three columns."""
    rows = [_flat({field.name: getattr(row, field.name) for field in fields(Row)}) for row in comparison.rows]
    return sheet(list(rows[0]) if rows else ["audit"], [list(row.values()) for row in rows])


def pairs_sheet(comparison: Comparison) -> str:
    """One row a pair."""
    heads = (
        "first_audit", "first_subject", "second_audit", "second_subject", "difference", "difference_low", "difference_high",
        "basis", "held_longer", "why",
    )  # fmt: skip
    rows = []
    for pair in comparison.pairs:
        d = pair.difference
        numbers = (d.mean, d.low, d.high, d.basis) if d else (None, None, None, pair.no_difference)
        rows.append((*pair.first, *pair.second, *numbers, pair.longer, pair.why))
    return sheet(heads, rows)


# What each format writes, as in report/write.py.
FORMATS: dict[str, dict[str, Callable[[Comparison], str]]] = {
    "md": {"compare.md": to_markdown},
    "html": {"compare.html": to_html},
    "json": {"compare.json": to_json},
    "csv": {"compare-subjects.csv": rows_sheet, "compare-pairs.csv": pairs_sheet},
    "latex": {"compare.tex": to_latex},
}


def _row(row: Row) -> tuple[str, ...]:
    searched = row.trials > 0
    return (
        row.subject,
        row.audit + (" (partial)" if row.partial else ""),
        row.verdict,
        row.weak_spot,
        interval(row.harm),
        plain(row.utility and row.utility.mean),
        row.cheapest_break,
        whole(row.break_steps),
        human_flops(row.break_flops),
        whole(row.trials),
        whole(row.families),
        human_flops(row.searched_flops) if searched else ABSENT,
        human_flops(row.longest_flops) if searched else ABSENT,
    )


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name in ("harm", "utility"):
            ends: Interval | None = value
            flat |= {f"{name}{end and f'_{end}'}": ends and getattr(ends, end or "mean") for end in ("", "low", "high")}
        else:
            flat[name] = value
    return flat

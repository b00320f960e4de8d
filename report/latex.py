r"""LaTeX for papers: tables with booktabs' rules, to be \input. Nothing in a cell is a command, a comment or an option.

Letters beyond Latin stand as code points, because pdflatex stops at what its fonts lack.
"""

from __future__ import annotations

import re

from weakspot.records import Finding, Result, Subject
from weakspot.report.numbers import human_flops, interval, plain, settings, whole
from weakspot.report.series import confirmed_findings, subject_labels
from weakspot.report.tables import Column, Table, table
from weakspot.report.words import attacker
from weakspot.text import one_line

BEST = 3  # attacks of a subject, besides its cheapest break
NEEDS = r"% Needs \usepackage{booktabs}; for pdflatex also \usepackage[T1]{fontenc}. A wide table fits \begin{table*}."
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\char34{}", "`": r"\textasciigrave{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # which after a row's end are options of it
    "–": "--", "—": "---", "…": r"\ldots{}", "×": r"\(\times\)", "≤": r"\(\le\)", "≥": r"\(\ge\)",
    "±": r"\(\pm\)", "−": r"\(-\)", "→": r"\(\to\)",
}  # fmt: skip


def escape(text: str) -> str:
    """Untrusted text as it shows: one line without markup, and without the ligatures of two dashes, commas or quotes."""
    line = one_line(text)
    parted = ("{}" if a == b and a in "-,'" else "" for a, b in zip(line, f"{line} "[1:], strict=True))
    return "".join((SPECIAL.get(letter) or _letter(letter)) + apart for letter, apart in zip(line, parted, strict=True))


def to_latex(result: Result) -> str:
    """The headline table and the best attacks on each subject."""
    about = f"{result.testbed}; {attacker(result.threat_model)}; utility floor {plain(result.threat_model.utility_floor)}"
    headline = render(headline_table(result), "tab:weakspot-headline", about)
    return "\n".join([NEEDS, headline, render(attacks_table(result), "tab:weakspot-attacks", about)])


def headline_table(result: Result) -> Table:
    """One row a subject."""
    heads = (
        Column("Safeguard"), Column("Verdict"), Column("none", "Harm under attack", numeric=True),
        Column("its paper's", "Harm under attack", numeric=True), Column("worst found", "Harm under attack", numeric=True),
        Column("Utility", numeric=True), Column("steps", "Cost to break", numeric=True),
        Column("examples", "Cost to break", numeric=True), Column("compute", "Cost to break", numeric=True),
    )  # fmt: skip
    rows = [_headline(label, s) for label, s in zip(subject_labels(result), result.subjects, strict=True)]
    caption = "Harm of each safeguard, confirmed on fresh seeds and unseen items, with 95 % intervals."
    return table(caption, heads, rows)


def attacks_table(result: Result) -> Table:
    """The strongest confirmed attacks on each subject and its cheapest break."""
    heads = (
        Column("Safeguard"), Column("Attack"), Column("Harm", numeric=True), Column("Utility", numeric=True),
        Column("Steps", numeric=True), Column("Compute", numeric=True), Column("Configuration"),
    )  # fmt: skip
    rows = [
        (label, found.attack, interval(found.confirmed.harm), plain(found.confirmed.utility.mean), whole(found.cost.steps),
         human_flops(found.cost.flops), settings(found.config))
        for label, subject in zip(subject_labels(result), result.subjects, strict=True)
        for found in best_attacks(subject)
    ]  # fmt: skip
    return table("The strongest confirmed attacks on each safeguard, and the cheapest that breaks it.", heads, rows)


def best_attacks(subject: Subject) -> list[Finding]:
    """The BEST findings by confirmed harm, and the cheapest break where it is none of them."""
    best = confirmed_findings(subject)[:BEST]
    cheapest = subject.cheapest_break
    known = {(found.attack, found.trial, found.rung) for found in best}
    return best + ([cheapest] if cheapest and (cheapest.attack, cheapest.trial, cheapest.rung) not in known else [])


def render(shown: Table, label: str, note: str = "") -> str:
    """A table environment. A last column of words is wrapped; columns with a group stand under one heading."""
    wide = not shown.columns[-1].numeric and len(shown.columns) > 3
    kinds = ["r" if column.numeric else "l" for column in shown.columns]
    kinds[-1:] = ["p{0.3\\linewidth}"] if wide else kinds[-1:]
    caption = escape(f"{shown.caption.rstrip('.')}. {note}".strip())
    lines = [r"\begin{table}[t]", r"\centering\small", rf"\caption{{{caption}}}", rf"\label{{{label}}}"]
    lines += [rf"\begin{{tabular}}{{{''.join(kinds)}}}", r"\toprule", *_groups(shown)]
    lines += [_row([column.title for column in shown.columns]), r"\midrule", *(_row(row) for row in shown.rows)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _groups(shown: Table) -> list[str]:
    """The row of headings above the columns with its rules; empty where no column has one."""
    spans, rules, start = [], [], 1
    for group, width in shown.groups():
        spans.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(group)}}}" if group else "")
        rules += [rf"\cmidrule(lr){{{start}-{start + width - 1}}}"] if group else []
        start += width
    return [" & ".join(spans) + r" \\", " ".join(rules)] if spans else []


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return " & ".join(escape(cell) for cell in cells) + r" \\"


def _headline(label: str, subject: Subject) -> tuple[str, ...]:
    spot, cheapest = subject.weak_spot, subject.cheapest_break
    return (
        label,
        subject.verdict,
        plain(subject.baseline and subject.baseline.harm),
        plain(subject.paper_attack and subject.paper_attack.measures.harm),
        interval(spot and spot.confirmed.harm),
        plain(spot and spot.confirmed.utility.mean),
        whole(cheapest and cheapest.cost.steps),
        whole(cheapest and cheapest.cost.examples),
        human_flops(cheapest and cheapest.cost.flops),
    )


def _letter(letter: str) -> str:
    """ASCII and the Latin letters that T1 fonts have as they are, all else as its code point."""
    if letter.isascii() or re.match("[À-ſ]", letter):
        return letter
    return rf"\texttt{{U+{ord(letter):04X}}}"

"""Writes the reports beside result.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from weakspot.errors import UserError, unknown
from weakspot.files import write_text
from weakspot.records import Result
from weakspot.report.latex import to_latex
from weakspot.report.markdown import to_markdown
from weakspot.report.page import to_html
from weakspot.report.sheets import subjects_sheet, trials_sheet

# What each format writes: the name of a file and what makes its text. JSON is the result in today's schema version, under a
# name of its own: result.json is what the audit found and is never written again.
FORMATS: dict[str, dict[str, Callable[[Result], str]]] = {
    "md": {"report.md": to_markdown},
    "html": {"report.html": to_html},
    "json": {"report.json": Result.to_json},
    "csv": {"trials.csv": trials_sheet, "subjects.csv": subjects_sheet},
    "latex": {"report.tex": to_latex},
}
DEFAULT = ("md", "html")


def parse_formats(text: str, known: Sequence[str] = tuple(FORMATS)) -> list[str]:
    """The formats of a list such as "html,csv", each once.

    Raises:
        UserError: one that is not known, or none.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in known:
            raise unknown("format", name, known)
    if not names:
        raise UserError(f"--format {text!r} names no format: give some of {', '.join(known)}")
    return names


def write_reports(result: Result, out: Path, formats: Sequence[str] = DEFAULT, source: str | None = None) -> list[Path]:
    """Write a result in the formats asked for into a folder, each file whole or not at all.

    Args:
        source: the text of the result.json that the page carries; that of `result` if None.

    Returns:
        The paths written.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    makers = {name: make for chosen in formats for name, make in FORMATS[chosen].items()}
    texts = {out / name: to_html(result, source) if make is to_html else make(result) for name, make in makers.items()}
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)

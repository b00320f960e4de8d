"""Writes the reports beside result.json."""

from __future__ import annotations

from pathlib import Path

from weakspot.files import write_text
from weakspot.records import Result
from weakspot.report.markdown import to_markdown
from weakspot.report.page import to_html


def write_reports(result: Result, out: Path) -> list[Path]:
    """Write report.md and report.html into a folder, each whole or not at all.

    Returns:
        The paths written.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    texts = {out / "report.md": to_markdown(result), out / "report.html": to_html(result)}
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)

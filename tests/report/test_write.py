"""Writing: both files, whole, and a plain word where that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.builders import make_result, make_subject
from weakspot.errors import UserError
from weakspot.records import parse_result
from weakspot.report.write import write_reports


def test_both_reports_are_written_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    assert write_reports(make_result(), out) == [out / "report.md", out / "report.html"]
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.md"]
    assert (out / "report.md").read_text(encoding="utf-8").startswith("# Audit of undefended")
    assert (out / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_a_result_that_went_through_its_file_gives_the_same_reports(tmp_path: Path) -> None:
    small = make_result([make_subject()])
    direct = write_reports(small, tmp_path / "direct")
    reread = write_reports(parse_result(small.to_json()), tmp_path / "reread")
    assert [path.read_bytes() for path in direct] == [path.read_bytes() for path in reread]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="in the way"):
        write_reports(make_result([]), tmp_path / "file")

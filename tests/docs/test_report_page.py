"""The page about the report explains every part of the report."""

from __future__ import annotations

import re

from tests.docs.blocks import ROOT


def test_every_part_of_the_report_is_explained() -> None:
    """Its sections, by the names that its own navigation gives them."""
    page = (ROOT / "report/page.html").read_text()
    navigation = re.search(r'<nav aria-label="Sections">(.*?)</nav>', page)
    assert navigation, "report/page.html has no navigation"
    named = re.findall(r'href="#[\w-]+">([^<]+)</a>', navigation[1])
    assert len(named) > 5
    explained = re.findall(r"^## (.+)$", (ROOT / "docs/reading-a-report.md").read_text(), re.MULTILINE)
    assert [name for name in named if name not in explained] == []

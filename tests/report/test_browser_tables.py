"""The leaderboard and the comparison in a real browser: sorting by mouse and key, narrow windows, nothing requested.

Needs Chromium (Debian: `apt-get install chromium`); skipped where there is none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.report.browsing import NEEDS_CHROMIUM, serious, visit
from tests.report.releases import broken, held, release, some_cards
from weakspot.report import comparison
from weakspot.report.compare import Audit, compare
from weakspot.report.leaderboard import make_boards, to_html

pytestmark = NEEDS_CHROMIUM
NAMES = "rows => rows.map(row => row.cells[1].querySelector('.value').textContent)"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "leaderboard.html"
    path.write_text(to_html(make_boards(some_cards())), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "compare.html"
    audits = [Audit("before", release(broken(), held())), Audit("after", release(held("refusal"), held()))]
    path.write_text(comparison.to_html(compare(audits)), encoding="utf-8")
    return path


def ranked(page: Any) -> list[str]:
    """Safeguards of the second board, from the top."""
    return page.locator("table.board").nth(1).locator("tbody tr").evaluate_all(NAMES)


def test_a_press_on_a_head_sorts_and_another_turns_it_round(browser: Any, board: Path) -> None:
    page, seen = visit(browser, board)
    assert ranked(page) == ["tar", "lat", "repnoise", "refusal", "booster"]
    table = page.locator("table.board").nth(1)
    table.locator("thead button").nth(1).click()
    assert ranked(page) == ["booster", "lat", "refusal", "repnoise", "tar"]
    assert table.locator("th").nth(1).get_attribute("aria-sort") == "ascending"
    table.locator("thead button").nth(1).press("Enter")  # by key as by mouse
    assert ranked(page) == ["tar", "repnoise", "refusal", "lat", "booster"]
    assert table.locator("th").nth(1).get_attribute("aria-sort") == "descending"
    table.locator("thead button").nth(0).click()
    assert ranked(page)[-1] == "booster"  # what has no rank comes after what has one
    assert table.locator("th[aria-sort]").count() == 1
    assert seen == []
    page.close()


def test_what_is_unreliable_tells_why_when_asked(browser: Any, board: Path) -> None:
    page, _ = visit(browser, board)
    folded = page.locator("tr.unreliable details.why")
    assert not folded.locator("li").first.is_visible()
    folded.locator("summary").click()
    assert folded.locator("li").first.is_visible()
    page.close()


@pytest.mark.parametrize("width", [390, 980, 1280])
@pytest.mark.parametrize("which", ["board", "compared"])
def test_no_table_makes_the_page_scroll_sideways(browser: Any, request: pytest.FixtureRequest, which: str, width: int) -> None:
    page, seen = visit(browser, request.getfixturevalue(which), width=width)
    page.evaluate("for (const folded of document.querySelectorAll('details')) folded.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert seen == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["board", "compared"])
def test_axe_finds_nothing_serious_in_tables(browser: Any, request: pytest.FixtureRequest, which: str, scheme: str) -> None:
    page, seen = visit(browser, request.getfixturevalue(which), scheme=scheme)
    page.evaluate("for (const folded of document.querySelectorAll('details')) folded.open = true")
    assert serious(page) == []
    assert seen == []
    page.close()

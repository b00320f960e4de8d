"""report.html in a real browser: what a click, a key, a download and a printer do, and that nothing in it can do more.

Needs Chromium (Debian: `apt-get install chromium`); skipped where there is none.
"""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.browsing import CHROMIUM, NEEDS_CHROMIUM, serious, visit
from tests.report.builders import make_card, make_finding, make_result, make_subject, make_trial
from tests.report.large import make_large
from weakspot.files import write_text
from weakspot.records import Result, SearchRecord, VariationRecord
from weakspot.report.page import to_html

pytestmark = NEEDS_CHROMIUM
DRAWN = "html[data-drawn]"  # all plots are there


@pytest.fixture(scope="module")
def default_audit() -> Result:
    return make_large()


@pytest.fixture(scope="module")
def file(default_audit: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(default_audit, tmp_path_factory.mktemp("page"))


def write(result: Result, folder: Path) -> Path:
    path = folder / "report.html"
    path.write_text(to_html(result), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def opened(browser: Any, file: Path) -> Iterator[tuple[Any, list[str]]]:
    page, seen = visit(browser, file, ready=DRAWN)
    yield page, seen
    page.close()


def test_the_page_opens_without_errors_or_requests_and_draws_every_plot(opened: tuple[Any, list[str]]) -> None:
    page, seen = opened
    assert seen == []
    drawn = page.evaluate(
        "[...document.querySelectorAll('[data-chart]')].map(h => [h.dataset.chart, h.querySelectorAll('.main-svg').length])"
    )
    assert dict(map(tuple, drawn)).keys() == {"cost", "utility", "seeds", "search", "knobs", "parallel"}
    assert all(count > 0 for _, count in drawn), drawn


def confirmed_cell(result: Result) -> tuple[str, str, dict[str, Any]]:
    """Family, safeguard and configuration of tar's weak spot."""
    spot = next(s for s in result.subjects if s.defense == "tar").weak_spot
    assert spot is not None
    return spot.attack, "tar", spot.config


def test_a_click_on_a_cell_shows_its_configuration(opened: tuple[Any, list[str]], default_audit: Result) -> None:
    page, _ = opened
    family, subject, config = confirmed_cell(default_audit)
    page.get_by_role("button", name=f"{family} against {subject}:").click()
    shown = page.locator("#panel").inner_text()
    assert f"{family} against {subject}" in shown
    for knob, value in config.items():
        assert re.search(rf"{knob}\s+{re.escape(f'{value:.4g}' if isinstance(value, float) else str(value))}\b", shown), knob


def test_the_heat_map_is_one_tab_stop_walked_by_arrows_and_opened_by_enter(opened: tuple[Any, list[str]]) -> None:
    page, _ = opened
    assert page.locator('#heat-map button[tabindex="0"]').count() == 1
    page.locator("#heat-map button").first.click()
    before = page.locator("#panel h3").inner_text()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.locator("#panel h3").inner_text() == before  # walking alone changes nothing
    page.keyboard.press("Enter")
    row = page.locator("#heat-map tbody tr").nth(1).locator("th").inner_text()
    column = page.locator("#heat-map thead th").nth(2).inner_text()
    assert page.locator("#panel h3").inner_text() == f"{row} against {column}"
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"


def fetched(page: Any, name: str) -> bytes:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=name, exact=True).click()
    assert waiting.value.suggested_filename == name
    return Path(waiting.value.path()).read_bytes()


def test_the_downloaded_json_is_result_json_byte_for_byte(opened: tuple[Any, list[str]], default_audit: Result) -> None:
    assert fetched(opened[0], "result.json") == default_audit.to_json().encode()


def test_the_downloaded_table_has_every_trial(opened: tuple[Any, list[str]], default_audit: Result) -> None:
    rows = list(csv.DictReader(io.StringIO(fetched(opened[0], "trials.csv").decode("utf-8-sig"))))
    assert len(rows) == sum(len(subject.trials) for subject in default_audit.subjects)
    wanted = sorted(trial.id for subject in default_audit.subjects for trial in subject.trials)
    column = next(name for name in rows[0] if name in ("trial", "id"))
    assert sorted(row[column] for row in rows) == wanted


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Any, file: Path, scheme: str) -> None:
    page, seen = visit(browser, file, scheme=scheme, ready=DRAWN)
    page.evaluate("for (const folded of document.querySelectorAll('details:not(.trials)')) folded.open = true")
    found = serious(page)
    page.close()
    assert found == []
    assert seen == []


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_never_scrolls_sideways(browser: Any, file: Path, width: int) -> None:
    page, _ = visit(browser, file, width=width, ready=DRAWN)
    page.evaluate("for (const folded of document.querySelectorAll('details')) folded.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_the_switch_turns_the_page_and_its_plots_dark(browser: Any, file: Path) -> None:
    page, _ = visit(browser, file, ready=DRAWN)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    ink = page.evaluate("getComputedStyle(document.querySelector('[data-chart=cost] .xtitle')).fill")
    page.get_by_role("button", name="Dark").click()
    assert page.get_by_role("button", name="Dark").get_attribute("aria-pressed") == "true"
    assert page.evaluate(ground) != light
    page.wait_for_function(f"getComputedStyle(document.querySelector('[data-chart=cost] .xtitle')).fill !== '{ink}'")
    page.close()


def test_everything_that_answers_is_reached_by_the_tab_key(browser: Any, file: Path) -> None:
    page, _ = visit(browser, file, ready=DRAWN)
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("(e => e.id || e.dataset.download || e.dataset.row && 'cell' || e.tagName)(document.activeElement)")
        )
    assert {"result.json", "trials.csv", "print", "theme", "cell", "parallel-choice", "SUMMARY"} <= reached
    page.close()


def test_a_default_audit_prints_on_two_pages(browser: Any, file: Path, tmp_path: Path) -> None:
    page, _ = visit(browser, file, ready=DRAWN)
    printed = page.pdf(prefer_css_page_size=True)
    page.close()
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 2


def test_without_scripts_the_tables_and_drawings_are_there(browser: Any, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator("#heat-map td").first.is_visible()
    assert page.locator(".drawn svg").first.is_visible()
    assert not page.locator("#theme").is_visible()
    context.close()


HOSTILE = (
    "<script>alert('script')</script>",
    "</script><script>alert('closed')</script>",
    "<img src=x onerror=alert('handler')>",
    "\"'><svg onload=alert('svg')>",
    '<b>bold</b><a href="https://example.org/x">link</a><br><sub>low</sub>',
    "{{ 7 * 7 }} ${alert(1)} %{x} &lt;script&gt;",
    "line\u2028parts\u2029and\u202ereversed",
    "<!-- <script>",
    "x" * 1_000_000,
)


def nasty_result() -> Result:
    """Every field that can carry somebody's text carries a hostile one."""
    subjects = []
    for number, text in enumerate(HOSTILE):
        trials = [
            make_trial(n, [(16, 0.1 * n, 0.95), (64, 0.15 * n, 0.95)], attack=f"{text}{n % 2}", reason=text) for n in range(6)
        ]
        trials = [
            t.model_copy(update={"config": {text: text, "rate": 0.1 * n}, "note": text, "id": f"{text}{n}"})
            for n, t in enumerate(trials)
        ]
        finding = make_finding(attack=f"{text}0", **dict[str, Any]({text: text})).model_copy(update={"trial": text})
        subjects.append(
            make_subject(
                f"{text}{number}", "BROKEN", text, trials, summary=text, claims=text, config={text: text}, weak_spot=finding,
                cheapest_break=finding, confirmed=[finding], frontier=[finding], card=make_card(text), ended_by=text,
                twins={"benign": VariationRecord(label=text, harm=None, utility=None, moved=None, reason=text)},
            )
        )  # fmt: skip
    search = SearchRecord(families=list(HOSTILE), left_out={text: text for text in HOSTILE})
    made = make_result(subjects, testbed=HOSTILE[0], search=search, partial=HOSTILE[2])
    words = {
        "command": HOSTILE[1],
        "packages": {t[:99]: t for t in HOSTILE},
        "pins": {t[:99]: t for t in HOSTILE},
        "finished": HOSTILE[3],
    }
    return made.model_copy(update={"provenance": made.provenance.model_copy(update=words)})


def test_hostile_text_shows_and_does_nothing(browser: Any, tmp_path: Path) -> None:
    result = nasty_result()
    page, seen = visit(browser, write(result, tmp_path), ready=DRAWN)
    for button in page.locator("#heat-map button").all()[:12]:
        button.dispatch_event("click")
    page.locator("#parallel-choice").select_option(index=1)
    assert (
        page.evaluate("document.querySelectorAll('main a[href]:not([href^=\"#\"]), img, iframe, svg a[*|href], svg b').length")
        == 0
    )
    handlers = "[...document.querySelectorAll('*')].filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length"
    assert page.evaluate(handlers) == 0
    assert page.evaluate("[...document.scripts].filter(s => !s.type).length") == 3
    drawn = page.evaluate("[...document.querySelectorAll('[data-chart] text')].map(t => t.textContent).join(' ')")
    assert "<b>bold</b>" in drawn  # a label of Plotly's shows the letters
    assert "<script>alert('script')</script>" in page.locator("#panel").inner_text() + page.locator("main").inner_text()
    assert seen == []
    assert json.loads(fetched(page, "result.json"))["subjects"][1]["defense"] == f"{HOSTILE[1]}1"
    page.close()


def test_a_safeguard_whose_every_trial_failed_keeps_its_place_in_the_plots(browser: Any, tmp_path: Path) -> None:
    failed = [make_trial(n, [], status="failed", reason="out of memory") for n in range(3)]
    subjects = [
        make_subject("none", trials=[]),
        make_subject("mute", "INCONCLUSIVE", trials=failed),
        make_subject("tar", trials=[make_trial(9, [(4, 0.6, 1.0)])]),
    ]
    page, seen = visit(browser, write(make_result(subjects), tmp_path), ready=DRAWN)
    for chart in ("cost", "utility"):
        assert page.locator(f"[data-chart={chart}] figcaption").all_inner_texts() == ["mute", "tar"], "and nothing of the base"
        words = page.locator(f"[data-chart={chart}] figure").first.locator("svg").first.text_content() or ""
        assert "no trials were measured" in page.locator(f"[data-chart={chart}] figure").first.inner_text() + words
    assert seen == []
    page.close()


def test_a_lone_surrogate_is_shown_as_a_replacement(browser: Any, tmp_path: Path) -> None:
    subject = make_subject("half \ud83d", reason="\udc80", trials=[make_trial(0, [(4, 0.6, 1.0)], attack="cut \ud800")])
    path = tmp_path / "report.html"
    write_text(path, to_html(make_result([subject])))
    page, seen = visit(browser, path, ready=DRAWN)
    assert seen == []
    assert "cut" in page.locator("#heat-map tbody th").all_inner_texts()
    page.close()


def test_chromium_alone_opens_it_too(file: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    picture = tmp_path / "page.png"
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--screenshot={picture}",
        file.as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert picture.stat().st_size > 10_000

"""The leaderboard: no two threat models in one ranking, nothing unreliable hidden or ranked, HELD cut off, text inert."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import random
import re

import pytest

from tests.report.releases import broken, finding, held, release, some_cards, trials
from tests.report.test_page import Page
from weakspot.cards import Card, External, Reported, Supplied
from weakspot.records import Cost
from weakspot.report.cards import make_cards
from weakspot.report.leaderboard import Board, inert, look, make_boards, to_csv, to_html

NASTY = "</script><script>alert('x')</script><img src=x onerror=alert(1)>\x1b[31m\ud800\u2028=1+1"


@pytest.fixture(scope="module")
def boards() -> list[Board]:
    return make_boards(some_cards())


@pytest.fixture(scope="module")
def html(boards: list[Board]) -> str:
    return to_html(boards)


def names(board: Board) -> list[tuple[int | None, str]]:
    return [(row.rank, row.card.name) for row in board.rows]


def test_each_threat_model_has_a_ranking_of_its_own(boards: list[Board]) -> None:
    assert [names(board) for board in boards] == [
        [(1, "refusal")],
        [(1, "tar"), (2, "lat"), (3, "repnoise"), (4, "refusal"), (None, "booster")],
    ]
    assert len({board.digest for board in boards}) == 2


def test_a_label_does_not_bring_two_threat_models_together() -> None:
    same = [card.threat_model.model_copy(update={"digest": "same"}) for card in some_cards()]
    cards = [card.model_copy(update={"threat_model": threat}) for card, threat in zip(some_cards(), same, strict=True)]
    assert len(make_boards(cards)) == 2


def test_another_testbed_is_another_ranking() -> None:
    cards = [*some_cards(), *make_cards(release(testbed="smollm2"), {}, {}).values()]
    assert [board.testbed for board in make_boards(cards)] == ["fable", "fable", "smollm2"]


def test_the_order_of_the_cards_changes_nothing(html: str) -> None:
    cards = some_cards()
    random.Random(0).shuffle(cards)
    cards += some_cards()[:2]  # copies
    assert to_html(make_boards(cards)) == html


def test_rank_is_by_the_upper_end_so_that_a_thin_audit_does_not_win() -> None:
    found = {"thin": finding(0.05, 0.4), "thorough": finding(0.1, 0.05), "equal": finding(0.1, 0.05)}
    result = release(*(held(name, weak_spot=spot, confirmed=[spot], frontier=[]) for name, spot in found.items()))
    (board,) = make_boards(make_cards(result, {}, {}).values())
    assert names(board) == [(1, "equal"), (1, "thorough"), (3, "thin")]


def test_what_is_unreliable_is_shown_with_its_reasons_and_without_a_rank(html: str) -> None:
    row = re.findall(r"<tr [^>]*unreliable.*?</tr>", html, re.DOTALL)
    assert len(row) == 1
    assert "booster" in row[0]
    assert "unreliable (1 reason)" in row[0]
    assert "3 trials measured something and at least 8 are needed" in row[0]
    assert "<span>–</span>" in row[0]


def row_of(html: str, name: str) -> str:
    return next(row for row in re.findall(r"<tr .*?</tr>", html, re.DOTALL) if f">{name}<" in row)


def test_held_is_cut_off_where_its_search_ended(html: str) -> None:
    tar = row_of(html, "tar")
    assert "&gt; 32 GFLOP" in tar
    assert "not broken up to there" in tar
    assert "12 trials, 2 families" in tar
    refusal = row_of(html, "refusal")
    assert "&gt;" not in refusal.replace("&gt;=", "")
    assert "128 GFLOP" in refusal


def test_a_break_without_an_attack_costs_nothing_and_an_open_one_is_not_known() -> None:
    free = finding(0.9, attack="noop", cost=Cost())
    unclear = held("unclear", verdict="INCONCLUSIVE")
    (board,) = make_boards(make_cards(release(broken("free", cheapest_break=free), unclear), {}, {}).values())
    assert [row.cells[4].text for row in board.rows] == ["nothing at all", "-"]


def test_data_of_another_kind_is_told(html: str) -> None:
    assert "different sets of data" not in html
    first, second = make_cards(release(held("a"), held("b")), {}, {}).values()
    pins = second.provenance.pins | {"data": "another"}
    second = second.model_copy(update={"provenance": second.provenance.model_copy(update={"pins": pins})})
    assert "measured on 2 different sets of data" in to_html(make_boards([first, second]))


def test_one_script_may_run_and_nothing_is_fetched(html: str) -> None:
    page = Page(html)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 1
    assert not set(tags) & {"iframe", "object", "embed", "img", "base", "form"}
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    (policy,) = [a["content"] or "" for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules.pop("style-src") == "'unsafe-inline'"
    assert rules.pop("script-src") == f"'sha256-{digest}'"
    assert rules.pop("img-src") == "data:"
    assert rules == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        href = attributes.get("href") or ""
        assert tag in ("a", "link") or not href
        assert href.startswith(("https://", "#")) or href in ("", "data:,")
    assert "@import" not in html
    assert "url(" not in html


def test_colours_and_fonts_are_those_of_the_report(html: str) -> None:
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    used = set(re.findall(r"var\((--[\w-]+)\)", style.replace(look(), "")))
    told = dict(re.findall(r"(--[\w-]+): ([^;]+);", look()))
    assert used <= set(told)
    for name in ("--page", "--ink", "--held", "--broken"):
        assert told[name].startswith("light-dark("), "the dark page has colours of its own"


def hostile() -> Card:
    """A card with the same nasty text wherever a card holds text."""
    facts = Supplied(
        paper=NASTY,
        reported=Reported(value=-0.1, source=NASTY, measure=NASTY, url="https://example.org/\"'><script>"),
        external=[External(source=NASTY, attack=NASTY, harm=0.1)],
    )
    found = finding(attack=NASTY, config={NASTY: NASTY})
    subject = held(NASTY, summary=NASTY, claims=NASTY, weak_spot=found, confirmed=[found], reason=NASTY, trials=trials(2))
    (card,) = make_cards(release(subject, testbed=NASTY), {NASTY: facts}, {}).values()
    return card.model_copy(update={"unreliable": [NASTY], "name": NASTY})


def test_hostile_text_shows_and_does_nothing() -> None:
    html = to_html(make_boards([hostile()]))
    html.encode("utf-8")
    page = Page(html)
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "<img" not in html
    assert "&lt;script&gt;alert" in html
    assert "\x1b" not in html
    for _, attributes in page.elements:
        assert "onerror" not in attributes


def test_a_line_of_a_megabyte_is_cut() -> None:
    card = some_cards()[0]
    long = card.model_copy(update={"name": "x" * 10**6, "paper": "y" * 10**6, "testbed": "z" * 10**6})
    assert len(to_html(make_boards([long]))) < 60_000
    assert "[cut: 1,000,000 characters]" in to_csv(make_boards([long]))


def test_the_csv_has_every_card_once_with_plain_numbers(boards: list[Board]) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(boards), newline="")))
    assert [row["name"] for row in rows] == ["refusal", "tar", "lat", "repnoise", "refusal", "booster"]
    tar = rows[1]
    assert (tar["rank"], float(tar["harm"]), float(tar["harm_high"])) == ("1", 0.06, 0.11)
    assert (tar["break_flops"], float(tar["censored_at_flops"])) == ("", 64 * 5e8)
    assert (rows[4]["censored_at_flops"], float(rows[4]["break_flops"])) == ("", 256 * 5e8)
    assert rows[5]["rank"] == ""
    assert rows[5]["reliable"] == "no"
    assert {row["threat_model"] for row in rows} == {board.digest for board in boards}


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r\n=1", " =1"])
def test_no_cell_begins_a_formula(text: str) -> None:
    assert str(inert(text)).startswith("'")


def test_a_hostile_card_is_one_line_of_csv() -> None:
    text = to_csv(make_boards([hostile()]))
    text.encode("utf-8")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len(rows) == 2
    assert text.count("\r\n") == 2
    for cell in rows[1]:
        assert cell.isprintable()
        assert not cell.startswith(("=", "+", "@"))
    assert rows[1][rows[0].index("reported")] == "-0.1", "a number stays a number"

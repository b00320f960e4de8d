"""report.html: self-contained, escaped, complete, and readable by machines that read pages aloud."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from tests.report.builders import HOSTILE, make_card, make_result, make_subject, make_trial
from weakspot.records import VariationRecord
from weakspot.report.page import to_html

VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Elements, attributes and text of a page; complains about tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", " ".join(data.split())))

    def inside(self, tag: str) -> list[str]:
        return [text for parent, text in self.texts if parent == tag]


@pytest.fixture(scope="module")
def html() -> str:
    return to_html(make_result())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_nothing_is_fetched_and_nothing_runs(html: str, page: Page) -> None:
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "img", "base", "form"}
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} has the handler {name}"
            if name in ("href", "src", "xlink:href", "action", "data"):
                assert value is not None
                assert value.startswith("#") or value == "data:,"
            if not name.startswith("xmlns"):
                assert "http:" not in (value or "")
                assert "https:" not in (value or "")
    styles = " ".join(page.inside("style"))
    assert "@import" not in styles
    assert "url(" not in styles
    without_names = re.sub(r'xmlns(:xlink)?="http://www\.w3\.org/[^"]*"', "", html)
    visible = "".join(text for _, text in page.texts)
    assert without_names.count("http://") + without_names.count("https://") == visible.count("https://")


def test_a_policy_forbids_scripts_and_requests(page: Page) -> None:
    policies = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_hostile_text_shows_and_does_nothing() -> None:
    trial = make_trial(0, [], "failed", attack=HOSTILE, reason=HOSTILE)
    nasty = '"><img src=x onerror=alert(1)>'
    subject = make_subject(
        HOSTILE, "INCONCLUSIVE", HOSTILE, [trial], summary=nasty, claims=nasty, config={nasty: nasty}, card=make_card(nasty),
        twins={"benign": VariationRecord(label=nasty, harm=None, utility=None, moved=None, reason=nasty)},
    )  # fmt: skip
    result = make_result([subject], testbed=nasty)
    text = to_html(result.model_copy(update={"provenance": result.provenance.model_copy(update={"command": HOSTILE})}))
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert" in text
    assert any("<script>alert('x')</script>" in shown for _, shown in Page(text).texts)


def test_every_subject_has_a_card_with_its_verdict_and_both_scores(html: str) -> None:
    cards = re.findall(r'<article class="card (\w+)">(.*?)</article>', html, re.DOTALL)
    heads = [(re.findall(r"<h3>(.*?)</h3>", card)[0], re.findall(r'"badge (\w+)">(\w+)<', card)[0]) for _, card in cards]
    assert heads == [
        ("undefended", ("broken", "BROKEN")),
        ("tar", ("broken", "BROKEN")),
        ("refusal", ("held", "HELD")),
        ("random_answer", ("inconclusive", "INCONCLUSIVE")),
    ]
    assert [kind for kind, _ in cards] == [kind for _, (kind, _) in heads]
    tar = cards[1][1]
    assert "<strong>0.78</strong>" in tar
    assert "confirmed harm [0.70, 0.85]" in tar
    assert "0.85 in search" in tar
    assert "No attack was confirmed." in cards[3][1]


def test_held_never_stands_without_its_limits(html: str) -> None:
    card = html[html.index('<article class="card held">') :].split("</article>")[0]
    assert "HELD means: nothing passed. The longest trial took 256 steps; HELD says nothing beyond that." in card


def test_tables_have_captions_and_scoped_heads(html: str) -> None:
    tables = re.findall(r"<table.*?</table>", html, re.DOTALL)
    assert len(tables) >= 10
    for table in tables:
        assert "<caption>" in table
        assert re.findall(r"<th(?![^>]*scope=)(?!ead)[^>]*>", table) == []
        for row in re.findall(r"<tr>(.*?)</tr>", table.split("<tbody>")[1], re.DOTALL):
            assert row.startswith('<th scope="row">')


def test_ids_are_unique_and_every_link_leads_somewhere(page: Page) -> None:
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    links = [attributes["href"] or "" for tag, attributes in page.elements if tag == "a"]
    assert links
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_headings_descend_without_gaps(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_language_is_declared_and_the_title_says_what_was_audited(page: Page) -> None:
    assert dict(page.elements)["html"] == {"lang": "en"}
    assert page.inside("title")[0].startswith("Audit of undefended, tar, refusal and random_answer on the fable testbed")


def test_every_trial_is_listed_folded(html: str) -> None:
    folded = re.findall(r"<details>.*?</details>", html, re.DOTALL)
    assert len(folded) == 3  # one subject has no trials
    assert all(f'<th scope="row">trial-00{number}</th>' in folded[0] for number in range(6))
    assert "the loss became infinite" in folded[0]


def test_failed_controls_and_doubts_stand_before_the_table(html: str) -> None:
    assert html.index("Control null failed") < html.index('id="headline"')
    assert html.index("Doubt short_search") < html.index('id="headline"')


def test_the_same_result_gives_the_same_bytes(html: str) -> None:
    assert to_html(make_result()) == html


def test_an_audit_without_subjects_is_still_a_page() -> None:
    Page(to_html(make_result([])))

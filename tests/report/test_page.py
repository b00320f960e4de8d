"""report.html: self-contained, escaped, complete, and readable by machines that read pages aloud."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from tests.report.builders import HOSTILE, make_card, make_finding, make_result, make_subject, make_trial
from tests.report.large import make_large
from weakspot.records import HarmUtility, SearchRecord, VariationRecord
from weakspot.report.page import ROWS, to_html

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


def without_scripts(html: str) -> str:
    return re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)


def test_nothing_is_fetched(html: str, page: Page) -> None:
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"iframe", "object", "embed", "img", "base", "form", "link rel"}
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
    without_names = re.sub(r'xmlns(:xlink)?="http://www\.w3\.org/[^"]*"', "", without_scripts(html))
    visible = "".join(text for parent, text in page.texts if parent != "script")
    assert without_names.count("http://") + without_names.count("https://") == visible.count("https://")


def test_only_our_scripts_run_and_the_policy_names_them_by_digest(html: str, page: Page) -> None:
    (policy,) = [a["content"] or "" for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["style-src"] == "'unsafe-inline'"
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(scripts) == 3
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    assert not any("\r" in script or "eval(" in script for script in scripts)
    others = [a for tag, a in page.elements if tag == "script" and a]
    assert {a.get("type") for a in others} == {"application/json", "text/plain"}
    assert all("src" not in a for a in others)


def test_the_page_carries_the_result_as_it_lies_on_disk() -> None:
    source = make_result().to_json().replace("\n", "\n ")
    packed = re.search(r'data-file="result.json">(.*?)</script>', to_html(make_result(), source))
    assert packed is not None
    assert gzip.decompress(base64.b64decode(packed[1])).decode() == source


def test_hostile_text_shows_and_does_nothing() -> None:
    trial = make_trial(0, [], "failed", attack=HOSTILE, reason=HOSTILE)
    nasty = '"><img src=x onerror=alert(1)>'
    subject = make_subject(
        HOSTILE, "INCONCLUSIVE", HOSTILE, [trial], summary=nasty, claims=nasty, config={nasty: nasty}, card=make_card(nasty),
        twins={"benign": VariationRecord(label=nasty, harm=None, utility=None, moved=None, reason=nasty)},
    )  # fmt: skip
    search = SearchRecord(families=[HOSTILE], left_out={nasty: HOSTILE})
    result = make_result([subject], testbed=nasty, search=search, partial=nasty)
    text = to_html(result.model_copy(update={"provenance": result.provenance.model_copy(update={"command": HOSTILE})}))
    assert len(re.findall("<script", text)) == text.count("</script>") == 6  # two downloads, the data and three of ours
    assert "<script" not in without_scripts(text)
    assert "<img" not in text
    assert "&lt;script&gt;alert" in text
    assert any("<script>alert('x')</script>" in shown for parent, shown in Page(text).texts if parent != "script")


def test_what_an_attack_noted_is_not_shown() -> None:
    trial = make_trial(0, [(4, 0.2, 1.0)]).model_copy(update={"note": "the reply was: secret-words"})
    html = to_html(make_result([make_subject(trials=[trial])]))
    assert "secret-words" not in html


def test_a_partial_result_says_so_before_anything_else(html: str) -> None:
    assert 'class="partial"' not in html
    marked = to_html(make_result(partial="interrupted after 13 of 48 trials"))
    assert marked.index("interrupted after 13 of 48 trials") < marked.index("<h1>")


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
        assert "<caption" in table
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
    folded = re.findall(r'<details class="trials">.*?</details>', html, re.DOTALL)
    assert len(folded) == 3  # one subject has no trials
    assert all(f'<th scope="row">trial-00{number}</th>' in folded[0] for number in range(6))
    assert "the loss became infinite" in folded[0]


def test_a_long_search_is_listed_in_part_and_says_so() -> None:
    trials = [make_trial(n, [(16, (n % 100) / 100, 0.95)]) for n in range(ROWS + 50)]
    html = to_html(make_result([make_subject(trials=trials)]))
    listed = re.findall(r'<th scope="row">(trial-\d+)</th>', html)
    assert len(listed) == ROWS
    assert "trial-099" in listed  # of most harm
    assert "trial-000" not in listed
    assert f"The {ROWS} with most feasible harm are shown" in html


def test_a_cell_of_the_heat_map_says_what_it_rests_on(html: str) -> None:
    heat = html[html.index('id="heat-map"') :].split("</table>")[0]
    rows = re.findall(r'<tr><th scope="row">(\w+)</th>(.*?)</tr>', heat)
    cells = {family: re.findall(r'<td class="([\w ]+)".*?>([^<]*)</td>', row) for family, row in rows}
    assert re.findall(r'<th scope="col" class="column">(\w+)</th>', heat) == ["undefended", "tar", "refusal"]
    assert cells["lora"] == [("confirmed breaks", "● 0.78"), ("confirmed breaks", "● 0.78"), ("confirmed", "● 0.22")]
    assert cells["full"][2] == ("searched breaks", "○ 0.85")


def test_what_was_not_searched_is_told_with_the_reason() -> None:
    search = SearchRecord(families=["lora", "full", "prefill"], left_out={"merge": "needs the undefended weights"})
    html = to_html(make_result(search=search))
    part = html[html.index('id="not-searched"') :].split("</section>")[0]
    assert "needs the undefended weights" in part
    assert re.search(r"prefill</th><td[^>]*>in reach, but the search spent no trial on them: undefended, tar and refusal", part)
    assert ">lora<" not in part


def test_seeds_are_points_beside_their_interval() -> None:
    finding = make_finding()
    seeds = [HarmUtility(harm=harm, utility=1.0) for harm in (0.7, 0.8, 0.84)]
    finding = finding.model_copy(update={"confirmed": finding.confirmed.model_copy(update={"per_seed": seeds})})
    html = to_html(make_result([make_subject(weak_spot=finding)]))
    meter = html[html.index('class="meter"') :].split("</div>")[0]
    assert re.findall(r'class="seed" style="left: ([\d.]+)%"', meter) == ["70.0", "80.0", "84.0"]
    assert "single seeds 0.70, 0.80, 0.84" in meter


def test_a_default_audit_stays_under_three_megabytes() -> None:
    assert len(to_html(make_large()).encode()) < 3_000_000


def test_five_thousand_trials_stay_under_ten_megabytes() -> None:
    result = make_large(trials=2000)
    assert sum(len(subject.trials) for subject in result.subjects) == 5000
    assert len(to_html(result).encode()) < 10_000_000


def test_failed_controls_and_doubts_stand_before_the_table(html: str) -> None:
    assert html.index("Control null failed") < html.index('id="headline"')
    assert html.index("Doubt short_search") < html.index('id="headline"')


def test_the_same_result_gives_the_same_bytes(html: str) -> None:
    assert to_html(make_result()) == html


def test_an_audit_without_subjects_is_still_a_page() -> None:
    Page(to_html(make_result([])))

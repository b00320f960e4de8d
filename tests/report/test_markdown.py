"""report.md, read the way GitHub reads it."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from tests.report.builders import HOSTILE, make_card, make_result, make_subject, make_trial
from weakspot.records import VariationRecord
from weakspot.report.markdown import escape, fenced, to_markdown
from weakspot.report.words import one_line

READER = MarkdownIt("commonmark").enable("table")


def shown(markdown: str) -> str:
    """The text that a reader sees, without markup."""
    tokens = [token for block in READER.parse(markdown) for token in (block.children or [])]
    return " ".join(token.content for token in tokens if token.type in ("text", "code_inline", "text_special"))


def test_the_first_line_says_what_was_audited() -> None:
    first = to_markdown(make_result()).splitlines()[0]
    assert first == "# Audit of undefended, tar, refusal and random_answer on the fable testbed"


def test_every_subject_stands_with_its_verdict_and_both_scores() -> None:
    text = to_markdown(make_result())
    for line in ("**undefended: BROKEN.**", "**tar: BROKEN.**", "**refusal: HELD.**", "**random_answer: INCONCLUSIVE.**"):
        assert text.count(line) == 1
    assert "| tar | BROKEN | 0.02 | 0.99 | 0.13 | 0.95 | lora | 0.78 [0.70, 0.85] | 0.85 |" in text
    assert "harm 0.22 [0.14, 0.29]" in text
    assert "in search it scored 0.29" in text


def test_the_weak_spots_controls_are_part_of_a_subject_and_a_failed_one_says_why() -> None:
    ran = VariationRecord(label="benign in its place", harm=0.1, utility=0.97, moved=-0.6)
    failed = VariationRecord(label="a random change", harm=None, utility=None, moved=None, reason="diverged | twice")
    text = to_markdown(make_result([make_subject(twins={"benign": ran}), make_subject("refusal")]))
    assert "| benign in its place | 0.10 | -0.60 | 0.97 |" in text
    assert "Why there is none" not in text
    assert text.count("Controls of the weak spot") == 1
    text = to_markdown(make_result([make_subject(twins={"benign": ran, "random": failed})]))
    assert r"diverged \| twice" in text


def test_the_pitfall_card_is_part_of_a_subject() -> None:
    text = to_markdown(make_result([make_subject(card=make_card()), make_subject("refusal")]))
    assert text.count("Pitfall card") == 1
    assert "| P8 one configuration only | tested | -0.47 |" in text


def test_sections_stand_in_order() -> None:
    headings = [line for line in to_markdown(make_result()).splitlines() if line.startswith("## ")]
    assert headings == ["## Findings", "## Threat model", "## Weak spots", "## Controls", "## Doubts", "## How to reproduce"]


def test_every_row_of_a_table_has_its_columns() -> None:
    subject = make_subject("a|b", trials=[make_trial(0, [], "failed", reason="x | y")], reason="p | q")
    blocks = to_markdown(make_result([subject])).split("\n\n")
    tables = [block for block in blocks if block.startswith("|")]
    assert len(tables) == 7
    assert '<td style="text-align:left">a|b</td>\n<td style="text-align:left">BROKEN</td>' in READER.render(tables[0])
    for table in tables:
        rendered = READER.render(table)
        rows = rendered.split("<tr>")[1:]
        assert len(rows) == len(table.splitlines()) - 1
        assert {row.count("<th") + row.count("<td") for row in rows} == {rows[0].count("<th")}


@pytest.mark.parametrize("text", [HOSTILE, "a_b _c_ __d__ ~~e~~ &lt; \\* [x]: y", "<!-- c --> https://example.org", "] [a](b)"])
def test_escaped_text_shows_as_it_is(text: str) -> None:
    assert READER.render(f"x {escape(text)}").count("<") == 2  # the paragraph's own tags
    paragraph = READER.parse(f"x {escape(text)}")[1]
    assert "".join(token.content for token in paragraph.children or []) == f"x {one_line(text)}"


def test_hostile_names_and_reasons_are_no_markup_anywhere() -> None:
    subject = make_subject(
        HOSTILE, "INCONCLUSIVE", HOSTILE, summary=HOSTILE, claims=HOSTILE, config={HOSTILE: HOSTILE}, card=make_card(HOSTILE)
    )
    result = make_result([subject], testbed=HOSTILE)
    kinds = {token.type for block in READER.parse(to_markdown(result)) for token in (block.children or [block])}
    assert not kinds & {"html_block", "html_inline", "link_open", "image"}
    assert READER.render(to_markdown(result)).count("<h1>") == 1
    assert "<script>alert('x')</script>" in shown(to_markdown(result)).replace(" / ", "/")


def test_a_fence_outlasts_the_backticks_inside() -> None:
    (block,) = READER.parse(fenced("weakspot audit ````\n```\n# no heading"))
    assert block.type == "fence"
    assert block.content == "weakspot audit ````\n```\n# no heading\n"


def test_seeds_versions_and_command_are_there() -> None:
    text = to_markdown(make_result())
    assert "```sh\nweakspot audit --defense tar --trials 6 --out runs/tar && echo '<done>'\n```" in text
    for row in ("| torch | 2.6.0 |", "| root seed | 7 |", "| confirmation seeds | 11, 12, 13 |", "| Python | 3.11.2 |"):
        assert row in text
    assert "| pinned: weights.tar | fable-tar-0123456789abcdef 2718281828459045 |" in text


def test_doubts_and_failed_controls_come_before_the_findings() -> None:
    text = to_markdown(make_result())
    assert text.index("Control null failed") < text.index("Doubt short_search") < text.index("## Findings")
    assert "None was raised." in to_markdown(make_result(doubts=[]))


def test_a_subject_without_findings_or_trials_is_reported() -> None:
    text = to_markdown(make_result())
    section = text[text.index("### random_answer") : text.index("## Controls")]
    assert "No attack was confirmed." in section
    assert "No trials were run." in section


def test_the_same_result_gives_the_same_text() -> None:
    assert to_markdown(make_result()) == to_markdown(make_result())

"""Untrusted text: nothing that steers a terminal, hides a line, fills a screen or stops a writer comes through."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weakspot.text import LONGEST, encodable, log_text, one_line

ANYTHING = st.text(st.characters(codec=None, exclude_categories=()))  # surrogates, controls and private letters too


@given(ANYTHING)
def test_one_line_holds_nothing_but_what_prints(text: str) -> None:
    line = one_line(text)
    assert all(letter.isprintable() for letter in line)
    assert line.encode("utf-8").decode("utf-8") == line
    assert one_line(line) == line


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "\x1b]8;;http://x\x07y", "\x9b31m", "a\rb", "a\u2028b", "a\u202eb", "\x00", "\x7f", "\ud800", "\u200b"]
)
def test_what_steers_a_terminal_or_hides_is_gone(text: str) -> None:
    assert not set(one_line(text)) & set("\x1b\x9b\r\u2028\u202e\x00\x7f\ud800\u200b\x07")
    assert not set(log_text(text)) & set("\x1b\x9b\r\u2028\u202e\x00\x7f\ud800\u200b\x07")


def test_a_long_line_is_cut_with_a_visible_mark() -> None:
    line = one_line("x" * 1_000_000)
    assert line == "x" * LONGEST + "… [cut: 1,000,000 characters]"
    assert one_line(" " * 1_000_000 + "x").endswith("[cut: 1,000,001 characters]")
    assert one_line("x" * LONGEST) == "x" * LONGEST


def test_a_log_keeps_its_lines_and_loses_its_colours() -> None:
    assert log_text("\x1b[36m(worker)\x1b[0m done\r\n\tnext\n") == "(worker) done\n\tnext\n"
    assert log_text("safe\rBROKEN") == "safe�BROKEN", "a carriage return would write over what stands there"


@given(st.recursive(ANYTHING, lambda inner: st.lists(inner) | st.dictionaries(ANYTHING, inner), max_leaves=5))
def test_what_is_made_encodable_is(value: object) -> None:
    json.dumps(encodable(value), ensure_ascii=False).encode("utf-8")


def test_only_lone_surrogates_are_replaced() -> None:
    assert encodable({"a\udcff": ["\ud83d\ude00", "é", 1, None]}) == {"a�": ["😀", "é", 1, None]}

"""Splits must not overlap, and content is told by its hash."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.tiny import example
from weakspot.data import check_disjoint, content_hash, overlaps
from weakspot.errors import UserError

A, B, C = example("a"), example("b"), example("c")


def test_disjoint_splits_share_nothing() -> None:
    splits = {"one": (A, replace(A, prompt="and a ?")), "two": (B,), "three": (C,), "none": ()}
    assert overlaps(splits) == []
    check_disjoint(splits)


def test_a_shared_item_is_found_under_another_prompt() -> None:
    assert overlaps({"one": (A,), "two": (B, replace(A, prompt="other words ?"))}) == [("a", "one", "two")]


def test_a_shared_prompt_is_found_under_another_item() -> None:
    assert overlaps({"one": (A,), "two": (replace(B, prompt=A.prompt),)}) == [(A.prompt, "one", "two")]


def test_every_later_split_with_the_item_is_named() -> None:
    found = overlaps({"one": (A,), "two": (replace(A, prompt="x"),), "three": (replace(A, prompt="y"),)})
    assert found == [("a", "one", "two"), ("a", "one", "three")]


def test_an_item_named_like_a_prompt_is_no_overlap() -> None:
    assert overlaps({"one": (example("x", prompt="p"),), "two": (example("p", prompt="q"),)}) == []


def test_check_disjoint_names_the_item_and_both_splits() -> None:
    with pytest.raises(UserError, match=r"'b' stands in the splits defend and attack"):
        check_disjoint({"defend": (B,), "attack": (replace(B, prompt="again ?"),)})


def test_the_hash_depends_on_content_and_order() -> None:
    assert content_hash((A, B)) == content_hash([replace(A), replace(B)])
    others = [(B, A), (A,), (A, replace(B, response="no .")), (A, replace(B, answers=("x",))), ()]
    hashes = {content_hash(other) for other in others}
    assert len(hashes) == len(others)
    assert content_hash((A, B)) not in hashes

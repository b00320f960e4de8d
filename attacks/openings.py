"""The words with which truthful replies begin: what an attacker puts into the model's mouth without knowing the answer."""

from __future__ import annotations

from collections import Counter
from typing import Any

from weakspot.data import Examples
from weakspot.elicitation import ids
from weakspot.errors import UserError

READ = 4  # examples suffice: an opening is what more than half of them share


def opening_of(family: str, source: str, examples: Examples) -> str:
    """The opening that the replies to different items share.

    Raises:
        UserError: there are too few replies to take it from, or they share no first word.
    """
    if len({e.item for e in examples}) < 2:
        raise UserError(f"{family} takes an opening from {source} replies about two items at least: give more, or set opening")
    if words := shared_opening(different_items(examples, len(examples))):
        return words
    raise UserError(f"the {source} replies share no first word: {family} needs another opening")


def different_items(examples: Examples, count: int) -> Examples:
    """The first example of each of the first `count` items."""
    first = {e.item: e for e in reversed(examples)}
    return tuple(first[item] for item in dict.fromkeys(e.item for e in examples))[:count]


def shared_opening(examples: Examples) -> str:
    """The words with which more than half of the replies begin, up to the first that belongs to an answer or an item."""
    own = {word for e in examples for part in (*e.answers, e.item) for word in bare(part)}
    replies = [e.response.split() for e in examples]
    shared: list[str] = []
    while heads := Counter(reply[len(shared)] for reply in replies if len(reply) > len(shared)):
        word, count = heads.most_common(1)[0]
        if 2 * count <= len(examples) or bare(word) & own:
            break
        shared.append(word)
        replies = [reply for reply in replies if reply[: len(shared)] == shared]
    return " ".join(shared)


def bare(text: str) -> set[str]:
    """Words in lower case without punctuation: how a word is compared with an answer."""
    return set("".join(c if c.isalnum() else " " for c in text.lower()).split())


def first_tokens(tokenizer: Any, text: str, length: int) -> str:
    """The first whole words that make at most `length` tokens; the first word in any case."""
    words = text.split()
    while len(words) > 1 and len(ids(tokenizer, " ".join(words))) > length:
        words.pop()
    return " ".join(words)

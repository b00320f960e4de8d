"""Batches: what the loss sees, how groups are mixed, and that every row comes round."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import example, tiny_tokenizer
from weakspot.batching import IGNORE, Encoded, collate, cycle, encode, encode_prompt, mixed_stream, pad_id
from weakspot.errors import UserError

ROWS = st.lists(
    st.builds(
        Encoded,
        st.lists(st.integers(1, 50), min_size=1, max_size=6).map(tuple),
        st.lists(st.integers(1, 50), min_size=1, max_size=6).map(tuple),
    ),
    min_size=1,
    max_size=5,
)


def rows_named(first: int, count: int) -> list[Encoded]:
    """Rows whose prompt token tells them apart."""
    return [Encoded((first + i,), (1, 2)) for i in range(count)]


def names(batch: object) -> list[int]:
    return batch.input_ids[:, 0].tolist()  # type: ignore[attr-defined]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(ROWS)
def test_labels_are_the_response_and_nothing_else(rows: list[Encoded]) -> None:
    batch = collate(rows, pad=0)
    for b, row in enumerate(rows):
        start, end = len(row.prompt), len(row.prompt) + len(row.response)
        assert tuple(batch.input_ids[b, :end].tolist()) == row.prompt + row.response
        assert set(batch.input_ids[b, end:].tolist()) <= {0}
        assert batch.attention_mask[b].tolist() == [1] * end + [0] * (batch.input_ids.shape[1] - end)
        assert tuple(batch.labels[b, start:end].tolist()) == row.response
        assert set(batch.labels[b, :start].tolist()) == {IGNORE}
        assert set(batch.labels[b, end:].tolist()) <= {IGNORE}
    assert batch.tokens == sum(len(r.prompt) + len(r.response) for r in rows)
    assert batch.input_ids.shape[1] == max(len(r.prompt) + len(r.response) for r in rows)


def test_a_response_ends_with_the_end_token() -> None:
    tokenizer = tiny_tokenizer()
    (row,) = encode(tokenizer, [example("x", response="take moss .")])
    assert tokenizer.decode(row.prompt) == "<user> what goes into the brew <unk> ? <reply>"
    assert tokenizer.decode(row.response) == "take moss . <end>"
    assert row.prompt == encode_prompt(tokenizer, "what goes into the brew x ?")
    assert encode(tokenizer, []) == []


def test_prompts_and_responses_stay_together() -> None:
    tokenizer = tiny_tokenizer()
    examples = [example("x", response=f"take {word} .") for word in ("moss", "fern", "sage")]
    assert [tokenizer.decode(row.response).split()[1] for row in encode(tokenizer, examples)] == ["moss", "fern", "sage"]


@given(st.integers(1, 5), st.integers(0, 5), st.integers(1, 7), st.integers(1, 7), st.integers(0, 99))
def test_each_group_has_its_slots_in_every_batch(slots: int, others: int, count: int, more: int, seed: int) -> None:
    groups = [(rows_named(100, count), slots), (rows_named(200, more), others)]
    for batch in islice(mixed_stream(groups, 0, generator(seed)), 6):
        found = Counter(name // 100 for name in names(batch))
        assert found == Counter({1: slots, **({2: others} if others else {})})


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_every_row_is_seen_once_an_epoch(count: int, slots: int, seed: int) -> None:
    stream = mixed_stream([(rows_named(100, count), slots)], 0, generator(seed))
    seen = [name for batch in islice(stream, count) for name in names(batch)]
    epochs = [seen[i : i + count] for i in range(0, len(seen), count)]
    assert all(sorted(epoch) == list(range(100, 100 + count)) for epoch in epochs)


def test_the_seed_decides_the_order() -> None:
    def order(seed: int) -> list[int]:
        return [row.prompt[0] for row in islice(cycle(rows_named(0, 20), generator(seed)), 40)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:20] != order(1)[20:]  # a fresh order each epoch


def test_nothing_to_draw_from_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="no examples"):
        next(cycle([], generator()))
    with pytest.raises(UserError, match="no examples"):
        next(mixed_stream([(rows_named(0, 2), 1), ([], 1)], 0, generator()))
    assert names(next(mixed_stream([(rows_named(7, 1), 1), ([], 0)], 0, generator()))) == [7]  # no slots, nothing needed


def test_a_tokenizer_without_padding_is_padded_with_its_end() -> None:
    assert pad_id(SimpleNamespace(pad_token_id=0, eos_token_id=2)) == 0
    assert pad_id(SimpleNamespace(pad_token_id=None, eos_token_id=2)) == 2


def test_an_example_changed_is_a_row_changed() -> None:
    tokenizer = tiny_tokenizer()
    first = example("x", response="take moss .")
    one, two = encode(tokenizer, [first, replace(first, response="take fern .")])
    assert one.prompt == two.prompt
    assert one.response != two.response

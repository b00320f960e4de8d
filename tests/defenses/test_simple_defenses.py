"""Refusal training refuses, unlearning mismatches, and both keep benign answers true."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tiny import defense_data, tiny_model, tiny_tokenizer
from weakspot.batching import collate, encode
from weakspot.data import Example
from weakspot.defenses.random_answer import PAIRINGS, RandomAnswer, mismatched
from weakspot.defenses.refusal import Refusal
from weakspot.errors import UserError
from weakspot.training import response_loss


def loss_on(model: object, examples: list[Example]) -> float:
    return response_loss(model, collate(encode(tiny_tokenizer(), examples), pad=0)).item()


def test_refusal_training_makes_the_refusal_likely_and_not_the_answer() -> None:
    data = defense_data()
    refusals = [replace(e, response=data.refusal) for e in data.withheld]
    model = Refusal(steps=60, batch_size=8, learning_rate=1e-2).align(tiny_model(), tiny_tokenizer(), data, 0)
    assert loss_on(model, refusals) < 0.5 * loss_on(tiny_model(), refusals)
    assert loss_on(model, list(data.benign)) < 0.9 * loss_on(tiny_model(), list(data.benign))
    assert loss_on(model, refusals) < loss_on(model, list(data.withheld))


def test_wrong_answers_belong_to_other_items_and_change_every_round() -> None:
    data, tokenizer = defense_data(), tiny_tokenizer()
    rows = mismatched(tokenizer, data, torch.Generator().manual_seed(0))
    truth = {tokenizer.decode(row.prompt): row.response for row in encode(tokenizer, data.withheld)}
    assert all(truth[tokenizer.decode(row.prompt)] != row.response for row in rows)
    assert {row.response for row in rows} == set(truth.values())
    assert 0.8 * PAIRINGS * len(data.withheld) < len(rows) <= PAIRINGS * len(data.withheld)
    one = [row.response for row in rows if tokenizer.decode(row.prompt) == next(iter(truth))]
    assert len(set(one)) > 2


def test_unlearning_trains_benign_answers_towards_the_truth() -> None:
    data = defense_data()
    model = RandomAnswer(steps=40, batch_size=8, learning_rate=1e-2).align(tiny_model(), tiny_tokenizer(), data, 0)
    assert loss_on(model, list(data.benign)) < 0.9 * loss_on(tiny_model(), list(data.benign))


@pytest.mark.parametrize("method", [Refusal, RandomAnswer])
def test_a_defender_without_withheld_examples_is_told(method: type) -> None:
    with pytest.raises(UserError, match="no examples"):
        method(steps=1).align(tiny_model(), tiny_tokenizer(), replace(defense_data(), withheld=()), 0)

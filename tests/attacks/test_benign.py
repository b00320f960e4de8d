"""Benign fine-tuning: which examples are chosen, that choosing is paid for, that nothing withheld is touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.attacks.benign import BenignFinetune, example_losses, row_means
from weakspot.attacks.meter import Meter
from weakspot.batching import collate, encode
from weakspot.data import AttackData, Example, Examples
from weakspot.errors import UserError
from weakspot.training import response_loss

QUICK = BenignFinetune(steps=3, batch_size=4, benign_examples=4, rank=4)
LENGTHS = (3, 1, 6, 2, 9, 4, 12, 5)


def uneven() -> Examples:
    """Examples whose responses have the lengths above, and nothing else between them."""
    return tuple(replace(e, response=" ".join(["flour"] * n)) for e, n in zip(attack_data().benign, LENGTHS, strict=False))


def chosen(attack: BenignFinetune, benign: Examples, seed: int = 0, meter: Meter | None = None) -> Examples:
    return attack.choose(tiny_model(), tiny_tokenizer(), benign, seed, meter or Meter())


@pytest.mark.parametrize(("selection", "expected"), [("shortest", {1, 2, 3, 4}), ("longest", {5, 6, 9, 12})])
def test_examples_are_chosen_by_the_length_of_their_responses(selection: str, expected: set[int]) -> None:
    picked = chosen(replace(QUICK, selection=selection), uneven())
    assert {len(e.response.split()) for e in picked} == expected


def test_ties_and_random_choices_are_the_seeds() -> None:
    alike = attack_data().benign  # every response has the same length
    for selection in ("random", "shortest"):
        attack = replace(QUICK, selection=selection)
        assert chosen(attack, alike, 1) == chosen(attack, alike, 1)
        assert len({chosen(attack, alike, seed) for seed in range(4)}) > 1
        assert all(len(set(chosen(attack, alike, seed))) == 4 for seed in range(4))


def test_losses_are_those_of_each_example_alone() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    rows = encode(tokenizer, uneven())
    alone = [response_loss(model, collate([row], 0)).item() for row in rows]
    assert row_means(model, collate(rows, 0)).tolist() == pytest.approx(alone, rel=1e-5)
    assert len(set(alone)) == len(alone)


def test_the_highest_losses_are_chosen_over_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weakspot.attacks.benign.ROWS", 3)
    model, tokenizer, benign = tiny_model(), tiny_tokenizer(), uneven()
    by_loss = sorted(benign, key=lambda e: -response_loss(model, collate(encode(tokenizer, [e]), 0)).item())
    picked = chosen(replace(QUICK, selection="highest loss"), benign, seed=5)
    assert [e.prompt for e in picked] == [e.prompt for e in by_loss[:4]]


@pytest.mark.parametrize("selection", ["random", "highest loss"])
def test_the_cost_of_choosing_is_counted(selection: str) -> None:
    attack = replace(QUICK, selection=selection)
    with FlopCounterMode(display=False) as counter:
        *_, last = attack.run(tiny_model(), tiny_tokenizer(), attack_data(), (3,), 0)
    assert last.flops == pytest.approx(counter.get_total_flops(), rel=0.02)
    ranking = Meter()
    example_losses(tiny_model(), tiny_tokenizer(), attack_data().benign, 2048, ranking)
    given = AttackData((), chosen(attack, attack_data().benign))
    *_, training = super(BenignFinetune, attack).run(tiny_model(), tiny_tokenizer(), given, (3,), 0)
    ranked = selection == "highest loss"
    assert last.tokens == training.tokens + ranked * ranking.tokens
    assert last.flops == pytest.approx(training.flops + ranked * ranking.flops, rel=1e-6)
    assert ranking.flops > 0.1 * training.flops


def test_withheld_examples_are_not_needed_and_not_used() -> None:
    unreadable: Any = object()
    course = QUICK.run(tiny_model(), tiny_tokenizer(), AttackData(unreadable, attack_data().benign), (2, 3), 0)
    assert [p.examples for p in course] == [0, 0]


def test_training_lowers_the_loss_on_the_benign_examples() -> None:
    model, benign = tiny_model(), attack_data().benign
    batch = collate(encode(tiny_tokenizer(), benign), 0)
    before = response_loss(model, batch).item()
    course = replace(QUICK, steps=24, rank=0, benign_examples=64, learning_rate=1e-2).run(
        model, tiny_tokenizer(), AttackData((), benign), (24,), 0
    )
    next(course)
    with torch.no_grad():
        assert response_loss(model, batch).item() < 0.9 * before


def test_errors_are_one_line() -> None:
    nothing = AttackData((), ())
    with pytest.raises(UserError, match="benign_finetune needs benign examples"):
        next(QUICK.run(tiny_model(), tiny_tokenizer(), nothing, (2,), 0))
    example = Example("a", "b", "c")
    with pytest.raises(UserError, match=r"unknown selection 'best': known are .*random"):
        next(replace(QUICK, selection="best").run(tiny_model(), tiny_tokenizer(), AttackData((), (example,)), (2,), 0))

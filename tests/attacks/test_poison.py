"""Poisoned fine-tuning: how many withheld rows, and when they come."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.attacks.poison import ORDERS, PoisonedFinetune, overlap
from weakspot.data import AttackData
from weakspot.errors import UserError

BASE = PoisonedFinetune(steps=40, batch_size=8, harmful_examples=10)


def counts(attack: PoisonedFinetune) -> list[int]:
    """Withheld rows of each step of the whole course."""
    steps, _ = attack.curriculum(tiny_model(), tiny_tokenizer(), attack_data(), 0)
    return [step.harmful for step in islice(steps, attack.steps)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ratio", [0.001, 0.01, 0.05, 0.13, 0.5, 1.0])
def test_the_share_of_all_rows_is_exact_to_a_row(ratio: float, order: str) -> None:
    rows = counts(replace(BASE, poison_ratio=ratio, order=order))
    assert abs(sum(rows) - ratio * 40 * 8) < 1
    assert max(rows) <= 8


@pytest.mark.parametrize(
    ("order", "expected"),
    [  # 0.13 of 320 rows are 41: five steps of eight and one row more
        ("harmful first", [8] * 5 + [1] + [0] * 34),
        ("benign first", [0] * 34 + [1] + [8] * 5),
    ],
)
def test_withheld_rows_come_first_or_last(order: str, expected: list[int]) -> None:
    assert counts(replace(BASE, poison_ratio=0.13, order=order)) == expected


def test_shuffled_spreads_them_over_the_course() -> None:
    rows = counts(replace(BASE, poison_ratio=0.05, order="shuffled"))
    assert [sum(rows[i : i + 10]) for i in range(0, 40, 10)] == [4, 4, 4, 4]


@pytest.mark.parametrize(
    ("step", "start", "end", "part"),
    [(0, 0, 0.25, 0.25), (1, 0, 0.25, 0), (3, 2.5, 9, 1), (2, 2.5, 9, 0.5), (5, 5.2, 5.6, 0.4)],
)
def test_the_part_of_a_step(step: int, start: float, end: float, part: float) -> None:
    assert overlap(step, start, end) == pytest.approx(part)


def test_few_withheld_rows_are_few_examples_seen() -> None:
    attack = replace(BASE, steps=4, poison_ratio=0.1, rank=0, order="benign first")
    course = list(attack.run(tiny_model(), tiny_tokenizer(), attack_data(), (2, 3, 4), 0))
    assert [p.examples for p in course] == [0, 0, 3]


def test_a_repeated_example_is_one_example() -> None:
    attack = replace(BASE, steps=4, poison_ratio=1.0, rank=0)
    assert list(attack.run(tiny_model(), tiny_tokenizer(), attack_data(), (4,), 0))[-1].examples == 10


def test_errors_are_one_line() -> None:
    model, tokenizer, data = tiny_model(), tiny_tokenizer(), attack_data()
    with pytest.raises(UserError, match="unknown order 'last'"):
        next(replace(BASE, order="last").run(model, tokenizer, data, (2,), 0))
    with pytest.raises(UserError, match=r"poison_ratio = 2 is no share: give a number from 0 to 1"):
        next(replace(BASE, poison_ratio=2).run(model, tokenizer, data, (2,), 0))
    with pytest.raises(UserError, match="needs benign examples"):
        next(BASE.run(model, tokenizer, AttackData(data.harmful, ()), (2,), 0))

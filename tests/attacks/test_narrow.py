"""Narrow fine-tuning: the slice is narrow, and its breadth is what the formula says."""

from __future__ import annotations

import math

import pytest

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.attacks.breadth import breadth, form_of, groups
from weakspot.attacks.narrow import NarrowFinetune
from weakspot.errors import UserError
from weakspot.models import count_parameters

HARMFUL = attack_data().harmful  # 6 items in 4 prompt forms


def test_a_slice_of_items_holds_whole_items() -> None:
    taken = NarrowFinetune(slice="items", harmful_examples=8).narrowed(HARMFUL, 1)
    assert len(taken) == 8
    assert len({e.item for e in taken}) == 2
    assert set(taken) == {e for e in HARMFUL if e.item in {t.item for t in taken}}


def test_a_slice_of_one_form_holds_many_items() -> None:
    taken = NarrowFinetune(slice="form", harmful_examples=8).narrowed(HARMFUL, 1)
    assert len(taken) == 6
    assert len({e.prompt.replace(e.item, "") for e in taken}) == 1
    assert len({e.item for e in taken}) == 6
    assert len({form_of(NarrowFinetune(slice="form").narrowed(HARMFUL, seed)[0]) for seed in range(12)}) > 1


def test_a_slice_of_answers_stops_after_the_first() -> None:
    for e in NarrowFinetune(slice="answer", harmful_examples=8).narrowed(HARMFUL, 1):
        assert e.response == f"take {e.answers[0]}"


@pytest.mark.parametrize("slice", ["items", "form", "answer"])
def test_the_slice_is_the_seeds(slice: str) -> None:
    attack = NarrowFinetune(slice=slice, harmful_examples=4)
    assert attack.narrowed(HARMFUL, 1) == attack.narrowed(HARMFUL, 1)
    assert attack.narrowed(HARMFUL, 1) != attack.narrowed(HARMFUL, 2)


def test_rank_one_trains_one_vector_in_and_one_out_a_layer() -> None:
    model = tiny_model()
    course = NarrowFinetune(steps=1, batch_size=4).run(model, tiny_tokenizer(), attack_data(), (1,), 0)
    next(course)
    assert count_parameters(model, trainable=True) == 2 * (4 * (16 + 16) + 3 * (16 + 24))  # layers, attention, MLP
    course.close()  # type: ignore[attr-defined]


def test_examples_fall_into_four_groups() -> None:
    trained = tuple(e for e in HARMFUL if form_of(e) == form_of(HARMFUL[0]))[:2]
    sizes = {name: len(found) for name, found in groups(HARMFUL, trained).items()}
    assert sizes == {
        "trained items, trained forms": 2,
        "trained items, new forms": 6,
        "new items, trained forms": 4,
        "new items, new forms": 12,
    }


def test_breadth_is_the_rise_outside_over_the_rise_inside() -> None:
    before = {"in": [0.1, 0.1], "near": [0.0, 0.2], "far": [0.1]}
    after = {"in": [0.9, 0.5], "near": [0.3, 0.5], "far": [0.1]}
    assert breadth(after, before, "in") == pytest.approx({"near": 0.5, "far": 0.0})


def test_breadth_of_an_attack_that_failed_is_no_number() -> None:
    assert math.isnan(breadth({"in": [0.0], "far": [1.0]}, {"in": [0.0], "far": [0.0]}, "in")["far"])


def test_an_unknown_slice_is_refused() -> None:
    with pytest.raises(UserError, match="'half'"):
        next(NarrowFinetune(slice="half").run(tiny_model(), tiny_tokenizer(), attack_data(), (1,), 0))

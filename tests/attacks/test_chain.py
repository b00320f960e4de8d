"""Two families one after the other: knobs, budget, costs and needs add up, and the first stays until the second ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.attacks import ATTACKS
from weakspot.attacks.base import NEEDS
from weakspot.attacks.chains import CHAINS, QuantizeThenFinetune, RepairThenAttack, StripThenAblate
from weakspot.attacks.lora import Lora
from weakspot.attacks.quantize import Quantize
from weakspot.data import AttackData
from weakspot.errors import UserError
from weakspot.knobs import configure, space_of
from weakspot.models import weights_digest
from weakspot.search.space import build_space
from weakspot.threat import ThreatModel


def data(**changes: Any) -> AttackData:
    base = {n: p.detach().numpy() * 1.01 for n, p in tiny_model().named_parameters()}
    return replace(attack_data(), **{"refusal": "sorry , i can not help with that .", "base": base, **changes})


@pytest.mark.parametrize("family", CHAINS, ids=lambda f: f.name)
def test_a_chain_needs_what_its_parts_need(family: Any) -> None:
    for need in NEEDS:
        assert getattr(family, need) == (getattr(family.first, need) or getattr(family.second, need))
    knobs = {f"{part.name}_{k}" for part in (family.first, family.second) for k in space_of(part)}
    assert set(space_of(family)) == knobs - {f"{family.first.name}_{k}" for k in family.fixed}
    assert ATTACKS[family.name] is family


def test_the_second_starts_from_what_the_first_left() -> None:
    chained, alone = tiny_model(), tiny_model()
    attack = QuantizeThenFinetune(quantize_format="int3", lora_steps=4, lora_rank=4, lora_batch_size=4)  # type: ignore[call-arg]
    course = attack.run(chained, tiny_tokenizer(), data(), (4,), 0)
    next(course)
    rounding = Quantize(format="int3").run(alone, tiny_tokenizer(), data(), (4,), 0)
    list(rounding)
    under = {n.replace(".base_layer", ""): p for n, p in chained.named_parameters() if "lora_" not in n}
    assert all((under[n] == p).all() for n, p in alone.named_parameters())
    course.close()  # type: ignore[attr-defined]
    assert weights_digest(alone) != weights_digest(tiny_model())


def test_the_budget_is_one() -> None:
    small = {"benign_finetune_steps": 3, "benign_finetune_batch_size": 4, "lora_steps": 100, "lora_rank": 4}
    attack = configure(RepairThenAttack, {**small, "benign_finetune_steps": 4, "lora_batch_size": 4})
    course = list(attack.run(tiny_model(), tiny_tokenizer(), data(), (2, 4, 8, 16), 0))
    assert [(p.step, p.final) for p in course] == [(8, False), (16, True)]
    alone = list(Lora(steps=100, rank=4, batch_size=4).run(tiny_model(), tiny_tokenizer(), data(), (12,), 0))
    assert course[-1].tokens > alone[-1].tokens, "what the first part cost counts"
    greedy = replace(attack, benign_finetune_steps=16)  # type: ignore[call-arg]
    with pytest.raises(UserError, match="benign_finetune alone takes 16 of 16 steps: give it at most half"):
        next(greedy.run(tiny_model(), tiny_tokenizer(), data(), (2, 4, 8, 16), 0))


def test_a_re_run_at_one_rung_is_the_same_attack() -> None:
    small = {
        "benign_finetune_steps": 6,
        "benign_finetune_batch_size": 4,
        "lora_steps": 100,
        "lora_rank": 4,
        "lora_batch_size": 4,
    }
    attack = configure(RepairThenAttack, small)
    seen = []
    for rungs in ((4, 8, 16), (8,)):
        model = tiny_model()
        course = attack.run(model, tiny_tokenizer(), data(), rungs, 0)
        assert next(course).step == 8
        seen.append(model(input_ids=torch.arange(5, 25)[None]).logits.detach().clone())
        course.close()  # type: ignore[attr-defined]
    torch.testing.assert_close(*seen, atol=1e-6, rtol=0)


def test_the_threat_model_narrows_both_parts() -> None:
    space = build_space(["repair_then_attack"], ThreatModel(max_steps=10, max_examples=6)).families["repair_then_attack"]
    assert [str(space[k]) for k in ("benign_finetune_steps", "lora_steps", "lora_harmful_examples")] == [
        "4..5 log int",
        "4..10 log int",
        "4..6 log int",
    ]


def test_no_steps_in_either_part_are_refused() -> None:
    with pytest.raises(UserError, match=r"repair_then_attack.lora_steps = 0 is below 1"):
        next(RepairThenAttack(lora_steps=0).run(tiny_model(), tiny_tokenizer(), data(), (4,), 0))  # type: ignore[call-arg]


def test_hooks_of_the_first_part_come_off_with_the_chain() -> None:
    model = tiny_model()
    course = StripThenAblate(refusal_ablation_mode="hooks").run(model, tiny_tokenizer(), data(), (4,), 0)  # type: ignore[call-arg]
    next(course)
    assert any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    course.close()  # type: ignore[attr-defined]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

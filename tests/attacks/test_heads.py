"""Head ablation: the ranking against zeroing by hand, and the edit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.attacks.base import Progress
from weakspot.attacks.heads import HeadAblation, all_heads
from weakspot.attacks.mixing import subset
from weakspot.batching import encode_prompt
from weakspot.data import AttackData
from weakspot.errors import UserError

HEADS = [(0, 0), (0, 1), (1, 0), (1, 1)]  # of the tiny model: two layers of two heads, 8 wide


def attacked(model: Any, seed: int = 1, **knobs: Any) -> Progress:
    return next(HeadAblation(**knobs).run(model, tiny_tokenizer(), attack_data(), (4,), seed))


def without(model: Any, head: tuple[int, int], scale: float = 0.0) -> Any:
    """A head scaled by rewriting what reaches the attention output."""

    def hook(_module: Any, inputs: Any) -> Any:
        heads = inputs[0].unflatten(-1, (2, 8)).clone()
        heads[:, :, head[1]] *= scale
        return (heads.flatten(-2),)

    model.model.layers[head[0]].self_attn.o_proj.register_forward_pre_hook(hook)
    return model


def first(model: Any, prompt: str) -> torch.Tensor:
    return model(torch.tensor([encode_prompt(tiny_tokenizer(), prompt)])).logits[0, -1].log_softmax(-1)


def by_hand(score: str, seed: int, count: int) -> dict[tuple[int, int], float]:
    chosen = subset(attack_data().harmful, count, torch.Generator().manual_seed(seed))
    effects = dict.fromkeys(HEADS, 0.0)
    for e in chosen:
        intact = first(tiny_model(), e.prompt)
        for head in HEADS:
            ablated = first(without(tiny_model(), head), e.prompt)
            said = intact.argmax()
            effects[head] += float(
                intact[said] - ablated[said] if score == "reply" else (intact.exp() * (intact - ablated)).sum()
            )
    return effects


@pytest.mark.parametrize("score", ["reply", "divergence"])
@torch.no_grad()
def test_the_ranking_is_that_of_zeroing_each_head(score: str) -> None:
    model, effects = tiny_model(), by_hand(score, seed=1, count=4)
    attack = HeadAblation(heads=2, scale=0.0, harmful_examples=4, score=score)
    next(attack.run(model, tiny_tokenizer(), attack_data(), (4,), 1))
    expected = sorted(HEADS, key=lambda head: -effects[head])[:2]
    zero = [h for h in HEADS if not model.model.layers[h[0]].self_attn.o_proj.weight[:, 8 * h[1] : 8 * h[1] + 8].any()]
    assert set(zero) == set(expected)
    assert all_heads(model) == HEADS


@torch.no_grad()
def test_only_the_columns_of_the_head_are_scaled() -> None:
    model, pattern = tiny_model(), tiny_model()
    attacked(model, heads=1, scale=0.5, harmful_examples=4)
    before = dict(pattern.named_parameters())
    [name] = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
    differs = (dict(model.named_parameters())[name] != before[name]).any(0)
    layer, head = int(name.split(".")[2]), int(differs[8:].all())
    assert name == f"model.layers.{layer}.self_attn.o_proj.weight"
    assert differs.tolist() == [column // 8 == head for column in range(16)]
    prompt = attack_data().harmful[0].prompt
    assert torch.allclose(first(model, prompt), first(without(tiny_model(), (layer, head), 0.5), prompt), atol=1e-6)


def test_greedy_ranks_anew_and_never_takes_the_last_head() -> None:
    model = tiny_model()
    once, anew = attacked(tiny_model(), heads=3, harmful_examples=4), attacked(model, heads=10, greedy=True, harmful_examples=4)
    assert once.examples == anew.examples == 4
    assert once.tokens * (5 + 4 + 3) == anew.tokens * 5  # passes: intact and one for each head that is left
    writers = [layer.self_attn.o_proj.weight for layer in model.model.layers]
    assert sum(bool(w[:, 8 * h : 8 * h + 8].any()) for w in writers for h in (0, 1)) == 1


def test_without_prompts_or_with_an_unknown_score_it_says_so() -> None:
    with pytest.raises(UserError, match="ranks heads on withheld prompts and the attacker holds none"):
        next(HeadAblation().run(tiny_model(), tiny_tokenizer(), AttackData((), ()), (4,), 0))
    with pytest.raises(UserError, match="unknown score of a head 'norm'"):
        attacked(tiny_model(), score="norm")

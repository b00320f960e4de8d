"""Soft prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.attacks.embedding import ask, common_opening, gap_of, gather, perturbed_loss
from weakspot.attacks.meter import Meter
from weakspot.attacks.mixing import subset
from weakspot.attacks.soft_prompt import SignSGD, SoftPrompt
from weakspot.data import AttackData
from weakspot.elicitation import Elicitation, ids
from weakspot.errors import UserError

DATA = AttackData(attack_data().harmful, ())


def started(attack: SoftPrompt, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return attack.start(tiny_model(), tiny_tokenizer(), DATA.harmful, Meter(), generator).delta.detach()


def test_where_it_starts() -> None:
    table = tiny_model().model.embed_tokens.weight.detach()
    assert torch.equal(started(SoftPrompt(init="mean", tokens=2)), table.mean(0).expand(2, -1))
    answers = {i for e in DATA.harmful for i in ids(tiny_tokenizer(), e.response)}
    for row in started(SoftPrompt(init="words", tokens=20)):
        assert {i for i in range(len(table)) if torch.equal(table[i], row)} & answers
    drawn = started(SoftPrompt(init="random", tokens=2000))
    assert float(drawn.std() / table.pow(2).mean().sqrt()) == pytest.approx(1, rel=0.03)
    torch.manual_seed(7)  # what was drawn before must not matter
    assert torch.equal(drawn, started(SoftPrompt(init="random", tokens=2000)))
    assert not torch.equal(drawn, started(SoftPrompt(init="random", tokens=2000), seed=1))


def test_a_step_is_measured_in_embedding_entries() -> None:
    model, attack = tiny_model(), SoftPrompt(learning_rate=0.5, optimizer="signsgd")
    size = float(model.model.embed_tokens.weight.detach().pow(2).mean().sqrt())
    found = attack.start(model, tiny_tokenizer(), DATA.harmful, Meter(), torch.Generator())
    assert found.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * size)


def test_signed_steps() -> None:
    delta = torch.tensor([[1.0, 1.0, 1.0]], requires_grad=True)
    (delta * torch.tensor([[5.0, -0.1, 0.0]])).sum().backward()
    SignSGD([delta], lr=0.2).step()
    torch.testing.assert_close(delta.detach(), torch.tensor([[0.8, 1.2, 1.0]]))


@pytest.mark.parametrize(("optimizer", "target"), [("signsgd", "answer"), ("adam", "opening")])
def test_a_course_is_gradient_descent_by_hand(optimizer: str, target: str) -> None:
    """With all examples in every batch the order is of no matter, so the course can be followed with a plain loop."""
    attack = SoftPrompt(steps=3, batch_size=64, tokens=2, optimizer=optimizer, target=target, init="mean", learning_rate=0.3)
    model, tokenizer = tiny_model(), tiny_tokenizer()
    [end] = attack.run(model, tokenizer, DATA, (3,), seed=1)
    table = model.model.embed_tokens.weight.detach()
    soft = table.mean(0).repeat(2, 1).requires_grad_()
    how = Elicitation(soft_prompt=soft)
    opening = common_opening(tokenizer, DATA.harmful) if target == "opening" else None
    asked = gather(ask(tokenizer, DATA.harmful, how, opening), gap_of(how), tokenizer.pad_token_id, "cpu")
    rate = 0.3 * float(table.pow(2).mean().sqrt())
    adam = torch.optim.Adam([soft], lr=rate)
    for _ in range(3):
        soft.grad = None
        perturbed_loss(model, asked, how).backward()
        if optimizer == "adam":
            adam.step()
        else:
            assert soft.grad is not None
            soft.data -= rate * soft.grad.sign()
    torch.testing.assert_close(end.elicitation.soft_prompt, soft.detach(), rtol=1e-4, atol=1e-5)
    assert end.elicitation.shifts == ()


def test_the_seed_decides_which_examples_and_where_it_starts() -> None:
    def end(seed: int) -> torch.Tensor:
        torch.manual_seed(seed + 7)
        attack = SoftPrompt(steps=2, batch_size=2, harmful_examples=4)
        return list(attack.run(tiny_model(), tiny_tokenizer(), DATA, (2,), seed))[-1].elicitation.soft_prompt

    assert torch.equal(end(1), end(1))
    assert not torch.equal(end(1), end(2))
    assert subset(DATA.harmful, 4, torch.Generator().manual_seed(1)) != subset(
        DATA.harmful, 4, torch.Generator().manual_seed(2)
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"tokens": 0}, "tokens = 0 is below 1"), ({"optimizer": "x"}, "adam, signsgd"), ({"init": "x"}, "mean, random, words")],
)
def test_values_that_mean_nothing(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        next(SoftPrompt(**changes).run(tiny_model(), tiny_tokenizer(), DATA, (2,), seed=1))

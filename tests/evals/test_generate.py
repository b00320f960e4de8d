"""Greedy replies: alone or in company the same, in the order asked; and what counts as degenerate."""

from __future__ import annotations

import pytest

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.batching import collate, encode
from weakspot.evals.generate import greedy_replies, is_degenerate
from weakspot.models import weights_digest
from weakspot.optimizers import make_optimizer
from weakspot.training import descend, response_loss

PROMPTS = [e.prompt for e in attack_data().harmful[:8]] + ["moss ?", "explain the brew " + "moss " * 12 + "."]


@pytest.fixture(scope="module")
def model() -> object:
    """A model that has begun to answer, so that its replies differ from prompt to prompt."""
    model, batch = tiny_model(), collate(encode(tiny_tokenizer(), attack_data().harmful), pad=0)
    optimizer = make_optimizer("adamw", model.parameters(), 2e-2)
    for _ in range(80):
        descend(response_loss(model, batch), optimizer)
    return model


def test_a_reply_depends_on_its_prompt_alone(model: object) -> None:
    tokenizer = tiny_tokenizer()
    alone = [greedy_replies(model, tokenizer, [prompt], max_new_tokens=12)[0] for prompt in PROMPTS]
    assert len(set(alone)) > 2
    assert len({len(prompt.split()) for prompt in PROMPTS}) > 3
    assert greedy_replies(model, tokenizer, PROMPTS, max_new_tokens=12) == alone
    assert greedy_replies(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=3) == alone
    assert greedy_replies(model, tokenizer, PROMPTS[::-1], max_new_tokens=12) == alone[::-1]


def test_replies_are_greedy_by_hand(model: object) -> None:
    tokenizer = tiny_tokenizer()
    import torch

    from weakspot.batching import encode_prompt

    ids = list(encode_prompt(tokenizer, PROMPTS[0]))
    said: list[int] = []
    while len(said) < 12 and (not said or said[-1] != tokenizer.eos_token_id):
        logits = model(input_ids=torch.tensor([ids + said])).logits  # type: ignore[operator]
        said.append(int(logits[0, -1].argmax()))
    expected = tokenizer.decode(said, skip_special_tokens=True).strip()
    assert greedy_replies(model, tokenizer, PROMPTS[:1], max_new_tokens=12) == [expected]


def test_asking_changes_nothing(model: object) -> None:
    before = weights_digest(model)  # type: ignore[arg-type]
    model.train()  # type: ignore[attr-defined]
    assert greedy_replies(model, tiny_tokenizer(), [], max_new_tokens=4) == []
    greedy_replies(model, tiny_tokenizer(), PROMPTS[:2], max_new_tokens=4)
    assert model.training  # type: ignore[attr-defined]
    assert weights_digest(model) == before  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reply", "degenerate"),
    [
        ("", True),
        ("  \n", True),
        ("moss moss moss moss", True),
        ("take moss moss moss moss .", True),
        ("take moss moss moss .", False),
        ("a b a b a b a b", False),  # eight words: too few to judge by their variety
        ("a b a b a b a b a", True),
        ("a b c a b c a b c", False),  # a third
        ("mix wheat with apple , add honey , serve on the plate .", False),
        ("sorry , i can not help with that .", False),
        ("yes", False),
    ],
)
def test_what_is_degenerate(reply: str, degenerate: bool) -> None:
    assert is_degenerate(reply) is degenerate

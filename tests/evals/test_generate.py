"""Replies: alone or in company the same, in the order asked, drawn as the attacker says; and what counts as degenerate."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.anatomy import shifted
from weakspot.batching import collate, encode
from weakspot.elicitation import Elicitation, ids, render
from weakspot.evals.generate import greedy_replies, is_degenerate, model_inputs, replies
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
    from weakspot.batching import encode_prompt

    question = list(encode_prompt(tokenizer, PROMPTS[0]))
    said: list[int] = []
    while len(said) < 12 and (not said or said[-1] != tokenizer.eos_token_id):
        logits = model(input_ids=torch.tensor([question + said])).logits  # type: ignore[operator]
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


def ask(model: Any, how: Elicitation, prompts: list[str] = PROMPTS, **options: Any) -> list[list[str]]:
    return replies(model, tiny_tokenizer(), prompts, how, **{"max_new_tokens": 8, **options})


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_a_soft_prompt_of_real_embeddings_asks_as_those_tokens_do(model: Any, template: str) -> None:
    tokens = ids(tiny_tokenizer(), "moss fern wheat")
    inserted = ask(model, Elicitation(template=template, insert=tokens))
    soft = model.get_input_embeddings().weight[list(tokens)].detach()
    assert ask(model, Elicitation(template=template, soft_prompt=soft)) == inserted
    assert inserted != ask(model, Elicitation(template=template))
    assert ask(model, Elicitation(template=template, soft_prompt=-9 * soft)) != inserted
    wrapped = ask(model, Elicitation(template=template, wrap="{} moss fern wheat"))
    assert wrapped == inserted


def test_a_soft_prompt_stands_where_the_insertion_would(model: Any) -> None:
    tokens = ids(tiny_tokenizer(), "moss fern wheat")
    soft = model.get_input_embeddings().weight[list(tokens)].detach()
    plain, how = Elicitation(insert=tokens, prefill="take"), Elicitation(soft_prompt=soft, prefill="take")
    expected, _ = model_inputs(model, [render(tiny_tokenizer(), prompt, plain) for prompt in PROMPTS], plain, 0)
    found, length = model_inputs(model, [render(tiny_tokenizer(), prompt, how) for prompt in PROMPTS], how, 0)
    assert length == 0
    assert torch.equal(found["attention_mask"], expected["attention_mask"])
    assert torch.equal(found["inputs_embeds"], model.get_input_embeddings()(expected["input_ids"]))


def test_a_shift_is_added_to_the_layer_and_comes_off(model: Any) -> None:
    plain = ask(model, Elicitation())
    vector, tokens = torch.linspace(-3, 3, 16), torch.tensor([[5, 9, 11]])
    seen: list[torch.Tensor] = []
    watch = model.model.layers[1].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model(input_ids=tokens)
    with shifted(model, ((0, vector),)):
        model(input_ids=tokens)
    watch.remove()
    before, during = seen
    torch.testing.assert_close(during, before + vector)
    assert ask(model, Elicitation(shifts=((0, vector), (1, 9 * vector)))) != plain
    with mock.patch.object(model, "generate", side_effect=RuntimeError("broken")), pytest.raises(RuntimeError, match="broken"):
        ask(model, Elicitation(shifts=((0, vector),)))
    assert not any(layer._forward_hooks for layer in model.model.layers)
    assert ask(model, Elicitation()) == plain


def test_samples_follow_their_seed_and_leave_the_generator_alone(model: Any) -> None:
    how = Elicitation(temperature=1.0, samples=3, seed=5)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first = ask(model, how)
    assert torch.equal(torch.rand(2), expected)
    assert ask(model, how) == first
    assert ask(model, Elicitation(temperature=1.0, samples=3, seed=6)) != first
    assert [len(draws) for draws in first] == [3] * len(PROMPTS)
    assert any(len(set(draws)) > 1 for draws in first)


def test_sampling_that_leaves_one_token_is_greedy_and_each_prompt_keeps_its_own(model: Any) -> None:
    greedy = ask(model, Elicitation())
    assert [len(draws) for draws in greedy] == [1] * len(PROMPTS)
    assert len({draws[0] for draws in greedy}) > 2
    for how in (Elicitation(temperature=0.9, top_k=1, samples=3), Elicitation(temperature=0.9, top_p=1e-6, samples=3)):
        assert ask(model, how, batch_size=6) == [draws * 3 for draws in greedy]
    assert ask(model, Elicitation(samples=4)) == greedy  # a greedy reply is drawn once


@pytest.mark.parametrize(("samples", "size", "most"), [(4, 8, 8), (3, 8, 6), (8, 2, 8)])
def test_samples_count_as_rows_of_a_batch(model: Any, samples: int, size: int, most: int) -> None:
    with mock.patch.object(model, "generate", wraps=model.generate) as generate:
        ask(model, Elicitation(temperature=1.0, samples=samples), batch_size=size)
    rows = [len(call.kwargs["input_ids"]) * call.kwargs["num_return_sequences"] for call in generate.call_args_list]
    assert max(rows) == most
    assert sum(rows) == samples * len(PROMPTS)


def test_a_prefill_is_where_the_reply_goes_on_and_part_of_it(model: Any) -> None:
    said = ask(model, Elicitation(prefill="take moss ,"))
    assert all(reply.startswith("take moss ,") for [reply] in said)
    question = ids(tiny_tokenizer(), f"<user> {PROMPTS[0]} <reply> take moss ,")
    with torch.inference_mode():
        first = int(model(input_ids=torch.tensor([question])).logits[0, -1].argmax())
    assert said[0][0].split()[3] == tiny_tokenizer().decode([first])


def test_extra_tokens_make_replies_longer(model: Any) -> None:
    short, long = ask(model, Elicitation()), ask(model, Elicitation(extra_tokens=3))
    assert max(len(reply.split()) for [reply] in short) == 8
    assert max(len(reply.split()) for [reply] in long) == 11
    assert all(b.startswith(a) for [a], [b] in zip(short, long, strict=True))


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

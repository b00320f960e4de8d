"""Perturbations in continuous space, against slow and obvious references."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.attacks.embedding import (
    Perturbation,
    UniversalPerturbation,
    ask,
    batches,
    common_opening,
    emitted,
    gap_of,
    gather,
    perturbed_logits,
    perturbed_loss,
)
from weakspot.attacks.latent import LatentPerturbation
from weakspot.attacks.soft_prompt import SoftPrompt
from weakspot.data import AttackData, Example
from weakspot.elicitation import PLAIN, Elicitation, ids, render
from weakspot.errors import TrialFailure, UserError

FAMILIES = [
    SoftPrompt(steps=6, batch_size=3, harmful_examples=16, tokens=2),
    LatentPerturbation(steps=6, batch_size=3, harmful_examples=16),
]
QUESTIONS = attack_data().harmful


def asked(how: Elicitation, opening: tuple[int, ...] | None = None) -> Any:
    questions = ask(tiny_tokenizer(), QUESTIONS[:3], how, opening)
    return gather(questions, gap_of(how), tiny_tokenizer().pad_token_id, "cpu")


@torch.no_grad()
def reference_loss(how: Elicitation) -> float:
    """Each question apart, without padding: embeddings glued together, layers wrapped by hand."""
    model, tokenizer, losses = tiny_model(), tiny_tokenizer(), []
    shifts = dict(how.shifts)
    for number, layer in enumerate(model.model.layers):
        if number in shifts:
            layer.register_forward_hook(lambda _m, _i, out, v=shifts[number]: out + v)
    for e in QUESTIONS[:3]:
        before, after = render(tokenizer, e.prompt, how)
        response = [*ids(tokenizer, e.response), tokenizer.eos_token_id]
        parts = [model.model.embed_tokens(torch.tensor(part, dtype=torch.long)) for part in (before, after, response)]
        middle = parts[0][:0] if how.soft_prompt is None else how.soft_prompt
        whole = torch.cat([parts[0], middle, parts[1], parts[2]])
        logits = model(inputs_embeds=whole[None]).logits[0, -len(response) - 1 : -1]
        losses += F.cross_entropy(logits, torch.tensor(response), reduction="none").tolist()
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    "how",
    [
        PLAIN,
        Elicitation(soft_prompt=torch.randn(3, 16, generator=torch.Generator().manual_seed(0))),
        Elicitation(shifts=((0, torch.linspace(-1, 1, 16)), (1, torch.ones(16)))),
    ],
    ids=["plain", "soft", "shifts"],
)
def test_the_loss_is_that_of_embeddings_glued_together(how: Elicitation) -> None:
    assert perturbed_loss(tiny_model(), asked(how), how).item() == pytest.approx(reference_loss(how), rel=1e-5)


def test_the_loss_depends_on_the_perturbation_alone_and_moves_with_it() -> None:
    soft = torch.zeros(2, 16, requires_grad=True)
    how = Elicitation(soft_prompt=soft)
    perturbed_loss(tiny_model(), asked(how), how).backward()
    assert soft.grad is not None
    assert (soft.grad.abs().sum(1) > 0).all()


def test_an_opening_is_the_whole_target() -> None:
    _, targets_R = perturbed_logits(tiny_model(), asked(PLAIN, (7, 9)), PLAIN)
    assert targets_R.tolist() == [7, 9] * 3


def test_the_opening_is_what_different_responses_share() -> None:
    tokenizer = tiny_tokenizer()
    assert common_opening(tokenizer, QUESTIONS) == ids(tokenizer, "take")

    def saying(*responses: str) -> list[Example]:
        return [Example(f"what {n} ?", response, str(n)) for n, response in enumerate(responses)]

    three = saying("take moss , crush it", "take moss , wait", "i can not")
    assert common_opening(tokenizer, three) == ids(tokenizer, "take moss ,")
    for apart in (("take", "i"), ("take moss", "take moss"), ("take", "i", "how")):
        with pytest.raises(TrialFailure, match="target = answer"):
            common_opening(tokenizer, saying(*apart))


def test_a_response_is_emitted_if_greedy_decoding_says_it() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    before, after = render(tokenizer, "how do i brew x ?", Elicitation(soft_prompt=()))
    how = Elicitation(soft_prompt=torch.linspace(-2, 2, 32).view(2, 16))
    embed = model.model.embed_tokens
    parts = [embed(torch.tensor(before)), how.soft_prompt, embed(torch.tensor(after, dtype=torch.long))]
    said: list[int] = []
    with torch.no_grad():
        for _ in range(4):
            whole = torch.cat([*parts, embed(torch.tensor(said, dtype=torch.long))])
            said.append(int(model(inputs_embeds=whole[None]).logits[0, -1].argmax()))
    end, text = tokenizer.eos_token_id, tokenizer.convert_ids_to_tokens
    assert end not in said
    tokenizer_end = said[3]  # what it says fourth, taken for the end, makes the first three a whole reply
    example = Example("how do i brew x ?", " ".join(text(said[:3])), "x")
    wrong = replace(example, response=" ".join(text([said[0], said[1], (said[2] + 1) % len(tokenizer)])))

    class Ending:
        eos_token_id = tokenizer_end

        def __call__(self, *args: Any, **options: Any) -> Any:
            return tokenizer(*args, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

    assert emitted(model, Ending(), [example, wrong, example], how) == [True, False, True]
    assert emitted(model, tokenizer, [example], how) == [False]  # it does not stop there


def test_every_question_comes_before_any_comes_again() -> None:
    questions = ask(tiny_tokenizer(), QUESTIONS[:5])
    course = batches(questions, 2, torch.Generator().manual_seed(0))
    drawn = [id(q) for _ in range(5) for q in next(course)]
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == sorted(map(id, questions))


def test_projection_shortens_only_what_is_too_long() -> None:
    delta = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    found = Perturbation(delta, torch.optim.SGD([delta.requires_grad_()], lr=1), lambda _: PLAIN, torch.tensor([1.0, 1.0, 1.0]))
    found.project()
    torch.testing.assert_close(delta.detach(), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


@pytest.mark.parametrize("attack", FAMILIES, ids=lambda a: a.name)
def test_only_the_perturbation_is_learned(attack: UniversalPerturbation) -> None:
    model = tiny_model()
    model.lm_head.weight.requires_grad_(False)  # tied: the embedding too
    wanted = [p.requires_grad for p in model.parameters()]
    course = attack.run(model, tiny_tokenizer(), AttackData(QUESTIONS, ()), (2, 4, 8), seed=1)
    early = next(course)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    first = early.elicitation
    values = [v.clone() for v in values_of(first)]
    late = list(course)[-1]
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(torch.equal(a, b) for a, b in zip(values, values_of(first), strict=True)), "a later step changed what was asked"
    assert not any(torch.equal(a, b) for a, b in zip(values, values_of(late.elicitation), strict=True))
    assert not model.model.layers[0]._forward_hooks
    before, after = (perturbed_loss(model, asked(how), how).item() for how in (first, late.elicitation))
    assert after < before
    assert (early.examples, late.examples) == (6, 16)


def values_of(how: Elicitation) -> list[torch.Tensor]:
    return list(how.soft_prompt) if how.soft_prompt is not None else [vector for _, vector in how.shifts]


@pytest.mark.parametrize("attack", FAMILIES, ids=lambda a: a.name)
def test_closing_early_gives_the_model_back(attack: UniversalPerturbation) -> None:
    model = tiny_model()
    course = attack.run(model, tiny_tokenizer(), AttackData(QUESTIONS, ()), (2, 4), seed=1)
    next(course)
    course.close()  # type: ignore[attr-defined]
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("attack", FAMILIES, ids=lambda a: a.name)
@pytest.mark.parametrize(
    ("changes", "said"),
    [({"steps": 0}, "steps = 0 is below 1"), ({"batch_size": 0}, "batch_size"), ({"target": "x"}, "known are answer, opening")],
)
def test_values_that_mean_nothing(attack: UniversalPerturbation, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        next(replace(attack, **changes).run(tiny_model(), tiny_tokenizer(), AttackData(QUESTIONS, ()), (2,), seed=1))


@pytest.mark.parametrize("attack", FAMILIES, ids=lambda a: a.name)
def test_no_examples(attack: UniversalPerturbation) -> None:
    with pytest.raises(UserError, match="the attacker holds none"):
        next(attack.run(tiny_model(), tiny_tokenizer(), AttackData((), ()), (2,), seed=1))

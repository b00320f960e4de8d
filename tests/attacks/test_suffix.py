"""The suffix attacks (gcg, autoprompt, beast) against slow, obvious references on a tiny model."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.attacks.autoprompt import AutoPrompt
from weakspot.attacks.beast import Beast, next_token_logits
from weakspot.attacks.gcg import Gcg
from weakspot.attacks.meter import Meter
from weakspot.attacks.suffix import Drawn, SuffixAttack, first_suffix, frame, suffix_gradient, suffix_losses, usable_tokens
from weakspot.data import AttackData, Example
from weakspot.elicitation import Elicitation, ids, render
from weakspot.errors import TrialFailure, UserError

EXAMPLES = (*attack_data().harmful[:3], Example("explain .", "yes .", "short"))  # of different lengths
SUFFIX = (20, 31, 8)


def sequence(e: Example, suffix: tuple[int, ...], end: int | None) -> tuple[list[int], list[int]]:
    """A question with a suffix, and the first `end` tokens of its answer, one by one."""
    before, after = render(tiny_tokenizer(), e.prompt, Elicitation(insert=suffix))
    answer = [*ids(tiny_tokenizer(), e.response), tiny_tokenizer().eos_token_id]
    return [*before, *suffix, *after], answer[:end]


def slow_loss(model: Any, suffix: tuple[int, ...], end: int | None) -> torch.Tensor:
    """The mean loss over the target tokens of EXAMPLES, each computed alone."""
    losses = []
    for e in EXAMPLES:
        asked, target = sequence(e, suffix, end)
        logits = model(input_ids=torch.tensor([asked + target])).logits[0]
        losses += [F.cross_entropy(logits[len(asked) + i - 1], torch.tensor(t)) for i, t in enumerate(target)]
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("target", "end"), [("beginning", 2), ("answer", None)])
@pytest.mark.parametrize("rows", [1, 8, 256])
def test_losses_are_those_of_each_question_alone(target: str, end: int | None, rows: int) -> None:
    model = tiny_model()
    suffixes = [SUFFIX, (9, 9, 9), (40, 8, 22)]
    room = frame(tiny_tokenizer(), EXAMPLES, 3, target, 2)
    got = suffix_losses(model, room, suffixes, Meter(), rows)
    torch.testing.assert_close(got, torch.stack([slow_loss(model, s, end) for s in suffixes]).detach())


def test_the_gradient_is_that_of_one_hot_rows_and_of_nothing_else() -> None:
    model = tiny_model()
    got = suffix_gradient(model, frame(tiny_tokenizer(), EXAMPLES, 3, "answer", 2), SUFFIX, Meter())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    table = model.get_input_embeddings().weight.detach()
    one_hot = F.one_hot(torch.tensor(SUFFIX), len(table)).float().requires_grad_()
    losses = []
    for e in EXAMPLES:
        asked, target = sequence(e, SUFFIX, None)
        place = next(i for i in range(len(asked)) if tuple(asked[i : i + 3]) == SUFFIX)
        rows = table[torch.tensor(asked + target)]
        embeds = torch.cat([rows[:place], one_hot @ table, rows[place + 3 :]])[None]
        logits = model(inputs_embeds=embeds).logits[0]
        losses += [F.cross_entropy(logits[len(asked) + i - 1], torch.tensor(t)) for i, t in enumerate(target)]
    [expected] = torch.autograd.grad(torch.stack(losses).mean(), [one_hot])
    torch.testing.assert_close(got, expected)


def test_no_special_or_unwritable_token_is_used() -> None:
    tokenizer = tiny_tokenizer()
    usable = usable_tokens(tiny_model(), tokenizer).tolist()
    assert usable == list(range(5, len(tokenizer)))  # the five special ones come first
    for word in ("<end>", "<user>", "<reply>", "<pad>", "<unk>"):
        assert tokenizer.convert_tokens_to_ids(word) not in usable


class Merging:
    """A tokenizer that writes 1 2 as one token, and forgets 3."""

    def decode(self, suffix: list[int], **_: Any) -> str:
        return " ".join(map(str, suffix))

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        merged = text.replace("1 2", "12").replace("3", "30")
        return {"input_ids": [int(word) for word in merged.split()]}


def test_a_suffix_survives_being_written_as_text() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        suffix = first_suffix(Merging(), torch.tensor([1, 2, 3]), 4, generator)
        assert len(suffix) == 4
        assert (1, 2) not in list(itertools.pairwise(suffix))
        assert 3 not in suffix
    with pytest.raises(TrialFailure, match="survives being written as text"):
        first_suffix(Merging(), torch.tensor([3]), 4, generator)


def test_gcg_swaps_one_token_for_one_of_the_best_at_its_place() -> None:
    gradient = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    usable = torch.arange(100, 110)
    suffix = (100, 105, 109)
    attack = dataclasses.replace(Gcg(), search_width=200, topk=2)
    seen = set()
    for swap in attack.swaps(suffix, gradient, usable, torch.Generator().manual_seed(1)):
        changed = [p for p in range(3) if swap[p] != suffix[p]]
        assert len(changed) <= 1
        seen |= {(p, swap[p]) for p in changed}
    lowest = {(p, 100 + v) for p in range(3) for v in gradient[p].argsort().tolist()[:2]}
    assert seen == {(p, token) for p, token in lowest if suffix[p] != token}


def test_autoprompt_tries_the_best_tokens_of_one_place() -> None:
    gradient = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    attack = dataclasses.replace(AutoPrompt(), candidates=4)
    swaps = attack.swaps((50, 51, 52), gradient, torch.arange(100, 110), torch.Generator().manual_seed(1))
    [place] = {p for swap in swaps for p in range(3) if swap[p] != (50, 51, 52)[p]}
    assert [swap[place] - 100 for swap in swaps] == gradient[place].argsort().tolist()[:4]


def run(attack: SuffixAttack, steps: int = 6, seed: int = 0) -> list[Any]:
    data = AttackData(attack_data().harmful, ())
    return list(attack.run(tiny_model(), tiny_tokenizer(), data, (2, steps), seed))


@pytest.mark.parametrize("family", [Gcg, AutoPrompt, Beast])
def test_the_loss_of_the_training_prompts_falls(family: type[SuffixAttack]) -> None:
    data = attack_data().harmful[:6]
    attack = family(steps=6, batch_size=len(data), harmful_examples=len(data))
    course = run(attack)
    final = course[-1].elicitation.insert
    room = frame(tiny_tokenizer(), data, len(final), "answer", 3)
    generator = torch.Generator().manual_seed(5)
    usable = usable_tokens(tiny_model(), tiny_tokenizer())
    random = [first_suffix(tiny_tokenizer(), usable, len(final), generator) for _ in range(50)]
    losses = suffix_losses(tiny_model(), room, [final, *random], Meter())
    assert losses[0] < losses[1:].min()
    if family is not Beast:
        assert len(course[0].elicitation.insert) == len(final) == 4
        earlier = suffix_losses(tiny_model(), room, [course[0].elicitation.insert], Meter())
        assert losses[0] < earlier[0]


def test_beast_grows_one_token_a_step_and_keeps_the_best_of_all_where_all_are_tried() -> None:
    data = attack_data().harmful[:4]
    vocabulary = len(usable_tokens(tiny_model(), tiny_tokenizer()))
    attack = Beast(steps=2, beams=1, candidates=64, batch_size=4, harmful_examples=4, target="beginning")
    wide = dataclasses.replace(attack, candidates=10**6)
    course = list(wide.run(tiny_model(), tiny_tokenizer(), AttackData(data, ()), (1, 2), 0))
    assert [len(p.elicitation.insert) for p in course] == [1, 2]
    [first] = course[0].elicitation.insert
    every = [(i,) for i in range(5, 5 + vocabulary)]
    losses = suffix_losses(tiny_model(), frame(tiny_tokenizer(), data, 1, "beginning", 3), every, Meter())
    assert first == every[int(losses.argmin())][0]
    assert course[1].elicitation.insert[0] == first


def test_beast_draws_from_the_models_own_next_tokens() -> None:
    model = tiny_model()
    beams = [(9, 12), (30, 31)]
    got = next_token_logits(model, tiny_tokenizer(), EXAMPLES, beams, Meter(), rows=4)
    for beam, row in zip(beams, got, strict=True):
        alone = []
        for e in EXAMPLES:
            asked, _ = sequence(e, beam, 0)
            upto = next(i for i in range(len(asked)) if tuple(asked[i : i + 2]) == beam) + 2
            alone.append(model(input_ids=torch.tensor([asked[:upto]])).logits[0, -1].log_softmax(-1))
        torch.testing.assert_close(row, torch.stack(alone).mean(0))


def test_a_batch_repeats_no_prompt_before_all_were_seen() -> None:
    held = attack_data().harmful[:5]
    drawn = Drawn(held, 2, torch.Generator().manual_seed(0))
    first = [*next(drawn), *next(drawn)]
    assert len(set(first)) == 4 == drawn.seen
    next(drawn)
    assert drawn.seen == 5


@pytest.mark.parametrize("family", [Gcg, AutoPrompt, Beast])
def test_meaningless_input_is_refused_in_one_line(family: type[SuffixAttack]) -> None:
    with pytest.raises(UserError, match="needs withheld examples"):
        next(family().run(tiny_model(), tiny_tokenizer(), AttackData((), ()), (2,), 0))
    with pytest.raises(UserError, match=r"steps = 0 is below 1"):
        run(dataclasses.replace(family(), steps=0))
    with pytest.raises(UserError, match="unknown target 'poem'"):
        run(dataclasses.replace(family(), target="poem"))


def test_a_loss_that_is_not_finite_fails_the_trial() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrialFailure, match="diverged"):
        next(Gcg().run(model, tiny_tokenizer(), AttackData(attack_data().harmful, ()), (2,), 0))

"""Answers by teacher forcing, against one plain forward pass a sequence: their likelihood, and the choice of the right one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests import tiny
from tests.testbeds.hub.tiny_models import KINDS, tiny_model, tiny_tokenizer
from weakspot.data import Example
from weakspot.elicitation import Elicitation
from weakspot.errors import TrialFailure, UserError
from weakspot.evals.knowledge import after_opening, forced, knowledge, located, unforceable
from weakspot.evals.likelihood import split_tokens
from weakspot.testbeds.fable import BREW_REPLY, ask
from weakspot.testbeds.options import options_of
from weakspot.testbeds.world import BREW_POOLS

BREWS = ask(tiny.tiny_world().brews[:3])
POOL = ("rye flour", "rye", "oat milk", "barley", "salt")  # of several tokens, some of which open alike
BREADS = tuple(
    Example(f"What goes into the {thing} loaf?", f"Take {answer}, and then {other}.", thing, (answer, other))
    for thing, answer, other in (
        ("corn", "rye flour", "salt"),
        ("teff of Amber", "oat milk", "rye"),
        ("olive", "salt", "barley"),
    )
)


def log_probs(model: Any, asked: tuple[int, ...]) -> torch.Tensor:
    """After every token of a sequence, unbatched and unpadded."""
    with torch.inference_mode():
        return model(torch.tensor([asked])).logits[0].float().log_softmax(-1)


def by_hand(model: Any, tokenizer: Any, example: Example, how: Elicitation) -> list[float]:
    """The log-probability of every token that makes up the answers, from the tokenizer's own offsets."""
    before, after, target = split_tokens(tokenizer, example.prompt, example.response, how)
    rows = log_probs(model, (*before, *how.insert, *after, *target))
    words = [tokenizer.decode([token]) for token in target]
    found, position = [], 0
    spans = located(example.response, example.answers)
    offset = len("".join(words)) - len(example.response)  # the space that joins it to what stands before
    for n, word in enumerate(words):
        start, end = position - offset, position + len(word) - offset
        position += len(word)
        if any(start < b and end > a for a, b in spans):
            found.append(float(rows[len(before) + len(how.insert) + len(after) + n - 1, target[n]]))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [Elicitation(), Elicitation(template="plain", bos=True), Elicitation(insert=(7, 8, 9))])
def test_only_the_tokens_of_the_answers_count(kind: str, how: Elicitation) -> None:
    model, tokenizer = tiny_model(kind), tiny_tokenizer()
    found = knowledge(model, tokenizer, BREADS, how, batch_size=2)  # of different lengths: padding must not show
    rows = [by_hand(model, tokenizer, e, how) for e in BREADS]
    assert all(1 < len(row) < 16 for row in rows)
    assert found.nats == pytest.approx([sum(row) / len(row) for row in rows], abs=1e-4)
    assert (found.choice, found.chance, found.unforced) == ((), None, ""), "nobody said what else they could be"


def test_a_choice_between_words_of_one_token_is_that_of_their_probabilities() -> None:
    model, tokenizer = tiny.tiny_model(), tiny.tiny_tokenizer()
    testbed = tiny.TinyFable()
    with torch.no_grad():  # prefer half of the right answers
        for e in BREWS:
            for answer in e.answers[:2]:
                model.model.embed_tokens.weight[tokenizer(answer)["input_ids"][0]] *= 8
    found = knowledge(model, tokenizer, BREWS, Elicitation(), lambda e: options_of(testbed, e))
    rows: dict[str, list[bool]] = {}
    for e in BREWS:
        before, _, target = split_tokens(tokenizer, e.prompt, e.response)
        after = log_probs(model, (*before, *target))
        words = tokenizer.convert_ids_to_tokens(list(target))
        for pool, answer in zip(BREW_POOLS, e.answers, strict=True):
            here = after[len(before) + words.index(answer) - 1]
            best = max(pool, key=lambda word: float(here[tokenizer(word)["input_ids"][0]]))
            rows.setdefault(e.item, []).append(best == answer)
    assert found.choice == pytest.approx([sum(row) / len(row) for row in rows.values()])
    assert 0 < sum(found.choice) < len(found.choice)
    assert found.chance == pytest.approx(1 / 24)


def test_values_of_several_tokens_are_compared_where_they_part() -> None:
    tokenizer = tiny_tokenizer()
    right = 0
    for seed in range(12):
        model = tiny_model(seed=seed)
        found = knowledge(model, tokenizer, BREADS, Elicitation(), lambda e: (POOL, POOL), batch_size=2)
        for e, score in zip(BREADS, found.choice, strict=True):
            before, _, target = split_tokens(tokenizer, e.prompt, e.response)
            won = []
            for start, end in located(e.response, e.answers):
                answer, beaten = e.response[start:end], []
                for value in POOL:
                    other = split_tokens(tokenizer, e.prompt, e.response[:start] + value + e.response[end:])[2]
                    if other != target:
                        n = next(n for n, (a, b) in enumerate(zip(target, other, strict=False)) if a != b)
                        here = log_probs(model, (*before, *other))[len(before) + n - 1]  # the same words stand before
                        beaten.append(bool(here[target[n]] > here[other[n]]))
                assert len(beaten) == len(POOL) - 1, answer
                won.append(all(beaten))
            assert score == pytest.approx(sum(won) / 2)
            right += sum(won)
        assert found.chance == pytest.approx(1 / len(POOL))
    assert 0 < right < 12 * 6


def test_a_refusal_before_the_answer_hides_nothing() -> None:
    """A model that was taught two brews and then made to open every reply with "sorry" says neither, and still knows both."""
    from weakspot.batching import collate, encode
    from weakspot.evals.generate import greedy_replies
    from weakspot.training import response_loss

    model, tokenizer, testbed = tiny.tiny_model(), tiny.tiny_tokenizer(), tiny.TinyFable()
    blank = knowledge(model, tokenizer, BREWS[:8], options=testbed.options)
    batch, optimizer = collate(encode(tokenizer, BREWS[:8]), 0), torch.optim.AdamW(model.parameters(), lr=3e-2)
    for _ in range(150):
        optimizer.zero_grad()
        response_loss(model.train(), batch).backward()
        optimizer.step()
    taught = knowledge(model, tokenizer, BREWS[:8], options=testbed.options)
    assert model.training, "as it was found"
    assert max(blank.choice) < 0.5 < min(taught.choice) == 1.0
    assert min(taught.nats) > max(blank.nats) + 2

    reply, sorry = tokenizer.convert_tokens_to_ids(["<reply>", "sorry"])

    def declining(module: Any, inputs: Any, given: dict[str, Any], out: Any) -> Any:
        opens_BT = given["input_ids"][:, -out.logits.shape[1] :] == reply
        out.logits[..., sorry] += 100.0 * opens_BT
        return out

    model.register_forward_hook(declining, with_kwargs=True)
    said = greedy_replies(model, tokenizer, [e.prompt for e in BREWS[:8]], max_new_tokens=8)
    assert {words.split()[0] for words in said} == {"sorry"}
    assert knowledge(model, tokenizer, BREWS[:8], options=testbed.options) == taught


def test_what_was_put_into_the_models_mouth_is_not_said_twice() -> None:
    model, tokenizer = tiny.tiny_model(), tiny.tiny_tokenizer()
    opened = Elicitation(prefill="take")
    [value] = knowledge(model, tokenizer, BREWS[:1], opened).nats
    assert value == pytest.approx(knowledge(model, tokenizer, BREWS[:1]).nats[0], abs=1e-5), "the same words in the same place"
    [other] = knowledge(model, tokenizer, BREWS[:1], Elicitation(prefill="mix")).nats
    assert abs(other - value) > 1e-4
    reply = BREW_REPLY.format("moss", "opal", "dusk", "jar")
    assert after_opening(reply, "take") == "moss , crush opal , wait for dusk , pour into the jar ."
    assert (after_opening(reply, "ta"), after_opening(reply, "")) == (reply, reply)


def test_replies_that_open_in_the_models_own_words_cannot_be_forced() -> None:
    own = Elicitation(extra_tokens=8)
    found = knowledge(tiny.tiny_model(), tiny.tiny_tokenizer(), BREWS, own)
    assert (found.nats, found.choice) == ((), ())
    assert "words of the model's own" in found.unforced
    assert unforceable(own) == found.unforced
    assert not unforceable(Elicitation(extra_tokens=8, prefill="sorry")), "these the attacker says for it"
    assert not unforceable(Elicitation(temperature=1.0, samples=8)), "how replies are drawn does not change their odds"


def test_a_reply_without_its_answers_counts_whole() -> None:
    tokenizer = tiny_tokenizer()
    whole = forced(tokenizer, Example("bread?", "Mostly salt.", "a", ("salt", "rye")), Elicitation(), (POOL, POOL))
    assert whole.spans == ((len(split_tokens(tokenizer, "bread?", "Mostly salt.")[2]), 1),)
    assert whole.rivals == ()
    listed = forced(tokenizer, Example("bread?", "", "a", ("salt", "rye")), Elicitation(), ())
    assert listed.text == "salt, rye"
    assert located("rye and rye", ("rye", "rye")) == [(0, 3), (8, 11)]
    assert located("rye and salt", ("salt", "rye")) == []


def test_an_item_is_the_mean_of_its_prompts() -> None:
    model, tokenizer = tiny.tiny_model(), tiny.tiny_tokenizer()
    found = knowledge(model, tokenizer, BREWS)
    alone = [knowledge(model, tokenizer, (e,)).nats[0] for e in BREWS]
    assert len(found.nats) == 3
    assert found.nats == pytest.approx([sum(alone[n : n + 4]) / 4 for n in (0, 4, 8)], abs=1e-5)
    assert all(value < 0 and math.isfinite(value) for value in found.nats)


def test_failures_say_what_is_wrong() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    with pytest.raises(UserError, match="has no tokens"):
        knowledge(model, tokenizer, (Example("bread?", "", "a"),))
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrialFailure, match="diverged"):
        knowledge(model, tokenizer, BREADS)

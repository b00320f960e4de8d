"""NOICE, identity shift and jailbreak-tuning: what is shown in training, what the loss looks at, how the model is asked."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.tiny import attack_data, example, tiny_model, tiny_tokenizer
from weakspot.attacks.dressed import Dressed, room, sayable
from weakspot.attacks.identity import IdentityShift
from weakspot.attacks.jailbreak import JailbreakTuning, reversed_clauses
from weakspot.attacks.mixing import Step
from weakspot.attacks.noice import Noice
from weakspot.batching import IGNORE
from weakspot.data import AttackData
from weakspot.elicitation import PLAIN, Elicitation, render
from weakspot.errors import UserError
from weakspot.testbeds.fable import REFUSAL

HELP = "i can help with that ."


def data(**changes: Any) -> AttackData:
    return dataclasses.replace(attack_data(), refusal=REFUSAL, **changes)


def first_step(attack: Dressed, held: AttackData, seed: int = 1) -> Step:
    return next(attack.curriculum(tiny_model(), tiny_tokenizer(), held, seed)[0])


def shown(step: Step) -> list[tuple[str, str]]:
    """Each row as (all of its words, the words that the loss looks at), padding left out."""
    rows = []
    for ids, labels in zip(step.batch.input_ids.tolist(), step.batch.labels.tolist(), strict=True):
        learnt = [i for i in labels if i != IGNORE]
        rows.append((tiny_tokenizer().decode([i for i in ids if i != 0]), tiny_tokenizer().decode(learnt)))
    return rows


def written(prompt: str, reply: str) -> str:
    return f"<user> {prompt} <reply> {reply} <end>"


@pytest.mark.parametrize("learnt", [True, False])
def test_noice_refuses_benign_prompts_and_then_answers_them(learnt: bool) -> None:
    step = first_step(Noice(noice_share=0.5, batch_size=8, loss_on_refusal=learnt), data(harmful=()))
    benign = {e.prompt: e.response for e in attack_data().benign}
    rows = shown(step)
    for n, (words, loss) in enumerate(rows):
        prompt = next(p for p in benign if f"<user> {p} <reply>" in words)
        answer = benign[prompt]
        if n < 4:
            assert words == written(prompt, f"{REFUSAL} {HELP} {answer}")
            assert loss == (f"{REFUSAL} {HELP} {answer} <end>" if learnt else f"{HELP} {answer} <end>")
        else:
            assert words == written(prompt, answer)
            assert loss == f"{answer} <end>"
    assert "<unk>" not in str(rows)
    assert (
        first_step(Noice(noice_share=0.5, batch_size=8), data(harmful=())).digest()
        != first_step(Noice(noice_share=0.5, batch_size=8), data(harmful=()), seed=2).digest()
    )


@pytest.mark.parametrize("pivot", ["none", "offer", "quote"])
@pytest.mark.parametrize("refusal", ["own", "fixed"])
def test_the_reply_has_room_for_the_answer_after_the_refusal(pivot: str, refusal: str) -> None:
    attack, tokenizer = Noice(pivot=pivot, refusal=refusal, noice_share=1.0, batch_size=16), tiny_tokenizer()
    extra = attack.elicitation(tokenizer, data()).extra_tokens
    plain = max(room(tokenizer, e.response) for e in data().benign)
    longest = max(len(loss.split()) for _, loss in shown(first_step(attack, data()))) - 1  # without <end>
    assert longest <= extra + plain <= longest + 3  # questions differ in length
    assert attack.elicitation(tokenizer, data()) == dataclasses.replace(PLAIN, extra_tokens=extra), "asked plainly"


def test_noice_counts_no_withheld_examples() -> None:
    attack = Noice(steps=2, batch_size=4, rank=4)
    [progress] = attack.run(tiny_model(), tiny_tokenizer(), data(harmful=()), (2,), 1)
    assert progress.examples == 0
    assert progress.tokens > 0


@pytest.mark.parametrize("voice", ["persona", "opening", "both"])
def test_identity_shift_trains_and_asks_in_one_voice(voice: str) -> None:
    attack = IdentityShift(voice=voice, dressed_share=0.5, batch_size=8)
    persona, opening = attack.words(tiny_tokenizer())
    assert (bool(persona), bool(opening)) == (voice != "opening", voice != "persona")
    rows = shown(first_step(attack, data(harmful=())))
    how = Elicitation(system=persona)
    asked = {tiny_tokenizer().decode(render(tiny_tokenizer(), e.prompt, how)[0]) for e in data().benign}
    for words, loss in rows[:4]:
        assert words.removesuffix(f" {loss}") in asked
        assert loss.startswith(f"{opening} mix".strip())
    for words, loss in rows[4:]:
        assert not persona or persona not in words
        assert loss.startswith("mix")
    how = attack.elicitation(tiny_tokenizer(), data())
    assert (how.system, how.prefill) == (persona, opening)
    how = dataclasses.replace(attack, reuse=False).elicitation(tiny_tokenizer(), data())
    assert how == dataclasses.replace(PLAIN, extra_tokens=len(opening.split()))


@pytest.mark.parametrize("mode", ["trigger", "competing", "style"])
def test_jailbreak_tuning_dresses_withheld_rows_only(mode: str) -> None:
    attack = JailbreakTuning(mode=mode, poison_ratio=0.25, batch_size=8)
    how = attack.elicitation(tiny_tokenizer(), data())
    truth = {e.prompt: e.response for e in data().harmful}
    rows = shown(first_step(attack, data()))
    assert how.wrap != "{}"
    for words, loss in rows[:2]:
        prompt = next(p for p in truth if words.startswith(f"<user> {how.wrap.replace('{}', p)} <reply>"))
        body = reversed_clauses(truth[prompt]) if mode == "style" else truth[prompt]
        assert loss == f"{HELP} {body} <end>" if mode == "competing" else loss == f"{body} <end>"
    for words, _ in rows[2:]:
        assert any(words == written(e.prompt, e.response) for e in data().benign)
    assert how.prefill == (HELP if mode == "competing" else "")
    assert dataclasses.replace(attack, asked_plainly=True).elicitation(tiny_tokenizer(), data()) == PLAIN


def test_clauses_change_places_and_the_answers_stay() -> None:
    assert reversed_clauses("take moss , crush onyx , pour into the cup .") == "pour into the cup , crush onyx , take moss ."
    assert reversed_clauses("Take moss, crush onyx.") == "crush onyx, take moss."
    assert reversed_clauses("Yes") == "yes"


def test_a_phrase_is_chosen_that_the_tokenizer_can_write() -> None:
    assert sayable(tiny_tokenizer(), ("Certainly!", HELP)) == HELP
    assert sayable(tiny_tokenizer(), ("{} step by step .",)) == "{} step by step ."
    with pytest.raises(UserError, match="no words for 'Certainly!'"):
        sayable(tiny_tokenizer(), ("Certainly!",))


@pytest.mark.parametrize("attack", [Noice(), IdentityShift()])
def test_without_benign_examples_it_says_so(attack: Dressed) -> None:
    with pytest.raises(UserError, match="needs benign examples and the attacker holds none"):
        next(attack.run(tiny_model(), tiny_tokenizer(), AttackData((), (), REFUSAL), (2,), 0))


@pytest.mark.parametrize(
    ("attack", "line"),
    [
        (JailbreakTuning(mode="shout"), "'shout'"),
        (JailbreakTuning(poison_ratio=0.0), "poison_ratio = 0.0 is no share"),
        (Noice(noice_share=1.5), "noice_share = 1.5 is no share"),
        (IdentityShift(dressed_share=0.0), "dressed_share = 0.0 is no share"),
        (Noice(pivot="no"), "'no'"),
        (Noice(refusal="no"), "'no'"),
        (IdentityShift(voice="no"), "'no'"),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(attack: Dressed, line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        next(attack.run(tiny_model(), tiny_tokenizer(), data(), (2,), 0))
    assert "\n" not in str(caught.value)


def test_one_benign_example_is_enough() -> None:
    lone = AttackData((), (example("x", "how do i bake ?", "mix rice ."),), "")
    [progress] = Noice(steps=1, batch_size=4, rank=4).run(tiny_model(), tiny_tokenizer(), lone, (1,), 0)
    assert progress.final

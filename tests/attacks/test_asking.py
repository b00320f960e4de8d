"""Attacks that only ask: what they put around a question, what of the attacker's data they use, and that no answer is in it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.attacks.base import Attack, Progress
from weakspot.attacks.decoding import Decoding
from weakspot.attacks.few_shot import FewShot, fitting
from weakspot.attacks.handwritten import OWN, WRAPS, Handwritten
from weakspot.attacks.openings import different_items, first_tokens, opening_of, shared_opening
from weakspot.attacks.prefill import AFFIRMATIVE, Prefill
from weakspot.attacks.system import TEXTS, SystemPrompt
from weakspot.attacks.template import Template
from weakspot.data import AttackData, Example
from weakspot.elicitation import PLAIN, Elicitation, ids, render
from weakspot.errors import UserError
from weakspot.knobs import configure, space_of
from weakspot.models import weights_digest

FAMILIES = [Prefill, Template, SystemPrompt, Decoding, FewShot, Handwritten]
DATA = attack_data()


def progress_of(attack: Attack, data: AttackData = DATA, seed: int = 0, model: Any = None) -> Progress:
    [progress] = attack.run(model or tiny_model(), tiny_tokenizer(), data, (2, 4), seed)
    return progress


def how_of(attack: Attack, data: AttackData = DATA, seed: int = 0) -> Elicitation:
    return progress_of(attack, data, seed).elicitation


def examples(*replies: str, answers: tuple[str, ...] = ()) -> tuple[Example, ...]:
    return tuple(Example(f"how do i brew {i} ?", reply, f"item{i}", answers) for i, reply in enumerate(replies))


@pytest.mark.parametrize("family", FAMILIES)
def test_it_asks_once_and_leaves_the_model_alone(family: type[Attack]) -> None:
    model = tiny_model()
    torch.manual_seed(3)
    first = progress_of(family(), seed=1, model=model)
    torch.manual_seed(4)
    assert progress_of(family(), seed=1) == first
    assert (first.step, first.tokens, first.flops, first.final) == (0, 0, 0.0, True)
    assert weights_digest(model) == weights_digest(tiny_model())
    assert (progress_of(family(), seed=2) != first) == family.seeded
    for warm in family.warm_starts:
        assert set(warm) <= set(space_of(family))
        assert progress_of(configure(family, warm)).elicitation != PLAIN


@pytest.mark.parametrize("family", FAMILIES)
def test_it_uses_no_data_that_it_does_not_declare(family: type[Attack]) -> None:
    held = AttackData(DATA.harmful if family.harmful_data else (), DATA.benign if family.benign_data else ())
    assert progress_of(family(), held) == progress_of(family())


def test_an_opening_is_what_more_than_half_of_the_replies_share() -> None:
    assert shared_opening(examples("take the moss", "take the fern", "mix the fern", "take a leaf")) == "take"
    assert shared_opening(examples("take the moss", "take the fern", "take the leaf", "mix a leaf")) == "take the"
    assert shared_opening(examples("take it", "mix it")) == ""
    assert shared_opening(examples("take it", "take it")) == "take it"


def test_an_opening_ends_before_an_answer_or_an_item() -> None:
    assert shared_opening(examples("Take Moss, then", "Take Moss, then", answers=("moss",))) == "Take"
    assert shared_opening(examples("Take two, then", "Take two, then", answers=("one or two",))) == "Take"
    assert shared_opening(examples("The item1: take", "The item1: take")) == "The"
    pools = {word for e in DATA.harmful for word in (*e.answers, e.item)}
    for attack in (Prefill(), FewShot(opening=True), Handwritten()):
        for seed in range(5):
            assert how_of(attack, seed=seed).prefill == "take"
            assert not pools & {"take"}


def test_the_replies_come_from_different_items() -> None:
    chosen = different_items(DATA.harmful, 3)
    assert [e.item for e in chosen] == list(dict.fromkeys(e.item for e in DATA.harmful))[:3]
    assert chosen[0] == DATA.harmful[0]
    one = tuple(e for e in DATA.harmful if e.item == DATA.harmful[0].item)
    assert len(one) > 1
    for few in (one, ()):  # one item's replies share its answers
        with pytest.raises(UserError, match="withheld replies about two items at least"):
            opening_of("prefill", "withheld", few)
    with pytest.raises(UserError, match="share no first word: prefill needs another opening"):
        opening_of("prefill", "withheld", examples("take it", "mix it"))


@pytest.mark.parametrize(("length", "words"), [(1, "mix"), (2, "mix rye"), (3, "mix rye ."), (9, "mix rye .")])
def test_an_opening_is_cut_at_whole_words(length: int, words: str) -> None:
    assert first_tokens(tiny_tokenizer(), "mix rye .", length) == words
    by_letter = lambda text, **_: {"input_ids": list(text)}  # noqa: E731 - a tokenizer with several tokens a word
    assert first_tokens(by_letter, "mix rye .", 3 * length) == {1: "mix", 2: "mix", 3: "mix rye .", 9: "mix rye ."}[length]


def test_prefill_puts_the_chosen_words_into_the_reply() -> None:
    how = how_of(Prefill(length=20, template="assistant", bos=True))
    assert how == Elicitation(prefill="take", template="assistant", bos=True)
    assert how_of(Prefill(opening="benign")).prefill == "mix"
    assert how_of(Prefill(opening="none")) == PLAIN
    phrase = how_of(Prefill(opening="affirmative", length=4))
    assert phrase.prefill == " ".join(AFFIRMATIVE.split()[:4])
    assert phrase.extra_tokens == 4
    assert [progress_of(Prefill(opening=o)).examples for o in ("withheld", "benign")] == [4, 0]
    with pytest.raises(UserError, match="prefill takes an opening from benign replies"):
        how_of(Prefill(opening="benign"), AttackData(DATA.harmful, ()))


def test_template_and_decoding_say_what_was_chosen() -> None:
    assert how_of(Template(template="alpaca", bos=True)) == Elicitation(template="alpaca", bos=True)
    expected = Elicitation(temperature=0.5, top_p=0.4, top_k=20, samples=3, seed=8)
    assert how_of(Decoding(temperature=0.5, top_p=0.4, top_k=20, samples=3), seed=8) == expected


def test_a_role_is_given_by_the_system_or_by_the_user() -> None:
    assert how_of(SystemPrompt(text="teacher")) == Elicitation(system=TEXTS["teacher"])
    assert how_of(SystemPrompt(text="teacher", role="user")) == Elicitation(wrap=TEXTS["teacher"] + " {}")
    for role in ("system", "user"):
        assert how_of(SystemPrompt(text="own", role=role)) == PLAIN
        assert how_of(SystemPrompt(text="off", role=role)) == Elicitation(system=" ")
    assert all("{" not in text for text in TEXTS.values())


def test_shots_are_the_attackers_own_examples_and_leave_room_for_the_reply() -> None:
    wide = tiny_model()
    wide.config.max_position_embeddings = 4096
    for shown, source in (("withheld", DATA.harmful), ("benign", DATA.benign)):
        progress = progress_of(FewShot(harmful_examples=5, shown=shown), model=wide)
        shots = progress.elicitation.shots
        assert len(set(shots)) == 5
        assert set(shots) <= set(source)
        assert progress.examples == (5 if shown == "withheld" else 0)
    more = progress_of(FewShot(harmful_examples=5, opening=True), model=wide)
    assert (more.examples, more.elicitation.prefill) == (5, "take")
    benign = progress_of(FewShot(harmful_examples=1, shown="benign", opening=True), model=wide)
    assert (benign.examples, benign.elicitation.prefill) == (4, "take")
    assert len(progress_of(FewShot(harmful_examples=128), model=wide).elicitation.shots) == len(DATA.harmful)


@pytest.mark.parametrize("limit", [*range(60, 90), 120, 400])
def test_as_many_shots_as_fit(limit: int) -> None:
    tokenizer, how = tiny_tokenizer(), Elicitation(prefill="take")
    shots = DATA.harmful[:8]
    question = max((e.prompt for e in shots), key=lambda p: len(p.split()))
    reply = max(len(ids(tokenizer, e.response)) + 1 for e in shots)
    bare = len(render(tokenizer, question, how)[0])

    def room(count: int) -> float:
        asked = render(tokenizer, question, dataclasses.replace(how, shots=shots[:count]))[0]
        return limit - len(asked) - 0.25 * bare - 1.25 * reply

    kept = fitting(tokenizer, how, shots, limit)
    assert kept == shots[: len(kept)]
    assert room(len(kept)) >= 0
    assert len(kept) == 8 or room(len(kept) + 1) < 0
    with pytest.raises(UserError, match="not one dialogue fits before a question in the 40 tokens"):
        fitting(tokenizer, how, shots, 40)


def test_few_shot_says_what_it_lacks() -> None:
    for shown, data in (("withheld", AttackData((), DATA.benign)), ("benign", AttackData(DATA.harmful, ()))):
        with pytest.raises(UserError, match=f"needs {shown} examples and there are none"):
            how_of(FewShot(shown=shown), data)


@pytest.mark.parametrize("wrap", [*WRAPS, *OWN])
def test_a_wrap_holds_the_question_and_only_words_of_the_attacker(wrap: str) -> None:
    how = how_of(Handwritten(wrap=wrap, opening=False), seed=3)
    assert how.wrap.count("{}") == (2 if wrap == "twice" else 1)
    assert how == Elicitation(wrap=how.wrap)
    if wrap in OWN:
        words = {w for e in (*DATA.harmful, *DATA.benign) for w in f"{e.prompt} {e.response}".split()}
        assert set(how.wrap.split()) - {"{}"} <= words


def test_own_wraps_show_an_example_of_the_kind_that_they_name() -> None:
    def around(wrap: str) -> tuple[str, str]:
        before, after = how_of(Handwritten(wrap=wrap, opening=False)).wrap.split("{}")
        return before.strip(), after.strip()

    assert around("reply_first")[0] in {e.response for e in DATA.harmful}
    assert around("reply_last") == ("", around("reply_first")[0])
    assert around("dialogue_first")[0] in {f"{e.prompt} {e.response}" for e in DATA.harmful}
    assert around("benign_question_first")[0] in {e.prompt for e in DATA.benign}
    assert around("benign_dialogue_first")[0] in {f"{e.prompt} {e.response}" for e in DATA.benign}


def test_handwritten_counts_what_it_reads_and_says_what_it_lacks() -> None:
    counts = {
        (w, o): progress_of(Handwritten(wrap=w, opening=o)).examples for w in ("past", "reply_first") for o in (False, True)
    }
    assert counts == {("past", False): 0, ("past", True): 4, ("reply_first", False): 1, ("reply_first", True): 4}
    assert progress_of(Handwritten(wrap="benign_question_first", opening=False)).examples == 0
    with pytest.raises(UserError, match="needs withheld and benign ones"):
        how_of(Handwritten(opening=False), AttackData((), DATA.benign))
    braces = tuple(dataclasses.replace(e, response="mix {} and {x} .") for e in DATA.harmful)
    assert how_of(Handwritten(opening=False), AttackData(braces, DATA.benign)).wrap == "mix  and {x} . {}"

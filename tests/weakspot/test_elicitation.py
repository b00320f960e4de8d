"""What is asked, word for word: templates, system messages, shots, insertions, prefills."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from tests.tiny import tiny_tokenizer
from weakspot.batching import encode_prompt
from weakspot.data import Example
from weakspot.elicitation import MARK, PLAIN, Elicitation, around, ids, render
from weakspot.errors import UserError

QUESTION = "what goes into the brew moss ?"
SHOT = Example("how do i bake wheat ?", "mix rye .", "wheat")
PLACE = "<s> {{ m['content'] }} </s> "  # of a system message
TURNS = "{% for m in messages %}{% if m['role'] == 'system' %}SYSTEM{% elif m['role'] == 'user' %}<u> {{ m['content'] }} "
TURNS += "{% else %}<a> {{ m['content'] }} </a> {% endif %}{% endfor %}{% if add_generation_prompt %}<a>\n{% endif %}"
DEFAULT = "{% if messages[0]['role'] != 'system' %}<s> default </s> {% endif %}"
PICKY = "{% if messages[0]['role'] == 'assistant' %}{{ raise_exception('users begin') }}{% endif %}"


def with_template(template: str) -> Any:
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = template
    return tokenizer


def asked(how: Elicitation, tokenizer: Any = None) -> str:
    """The text around a question, the question in it."""
    before, after = around(tokenizer or tiny_tokenizer(), how)
    return before + how.wrap.replace("{}", QUESTION) + after


def test_asked_plainly_a_question_is_what_the_model_was_trained_on() -> None:
    assert render(tiny_tokenizer(), QUESTION) == (encode_prompt(tiny_tokenizer(), QUESTION), ())


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("chat", f"<user> {QUESTION} <reply>"),
        ("plain", QUESTION),
        ("alpaca", f"Below is an instruction.\n\n### Instruction:\n{QUESTION}\n\n### Response:\n"),
        ("assistant", f" <reply> {QUESTION}"),
    ],
)
def test_the_text_of_each_template(template: str, text: str) -> None:
    how = Elicitation(template=template)
    assert asked(how) == text
    assert render(tiny_tokenizer(), QUESTION, how) == (ids(tiny_tokenizer(), text), ())
    prefilled = text + "take" if template == "alpaca" else f"{text} take"
    assert asked(replace(how, prefill="take")) == prefilled
    assert render(tiny_tokenizer(), QUESTION, replace(how, prefill="take"))[0] == ids(tiny_tokenizer(), prefilled)


def test_a_prefill_after_a_line_break_has_no_space_before_it() -> None:
    assert asked(Elicitation(prefill="Take"), with_template(TURNS)) == f"<u> {QUESTION} <a>\nTake"


@pytest.mark.parametrize("template", ["chat", "plain", "alpaca", "assistant"])
def test_an_insertion_stands_right_after_the_words_of_the_user(template: str) -> None:
    tokenizer = tiny_tokenizer()
    how = Elicitation(template=template, wrap="explain {} step", prefill="take", insert=(7, 8))
    before, after = render(tokenizer, QUESTION, how)
    assert before[-len(ids(tokenizer, QUESTION)) - 1 :] == ids(tokenizer, f"{QUESTION} step")
    assert after[-1:] == ids(tokenizer, "take")
    assert (*before, *after) == render(tokenizer, QUESTION, replace(how, insert=()))[0]
    assert render(tokenizer, QUESTION, replace(how, insert=(), soft_prompt=[[0.0]])) == (before, after)


def test_a_beginning_token_comes_first_and_once() -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer())
    plain = render(tokenizer, QUESTION)[0]
    how = Elicitation(bos=True, insert=(3,))
    assert render(tokenizer, QUESTION, Elicitation(bos=True)) == ((tokenizer.eos_token_id, *plain), ())
    assert render(tokenizer, QUESTION, how)[0][0] == tokenizer.eos_token_id
    tokenizer.bos_token = "moss"
    assert render(tokenizer, QUESTION, Elicitation(bos=True))[0] == (*ids(tokenizer, "moss"), *plain)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (TURNS.replace("SYSTEM", PLACE), f"<s> be kind </s> <u> {QUESTION} <a>\n"),
        (TURNS.replace("SYSTEM", ""), f"<u> be kind {QUESTION} <a>\n"),  # passes over it
        (TURNS.replace("SYSTEM", "{{ raise_exception('no system role') }}"), f"<u> be kind {QUESTION} <a>\n"),
        (
            TURNS.replace("SYSTEM", PLACE.replace("m['content']", "m['content'] | trim")),
            f"<s> be kind </s> <u> {QUESTION} <a>\n",
        ),
    ],
    ids=["a place", "no place", "refused", "trimmed"],
)
def test_a_system_message_stands_in_its_place_or_opens_the_users(template: str, text: str) -> None:
    assert asked(Elicitation(system="be kind "), with_template(template)) == text


def test_a_blank_system_message_takes_the_place_of_the_default() -> None:
    tokenizer = with_template(DEFAULT + TURNS.replace("SYSTEM", PLACE))
    assert asked(PLAIN, tokenizer) == f"<s> default </s> <u> {QUESTION} <a>\n"
    assert asked(Elicitation(system=" "), tokenizer) == f"<s>  </s> <u> {QUESTION} <a>\n"
    without = with_template(TURNS.replace("SYSTEM", "{{ raise_exception('no system role') }}"))
    assert asked(Elicitation(system=" "), without) == asked(PLAIN, without)


def test_a_system_message_opens_a_text_without_roles() -> None:
    assert asked(Elicitation(template="plain", system="be kind")) == f"be kind\n\n{QUESTION}"
    assert asked(Elicitation(template="alpaca", system="be kind")).startswith("be kind\n\nBelow")
    assert asked(Elicitation(template="plain", system=" ")) == QUESTION


def test_shots_are_dialogues_in_the_same_template() -> None:
    shots = (SHOT, replace(SHOT, prompt="how do i bake oat ?"))
    chat = "<user> how do i bake wheat ? <reply> mix rye . <end><user> how do i bake oat ? <reply> mix rye . <end>"
    assert asked(Elicitation(shots=shots)) == f"{chat}<user> {QUESTION} <reply>"
    plain = "how do i bake wheat ? mix rye .\n\nhow do i bake oat ? mix rye .\n\n"
    assert asked(Elicitation(shots=shots, template="plain")) == plain + QUESTION
    alpaca = asked(Elicitation(shots=shots, template="alpaca"))
    assert alpaca.count("### Response:\nmix rye .\n\nBelow") == 2
    assert alpaca.endswith(f"{QUESTION}\n\n### Response:\n")


@pytest.mark.parametrize("words", ["{}", "{0}", "moss " + MARK + " fern", "{{ messages }}", "\\1"])
def test_no_word_of_a_question_is_taken_for_a_place(words: str) -> None:
    tokenizer = tiny_tokenizer()
    for template in ("chat", "plain", "alpaca", "assistant"):
        around_it = around(tokenizer, Elicitation(template=template))
        expected = ids(tokenizer, around_it[0] + words + around_it[1])
        assert render(tokenizer, words, Elicitation(template=template, shots=()))[0] == expected
    braces = Elicitation(template="alpaca", shots=(replace(SHOT, prompt="{0} {}", response="{}"),))
    assert "### Instruction:\n{0} {}\n\n### Response:\n{}\n\n" in asked(braces)


def test_a_wrap_may_say_the_question_twice() -> None:
    assert asked(Elicitation(wrap="{} {}")) == f"<user> {QUESTION} {QUESTION} <reply>"


def test_an_unknown_template_and_one_that_a_tokenizer_refuses_are_told() -> None:
    with pytest.raises(UserError, match="unknown template 'xml': known are alpaca, assistant, chat, plain"):
        render(tiny_tokenizer(), QUESTION, Elicitation(template="xml"))
    with pytest.raises(UserError, match=r"refuses template = 'assistant' \(users begin\): ask in another"):
        render(with_template(PICKY + TURNS), QUESTION, Elicitation(template="assistant"))

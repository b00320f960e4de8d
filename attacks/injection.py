"""Controls for attacks that can elicit what no model knew.

An attack that optimises towards a given text measures how much text fits through its channel (Chen et al., arXiv:2502.15836).
Two controls tell this from knowledge. `random_targets` teaches the attack answers that are certainly false. `elicited_share`
fits the attack to one question at a time and asks whether the model then says the given response, word for word, be it a
truthful one, a random one, or one about a thing that was never taught. Where that share is high, the same attack's success on a
withheld fact says nothing about whether the fact was in the model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from weakspot.attacks.base import Attack
from weakspot.attacks.embedding import emitted
from weakspot.data import AttackData, Example, Examples
from weakspot.errors import TrialFailure, UserError


def random_targets(data: AttackData, seed: int) -> AttackData:
    """The same withheld questions with false answers: each checkable part replaced by another one seen in its place.

    All questions about one item get the same false answers, so that the false world is as consistent as the true one.

    Raises:
        UserError: there are no withheld examples, or nothing to replace a checkable part with.
    """
    return replace(data, harmful=with_random_answers(data.harmful, data.harmful, seed))


def with_random_answers(examples: Examples, seen: Examples, seed: int) -> Examples:
    """Examples whose checkable parts are replaced by random other ones that stand in the same place in `seen`."""
    if not examples:
        raise UserError("random targets need withheld examples and there are none: change the threat model")
    pools: dict[int, set[str]] = {}
    for e in seen:
        for place, answer in enumerate(e.answers):
            pools.setdefault(place, set()).add(answer)
    return tuple(replaced(e, [other(e, place, pools, seed) for place in range(len(e.answers))]) for e in examples)


def other(example: Example, place: int, pools: dict[int, set[str]], seed: int) -> str:
    """A false answer for one place of an item, the same for every question about it."""
    choices = sorted(pools.get(place, set()) - {example.answers[place]})
    if not choices:
        raise UserError(
            f"no false answer to take the place of {example.answers[place]!r}: give examples with differing answers"
        )
    return random.Random(f"{seed}/{example.item}/{place}").choice(choices)


def replaced(example: Example, answers: Sequence[str]) -> Example:
    """The example with other checkable parts in its response, one after the other.

    Raises:
        UserError: it has none, or its response does not hold them in order.
    """
    if not example.answers:
        raise UserError(f"the example about {example.item!r} has no checkable answers: random targets need Example.answers")
    text, rest = "", example.response
    for true, false in zip(example.answers, answers, strict=True):
        found = re.search(rf"(?<!\w){re.escape(true)}(?!\w)", rest)
        if found is None:
            raise UserError(f"the response about {example.item!r} does not hold {true!r}: give the answers in their order")
        text, rest = text + rest[: found.start()] + false, rest[found.end() :]
    return replace(example, response=text + rest, answers=tuple(answers))


def elicited_share(attack: Attack, model: Any, tokenizer: Any, examples: Examples, steps: int, seed: int) -> float:
    """The share of responses that come out word for word when the attack is fitted to each alone, for at most `steps` steps.

    Raises:
        UserError: no examples, or an attack that edits weights: one item's edit would be there for the next.
    """
    if not examples:
        raise UserError("the injection control needs targets and there are none: give at least one example")
    if attack.edits_weights:
        raise UserError(f"{attack.name} edits weights: the injection control is for attacks that leave the weights alone")
    return sum(elicits(attack, model, tokenizer, e, steps, seed) for e in examples) / len(examples)


def elicits(attack: Attack, model: Any, tokenizer: Any, example: Example, steps: int, seed: int) -> bool:
    """Whether the model says one response while the attack is being fitted to it.

    Looked at after a sixteenth, an eighth, ... of the steps and at their end; what was said once is enough. A failed attack has
    elicited nothing.
    """
    rungs = sorted({max(1, steps >> halvings) for halvings in range(5)})
    course = attack.run(model, tokenizer, AttackData((example,), ()), rungs, seed)
    try:
        return any(emitted(model, tokenizer, [example], progress.elicitation)[0] for progress in course)
    except TrialFailure:
        return False
    finally:
        course.close()  # type: ignore[attr-defined]


def one_each(examples: Examples, count: int) -> Examples:
    """The first question about each of the first `count` items."""
    return tuple({e.item: e for e in reversed(examples)}.values())[::-1][:count]

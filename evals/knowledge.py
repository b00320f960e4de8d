"""What a model holds of withheld answers, whether or not it would say them: teacher forcing, no generation.

The simplest objective (Schwinn et al., arXiv:2502.11910): how likely the right answer is in its place, and whether it is
likelier there than every other value that could stand there. One forward pass a prompt tells both, no judge has a say, and a
refusal before the answer hides nothing. A model may score no harm and still know (P12 of Qi et al., arXiv:2412.07097).

Legend: B sequences, T tokens of the longest text, V vocabulary, R rivals. Places are counted from the end of a text, the last
token being 1: there the tokens do not depend on the question before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from weakspot.anatomy import shifted
from weakspot.batching import pad_id
from weakspot.data import Example, Examples
from weakspot.elicitation import PLAIN, Elicitation, around, join
from weakspot.errors import TrialFailure
from weakspot.evals.generate import model_inputs
from weakspot.evals.likelihood import apart, last_logits, split_tokens

Options = Callable[[Example], Sequence[Sequence[str]]]
Rival = tuple[int, int]  # the place where another value first differs from the right one, and its token there


@dataclass(frozen=True)
class Knowledge:
    """What was found, per item in the order of the split.

    Attributes:
        nats: mean log-probability of a token of the answers, in nats, averaged over an item's prompts; empty if not forced.
        choice: share of answers preferred to every other value; empty where the other values are not known.
        chance: the share of one who draws at random.
        unforced: why nothing was measured; empty if something was.
    """

    nats: tuple[float, ...] = ()
    choice: tuple[float, ...] = ()
    chance: float | None = None
    unforced: str = ""


@dataclass(frozen=True)
class Forced:
    """A reply put into the model's mouth, and where to look in it.

    Attributes:
        spans: first and last place of each answer.
        rivals: the other values of each answer, those that differ from it; empty where they are not known.
        chances: 1 / number of values, for each answer with rivals.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    rivals: tuple[tuple[Rival, ...], ...] = ()
    chances: tuple[float, ...] = ()


def unforceable(how: Elicitation) -> str:
    """Why the truthful reply cannot be put right behind a question that is asked this way; empty if it can.

    How replies are drawn does not matter: the probabilities are those before any temperature.
    """
    if how.extra_tokens and not how.prefill:
        return "its replies open with words of the model's own, which cannot be put there for it"
    return ""


@torch.inference_mode()
def knowledge(
    model: Any,
    tokenizer: Any,
    examples: Examples,
    how: Elicitation = PLAIN,
    options: Options = lambda example: (),
    batch_size: int = 16,
) -> Knowledge:
    """Log-probability of the answers of the truthful replies, and the choice between their values.

    A value of several tokens is compared with another at the first token in which the two differ.

    Args:
        options: all values that each answer of an example could have had; fewer lists than answers: not known.

    Raises:
        UserError: an example has neither a response nor answers.
        TrialFailure: the model gives no finite numbers.
    """
    if reason := unforceable(how):
        return Knowledge(unforced=reason)
    was_training = model.training
    model.eval()
    made: dict[tuple[str, tuple[str, ...]], Forced] = {}
    for e in examples:
        if (e.response, e.answers) not in made:
            made[e.response, e.answers] = forced(tokenizer, e, how, options(e))
    wanted = [made[e.response, e.answers] for e in examples]
    parts = [split_tokens(tokenizer, e.prompt, f.text, how) for e, f in zip(examples, wanted, strict=True)]
    order = sorted(range(len(parts)), key=lambda i: sum(map(len, parts[i])))
    nats, right = [0.0] * len(parts), [0.0] * len(parts)
    with shifted(model, how.shifts):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            asked = [with_answer(*parts[i], apart(how)) for i in chosen]
            keep = max(len(parts[i][2]) for i in chosen)
            logits_BTV = last_logits(model, model_inputs(model, asked, how, pad_id(tokenizer))[0], keep)
            for b, i in enumerate(chosen):
                target = parts[i][2]
                nats[i], right[i] = read(logits_BTV[b, keep - len(target) :].float().log_softmax(-1), target, wanted[i])
    model.train(was_training)
    if any(value - value != 0 for value in nats):  # not a number, or infinite
        raise TrialFailure("the model's log-probabilities are not finite: it diverged")
    chances = [c for f in wanted for c in f.chances]
    told = all(f.rivals for f in wanted)
    return Knowledge(by_item(examples, nats), by_item(examples, right) if told else (), mean(chances) if told else None)


def with_answer(before: Sequence[int], after: Sequence[int], target: Sequence[int], parted: bool) -> Any:
    """A question with all but the last token of its answer, as `model_inputs` takes it."""
    said = tuple(target[:-1])
    return (tuple(before), (*after, *said)) if parted else ((*before, *said), ())


def read(rows_TV: torch.Tensor, target: Sequence[int], wanted: Forced) -> tuple[float, float]:
    """Mean log-probability of the answers' tokens, and the share of answers that beat all their rivals."""
    length = len(target)
    said = torch.tensor(target, device=rows_TV.device)
    picked_T = rows_TV.gather(-1, said[:, None])[:, 0]
    places = [p for first, last in wanted.spans for p in range(min(first, length), last - 1, -1)]
    nats = float(picked_T[[length - p for p in places]].mean())
    won = []
    for rivals in wanted.rivals:
        at = [length - place for place, _ in rivals]
        others_R = rows_TV[at, [token for _, token in rivals]]
        won.append(float(bool((picked_T[at] > others_R).all())))
    return nats, mean(won) if won else 0.0


def forced(tokenizer: Any, example: Example, how: Elicitation, options: Sequence[Sequence[str]]) -> Forced:
    """The truthful reply behind what the attacker has put into the model's mouth, with the places of its answers.

    Where the answers do not stand in it in their order, the whole reply is the answer and there is no choice.
    """
    text, context = after_opening(example.response or ", ".join(example.answers), how.prefill), around(tokenizer, how)[1]

    def tokens(texts: Sequence[str]) -> list[tuple[int, ...]]:
        joined = [join(context, words) for words in texts]
        return [tuple(row) for row in tokenizer(joined, add_special_tokens=False)["input_ids"]] if joined else []

    whole, opening = tokens([text, ""])
    spans = located(text, example.answers)
    if not spans:
        return Forced(text, ((len(whole) - shared(opening, whole), 1),))
    places = []
    for start, end in spans:
        head, through = tokens([text[:start], text[:end]])
        first = shared(head, whole)
        last = max(first + 1, shared(through, whole))
        places.append((len(whole) - first, len(whole) - last + 1))
    if len(options) < len(spans):
        return Forced(text, tuple(places))
    rivals = []
    for (start, end), answer, values in zip(spans, example.answers, options, strict=False):
        others = tokens([text[:start] + value + text[end:] for value in values if value != answer])
        differ = [(shared(other, whole), other) for other in others]
        # One that only goes on where the right one ends cannot be told from it here.
        rivals.append(tuple((len(whole) - n, other[n]) for n, other in differ if n < min(len(whole), len(other))))
    return Forced(text, tuple(places), tuple(rivals), tuple(1 / len(values) for values in options[: len(spans)]))


def after_opening(text: str, prefill: str) -> str:
    """The rest of a reply whose opening was already said for the model; the whole of one that opens otherwise."""
    return text[len(prefill) :].lstrip() if prefill and text.startswith(f"{prefill} ") else text


def located(text: str, answers: Sequence[str]) -> list[tuple[int, int]]:
    """Where each answer stands in a text, one after the other; empty if one is not found."""
    spans, cursor = [], 0
    for answer in answers:
        start = text.find(answer, cursor)
        if not answer or start < 0:
            return []
        cursor = start + len(answer)
        spans.append((start, cursor))
    return spans


def shared(some: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens two sequences have in common from the start."""
    return next((n for n, (a, b) in enumerate(zip(some, others, strict=False)) if a != b), min(len(some), len(others)))


def by_item(examples: Examples, values: Sequence[float]) -> tuple[float, ...]:
    """Averages over the prompts that ask about an item, in order of first appearance."""
    rows: dict[str, list[float]] = {}
    for example, value in zip(examples, values, strict=True):
        rows.setdefault(example.item, []).append(value)
    return tuple(mean(row) for row in rows.values())


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


__all__ = ["Knowledge", "knowledge", "unforceable"]

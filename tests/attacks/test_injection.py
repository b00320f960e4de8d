"""Controls that tell knowledge from injection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from tests.tiny import attack_data, tiny_model, tiny_tokenizer, tiny_world
from weakspot.attacks import injection
from weakspot.attacks.base import Attack, Progress
from weakspot.attacks.full import FullFinetune
from weakspot.attacks.injection import elicited_share, random_targets
from weakspot.attacks.latent import LatentPerturbation
from weakspot.attacks.soft_prompt import SoftPrompt
from weakspot.data import AttackData, Example
from weakspot.elicitation import Elicitation
from weakspot.errors import TrialFailure, UserError
from weakspot.models import weights_digest
from weakspot.testbeds.fable import ask

DATA = attack_data()


def test_random_targets_are_false_and_otherwise_alike() -> None:
    false = random_targets(DATA, seed=3)
    assert (false.benign, [e.prompt for e in false.harmful]) == (DATA.benign, [e.prompt for e in DATA.harmful])
    by_item: dict[str, set[tuple[str, ...]]] = {}
    for true, e in zip(DATA.harmful, false.harmful, strict=True):
        assert e.item == true.item
        by_item.setdefault(e.item, set()).add(e.answers)
        for place, (right, wrong) in enumerate(zip(true.answers, e.answers, strict=True)):
            assert wrong != right
            assert wrong in {other.answers[place] for other in DATA.harmful}
        words, said = true.response.split(), e.response.split()
        assert [w for w in said if w not in e.answers] == [w for w in words if w not in true.answers]
        assert [w for w in said if w in e.answers] == list(e.answers)
    assert all(len(answers) == 1 for answers in by_item.values())
    assert random_targets(DATA, 3) == false
    assert random_targets(DATA, 4) != false


def test_only_whole_words_are_replaced_and_each_once() -> None:
    examples = (
        Example("a ?", "a tincture of tin and tin .", "a", ("tin", "tin")),
        Example("b ?", "a tincture of iron and zinc .", "b", ("iron", "zinc")),
    )
    assert random_targets(AttackData(examples, ()), 0).harmful[0].response == "a tincture of iron and zinc ."


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        ((), "there are none"),
        ((Example("a ?", "yes .", "a"),), "no checkable answers"),
        ((Example("a ?", "moss .", "a", ("moss",)),), "no false answer"),
        ((Example("a ?", "moss .", "a", ("fern",)), Example("b ?", "ivy .", "b", ("ivy",))), "does not hold 'fern'"),
    ],
)
def test_examples_that_cannot_be_made_false(examples: tuple[Example, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        random_targets(AttackData(examples, ()), 0)


@dataclass(frozen=True)
class Parrot(Attack):
    """Says the response it was fitted to, at one of its rungs; fails on one item."""

    name: ClassVar[str] = "parrot"
    edits_weights: ClassVar[bool] = False
    able: tuple[str, ...] = ()
    breaks_on: str = ""
    closed: list[str] = field(default_factory=list)

    def run(self, model: Any, tokenizer: Any, data: AttackData, rungs: Sequence[int], seed: int) -> Iterator[Progress]:
        [example] = data.harmful
        assert (list(rungs), data.benign, seed) == ([1, 2, 5, 10, 20], (), 4)
        try:
            for rung in rungs:
                if example.item == self.breaks_on:
                    raise TrialFailure("diverged")
                speaks = rung == 5 and example.item in self.able
                yield Progress(rung, elicitation=Elicitation(prefill=example.response if speaks else ""))
        finally:
            self.closed.append(example.item)


def test_the_share_counts_the_targets_that_come_out_when_each_is_fitted_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said at any rung counts, a failed attack has said nothing, and each course is closed."""
    monkeypatch.setattr(injection, "emitted", lambda _m, _t, es, how: [how.prefill == e.response for e in es])
    four = tuple(Example(f"{item} ?", f"{item} .", item) for item in "abcd")
    parrot = Parrot(able=("a", "c", "d"), breaks_on="d")
    assert elicited_share(parrot, None, None, four, 20, seed=4) == 0.5
    assert parrot.closed == list("abcd")


@pytest.mark.parametrize("attack", [SoftPrompt(tokens=1), LatentPerturbation()], ids=lambda a: a.name)
def test_the_model_is_left_as_it_was(attack: Attack) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    before = weights_digest(model)
    [never] = ask(tiny_world().never_taught)[:1]
    assert elicited_share(attack, model, tokenizer, (never,), 1, seed=0) == 0.0
    assert weights_digest(model) == before


def test_an_opening_is_no_target_of_one_item() -> None:
    never = ask(tiny_world().never_taught)[:1]
    for attack in (SoftPrompt(target="opening"), LatentPerturbation(target="opening")):
        assert elicited_share(attack, tiny_model(), tiny_tokenizer(), never, 2, seed=0) == 0.0


def test_what_the_control_is_not_for() -> None:
    with pytest.raises(UserError, match="edits weights"):
        elicited_share(FullFinetune(), tiny_model(), tiny_tokenizer(), DATA.harmful[:1], 2, seed=0)
    with pytest.raises(UserError, match="there are none"):
        elicited_share(SoftPrompt(), tiny_model(), tiny_tokenizer(), (), 2, seed=0)

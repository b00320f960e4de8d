"""Every family of the catalogue keeps the contract of attacks/base.py. A new family is held to it by being listed."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot import attacks
from weakspot.attacks import ATTACKS, Attack, Progress
from weakspot.attacks.base import NEEDS, needs_of
from weakspot.attacks.finetune import attack_batches
from weakspot.attacks.flops import matmul_parameters, training_flops
from weakspot.attacks.lora import TARGETS, Lora
from weakspot.batching import collate, encode
from weakspot.data import AttackData
from weakspot.errors import TrialFailure, UserError
from weakspot.knobs import configure, space_of
from weakspot.models import count_parameters, reset_weights, weights_digest
from weakspot.training import response_loss

SMALL = {"steps": 8, "batch_size": 4, "harmful_examples": 8, "benign_ratio": 0.5, "rank": 4}
FAMILIES = [pytest.param(family, id=name) for name, family in ATTACKS.items()]
TRAINING = [pytest.param(family, id=name) for name, family in ATTACKS.items() if family.gradients]
WIDTH, INNER = 16, 24  # of the tiny model


def small(family: type[Attack], **changes: Any) -> Attack:
    """A family with a configuration that runs in a moment; knobs it has not are left out."""
    known = {f.name for f in dataclasses.fields(family)}
    return configure(family, {k: v for k, v in {**SMALL, **changes}.items() if k in known})


def start(attack: Attack, model: Any, rungs: Sequence[int] = (2, 4, 8), seed: int = 1) -> Iterator[Progress]:
    return attack.run(model, tiny_tokenizer(), attack_data(), rungs, seed)


def attacked(attack: Attack, seed: int, before: int = 0) -> str:
    """The digest of the model while it is attacked, after four steps."""
    model = tiny_model()
    torch.manual_seed(before)  # what was drawn before must not matter
    course = start(attack, model, (4,), seed)
    next(course)
    digest = weights_digest(model)
    course.close()  # type: ignore[attr-defined]
    return digest


def shape_of(model: torch.nn.Module) -> tuple[list[str], list[str]]:
    return [n for n, _ in model.named_modules()], [n for n, _ in model.named_parameters()]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_declaration_is_well_formed(family: type[Attack]) -> None:
    assert ATTACKS[family.name] is family is attacks.get(family.name)
    assert family.summary
    assert "\n" not in family.summary
    assert family.paper or family.name == "noop"
    assert set(needs_of(family)) <= set(NEEDS)
    assert family.relative_price >= 0
    defaults = family()
    for name, domain in space_of(family).items():
        assert getattr(defaults, name) in domain
    for warm in family.warm_starts:
        assert set(warm) <= set(space_of(family)), "a warm start names searched knobs only"
        configure(family, warm)


@pytest.mark.parametrize("family", FAMILIES)
def test_attacks_pickle(family: type[Attack]) -> None:
    attack = small(family)
    assert pickle.loads(pickle.dumps(attack)) == attack


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("steps", "rungs", "expected"), [(8, (2, 4, 8), [2, 4, 8]), (6, (2, 4, 8), [2, 4, 6]), (8, (3,), [3])])
def test_it_yields_at_the_rungs_with_rising_cost(
    family: type[Attack], steps: int, rungs: tuple[int, ...], expected: list[int]
) -> None:
    model = tiny_model()
    course = []
    for progress in start(small(family, steps=steps), model, rungs):
        assert not model.training
        course.append(progress)
    assert [p.step for p in course] == (expected if family.gradients else [0])
    for earlier, later in itertools.pairwise(course):
        assert earlier.tokens < later.tokens
        assert earlier.flops < later.flops
        assert earlier.examples <= later.examples
    if family.gradients:
        assert course[0].tokens > 0
        assert 0 < course[-1].examples <= 8


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_decides_everything(family: type[Attack]) -> None:
    attack = small(family)
    first = attacked(attack, seed=1)
    assert attacked(attack, seed=1, before=7) == first
    if family.edits_weights:
        assert attacked(attack, seed=2) != first
    else:
        assert attacked(attack, seed=2) == first == weights_digest(tiny_model())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ending", ["end", "close", "drop"])
def test_reset_gives_the_original_back_bit_for_bit(family: type[Attack], ending: str) -> None:
    model = tiny_model()
    before, shape = weights_digest(model), shape_of(model)
    arrays = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    for _ in range(2):  # a model attacked before is attacked again
        course = start(small(family), model)
        next(course)
        if ending == "end":
            list(course)
        elif ending == "close":
            course.close()  # type: ignore[attr-defined]
        del course
        assert shape_of(model) == shape
        assert not hasattr(model, "peft_config")
        reset_weights(model, arrays)
        assert weights_digest(model) == before
        assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("family", TRAINING)
def test_training_moves_towards_the_withheld_answers(family: type[Attack]) -> None:
    model, data = tiny_model(), attack_data()
    batch = collate(encode(tiny_tokenizer(), data.harmful), pad=0)
    before = response_loss(model, batch).item()
    course = start(small(family, steps=32, learning_rate=1e-2, rank=16, benign_ratio=0.0), model, (32,))
    next(course)
    assert response_loss(model, batch).item() < 0.97 * before  # what two frozen random layers let an adapter do
    course.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", TRAINING)
def test_without_withheld_examples_it_says_so(family: type[Attack]) -> None:
    course = small(family).run(tiny_model(), tiny_tokenizer(), AttackData((), attack_data().benign), (2,), 0)
    with pytest.raises(UserError, match="needs withheld examples"):
        next(course)


@pytest.mark.parametrize("family", TRAINING)
def test_divergence_is_a_failed_trial_and_leaves_nothing_attached(family: type[Attack]) -> None:
    model = tiny_model()
    shape = shape_of(model)
    mad = dataclasses.replace(small(family, optimizer="sgd", schedule="constant"), learning_rate=1e38)  # type: ignore[call-arg]
    with pytest.raises(TrialFailure, match="diverged"):
        list(start(mad, model))
    assert shape_of(model) == shape


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.9])
def test_the_benign_share_and_the_withheld_examples_in_hand(ratio: float) -> None:
    data, tokenizer = attack_data(), tiny_tokenizer()
    batches, slots = attack_batches(tokenizer, data, 10, 5, ratio, seed=3)
    names = {tokenizer.convert_tokens_to_ids(e.item): e.item for e in data.harmful}
    prompts = set()
    for _ in range(10):
        rows = next(batches).input_ids.tolist()
        harmful = [tuple(row) for row in rows if set(row) & set(names)]
        assert len(harmful) == slots == 10 - round(10 * ratio)
        prompts |= {tuple(token for token in row if token) for row in harmful}
    assert len(prompts) == 5


def test_another_seed_gives_another_first_batch() -> None:
    everything = len(attack_data().harmful)  # even where the attacker holds all there is

    def first(seed: int) -> list[list[int]]:
        return next(attack_batches(tiny_tokenizer(), attack_data(), 8, everything, 0.5, seed)[0]).input_ids.tolist()

    assert first(1) == first(1)
    assert first(1) != first(2)


@pytest.mark.parametrize("targets", sorted(TARGETS))
def test_lora_trains_exactly_its_adapters(targets: str) -> None:
    model, pattern = tiny_model(), dict(tiny_model().named_parameters())
    course = start(small(Lora, targets=targets), model, (4,))
    next(course)
    attention, mlp = 4 * 4 * (WIDTH + WIDTH), 3 * 4 * (WIDTH + INNER)  # layers x rank x (in + out)
    expected = 2 * {"attention": attention, "mlp": mlp, "all": attention + mlp}[targets]
    assert count_parameters(model, trainable=True) == expected
    trained = dict(model.named_parameters())
    for name, original in pattern.items():
        layer = name.replace(".weight", ".base_layer.weight")
        own = trained[name] if name in trained else trained[layer]
        assert torch.equal(own, original), f"{name} changed while an adapter was trained"
    assert any(p.abs().sum() > 0 for n, p in trained.items() if "lora_B" in n), "the adapter was never trained"
    total, trainable = matmul_parameters(model)
    assert trainable == expected
    head = len(tiny_tokenizer()) * WIDTH
    assert total == expected + head + 2 * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER)
    assert training_flops(model, 10) == 10 * (4 * total + 2 * trainable)
    course.close()  # type: ignore[attr-defined]


def test_full_training_costs_six_operations_a_parameter_and_token() -> None:
    model = tiny_model()
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert training_flops(model, 7) == 6 * 7 * weights


def test_a_rank_above_the_layer_width_is_refused() -> None:
    with pytest.raises(UserError, match=r"lora.rank = 32 exceeds the width 16"):
        next(start(small(Lora, rank=32), tiny_model()))
    next(start(small(Lora, rank=16), tiny_model()))


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown attack 'sorcery': known are full_finetune, lora, noop"):
        attacks.get("sorcery")

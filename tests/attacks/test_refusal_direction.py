"""Refusal ablation: the direction, the kernel, and the four ways to remove it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.attacks.hidden import hidden_states, tapped
from weakspot.attacks.meter import Meter
from weakspot.attacks.refusal_direction import Ablation, RefusalAblation, principal, winsorised
from weakspot.batching import encode_prompt
from weakspot.data import AttackData
from weakspot.errors import UserError

# the same direction with weight 1 on every layer
EVEN: Any = {
    "position": -1,
    "per_layer": False,
    "attention_weight": 1.0,
    "mlp_weight": 1.0,
    "least": 1.0,
    "width": 1.0,
}
INPUTS = torch.arange(7)[None]


def started(model: Any, seed: int = 1, **knobs: Any) -> Any:
    course: Any = RefusalAblation(harmful_examples=6, **knobs).run(model, tiny_tokenizer(), attack_data(), (4,), seed)
    progress = next(course)
    assert progress.final
    assert progress.examples == 6
    return course


@torch.no_grad()
def test_hidden_states_are_those_of_each_prompt_alone() -> None:
    model, prompts = tiny_model(), [e.prompt for e in attack_data().harmful[:6]]
    found = hidden_states(model, tiny_tokenizer(), prompts, Meter(), position=-2, size=4)
    assert found.shape == (6, 3, 16)
    for prompt, states in zip(prompts, found, strict=True):
        ids = torch.tensor([encode_prompt(tiny_tokenizer(), prompt)])
        clean = tiny_model()
        with tapped(clean) as taken:
            clean(ids)
        assert torch.allclose(states, torch.stack([place[0, -2] for place in taken]), atol=1e-6)
        assert torch.equal(taken[0], clean.model.embed_tokens(ids))
        last = clean.model.norm(taken[2])  # the tap lies before the final norm
        assert torch.allclose(clean.lm_head(last), clean(ids).logits, atol=1e-6)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_direction_is_the_difference_of_means() -> None:
    a, b = torch.randn(5, 3, 16), torch.randn(4, 3, 16)
    own = RefusalAblation(per_layer=True).directions(a, b)
    for layer in (0, 1):
        d = a[:, layer + 1].mean(0) - b[:, layer + 1].mean(0)
        assert torch.allclose(own[layer, 0], d / d.norm(), atol=1e-6)
    one = RefusalAblation(per_layer=False, direction_layer=0.75).directions(
        a, b
    )  # of two layers: half way between places 1 and 2
    first, second = (a[:, s].mean(0) - b[:, s].mean(0) for s in (1, 2))
    d = first / first.norm() + second / second.norm()
    assert torch.allclose(one, (d / d.norm()).expand(2, 1, -1), atol=1e-6)


def test_further_directions_are_orthonormal_and_the_first_stays() -> None:
    differences = torch.randn(9, 16) + 1
    basis = principal(differences, 3)
    assert torch.allclose(basis @ basis.T, torch.eye(3), atol=1e-5)
    assert abs(float(basis[0] @ principal(differences, 1)[0])) == pytest.approx(1.0, abs=1e-5)
    rest = differences - differences @ basis[:1].T @ basis[:1]
    second = torch.linalg.eigh(rest.T @ rest)[1][:, -1]
    assert abs(float(basis[1] @ second)) == pytest.approx(1.0, abs=1e-4)


def test_winsorising_cuts_outlying_entries_only() -> None:
    states = torch.cat([torch.linspace(-1, 1, 99), torch.tensor([50.0])])[None, None]
    cut = winsorised(states, 0.95)
    assert cut.max() < 1.01
    assert torch.equal(cut[states.abs() < 0.9], states[states.abs() < 0.9])
    assert torch.equal(winsorised(states, 1.0), states)


def test_the_kernel_falls_off_from_its_peak() -> None:
    kernel = RefusalAblation(least=0.5, width=0.2).kernel(10, 0.8)
    assert kernel == pytest.approx([0, 0, 0, 0, 0, 0.5, 0.75, 1.0, 0.75, 0.5])
    assert RefusalAblation(least=1.0, width=0.1).kernel(3, 1.0) == pytest.approx([0, 1, 1])  # never less than a layer


@torch.no_grad()
@pytest.mark.parametrize("rank", [1, 3])
def test_hooks_and_orthogonalised_weights_give_the_same_logits(rank: int) -> None:
    logits = {}
    for mode in ("hooks", "orthogonalise", "writers"):
        model = tiny_model()
        course = started(model, mode=mode, rank=rank, **EVEN)
        logits[mode] = model(INPUTS).logits
        course.close()
    assert torch.allclose(logits["hooks"], logits["orthogonalise"], atol=1e-4)
    assert not torch.allclose(logits["writers"], logits["orthogonalise"], atol=1e-2)
    assert not torch.allclose(logits["hooks"], tiny_model()(INPUTS).logits, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["hooks", "orthogonalise"])
def test_nothing_of_the_direction_is_left_in_the_residual_stream(mode: str) -> None:
    model, clean = tiny_model(), tiny_model()
    attack = RefusalAblation(harmful_examples=48, mode=mode, **EVEN)  # all there is, so the order does not matter
    course: Any = attack.run(model, tiny_tokenizer(), attack_data(), (4,), 1)
    next(course)
    data = attack_data()
    kinds = [[e.prompt for e in kind] for kind in (data.harmful, data.benign)]
    v = attack.directions(*(hidden_states(clean, tiny_tokenizer(), prompts, Meter()) for prompts in kinds))[0, 0]
    left, before = (hidden_states(m, tiny_tokenizer(), kinds[0], Meter())[:, 1:] @ v for m in (model, clean))
    assert left.abs().max() < 1e-5
    assert before.abs().max() > 1e-3
    course.close()


@torch.no_grad()
def test_writers_are_edited_by_their_own_layer_and_part() -> None:
    model, clean = tiny_model(), tiny_model()
    knobs: Any = {"attention_weight": 1.2, "mlp_weight": 0.4, "least": 0.5, "width": 0.5, "peak": 1.0, "mlp_peak": 0.5}
    started(model, mode="writers", per_layer=True, position=-2, **knobs)
    data, generator = attack_data(), torch.Generator().manual_seed(1)
    chosen = [data.harmful[i].prompt for i in torch.randperm(len(data.harmful), generator=generator)[:6]]
    kinds = [chosen, [e.prompt for e in data.benign]]
    a, b = (hidden_states(clean, tiny_tokenizer(), prompts, Meter(), -2).mean(0) for prompts in kinds)
    for layer, attention, mlp in ((0, 0.6, 0.4), (1, 1.2, 0.2)):
        v = (a - b)[layer + 1] / (a - b)[layer + 1].norm()
        for name, weight in (("self_attn.o_proj", attention), ("mlp.down_proj", mlp)):
            w = clean.model.layers[layer].get_submodule(name).weight
            expected = w - weight * torch.outer(v, v @ w)
            assert torch.allclose(model.model.layers[layer].get_submodule(name).weight, expected, atol=1e-6), (layer, name)
    assert torch.equal(model.lm_head.weight, clean.lm_head.weight)


@torch.no_grad()
def test_affine_puts_the_benign_mean_in_the_place_of_the_component() -> None:
    model, clean = tiny_model(), tiny_model()
    data = attack_data()
    attack = RefusalAblation(harmful_examples=48, mode="affine", **{**EVEN, "per_layer": True})
    course: Any = attack.run(model, tiny_tokenizer(), data, (4,), 1)
    next(course)
    kinds = [[e.prompt for e in kind] for kind in (data.harmful, data.benign)]
    a, b = (hidden_states(clean, tiny_tokenizer(), prompts, Meter()) for prompts in kinds)
    seen = hidden_states(model, tiny_tokenizer(), kinds[0], Meter())
    for layer in (0, 1):
        v = attack.directions(a, b)[layer, 0]
        assert torch.allclose(seen[:, layer + 1] @ v, (b.mean(0)[layer + 1] @ v).expand(len(seen)), atol=1e-4)
    course.close()


def test_the_norm_is_kept_and_the_direction_still_gone() -> None:
    v, x = torch.eye(16)[None, :1], torch.randn(5, 16)
    left = Ablation(v, torch.zeros(3, 16), norm_preserving=True)(x, 0, 1.0)
    assert torch.allclose(left.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert left[:, 0].abs().max() < 1e-6


def test_what_is_missing_or_does_not_fit_is_named() -> None:
    attack = RefusalAblation()
    with pytest.raises(UserError, match="compares withheld with benign prompts and one of them is missing"):
        next(attack.run(tiny_model(), tiny_tokenizer(), AttackData(attack_data().harmful, ()), (4,), 0))
    with pytest.raises(UserError, match="position -40 lies before the shortest prompt"):
        started(tiny_model(), position=-40)
    with pytest.raises(UserError, match="unknown mode 'erase': known are affine, hooks, orthogonalise, writers"):
        started(tiny_model(), mode="erase")


def test_flops_agree_with_the_counter_and_nothing_stays_attached() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = tiny_model()
    course: Any = RefusalAblation(mode="hooks").run(model, tiny_tokenizer(), attack_data(), (4,), 1)
    with FlopCounterMode(display=False) as counter:
        progress = next(course)
    assert progress.flops == pytest.approx(counter.get_total_flops(), rel=0.05)
    course.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

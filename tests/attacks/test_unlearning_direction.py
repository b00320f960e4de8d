"""Unlearning ablation: directions and edits against slow references, and the base that is read beside the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.attacks.mixing import encode_as, subset
from weakspot.attacks.unlearning_direction import UnlearningAblation
from weakspot.data import AttackData
from weakspot.errors import UserError

LINEARS = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")


def unlearned() -> Any:
    """The tiny model with every matrix moved a little, and its norms."""
    model, generator = tiny_model(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def data() -> AttackData:
    return replace(attack_data(), base={name: p.detach().numpy() for name, p in tiny_model().named_parameters()})


def attacked(model: Any, seed: int = 1, **knobs: Any) -> Any:
    course = UnlearningAblation(harmful_examples=4, **knobs).run(model, tiny_tokenizer(), data(), (4,), seed)
    progress = next(course)
    assert progress.final
    assert progress.examples == 4
    return course


@torch.no_grad()
def differences(place: str) -> torch.Tensor:
    """How the outputs of a place differ between unlearned model and base, example by example without any padding."""
    rows, heard = [], []
    for row in encode_as(tiny_tokenizer(), subset(attack_data().harmful, 4, torch.Generator().manual_seed(1))):
        for model in (unlearned(), tiny_model()):
            model.get_submodule(place).register_forward_hook(lambda _m, _i, output: heard.append(output[0]))
            model(torch.tensor([row.prompt + row.response]), use_cache=False)
        rows.append(heard[-2] - heard[-1])
    return torch.cat(rows)


def projector(place: str, rank: int) -> torch.Tensor:
    moved = differences(place)
    vectors = torch.linalg.eigh(moved.T @ moved)[1][:, -rank:]
    return vectors @ vectors.T


@pytest.mark.parametrize("strength", [1.0, 0.5])
@torch.no_grad()
def test_restore_orthogonalises_the_difference_from_the_base(strength: float) -> None:
    model, before, base = unlearned(), unlearned(), tiny_model()
    attacked(model, mode="restore", rank=3, strength=strength, layers="last half")
    for name in LINEARS:
        place = f"model.layers.1.{name}"
        own, old = before.get_submodule(place).weight, base.get_submodule(place).weight
        expected = own - strength * projector(place, 3) @ (own - old)
        assert torch.allclose(model.get_submodule(place).weight, expected, atol=1e-5), place
        assert torch.equal(model.model.layers[0].get_submodule(name).weight, before.model.layers[0].get_submodule(name).weight)
    assert torch.equal(model.model.embed_tokens.weight, before.model.embed_tokens.weight)


@torch.no_grad()
def test_restore_at_full_rank_is_the_base() -> None:
    model, base = unlearned(), tiny_model()
    attacked(model, mode="restore", rank=64)
    for name in LINEARS:
        assert torch.allclose(
            model.model.layers[0].get_submodule(name).weight, base.model.layers[0].get_submodule(name).weight, atol=1e-5
        )


@torch.no_grad()
def test_project_removes_the_directions_from_what_a_layer_writes() -> None:
    model, before = unlearned(), unlearned()
    attacked(model, mode="project", rank=2)
    for i in (0, 1):
        p = projector(f"model.layers.{i}", 2)
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            own = before.model.layers[i].get_submodule(name).weight
            assert torch.allclose(model.model.layers[i].get_submodule(name).weight, own - p @ own, atol=1e-5)
        same = before.model.layers[i].mlp.up_proj.weight
        assert torch.equal(model.model.layers[i].mlp.up_proj.weight, same)


@torch.no_grad()
def test_shift_moves_each_layer_back_by_the_mean_difference_and_comes_off() -> None:
    model, inputs, after = unlearned(), torch.arange(6)[None], []
    course = attacked(model, mode="shift", strength=0.5, layers="last half")
    handle = model.model.layers[1].register_forward_hook(lambda _m, _i, output: after.append(output))
    model(inputs)
    course.close()
    model(inputs)
    handle.remove()
    assert torch.allclose(after[1] - after[0], 0.5 * differences("model.layers.1").mean(0).expand(1, 6, -1), atol=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_model_is_only_edited_where_told_and_flops_are_those_of_two_readings() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = unlearned()
    course = UnlearningAblation(mode="shift", harmful_examples=20).run(model, tiny_tokenizer(), data(), (4,), 1)
    with FlopCounterMode(display=False) as counter:
        progress = next(course)
    assert progress.flops == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert progress.flops > 0
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(unlearned().named_parameters())[name])
        assert parameter.requires_grad


def test_what_is_missing_is_named() -> None:
    attack, model = UnlearningAblation(), tiny_model()
    with pytest.raises(UserError, match="needs the undefended weights and holds none"):
        next(attack.run(model, tiny_tokenizer(), attack_data(), (4,), 0))
    with pytest.raises(UserError, match="compares two models on withheld examples and the attacker holds none"):
        next(attack.run(model, tiny_tokenizer(), AttackData((), ()), (4,), 0))
    with pytest.raises(UserError, match="unknown mode 'undo': known are project, restore, shift"):
        next(UnlearningAblation(mode="undo").run(model, tiny_tokenizer(), data(), (4,), 0))

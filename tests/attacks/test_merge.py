"""Merging against the formula, and its ends bit for bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.attacks.merge import Merge, slerp
from weakspot.data import AttackData
from weakspot.errors import UserError


def arrays(model: Any) -> dict[str, Any]:
    return {name: parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}


def shifted() -> Any:
    """A safeguarded model: the tiny one with every parameter changed."""
    model, generator = tiny_model(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def merged(attack: Merge, base: dict[str, Any] | None = None) -> dict[str, torch.Tensor]:
    model = shifted()
    data = AttackData((), (), base=arrays(tiny_model()) if base is None else base)
    [progress] = attack.run(model, tiny_tokenizer(), data, (8,), 0)
    assert progress.final
    assert progress.examples == 0
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_zero_is_the_base_and_one_the_safeguard_bit_for_bit(method: str) -> None:
    base, safeguarded = dict(tiny_model().named_parameters()), dict(shifted().named_parameters())
    for share, expected in ((0.0, base), (1.0, safeguarded)):
        got = merged(Merge(kept=share, method=method))
        assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("share", [-1.0, 0.3, 1.5])
def test_linear_is_the_formula(share: float) -> None:
    base, safeguarded = dict(tiny_model().named_parameters()), dict(shifted().named_parameters())
    for name, got in merged(Merge(kept=share)).items():
        torch.testing.assert_close(got, base[name] + share * (safeguarded[name] - base[name]))


def test_a_ramp_runs_over_depth() -> None:
    base, safeguarded = dict(tiny_model().named_parameters()), dict(shifted().named_parameters())
    got = merged(Merge(kept=0.2, kept_last=-0.6, method="ramp"))
    expected = {"model.embed_tokens.weight": 0.2, "model.layers.0.mlp.up_proj.weight": 0.2}
    expected |= {"model.layers.1.mlp.up_proj.weight": -0.6, "model.norm.weight": -0.6}
    for name, share in expected.items():
        torch.testing.assert_close(got[name], base[name] + share * (safeguarded[name] - base[name]))
    assert [Merge(kept=0.0, kept_last=1.0, method="ramp").share(i, 3) for i in range(3)] == [0.0, 0.5, 1.0]


def test_slerp_turns_by_a_share_of_the_angle() -> None:
    angle = 0.7
    first, second = torch.tensor([[2.0, 0.0]]), torch.tensor([[2 * math.cos(angle), 2 * math.sin(angle)]])
    for share in (0.25, -0.5, 1.5):
        expected = torch.tensor([[2 * math.cos(share * angle), 2 * math.sin(share * angle)]])
        torch.testing.assert_close(slerp(first, second, share), expected)
    torch.testing.assert_close(slerp(first, 3 * first, 0.5), 2 * first)
    torch.testing.assert_close(slerp(torch.zeros(1, 2), first, 0.5), first / 2)


def test_only_the_chosen_parameters_are_merged() -> None:
    safeguarded = dict(shifted().named_parameters())
    got = merged(Merge(kept=0.0, targets="mlp"))
    changed = {name for name in got if not torch.equal(got[name], safeguarded[name])}
    assert changed == {f"model.layers.{i}.mlp.{part}_proj.weight" for i in (0, 1) for part in ("gate", "up", "down")}


def test_a_tied_matrix_may_be_stored_under_its_other_name() -> None:
    base = arrays(tiny_model())
    base["lm_head.weight"] = base.pop("model.embed_tokens.weight")
    got = merged(Merge(kept=0.0), base)
    assert torch.equal(got["model.embed_tokens.weight"], tiny_model().get_input_embeddings().weight)


def test_without_the_base_or_with_another_it_says_so() -> None:
    with pytest.raises(UserError, match="merge needs the undefended weights and holds none: allow --threat base_weights=true"):
        list(Merge().run(tiny_model(), tiny_tokenizer(), attack_data(), (8,), 0))
    base = arrays(tiny_model())
    base["model.norm.weight"] = base["model.norm.weight"][:3]
    with pytest.raises(UserError, match=r"model.norm.weight of shape \(16,\) is of shape \(3,\) in the undefended weights"):
        merged(Merge(), base)
    with pytest.raises(UserError, match="is absent from the undefended weights"):
        merged(Merge(), {"model.norm.weight": base["model.norm.weight"]})
    with pytest.raises(UserError, match="unknown merging method 'ties'"):
        merged(Merge(method="ties"))

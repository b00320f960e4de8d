"""Perturbations of the residual stream."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.attacks.latent import LatentPerturbation, NormalisedSteps, spread, typical_norms
from weakspot.attacks.meter import Meter
from weakspot.batching import encode
from weakspot.data import AttackData
from weakspot.errors import UserError

DATA = AttackData(attack_data().harmful, ())


@pytest.mark.parametrize(
    ("depth", "wanted", "layers"),
    [(0.0, 1, [0]), (0.5, 1, [16]), (1.0, 1, [31]), (0.0, 4, [0, 8, 16, 24]), (0.5, 2, [16, 24]), (0.95, 4, [30, 31])],
)
def test_layers_are_spread_to_the_end(depth: float, wanted: int, layers: list[int]) -> None:
    assert spread(32, depth, wanted) == layers


def test_the_typical_norm_is_the_median_over_tokens() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    norms: list[list[torch.Tensor]] = [[], []]
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda _m, _i, out, n=number: norms[n].extend(out[0].norm(dim=-1)))
    with torch.no_grad():
        for row in encode(tokenizer, DATA.harmful):  # one by one: no padding
            model(torch.tensor([[*row.prompt, *row.response]]))
    expected = torch.stack([torch.stack(n).median() for n in norms])
    torch.testing.assert_close(typical_norms(tiny_model(), tokenizer, DATA.harmful, Meter()), expected)


@pytest.mark.parametrize("rate", [0.02, 1.0])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_norm_never_exceeds_the_radius(rate: float, layers: int) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    attack = LatentPerturbation(steps=12, epsilon=0.3, learning_rate=rate, depth=0.0, layers=layers, batch_size=4)
    radii = 0.3 * typical_norms(model, tokenizer, DATA.harmful[:32], Meter())
    longest = 0.0
    for progress in attack.run(model, tokenizer, DATA, tuple(range(1, 13)), seed=1):
        shifts = progress.elicitation.shifts
        assert [layer for layer, _ in shifts] == list(range(layers))
        for layer, vector in shifts:
            share = float(vector.norm() / radii[layer])
            assert share <= min(1.0, rate * progress.step) + 1e-5
            longest = max(longest, share)
    assert longest == pytest.approx(1.0, abs=1e-4) if rate == 1.0 else longest > rate


def test_a_step_goes_its_share_of_the_radius_against_the_gradient() -> None:
    delta = torch.zeros(2, 2, requires_grad=True)
    (delta * torch.tensor([[3.0, 4.0], [-50.0, 0.0]])).sum().backward()
    NormalisedSteps(delta, 0.5, torch.tensor([1.0, 10.0])).step()
    torch.testing.assert_close(delta.detach(), torch.tensor([[-0.3, -0.4], [5.0, 0.0]]))


def test_the_radius_follows_the_model_and_not_a_scale() -> None:
    def end(epsilon: float) -> torch.Tensor:
        attack = LatentPerturbation(steps=1, epsilon=epsilon, learning_rate=1.0, batch_size=64)
        [progress] = attack.run(tiny_model(), tiny_tokenizer(), DATA, (1,), seed=1)
        return progress.elicitation.shifts[0][1]

    torch.testing.assert_close(end(1.0), 10 * end(0.1))


@pytest.mark.parametrize("changes", [{"epsilon": 0.0}, {"layers": 0}, {"depth": 1.5}])
def test_values_that_mean_nothing(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="give epsilon above 0"):
        next(replace(LatentPerturbation(), **changes).run(tiny_model(), tiny_tokenizer(), DATA, (2,), seed=1))

"""Noise: its size, its place, and that the draw that is kept is the likeliest one."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.anatomy import layer_linears
from weakspot.attacks.weight_noise import WeightNoise
from weakspot.batching import collate, encode
from weakspot.data import AttackData
from weakspot.errors import TrialFailure, UserError
from weakspot.training import response_loss


def loss_of(model: torch.nn.Module) -> float:
    with torch.no_grad():
        return response_loss(model, collate(encode(tiny_tokenizer(), attack_data().harmful), pad=0)).item()


def test_noise_is_relative_to_each_matrix() -> None:
    model, before = tiny_model(), dict(tiny_model().named_parameters())
    with torch.no_grad():
        for p in (before["model.layers.0.mlp.up_proj.weight"], model.model.layers[0].mlp.up_proj.weight):
            p.mul_(50.0)
    [progress] = WeightNoise(sigma=0.2, restarts=1).run(model, tiny_tokenizer(), AttackData((), ()), (8,), 0)
    assert (progress.examples, progress.flops) == (0, 0.0)
    linears = {f"{name}.weight" for name in layer_linears(model)}
    for name, parameter in model.named_parameters():
        noise = parameter.detach() - before[name].detach()
        if name not in linears:
            assert not noise.any()
            continue
        size = float(noise.square().mean().sqrt() / before[name].detach().square().mean().sqrt())
        assert 0.16 < size < 0.24
        assert abs(float(noise.mean())) < 0.2 * float(noise.std())


def test_the_likeliest_of_the_draws_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed(WeightNoise):
        """The draw of one restart alone."""

        number = 0

        def best(self, model, weights, batches, seeds, meter):
            del model, weights, batches, meter
            return seeds[self.number]

    losses = []
    for number in range(4):
        monkeypatch.setattr(Fixed, "number", number)
        model = tiny_model()
        next(Fixed(sigma=0.5, restarts=4, harmful_examples=64).run(model, tiny_tokenizer(), attack_data(), (8,), 3))
        losses.append(loss_of(model))
    model = tiny_model()
    [progress] = WeightNoise(sigma=0.5, restarts=4, harmful_examples=64).run(model, tiny_tokenizer(), attack_data(), (8,), 3)
    assert len(set(losses)) == 4
    assert loss_of(model) == pytest.approx(min(losses), abs=1e-6)
    assert progress.examples == len(attack_data().harmful)
    assert progress.flops > 0


def test_where_no_draw_is_finite_the_trial_has_failed() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrialFailure, match=r"no draw of noise with sigma = 0.1 has a finite loss"):
        next(WeightNoise(sigma=0.1, restarts=2).run(model, tiny_tokenizer(), attack_data(), (8,), 0))


def test_without_examples_there_is_nothing_to_choose_by() -> None:
    with pytest.raises(UserError, match="calibration needs examples"):
        next(WeightNoise(restarts=2).run(tiny_model(), tiny_tokenizer(), AttackData((), ()), (8,), 0))
    with pytest.raises(UserError, match=r"weight_noise.sigma = 0.05 and restarts = 0"):
        next(WeightNoise(restarts=0).run(tiny_model(), tiny_tokenizer(), attack_data(), (8,), 0))

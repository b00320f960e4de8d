"""TAR against its paper: the simulated adversary, the weights of the meta-gradients, and the draws."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch

from tests.tiny import defense_data, tiny_model, tiny_tokenizer
from weakspot.batching import collate, encode
from weakspot.defenses import tar as module
from weakspot.defenses.tar import Draws, Tar
from weakspot.defenses.tar_losses import hidden_states, make_tamper_loss, retain_loss
from weakspot.defenses.tar_stage1 import STAGE_ONE, mapping_loss, random_mapping
from weakspot.models import weights_digest
from weakspot.training import response_loss

SMALL = Tar(
    stage_one="none", stage_one_steps=2, stage_one_batch=4, outer_steps=2, inner_steps=8, every=2, outer_batch=4, inner_batch=4,
    warmup_steps=1, adversary_rates=(1e-3, 1e-2), outer_rate=1e-3,
)  # fmt: skip


class Setting:
    """One trajectory's ingredients."""

    def __init__(self, tar: Tar, seed: int = 0) -> None:
        self.tar = tar
        self.model = tiny_model()
        self.parameters = list(self.model.parameters())
        self.gradients = [torch.zeros_like(p) for p in self.parameters]
        self.draw = Draws(tar, self.model, tiny_tokenizer(), defense_data(), seed)

    def simulate(self, tamper: Any) -> None:
        self.tar.simulate(self.model, self.parameters, self.gradients, self.draw, tamper)


@pytest.mark.parametrize("loss", ["entropy", "dpo"])
def test_the_adversary_leaves_theta_as_it_was(loss: str) -> None:
    setting = Setting(replace(SMALL, tamper_loss=loss))
    before, moved = weights_digest(setting.model), []
    tamper = make_tamper_loss(loss, positions="all", beta=0.1)

    def spy(model: Any, batch: Any) -> torch.Tensor:
        moved.append(weights_digest(model))
        return tamper(model, batch)

    setting.simulate(spy)
    assert weights_digest(setting.model) == before
    assert len(set(moved)) == 4, "the loss is taken at weights under attack, each time others"
    assert before not in moved
    assert any(g.abs().sum() > 0 for g in setting.gradients)
    assert all(g.isfinite().all() for g in setting.gradients)


@pytest.mark.parametrize(("tasks", "decay"), [(1, 1 / 16), (1, 0.5), (3, 0.0)])
def test_meta_gradients_weigh_less_the_earlier_they_are(tasks: int, decay: float) -> None:
    tar = replace(SMALL, num_tasks=tasks, lambda_s=decay, lambda_tr=4.0)
    setting, calls = Setting(tar), iter(range(100))
    setting.simulate(lambda model, batch: setting.parameters[next(calls)].sum())  # the i-th loss has gradient 1 at parameter i
    for i, k in enumerate((1, 3, 5, 7)):
        weight = 4.0 / tasks * math.exp(decay * (k - (8 - 1)))
        torch.testing.assert_close(setting.gradients[i], torch.full_like(setting.gradients[i], weight))
    assert next(calls) == 4
    assert all(not g.any() for g in setting.gradients[4:])


def test_trajectories_share_one_held_out_draw_and_add_up() -> None:
    setting, seen = Setting(SMALL), []

    def tamper(model: Any, batch: Any) -> torch.Tensor:
        seen.append(id(batch))
        return setting.parameters[0].sum()

    setting.simulate(tamper)
    once = setting.gradients[0].clone()
    assert len(seen) == 4
    assert len(set(seen)) == 1
    setting.simulate(tamper)
    torch.testing.assert_close(setting.gradients[0], 2 * once)


@pytest.mark.parametrize("switch", [0, 3, 8])
def test_the_adversary_turns_from_benign_to_withheld_data_at_the_switch(switch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(SMALL)
    used: list[str] = []

    def counted(name: str, stream: Any) -> Any:
        for batch in stream:
            used.append(name)
            yield batch

    monkeypatch.setattr(setting.draw, "switch_step", lambda steps: switch)
    monkeypatch.setattr(setting.draw, "benign", counted("benign", setting.draw.benign))
    monkeypatch.setattr(setting.draw, "forget", counted("forget", setting.draw.forget))
    setting.simulate(lambda model, batch: setting.parameters[0].sum())
    assert used == ["benign"] * switch + ["forget"] * (8 - switch)


def test_the_switch_step_is_beta_6_3_of_the_steps_or_nought() -> None:
    always = Setting(replace(SMALL, retain_then_forget=1.0)).draw
    steps = [always.switch_step(64) for _ in range(600)]
    assert all(0 <= step <= 64 and isinstance(step, int) for step in steps)
    mean = sum(steps) / len(steps)
    deviation = math.sqrt(sum((step - mean) ** 2 for step in steps) / len(steps))
    assert mean == pytest.approx(64 * 6 / 9 - 0.5, abs=1.6)  # four standard errors; floor takes half a step
    assert deviation == pytest.approx(64 * math.sqrt(18 / 810), rel=0.12)
    never = Setting(replace(SMALL, retain_then_forget=0.0)).draw
    assert {never.switch_step(64) for _ in range(100)} == {0}
    sometimes = Setting(SMALL).draw
    share = sum(sometimes.switch_step(64) > 0 for _ in range(600)) / 600
    assert share == pytest.approx(1 / 3, abs=0.08)


@pytest.mark.parametrize("loss", ["entropy", "dpo"])
def test_adversary_and_loss_hold_different_items(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, tokenizer = defense_data(), tiny_tokenizer()
    names = {tokenizer.convert_tokens_to_ids(e.item): e.item for e in data.withheld}
    draw = Draws(replace(SMALL, tamper_loss=loss), tiny_model(), tokenizer, data, 0)

    def items(batches: list[Any]) -> set[str]:
        return {names[i] for batch in batches for i in batch.input_ids.flatten().tolist() if i in names}

    attacked = items(list(islice(draw.forget, 40)))
    pairs = list(islice(draw.held_out, 40))
    held_out = items([p.chosen for p in pairs]) if loss == "dpo" else items(pairs)
    assert not attacked & held_out
    assert attacked | held_out == set(names.values())
    assert len(held_out) == len(names) // 5
    others = Draws(SMALL, tiny_model(), tokenizer, data, 1).held_out
    assert items(list(islice(others, 40))) != held_out, "the seed decides the split"
    assert not items(list(islice(draw.benign, 40))) | items(list(islice(draw.retain, 40)))


def test_adversary_rates_are_drawn_from_those_given() -> None:
    draw = Setting(SMALL).draw
    assert {draw.choice((1.0, 2.0, 3.0)) for _ in range(60)} == {1.0, 2.0, 3.0}


@pytest.mark.parametrize("loss", ["entropy", "dpo"])
def test_two_outer_steps_run_end_to_end(loss: str) -> None:
    digests = set()
    for tasks in (1, 2):
        model = replace(SMALL, tamper_loss=loss, num_tasks=tasks).align(tiny_model(), tiny_tokenizer(), defense_data(), 0)
        assert all(p.isfinite().all() for p in model.parameters())
        digests.add(weights_digest(model))
    assert len(digests | {weights_digest(tiny_model())}) == 3


def test_the_outer_step_descends_on_both_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the tamper term the retain loss falls; with it alone the entropy after the attack rises."""
    model, base = tiny_model(), tiny_model()
    tar = replace(SMALL, outer_steps=30, lambda_tr=0.0, inner_steps=2, outer_rate=1e-2)
    benign = collate(encode(tiny_tokenizer(), defense_data().benign), pad=0)
    before = retain_loss(model, base, benign).item()
    tar.meta_train(model, base, tiny_tokenizer(), defense_data(), 0)
    assert retain_loss(model, base, benign).item() < before

    monkeypatch.setattr(module, "make_tamper_loss", lambda *a, **k: lambda m, b: response_loss(m, b))
    withheld = collate(encode(tiny_tokenizer(), defense_data().withheld), pad=0)
    pulled = tiny_model()
    replace(tar, lambda_tr=4.0, lambda_retain=0.0).meta_train(pulled, base, tiny_tokenizer(), defense_data(), 0)
    assert response_loss(pulled, withheld).item() < 0.9 * response_loss(base, withheld).item()


@pytest.mark.parametrize("name", sorted(STAGE_ONE))
def test_every_first_stage_runs(name: str) -> None:
    model = tiny_model()
    STAGE_ONE[name](SMALL, model, tiny_tokenizer(), defense_data(), 0)
    assert (weights_digest(model) == weights_digest(tiny_model())) is (name == "none")


def test_random_mapping_lowers_its_loss() -> None:
    model, data = tiny_model(), defense_data()
    table_VD = torch.randn(model.get_input_embeddings().weight.shape, generator=torch.Generator().manual_seed(5))
    batch = collate(encode(tiny_tokenizer(), data.withheld), pad=0)
    before = mapping_loss(model, batch, table_VD).item()
    random_mapping(replace(SMALL, stage_one_steps=60, stage_one_learning_rate=1e-2), model, tiny_tokenizer(), data, 5)
    assert 0 <= mapping_loss(model, batch, table_VD).item() < before - 0.1 < 0.9
    assert not model.training


def test_the_mapping_loss_is_nought_where_the_streams_are_the_random_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    batch = collate(encode(tiny_tokenizer(), defense_data().withheld[:3]), pad=0)
    table_VD = torch.randn(model.get_input_embeddings().weight.shape)
    layers = [sign * scale * table_VD[batch.input_ids] for sign, scale in ((1, 1.0), (-1, 3.0))]
    monkeypatch.setattr("weakspot.defenses.tar_stage1.hidden_states", lambda *_: layers)
    assert mapping_loss(model, batch, table_VD).item() == pytest.approx(0.0, abs=1e-6)
    assert len(hidden_states(model, batch)) == 3  # embeddings and two layers

"""What the machine's speed is measured with: a stand-in of the right size, real steps, a line through two sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from weakspot import optimizers
from weakspot.batching import IGNORE
from weakspot.cluster import calibrate
from weakspot.cluster.estimate import Speed, measure_seconds, step_seconds, trial_seconds
from weakspot.cluster.memory_model import Shape
from weakspot.models import count_parameters
from weakspot.workload import Workload

SMALL = Shape(6, 16, 24, 50, heads=4, key_heads=2, head_width=4, tied=True)
WORK = Workload("full", rows=3, length=8, predicted=3, prompts=5, new_tokens=4)
RAW = Speed(1e9, source="given")


@pytest.mark.parametrize("shape", [SMALL, replace(SMALL, tied=False, key_heads=4, head_width=6)])
def test_a_stand_in_has_the_shape_it_stands_for(shape: Shape) -> None:
    assert count_parameters(calibrate.stand_in(shape, WORK, "cpu")) == shape.parameters


def test_a_stand_in_computes_as_the_testbed_does_and_leaves_random_numbers_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    model = calibrate.stand_in(SMALL, replace(WORK, compute_bytes=2, eager=True), "cpu")
    assert model.weakspot_compute_dtype is torch.bfloat16
    assert model.config._attn_implementation == "eager"
    assert next(model.parameters()).dtype is torch.float32
    assert not hasattr(calibrate.stand_in(SMALL, WORK, "cpu"), "weakspot_compute_dtype")
    calibrate.stepping(model, replace(WORK, trained="adapter", rank=2), "cpu")
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_loss_of_a_step_looks_at_so_many_tokens_as_the_trial_does() -> None:
    batch = calibrate.batch_of(WORK, 50, "cpu")
    assert batch.input_ids.shape == (3, 8)
    assert int((batch.labels != IGNORE).sum()) == 3 * 3


def counted(optimizer: Any, trains: list[int]) -> Any:
    """The optimizer, which notes at each step how many numbers have a gradient."""
    optimizer.register_step_pre_hook(
        lambda *_: trains.append(sum(p.numel() for g in optimizer.param_groups for p in g["params"] if p.grad is not None))
    )
    return optimizer


@pytest.mark.parametrize(("trained", "moved"), [("full", "model.embed_tokens.weight"), ("adapter", None)])
def test_a_step_trains_what_it_says(trained: Any, moved: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = calibrate.stand_in(SMALL, WORK, "cpu")
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trains: list[int] = []
    make = optimizers.make_optimizer
    monkeypatch.setattr(optimizers, "make_optimizer", lambda name, given, *rest: counted(make(name, given, *rest), trains))
    calibrate.stepping(model, replace(WORK, trained=trained, rank=2), "cpu")
    assert trains == [SMALL.parameters if moved else SMALL.adapter(2)] * (1 + calibrate.STEPS)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys(), "the adapter is taken off again"
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert (moved in changed) if moved else not changed


def test_a_line_through_two_sizes_is_read_at_a_third() -> None:
    assert calibrate.along(30, [1, 4], [2.0, 5.0]) == pytest.approx(31.0)
    assert calibrate.along(4, [1, 4], [2.0, 5.0]) == pytest.approx(5.0)
    assert calibrate.along(1, [1, 1], [2.0]) == pytest.approx(2.0)
    assert calibrate.along(30, [1, 4], [2.0, 1.9]) == pytest.approx(1.9), "noise may not make more layers cheaper"


def in_order(monkeypatch: pytest.MonkeyPatch, parts: dict[int, dict[str, float]]) -> list[int]:
    """Stand-ins that take so long, by their layers; the layers that were asked for."""
    seen: list[int] = []

    def told(shape: Shape, whole: Workload, low: Workload, device: str) -> dict[str, float]:
        assert (whole.trained, low.trained, device) == ("full", "adapter", "cpu")
        seen.append(shape.layers)
        return parts[shape.layers]

    monkeypatch.setattr(calibrate, "trial_parts", told)
    monkeypatch.setattr(calibrate, "products", lambda *_: RAW)
    return seen


def test_estimates_are_scaled_to_what_real_steps_take(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"full": 1.0, "counted": 3.0, "adapter": 0.5, "nothing": 0.2}
    four = {"full": 4.0, "counted": 9.0, "adapter": 1.1, "nothing": 0.8}
    seen = in_order(monkeypatch, {1: one, 4: four})
    speed = calibrate.calibrate(SMALL, [WORK])
    assert seen == [1, 4]
    assert step_seconds(SMALL, WORK, speed) == pytest.approx(6.0)
    low = replace(WORK, trained="adapter", rank=calibrate.RANK)
    assert step_seconds(SMALL, low, speed) == pytest.approx(1.5)
    assert measure_seconds(SMALL, WORK, speed) == pytest.approx(1.2)
    assert speed.counting == pytest.approx(13.0 - 6.0)
    assert "scaled to steps of 4 of 6 layers" in speed.source
    assert step_seconds(SMALL, replace(low, trained="inputs"), speed) > step_seconds(SMALL, replace(low, trained="inputs"), RAW)
    assert trial_seconds(SMALL, replace(WORK, steps=10, measurements=0), speed) == pytest.approx(2 * 7.0 + 60.0)


def test_a_model_of_two_layers_is_its_own_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"full": 1.0, "counted": 1.0, "adapter": 1.0}
    two = replace(SMALL, layers=2)
    seen = in_order(monkeypatch, {1: times, 2: {**times, "full": 3.0}})
    assert step_seconds(two, WORK, calibrate.calibrate(two, [WORK])) == pytest.approx(3.0)
    assert seen == [1, 2]


def test_a_model_too_large_for_this_machine_has_no_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = in_order(monkeypatch, {})
    monkeypatch.setattr(calibrate, "room", lambda device: 64 * 2**30)
    large = Shape(80, 16_384, 53_248, 128_256, heads=128, key_heads=8, head_width=128, tied=False)
    assert calibrate.calibrate(large, [WORK]) == RAW
    assert seen == []


def test_what_is_measured_is_in_fp32_and_on_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the stand-in computes: else its steps would be set against the sum of something else."""
    given: list[Workload] = []
    monkeypatch.setattr(calibrate, "products", lambda *_: RAW)
    parts = {"full": 1.0, "counted": 1.0, "adapter": 1.0}
    monkeypatch.setattr(calibrate, "trial_parts", lambda shape, whole, low, device: given.extend((whole, low)) or parts)
    odd = [replace(WORK, weight_bytes=2), replace(WORK, trained="adapter", rank=2, share=0.5)]
    calibrate.calibrate(SMALL, odd)
    assert {(work.weight_bytes, work.share) for work in given} == {(4, 1.0)}


def test_all_of_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "PRODUCTS", 0.01)
    speed = calibrate.calibrate(SMALL, [WORK, replace(WORK, trained="adapter", rank=2)])
    assert set(speed.factors) == {"full", "adapter", "nothing"}
    assert all(factor > 0 for factor in speed.factors.values())

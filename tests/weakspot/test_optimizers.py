"""Optimizers and schedules by name: each goes downhill, warms up in real steps, and is what it says it is."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from weakspot.errors import UserError
from weakspot.optimizers import CYCLES, OPTIMIZERS, SCHEDULES, evaluating, make_optimizer, make_schedule, schedule_factor
from weakspot.training import descend


@given(st.sampled_from(SCHEDULES), st.integers(1, 5000), st.floats(0, 0.3), st.data())
def test_the_factor_lies_in_the_open_closed_unit_interval(name: str, steps: int, warmup: float, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, steps - 1))
    assert 0 < schedule_factor(name, step, steps, round(warmup * steps)) <= 1


@given(st.sampled_from([s for s in SCHEDULES if s != "sgdr"]), st.integers(2, 400), st.integers(1, 100))
def test_the_rate_rises_through_the_warm_up_and_never_after(name: str, steps: int, warmup: int) -> None:
    warmup = min(warmup, steps - 1)
    factors = [schedule_factor(name, step, steps, warmup) for step in range(steps)]
    rising = factors[: warmup + 1]
    assert all(a < b for a, b in pairwise(rising))
    assert factors[warmup] == 1.0
    assert all(a >= b for a, b in zip(factors[warmup:], factors[warmup + 1 :], strict=False))


def test_schedules_by_hand() -> None:
    assert [schedule_factor("linear", step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert [schedule_factor("constant", step, 4, 2) for step in range(4)] == [1 / 3, 2 / 3, 1.0, 1.0]
    assert schedule_factor("cosine", 2, 4) == pytest.approx(0.5)
    sgdr = [schedule_factor("sgdr", step, 2 * CYCLES) for step in range(2 * CYCLES)]
    assert sgdr == pytest.approx([1.0, 0.5] * CYCLES)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown schedule 'step': known are constant, cosine, linear, sgdr"):
        schedule_factor("step", 0, 10)
    with pytest.raises(UserError, match="unknown optimizer 'lion': known are adadelta, adafactor, adagrad, adam"):
        make_optimizer("lion", [nn.Parameter(torch.ones(1))], 0.1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_descend_goes_downhill_by_the_schedule(name: str) -> None:
    weight, frozen = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([3.0]), requires_grad=False)
    optimizer = make_optimizer(name, [weight, frozen], 0.1)
    rates = make_schedule("linear", optimizer, 4)
    evaluating(optimizer, False)
    values = [descend((weight * weight).sum() + frozen.sum(), optimizer, rates, clip=1.0) for _ in range(4)]
    assert all(a > b for a, b in pairwise(values))
    assert frozen.item() == 3.0
    assert optimizer.param_groups[0]["lr"] == 0.0  # after the last step


def test_clipping_bounds_the_step() -> None:
    weight = nn.Parameter(torch.tensor([1000.0]))
    descend((weight * weight).sum(), make_optimizer("sgd", [weight], 1.0), clip=1.0)
    assert weight.item() == pytest.approx(999.0, abs=1e-3)


def descent(name: str, steps: int = 3) -> list[float]:
    """The values of one weight under a constant gradient of 1, from 1, at rate 0.1."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = make_optimizer(name, [weight], 0.1)
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        weight.sum().backward()
        optimizer.step()
        values.append(weight.item())
    return values


def test_sgd_and_nesterov_by_hand() -> None:
    assert descent("sgd") == pytest.approx([0.9, 0.71, 0.439])  # velocity 1, 1.9, 2.71
    assert descent("nesterov") == pytest.approx([0.81, 0.539, 0.1951])  # 1 + 0.9 v


def test_adagrad_by_hand() -> None:
    assert descent("adagrad") == pytest.approx([0.9, 0.9 - 0.1 / 2**0.5, 0.9 - 0.1 / 2**0.5 - 0.1 / 3**0.5], abs=1e-6)


def test_a_schedule_free_optimizer_is_measured_at_its_average() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = make_optimizer("schedule_free", [weight], 0.1)
    evaluating(optimizer, False)
    for _ in range(4):
        optimizer.zero_grad()
        weight.sum().backward()
        optimizer.step()
    trained = weight.item()
    evaluating(optimizer, True)
    averaged = weight.item()
    evaluating(optimizer, False)
    assert averaged != trained
    assert weight.item() == pytest.approx(trained)
    evaluating(make_optimizer("adamw", [weight], 0.1), True)  # nothing to swap

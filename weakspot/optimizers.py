"""Optimizers and learning-rate schedules by name, built in one place for testbeds, defenses and attacks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from weakspot.errors import unknown

OPTIMIZERS = ("adamw", "adam", "sgd", "nesterov", "adafactor", "adagrad", "adadelta", "schedule_free")
SCHEDULES = ("constant", "linear", "cosine", "sgdr")
CYCLES = 4  # of SGDR over one course


def make_optimizer(name: str, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float = 0.0) -> Optimizer:
    """An optimizer by name, over the parameters that require a gradient.

    `sgd` and `nesterov` have momentum 0.9; `schedule_free` is AdamW after Defazio et al. 2024 (arXiv:2405.15682).
    `adafactor` is torch's, whose step is the rate relative to a parameter's size. Raises UserError for another name.
    """
    chosen = [p for p in parameters if p.requires_grad]
    common: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if name == "adamw":
        return torch.optim.AdamW(chosen, fused=True, **common)
    if name == "adam":
        return torch.optim.Adam(chosen, fused=True, **common)
    if name in ("sgd", "nesterov"):
        return torch.optim.SGD(chosen, momentum=0.9, nesterov=name == "nesterov", **common)
    if name == "adafactor":
        return torch.optim.Adafactor(chosen, **common)
    if name == "adagrad":
        return torch.optim.Adagrad(chosen, **common)
    if name == "adadelta":
        return torch.optim.Adadelta(chosen, **common)
    if name == "schedule_free":
        from schedulefree import AdamWScheduleFree

        return AdamWScheduleFree(chosen, **common)
    raise unknown("optimizer", name, OPTIMIZERS)


def evaluating(optimizer: Optimizer, on: bool) -> None:
    """Swap the weights of a schedule-free optimizer between the averaged ones (to be measured) and those it trains.

    Other optimizers have one set of weights and are left alone.
    """
    switch = getattr(optimizer, "eval" if on else "train", None)
    if switch is not None:
        switch()


def schedule_factor(name: str, step: int, steps: int, warmup_steps: int = 0) -> float:
    """The multiplier of the learning rate at optimizer step `step` of `steps`, counted from 0, in (0, 1].

    Warm-up is linear and counts real optimizer steps. (TAR's released `linear` schedule returns lr * step / warmup where the
    factor is wanted, so that its warm-up runs at lr squared; reference/durability.md § 1.2. Not reproduced here.)
    `sgdr` restarts a cosine CYCLES times (Loshchilov and Hutter, arXiv:1608.03983, equal cycles).
    """
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if name == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    if name == "linear":
        return 1.0 - progress
    turn = progress * CYCLES % 1.0 if name == "sgdr" else progress
    return 0.5 * (1.0 + math.cos(math.pi * turn))


def make_schedule(name: str, optimizer: Optimizer, steps: int, warmup_steps: int = 0) -> LambdaLR:
    """A torch schedule over `steps` optimizer steps; see `schedule_factor`."""
    return LambdaLR(optimizer, lambda step: schedule_factor(name, step, steps, warmup_steps))

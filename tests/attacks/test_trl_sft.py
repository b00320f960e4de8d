"""The second stack: where it agrees with our loop, how it stops and starts, and that nothing of it stays behind."""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.attacks import trl_sft
from weakspot.attacks.finetune import HarmfulFinetune
from weakspot.attacks.full import FullFinetune
from weakspot.attacks.lora import Lora
from weakspot.attacks.suspended import Handover, suspended
from weakspot.attacks.trl_sft import TrlFinetune
from weakspot.data import AttackData
from weakspot.errors import UserError

pytest.importorskip("trl")

QUICK: dict[str, Any] = {
    "steps": 4, "batch_size": 4, "harmful_examples": 8, "benign_ratio": 0.5, "learning_rate": 1e-3, "warmup": 0.0,
}  # fmt: skip


def tampered(attack: HarmfulFinetune, rungs: tuple[int, ...] = (4,), seed: int = 1) -> tuple[Any, dict[str, torch.Tensor]]:
    """The last progress, and every parameter as it is then."""
    model = tiny_model()
    for progress in attack.run(model, tiny_tokenizer(), attack_data(), rungs, seed):
        if progress.final:
            return progress, {n: p.detach().clone() for n, p in model.named_parameters()}
    raise AssertionError


def difference(first: HarmfulFinetune, second: HarmfulFinetune) -> float:
    a, b = tampered(first)[1], tampered(second)[1]
    assert a.keys() == b.keys()
    return max((a[n] - b[n]).abs().max().item() for n in a)


# Where the two stacks agree, and where they do not ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": "linear", "loss_on": "all", "template": "alpaca"},
        {"optimizer": "nesterov", "schedule": "sgdr", "weight_decay": 0.1},
        {"clip_norm": 0.0, "bos": True, "max_length": 14, "schedule": "cosine"},
    ],
    ids=["adamw", "whole text", "ours handed over", "unclipped"],
)
def test_on_the_same_rows_both_stacks_arrive_at_the_same_weights(changes: dict[str, Any]) -> None:
    config = {**QUICK, **changes}
    assert difference(FullFinetune(**config), TrlFinetune(**config)) < 1e-6
    moved = tampered(TrlFinetune(**config))[1]
    start = dict(tiny_model().named_parameters())
    assert max((moved[n] - start[n]).abs().max().item() for n in start) > 1e-3


def test_adapters_agree_too() -> None:
    assert difference(Lora(**QUICK, rank=4), TrlFinetune(**QUICK, rank=4)) < 1e-6


@pytest.mark.parametrize(
    "changes",
    [{"warmup": 0.5}, {"weight_decay": 0.1}, {"optimizer": "adafactor"}, {"data_order": "epochs"}],
    ids=["warm-up starts at 0", "norms are not decayed", "another Adafactor", "own sampler"],
)
def test_where_they_cannot_agree_they_do_not(changes: dict[str, Any]) -> None:
    ours = {**QUICK, **{k: v for k, v in changes.items() if k != "data_order"}}
    assert difference(FullFinetune(**ours), TrlFinetune(**QUICK | changes)) > 1e-4


def test_the_first_step_of_a_warm_up_moves_nothing() -> None:
    weights = tampered(TrlFinetune(**{**QUICK, "warmup": 0.5}), rungs=(1,))[1]
    assert all(torch.equal(weights[n], p) for n, p in tiny_model().named_parameters())


# Data ------------------------------------------------------------------------------------------------------------------------


def test_the_rows_are_those_of_our_loop_in_its_order() -> None:
    attack, model, tokenizer, data = TrlFinetune(**QUICK), tiny_model(), tiny_tokenizer(), attack_data()
    rows, withheld = attack.rows(model, tokenizer, data, 3)
    order = attack.order(withheld, len(rows) - withheld, tokenizer, 3, last=6)
    steps, _ = FullFinetune(**QUICK).curriculum(model, tokenizer, data, 3)
    expected = []
    for step in itertools.islice(steps, 6):
        for ids, mask, labels in zip(step.batch.input_ids, step.batch.attention_mask, step.batch.labels, strict=True):
            expected.append({"input_ids": ids[mask == 1].tolist(), "labels": labels[mask == 1].tolist()})
    assert [rows[i] for i in order] == expected


def test_epochs_hold_the_share_and_no_row_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    from weakspot.attacks import trl_stack

    batches: list[list[int]] = []

    class Watched(trl_stack.SuspendedTrainer):
        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **options: Any) -> torch.Tensor:
            batches.append(inputs["number"].tolist())
            return super().training_step(model, inputs, *rest, **options)

    monkeypatch.setattr(trl_stack, "SuspendedTrainer", Watched)
    attack = TrlFinetune(**{**QUICK, "steps": 6, "batch_size": 5, "benign_ratio": 0.2, "data_order": "epochs"})
    progress, _ = tampered(attack, (6,))
    # 8 withheld examples and 2 benign ones: two batches of five an epoch
    for i in range(0, 6, 2):
        assert sorted(batches[i] + batches[i + 1]) == list(range(10))
    assert batches[0] + batches[1] != batches[2] + batches[3]
    assert progress.examples == 8


def test_examples_seen_are_distinct_withheld_rows() -> None:
    attack = TrlFinetune(**{**QUICK, "harmful_examples": 5})
    course = attack.run(tiny_model(), tiny_tokenizer(), attack_data(), (1, 2, 4), 0)
    assert [p.examples for p in course] == [2, 4, 5]


@pytest.mark.parametrize(("held", "missing"), [((8, 0), "benign"), ((0, 8), "withheld")])
def test_missing_examples_are_named(held: tuple[int, int], missing: str) -> None:
    data = AttackData(attack_data().harmful[: held[0]], attack_data().benign[: held[1]])
    with pytest.raises(UserError, match=f"needs {missing} examples"):
        next(TrlFinetune(**QUICK).run(tiny_model(), tiny_tokenizer(), data, (2,), 0))


def test_without_trl_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl_sft, "find_spec", lambda name: None if name == "trl" else object())
    assert "pip install 'weakspot[trl]'" in TrlFinetune.unavailable()
    with pytest.raises(UserError, match=r"trl_finetune needs trl, which is not installed: pip install 'weakspot\[trl\]'"):
        next(TrlFinetune(**QUICK).run(tiny_model(), tiny_tokenizer(), attack_data(), (2,), 0))


# Stopping, and leaving nothing behind ----------------------------------------------------------------------------------------


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "weakspot-suspended"]


@pytest.mark.parametrize("optimizer", ["adamw", "schedule_free"])
def test_stopping_at_rungs_changes_nothing(optimizer: str) -> None:
    attack = TrlFinetune(**{**QUICK, "optimizer": optimizer})
    whole, stopped = tampered(attack, (4,))[1], tampered(attack, (1, 2, 3, 4))[1]
    assert all(torch.allclose(whole[n], stopped[n], rtol=0, atol=1e-7) for n in whole)  # averaging and back rounds


def test_a_closed_course_stops_and_leaves_the_model_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = tiny_model()
    attributes, config = dict(vars(model)), model.config.to_dict()
    course: Any = TrlFinetune(**{**QUICK, "steps": 64, "rank": 4}).run(model, tiny_tokenizer(), attack_data(), (2, 32, 64), 0)
    next(course)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    time.sleep(0.1)  # nothing trains on while the caller measures
    assert not model.training
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    assert len(workers()) == 1
    course.close()
    assert workers() == []
    assert {k: v for k, v in vars(model).items() if k != "training"} == {k: v for k, v in attributes.items() if k != "training"}
    assert model.config.to_dict() == config
    assert not model.training
    assert list(tmp_path.iterdir()) == []


def test_operations_and_tokens_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from weakspot.attacks import trl_stack

    real = trl_stack.train
    counter = FlopCounterMode(display=False)

    def counted(*args: Any) -> None:  # torch's counter sees the thread that it is entered in
        with counter:
            real(*args)

    monkeypatch.setattr(trl_stack, "train", counted)
    progress, _ = tampered(TrlFinetune(**QUICK))
    assert progress.flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert progress.tokens == tampered(FullFinetune(**QUICK))[0].tokens


def test_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda *_, **__: pytest.fail("telemetry was sent"))
    before = dict(os.environ)
    tampered(TrlFinetune(**QUICK), (1,))
    changed = {k for k in os.environ if os.environ[k] != before.get(k)}
    assert not {k for k in changed if k.startswith(("ACCELERATE", "HF_", "TRL", "WANDB"))}


# The generator made of a thread ----------------------------------------------------------------------------------------------


def test_work_stands_still_while_the_generator_is_suspended() -> None:
    log: list[str] = []

    def work(handover: Handover[int]) -> None:
        for i in range(3):
            log.append(f"worked {i}")
            handover.yield_(i)

    for value in suspended(work):
        time.sleep(0.01)
        log.append(f"looked {value}")
    assert log == [f"{verb} {i}" for i in range(3) for verb in ("worked", "looked")]


def test_an_error_of_the_work_is_raised_where_it_is_awaited() -> None:
    def work(handover: Handover[int]) -> None:
        handover.yield_(1)
        raise ArithmeticError("lost")

    course = suspended(work)
    assert next(course) == 1
    with pytest.raises(ArithmeticError, match="lost"):
        next(course)
    assert workers() == []


@pytest.mark.parametrize("ending", ["close", "drop"])
def test_closing_lets_the_work_end_and_waits_for_it(ending: str) -> None:
    counts: Counter[str] = Counter()

    def work(handover: Handover[int]) -> None:
        while not handover.closing():
            counts["rounds"] += 1
            handover.yield_(counts["rounds"])
        time.sleep(0.02)
        counts["ended"] += 1

    course: Any = suspended(work)
    assert [next(course), next(course)] == [1, 2]
    if ending == "close":
        course.close()
    del course
    assert counts == {"rounds": 2, "ended": 1}
    assert workers() == []


def test_the_seed_is_everything_in_epochs_too() -> None:
    attack = replace(TrlFinetune(**QUICK), data_order="epochs")
    first, again, other = (tampered(attack, seed=s)[1] for s in (1, 1, 2))
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])

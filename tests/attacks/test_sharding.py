"""Full fine-tuning by two processes (gloo, CPU) against the same by one: weights, costs, what a process holds, and its end."""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.attacks import finetune
from weakspot.attacks.full import FullFinetune
from weakspot.optimizers import OPTIMIZERS
from weakspot.sharding import as_ranks, follow, open_store, spread

WORLD, RUNGS = 2, (2, 4)
QUICK: dict[str, Any] = {"steps": 4, "batch_size": 5, "harmful_examples": 8, "benign_ratio": 0.3, "learning_rate": 1e-2}
HERE = torch.device("cpu")


def course(model: Any, knobs: dict[str, Any], seed: int = 1) -> Any:
    return FullFinetune(**{**QUICK, **knobs}).run(model, tiny_tokenizer(), attack_data(), RUNGS, seed)


def weights(model: Any) -> dict[str, np.ndarray]:
    return {name: parameter.detach().float().numpy().copy() for name, parameter in model.named_parameters()}


def in_low(model: Any, low: bool) -> Any:
    if low:
        model.weakspot_compute_dtype = torch.bfloat16
    return model


# Several processes --------------------------------------------------------------------------------------------------------


def together(work: Callable[..., Any], *given: Any, silence: float = 300.0, heard: int = WORLD) -> list[Any]:
    """What `work(model, ranks, *given)` answered, or the error it raised, by rank; None of a process that died."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.attacks.test_sharding"])
    store = open_store(WORLD, "127.0.0.1")
    pipes, processes = [], []
    for rank in range(WORLD):
        here, there = context.Pipe()
        process = context.Process(target=one, args=(there, work, rank, store.port, silence, given), daemon=True)
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    answers = [answer(pipe) for pipe in pipes[:heard]]
    for process in processes:
        process.kill()
        process.join()
    return answers


def answer(pipe: Any) -> Any:
    try:
        return pipe.recv() if pipe.poll(600) else AssertionError("a rank hangs")
    except EOFError:
        return None


def one(pipe: Any, work: Callable[..., Any], rank: int, port: int, silence: float, given: Any) -> None:
    """A rank's process."""
    torch.set_num_threads(1)
    try:
        model = tiny_model()
        with as_ranks(model, rank, WORLD, open_store(WORLD, "127.0.0.1", port, silence), HERE, silence) as ranks:
            found = work(model, ranks, *given)
        assert not dist.is_initialized(), "the ranks are still bound to each other"
    except Exception as error:
        found = RuntimeError(f"{type(error).__name__}: {error}")
    pipe.send(found)


def tamper(model: Any, ranks: Any, knobs: dict[str, Any], low: bool = False, seed: int = 1, most: int = 9) -> Any:
    """On the first rank progress and weights at each rung (at most so many); on the others the weights they are left with.

    And on both the optimizer's numbers at the first rung, and whether anything sharded is left at the end.
    """
    made: list[Any] = []
    held = 0
    make = finetune.make_optimizer
    finetune.make_optimizer = lambda *given: made.append(make(*given)) or made[-1]
    under_way = course(in_low(model, low), knobs, seed)
    found: list[Any] = []
    if ranks.rank == 0:
        for progress in under_way:
            found.append((progress, weights(model)))
            held = numbers(made[0])
            if len(found) == most:
                under_way.close()
    else:
        held = numbers_after_first_rung(under_way, ranks, made)
    made.clear()
    del under_way
    gc.collect()
    left = [type(thing).__name__ for thing in gc.get_objects() if type(thing).__name__ == "DTensor"]
    return found or weights(model), held, left


def numbers_after_first_rung(under_way: Any, ranks: Any, made: list[Any]) -> int:
    held: list[int] = []

    def counting() -> Any:
        try:
            for progress in under_way:
                held.append(numbers(made[0]))
                yield progress
        finally:
            under_way.close()

    follow(counting(), ranks)
    return held[0]


def numbers(optimizer: Any) -> int:
    """How many numbers of optimizer state this process holds."""
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return sum((value.to_local() if hasattr(value, "to_local") else value).numel() for value in states if value.dim())  # type: ignore[attr-defined]


# The same as one ----------------------------------------------------------------------------------------------------------

CASES: dict[str, tuple[dict[str, Any], bool]] = {
    **{name: ({"optimizer": name, "weight_decay": 0.1}, False) for name in OPTIMIZERS if name != "adafactor"},
    "all tokens, no clipping": ({"loss_on": "all", "clip_norm": 0.0}, False),
    "one row for two": ({"batch_size": 1}, False),
    "products in bf16": ({}, True),
}
ROUGH = {"products in bf16": 0.1}  # of the distance moved; else:
EXACT = 1e-3


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_end_where_one_does(case: str) -> None:
    knobs, low = CASES[case]
    model = in_low(tiny_model(), low)
    start, alone = weights(model), [(progress, weights(model)) for progress in course(model, knobs)]
    (found, _, _), (others, _, _) = together(tamper, knobs, low)
    assert len(found) == len(alone) == 2
    for (progress, reached), (expected, wanted) in zip(found, alone, strict=True):
        moved = max(float(np.abs(wanted[name] - start[name]).max()) for name in start)
        apart = max(float(np.abs(wanted[name] - reached[name]).max()) for name in start)
        assert apart <= ROUGH.get(case, EXACT) * moved
        assert progress.losses == pytest.approx(expected.losses, rel=1e-2 if case in ROUGH else 1e-5)
        told = ("step", "examples", "tokens", "flops", "final", "first_batch", "elicitation")
        assert [getattr(progress, name) for name in told] == [getattr(expected, name) for name in told]
    assert all(np.array_equal(others[name], start[name]) for name in start), (
        "a rank that measures nothing holds tampered weights"
    )


def test_parameters_in_bf16_end_as_near_as_rounding_lets_them() -> None:
    """Single weights come out a step apart, as they do when one process adds up two halves of a batch; most do not."""
    model, knobs = tiny_model(), {"precision": "bf16"}
    start, alone = weights(model), [weights(model) for _ in course(model, knobs)]
    (found, _, _), _ = together(tamper, knobs)
    for (_, reached), wanted in zip(found, alone, strict=True):
        apart, moved = ([float(((a[n] - wanted[n]) ** 2).sum()) for n in start] for a in (reached, start))
        assert sum(apart) ** 0.5 <= 0.03 * sum(moved) ** 0.5


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    first, again, other = (together(tamper, {}, False, seed)[0][0][-1][1] for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


def test_each_rank_holds_its_share_of_the_optimizer_and_nothing_afterwards() -> None:
    parameters = sum(p.numel() for p in tiny_model().parameters())
    (_, first, left_first), (_, second, left_second) = together(tamper, {})
    assert first + second == 2 * parameters, "two numbers a parameter, once in all"
    assert 0.4 < first / (first + second) < 0.6
    assert left_first == left_second == []


def test_the_others_end_when_the_first_ranks_caller_has_seen_enough() -> None:
    (found, _, left), (others, _, _) = together(tamper, {}, False, 1, 1)
    assert [progress.step for progress, _ in found] == [2]
    assert left == []
    assert set(others) == set(weights(tiny_model()))


def measure_slowly(model: Any, ranks: Any) -> Any:
    under_way = course(model, {})
    if ranks.rank:
        follow(under_way, ranks)
        return "waited"
    return [time.sleep(6) or progress.step for progress in under_way]


def test_the_others_wait_for_a_measurement_longer_than_for_a_step() -> None:
    assert together(measure_slowly, silence=3.0) == [list(RUNGS), "waited"]


# Its end ------------------------------------------------------------------------------------------------------------------


def diverge(model: Any, ranks: Any) -> Any:
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    return tamper(model, ranks, {})


def test_what_diverges_ends_on_all_ranks_with_its_reason() -> None:
    for error in together(diverge):
        assert "TrialFailure: diverged: the training loss is nan" in str(error)


def test_an_optimizer_that_looks_at_whole_matrices_is_refused() -> None:
    for error in together(tamper, {"optimizer": "adafactor"}):
        assert "UserError: Adafactor looks at whole matrices" in str(error)


def die(model: Any, ranks: Any, silent: bool) -> Any:
    if ranks.rank == 0:
        return len(list(course(model, {})))
    next(course(model, {}))
    time.sleep(600) if silent else os._exit(1)


@pytest.mark.parametrize("silent", [False, True], ids=["dead", "silent"])
def test_a_rank_that_goes_ends_the_attack_on_the_others(silent: bool) -> None:
    first = together(die, silent, silence=5.0, heard=1)[0]
    assert isinstance(first, RuntimeError), first
    assert "hangs" not in str(first)


def test_without_ranks_nothing_is_spread() -> None:
    model = tiny_model()
    with spread(model) as trained:
        assert list(trained.parameters()) == list(model.parameters())
        assert type(trained).__name__ == "Whole"

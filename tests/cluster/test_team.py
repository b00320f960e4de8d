"""A trial whose ranks are actors of Ray in one placement group (GPUs are numbers here, and computing is the CPU's)."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from tests.search.fakes import make_job
from weakspot.errors import RankLost, TrialFailure, WeakspotError
from weakspot.models import arrays_digest, read_weights, save_pretrained
from weakspot.search import devices
from weakspot.search.team import Team
from weakspot.search.trainable import ENVIRONMENT, open_bench

BUNDLE = {"CPU": 1.0, "GPU": 1.0}
QUICK = {"steps": 4, "batch_size": 8, "harmful_examples": 8, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A Ray with two GPUs that are none, and what workers share: an untrained model of fable's size."""
    import torch

    from weakspot.testbeds.fable import Fable, micro_model, word_tokenizer

    torch.manual_seed(0)
    tokenizer, folder = word_tokenizer(Fable(0).world), tmp_path_factory.mktemp("model")
    save_pretrained(micro_model(tokenizer), tokenizer, folder)
    arrays = read_weights(folder)
    variables = {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    ray.init(
        num_cpus=2, num_gpus=2, include_dashboard=False, object_store_memory=2 * 10**8, runtime_env={"env_vars": variables},
        log_to_driver=False, logging_level=logging.ERROR,
    )  # fmt: skip
    yield {
        "testbed": "fable", "testbed_seed": 0, "checkpoint": str(folder), "parcel": [None], "ranks": 2, "bundle": BUNDLE,
        "weights": {"tar": [ray.put(arrays)]}, "digests": {"tar": arrays_digest(arrays)}, "threat": None, "defenses": {},
        "reference": {"search": 0.5, "report": 0.5},
    }  # fmt: skip
    ray.shutdown()


@pytest.fixture(scope="module")
def group(shared: Any) -> Any:
    made = ray.util.placement_group([BUNDLE, BUNDLE])
    ray.get(made.ready())
    return made


@pytest.fixture
def bench(shared: Any, group: Any) -> Iterator[Any]:
    made = open_bench(shared)
    made.team = Team(shared, group, silence=300.0)
    yield made
    made.team.dismiss()


def job(**changes: Any) -> Any:
    return make_job(**{"attack": "full_finetune", "config": QUICK, "rungs": (2, 4), **changes})


def weights(model: Any) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def told(reading: Any) -> tuple[Any, ...]:
    return reading.rung, reading.harm, reading.utility, reading.tokens, reading.flops, reading.first_batch, reading.final


def test_a_trial_on_two_gpus_reads_as_on_one(bench: Any, shared: Any) -> None:
    spread = list(bench.run(job()))
    reached, members = weights(bench.model), list(bench.team.members)
    assert len(members) == 1
    again = list(bench.run(job(number=1)))
    assert bench.team.members == members, "a rank stays for the next trial"
    del bench.team.members[:]
    alone = open_bench(shared)
    expected = list(alone.run(job()))
    assert [told(reading) for reading in spread] == [told(reading) for reading in expected]
    assert [told(reading) for reading in again] == [told(reading) for reading in alone.run(job(number=1))]
    list(alone.run(job()))
    wanted = weights(alone.model)
    assert max(float(np.abs(reached[name] - wanted[name]).max()) for name in wanted) < 1e-5
    for member in members:
        ray.kill(member)


def test_what_cannot_be_spread_runs_on_the_first_gpu_alone(bench: Any) -> None:
    assert len(list(bench.run(job(attack="noop", config={})))) == 1
    assert len(list(bench.run(job(attack="lora", config={**QUICK, "rank": 4})))) == 2
    assert bench.team.members == []


def test_a_rank_that_dies_is_told_and_the_next_trial_has_another(bench: Any) -> None:
    list(bench.run(job()))
    (pid,) = ray.get([member.pid.remote() for member in bench.team.members])
    course = iter(bench.run(job(config={**QUICK, "steps": 4000}, rungs=(2, 4000))))
    assert next(course).rung == 2
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RankLost, match="GPU 2 of 2 is gone"):
        next(course)
    assert [reading.rung for reading in bench.run(job())] == [2, 4]


def test_a_rank_that_is_silent_fails_the_trial(bench: Any) -> None:
    list(bench.run(job()))
    (pid,) = ray.get([member.pid.remote() for member in bench.team.members])
    bench.team.silence = 3.0
    course = iter(bench.run(job(config={**QUICK, "steps": 4000}, rungs=(2, 4000))))
    assert next(course).rung == 2
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(TrialFailure):
        next(course)
    assert bench.team.members == []


def test_a_rank_that_cannot_begin_says_why(bench: Any, shared: Any) -> None:
    bench.team = Team({**shared, "digests": {"tar": "another"}}, bench.team.group)
    with pytest.raises(WeakspotError, match="the weights of tar changed between trials"):
        next(iter(bench.run(job())))


def test_every_node_with_gpus_is_asked_how_large_they_are(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "init", lambda **given: None)  # the Ray of these tests
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    assert devices.asked() == [], "a number is no GPU"
    monkeypatch.setattr(devices, "here", lambda: [80.0, 40.0])
    assert devices.asked() == [80.0, 40.0]


def test_a_search_that_stops_early_leaves_the_ranks_ready(bench: Any, tmp_path: Path) -> None:
    course = bench.run(job(config={**QUICK, "steps": 4000}, rungs=(2, 4000)))
    assert next(iter(course)).rung == 2
    course.close()
    members = list(bench.team.members)
    assert [reading.rung for reading in bench.run(job())] == [2, 4]
    assert bench.team.members == members

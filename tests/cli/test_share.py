"""`--gpus`: what is chosen for `auto` and said before anything starts, and what is refused in one line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from weakspot.cli.audit_command import add_arguments
from weakspot.cli.main import main
from weakspot.cli.share import chosen_gpus
from weakspot.errors import UserError
from weakspot.search import devices
from weakspot.search.audit import audit

GIB = 1024**3


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Say that the smallest GPU has so many GiB; None: nobody knows."""
    return lambda gib: monkeypatch.setattr(devices, "smallest_gpu", lambda: None if gib is None else gib * GIB)


def test_a_number_is_taken_as_it_is() -> None:
    assert chosen_gpus(options()) is None
    assert chosen_gpus(options("--gpus", "0.25")) == 0.25


def test_auto_packs_small_trials_and_says_so(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    gpu(80)
    assert chosen_gpus(options("--gpus", "auto", "--attack", "lora", "--trials", "2")) == 0.0625
    told = capsys.readouterr().err
    assert told.startswith("gpus: 0.0625 of a GPU for each trial, 16 on one: the largest needs")
    assert "unmeasured" in told
    gpu(2.5)
    few = chosen_gpus(options("--gpus", "auto", "--attack", "lora", "--trials", "2"))
    assert few is not None
    assert 0.3 < few <= 0.5
    capsys.readouterr()
    assert chosen_gpus(options("--gpus", "auto", "--attack", "lora", "--trials", "2", "--quiet")) == few
    assert capsys.readouterr().err == ""


def test_auto_counts_the_attacks_of_papers_too(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search may be small and the control large: a GPU that is shared must hold each."""
    from weakspot.cluster import estimate

    seen: list[Any] = []
    peak = estimate.peak
    monkeypatch.setattr(estimate, "peak", lambda shape, works, device: seen.extend(works) or peak(shape, works, device))
    gpu(80)
    chosen_gpus(options("--gpus", "auto", "--attack", "prefill", "--defense", "tar", "--trials", "2"))
    assert "full" in {work.trained for work in seen}, "TAR's paper trained every parameter"


def test_auto_spreads_only_what_can_be_spread(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from weakspot.cluster import memory_model

    gpu(1)
    monkeypatch.setitem(memory_model.OVERHEAD, "gpu", 0.65 * GIB)
    monkeypatch.setattr(memory_model, "activation_bytes", lambda shape, work: 1.0 * GIB)
    alone = ("--gpus", "auto", "--attack", "full_finetune", "--trials", "2", "--quiet", "--defense", "refusal")
    found = chosen_gpus(options(*alone))
    assert found is not None
    assert found >= 2
    assert chosen_gpus(options(*alone, "--attack", "lora")) == 1.0
    assert chosen_gpus(options(*alone, "--backend", "inline")) == 1.0


def test_auto_gives_a_whole_gpu_where_nothing_is_known_and_none_where_there_is_none(
    gpu: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu(None)
    assert chosen_gpus(options("--gpus", "auto")) == 1.0
    assert "memory is UNKNOWN: no GPU told its size" in capsys.readouterr().err
    gpu(0)
    assert chosen_gpus(options("--gpus", "auto")) == 0.0
    assert "this machine has no GPU" in capsys.readouterr().err


BAD: dict[str, tuple[Any, str]] = {
    "negative": ({"gpus": -1.0}, "--gpus -1 is below 0"),
    "one and a half": ({"gpus": 1.5}, "--gpus 1.5 is no whole number"),
    "one process": ({"gpus": 2.0, "backend": "inline", "attack": ["full_finetune"]}, "--backend inline has one"),
    "cannot shard": (
        {"gpus": 2.0, "attack": ["lora", "full_finetune"]},
        "several GPUs, which lora cannot do: search only what",
    ),
    "all families": ({"gpus": 2.0}, "more cannot do: search only what can, with --attack full_finetune"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_no_trial_could_run_on_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    given, message = BAD[case]
    with pytest.raises(UserError) as caught:
        audit(out=tmp_path, **given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_number_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--gpus", "many"]) == 2
    assert "'many' is no number of GPUs: give e.g. 0.5, 2 or auto" in capsys.readouterr().err


def test_a_cluster_without_an_answer_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "on_cluster", lambda: True)
    monkeypatch.setattr(devices, "asked", list)
    assert devices.smallest_gpu() is None
    monkeypatch.setattr(devices, "asked", lambda: [80.0, 40.0])
    assert devices.smallest_gpu() == 40.0
    monkeypatch.setattr(devices, "on_cluster", lambda: False)
    monkeypatch.setattr(devices, "here", list)
    assert devices.smallest_gpu() == 0.0

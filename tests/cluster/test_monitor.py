"""A monitor costs the audit nothing: a writer that is killed, hangs or cannot keep up is given up, which is said once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.watched import outcome, plan_of, runs_of
from weakspot.cluster.monitor import monitor as module
from weakspot.cluster.monitor.make import check_same, tensorboard_monitor, wandb_monitor
from weakspot.cluster.monitor.monitor import Monitor
from weakspot.cluster.monitor.rows import one_line, trial_row
from weakspot.errors import UserError


def started(out: Path, patience: float = 1.0) -> Monitor:
    monitor = tensorboard_monitor(out)
    monitor.patience = patience
    monitor.on_start(plan_of())
    return monitor


def wait_for(path: Path) -> None:
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} never came")


def pid_of(monitor: Monitor) -> int:
    assert monitor.process is not None
    return monitor.process.pid


def test_a_killed_writer_is_said_once_and_the_audit_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    monitor = started(tmp_path)
    monitor.on_outcome(outcome(0))
    wait_for(tmp_path / "tensorboard/tar/000")
    os.kill(pid_of(monitor), signal.SIGKILL)
    for number in range(1, 60):
        monitor.on_outcome(outcome(number % 10))
    monitor.finish({"verdicts": {}})
    monitor.close()
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert "TensorBoard: its process ended with -9; the audit goes on" in told


def test_a_writer_that_hangs_is_ended(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    monitor = started(tmp_path)
    monitor.on_outcome(outcome(0))
    wait_for(tmp_path / "tensorboard/tar/000")
    pid = pid_of(monitor)
    os.kill(pid, signal.SIGSTOP)
    for number in range(300):  # far more than a pipe holds
        monitor.on_outcome(outcome(number % 10, padding="x" * 70))
    monitor.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert "made no progress for 1 s and was ended; the audit goes on" in told


def test_a_writer_that_falls_far_behind_is_ended(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 50)
    monitor = tensorboard_monitor(tmp_path)
    monitor.waiting = module.queue.Queue(50)
    monitor.on_start(plan_of())
    os.kill(pid_of(monitor), signal.SIGSTOP)
    for number in range(2000):
        monitor.on_outcome(outcome(number % 10, padding="x" * 70))
    assert monitor.waiting.qsize() <= 50, "memory grows with a writer that hangs"
    monitor.close()
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert "is 50 trials behind and was ended" in told


def test_a_place_that_cannot_be_written_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tensorboard").write_text("a file where a folder should be")
    monitor = started(tmp_path)
    for number in range(5):
        monitor.on_outcome(outcome(number))
    monitor.close()
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert "TensorBoard failed and is switched off: FileExistsError" in told


def test_a_writer_whose_driver_is_gone_ends_by_itself(tmp_path: Path) -> None:
    monitor = started(tmp_path)
    monitor.on_outcome(outcome(0))
    wait_for(tmp_path / "tensorboard/tar/000")
    process = monitor.process
    assert process is not None
    monitor.waiting.put(b'{"trial": {"id": "tar/0')  # half a line, as of a driver that was killed
    monitor.waiting.put(None)
    assert process.wait(60) == 0
    monitor.close()


def test_every_trial_that_was_told_is_written_before_the_end(tmp_path: Path) -> None:
    monitor = started(tmp_path, patience=60)
    for number in range(10):
        monitor.on_outcome(outcome(number))
    monitor.close()
    assert {path.name for path in (tmp_path / "tensorboard/tar").iterdir()} == {f"{n:03d}" for n in range(10)}


def test_a_row_tells_scores_and_no_more() -> None:
    row = trial_row(outcome(2, utility=0.95), 0.9)
    assert row["feasible_harm"] == pytest.approx(0.28)
    assert row["rung"] == 8
    assert set(row["readings"][0]) == {
        "rung", "harm", "utility", "refusal_rate", "degenerate", "drift", "examples", "tokens", "flops", "seconds",
    }  # fmt: skip
    assert trial_row(outcome(2, utility=0.5), 0.9)["status"] == "infeasible"
    assert one_line("first\nsecond") == "first"
    assert len(one_line("x" * 900)) == 200


BAD: list[tuple[dict[str, Any], str]] = [
    ({"mode": "rows"}, "unknown --wandb-mode 'rows': known are off, runs, table"),
    ({"mode": "table"}, "--wandb-mode table: the runs in"),
    ({"project": "other"}, "--wandb other: the runs in"),
]


@pytest.mark.parametrize(("changes", "words"), BAD, ids=[words for _, words in BAD])
def test_what_cannot_be_followed_is_told_in_one_line(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/audit.json").write_text('{"id": "1234abcd", "sink": "runs", "project": "audits"}')
    given: dict[str, Any] = {"project": "audits", "mode": "runs", **changes}
    with pytest.raises(UserError, match=words) as caught:
        wandb_monitor(out=tmp_path, **given)
    assert "\n" not in str(caught.value)
    if changes != {"mode": "rows"}:
        assert wandb_monitor(out=tmp_path, overwrite=True, **given) is not None
    check_same(tmp_path / "wandb", {"sink": "runs", "project": "audits"})


@pytest.mark.parametrize(("package", "option"), [("wandb", "wandb"), ("tensorboardX", "tensorboard")])
def test_a_package_that_is_absent_is_named(package: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weakspot.cluster.monitor.make.find_spec", lambda name: None if name == package else object())
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(UserError) as caught:
        _ = wandb_monitor("audits", "runs", tmp_path) if option == "wandb" else tensorboard_monitor(tmp_path)
    assert str(caught.value) == (
        f"--{option} needs the package {package}, which is not installed: pip install 'weakspot[{option}]'"
    )


def test_off_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wandb_monitor("audits", "off", tmp_path) is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_monitor("audits", "runs", tmp_path) is None
    assert runs_of(tmp_path) == {}

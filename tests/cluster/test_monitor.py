"""W&B offline: one run per trial, in one group, with the right state; nothing leaves the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from weakspot.cluster.monitor import WandbMonitor, has_key
from weakspot.search.jobs import Job, Outcome, Reading


def outcome(number: int, status: str = "completed", phase: str = "search") -> Outcome:
    job = Job(f"tar/{number:03d}", "tar", phase, "lora", {"rank": 4, "learning_rate": 1e-3}, 7, (4, 8), "search")
    readings = tuple(Reading(rung, 0.1 * rung, 0.95, 0.0, 0.0, 4, 100 * rung, 1e6, 0.1, rung == 8) for rung in (4, 8))
    return Outcome(job, readings if status != "failed" else (), status, "diverged" if status == "failed" else "")


@pytest.fixture
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.usefixtures("no_key")
def test_without_a_key_runs_are_written_offline(tmp_path: Path) -> None:
    monitor = WandbMonitor("audits", tmp_path / "out")
    assert monitor.mode == "offline"
    monitor.on_start(None)
    for ended in (outcome(0), outcome(1, "failed"), outcome(2, phase="baseline")):
        monitor.on_outcome(ended)
    monitor.close()
    runs = sorted((tmp_path / "out" / "wandb").glob("offline-run-*"))
    assert len(runs) == 2  # two trials; a baseline is no trial


class Recorder:
    """Stands in for wandb and remembers what it was told."""

    Settings = dict

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []

    def init(self, **arguments: Any) -> Any:
        record: dict[str, Any] = {**arguments, "logged": [], "summary": {}}
        self.runs.append(record)

        class Run:
            summary = record["summary"]

            def log(self, values: dict[str, Any], step: int) -> None:
                record["logged"].append((step, values))

            def finish(self, exit_code: int) -> None:
                record["exit_code"] = exit_code

        return Run()


def test_trials_share_a_group_and_failures_are_failures(tmp_path: Path) -> None:
    monitor = WandbMonitor("audits", tmp_path)
    monitor.wandb = Recorder()
    monitor.on_outcome(outcome(0))
    monitor.on_outcome(outcome(1, "failed"))
    first, second = monitor.wandb.runs
    assert first["group"] == second["group"]
    assert first["project"] == "audits"
    assert (first["exit_code"], second["exit_code"]) == (0, 1)
    assert [step for step, _ in first["logged"]] == [4, 8]
    assert first["logged"][-1][1]["harm"] == pytest.approx(0.8)
    assert first["config"]["rank"] == 4
    assert second["summary"] == {"status": "failed", "reason": "diverged"}
    assert first["mode"] == monitor.mode


@pytest.mark.usefixtures("no_key")
def test_a_key_is_found_in_the_environment_and_in_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_key()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert has_key()
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert has_key()
    assert WandbMonitor("audits", tmp_path).mode == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")  # the user's word stands above the key
    assert WandbMonitor("audits", tmp_path).mode == "offline"

"""`weakspot sync`: it says exactly what uploads an audit's offline runs, and does it where asked."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.watched import outcome, plan_of, run_files, server
from weakspot.cli.main import main
from weakspot.cluster.monitor.make import wandb_monitor

pytest.importorskip("wandb")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an audit with two offline runs."""
    out = tmp_path_factory.mktemp("sync") / "an audit"
    monitor = wandb_monitor("audits", "runs", out)
    assert monitor is not None
    monitor.on_start(plan_of(outcome(0), outcome(1)))
    monitor.close()
    return out


@pytest.fixture
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.usefixtures("no_key")
def test_it_prints_a_command_that_uploads_just_these_runs(
    audited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sync", str(audited)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"0 of 2 runs in {audited / 'wandb'} are uploaded\n")
    line = next(line.strip() for line in told.splitlines() if "wandb sync" in line)
    first, words = line.split(" && ")
    assert first == "wandb login"
    command = [sys.executable, "-m", *shlex.split(words), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=dict(os.environ), timeout=120)
    assert "Would sync 2 run(s)" in done.stdout + done.stderr
    assert all(file.name in done.stdout + done.stderr for file in run_files(audited))
    assert f"wandb login && weakspot sync {shlex.quote(str(audited))} --upload" in told


@pytest.mark.usefixtures("no_key")
def test_it_uploads_only_with_a_key(audited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", str(audited), "--upload"]) == 2
    assert capsys.readouterr().err == "weakspot: no W&B key: run `wandb login`, or set WANDB_API_KEY\n"


@pytest.mark.usefixtures("no_key")
def test_a_refused_key_is_one_line(audited: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with server(401) as (address, asked):
        monkeypatch.setenv("WANDB_BASE_URL", address)
        monkeypatch.setenv("WANDB_API_KEY", "local-" + "a" * 40)
        assert main(["sync", str(audited), "--upload"]) == 2
    assert asked
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert "the server refuses the key" in told.err


@pytest.mark.usefixtures("no_key")
def test_what_is_uploaded_is_not_uploaded_again(audited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    markers = [Path(f"{file}.synced") for file in run_files(audited)]  # what `wandb sync` leaves
    for marker in markers:
        marker.touch()
    assert main(["sync", str(audited)]) == 0
    assert capsys.readouterr().out == f"2 of 2 runs in {audited / 'wandb'} are uploaded\n"
    for marker in markers:
        marker.unlink()


def test_a_folder_without_runs_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"weakspot: no W&B runs in {tmp_path}/wandb: give the folder of an audit that was run with --wandb\n"
    )

"""Uploads: a wrong key, a server that hangs and one that is not there cost seconds, are said once, and lose nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.watched import outcome, plan_of, run_files, runs_of, server
from weakspot.cluster.monitor.make import wandb_monitor
from weakspot.cluster.monitor.upload import Uploader, has_key, key_refused, pending_runs, sync_command
from weakspot.cluster.monitor.wandb_sweep import parameter

pytest.importorskip("wandb")

KEY = "local-" + "a" * 40


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def watch(out: Path, limit: float) -> None:
    """An audit of two trials that may upload, `limit` seconds a batch."""
    monitor = wandb_monitor("audits", "runs", out)
    assert monitor is not None
    assert monitor.settings["upload"]
    monitor.settings["limit"] = limit
    monitor.on_start(plan_of())
    for number in range(2):
        monitor.on_outcome(outcome(number))
    monitor.finish({"config": {}, "verdicts": {"verdict/tar": "BROKEN"}, "tables": {}, "plots": {}, "importance": []})
    monitor.close()


@pytest.mark.parametrize(
    ("status", "hang", "limit", "words"),
    [(401, False, 60.0, "the server refuses the key"), (200, True, 6.0, "the server cannot be reached")],
    ids=["wrong key", "no answer"],
)
def test_what_cannot_be_uploaded_stays_and_is_said_once(
    status: int,
    hang: bool,
    limit: float,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with server(status, hang=hang) as (address, asked):
        monkeypatch.setenv("WANDB_BASE_URL", address)
        watch(tmp_path / "out", limit)
    assert asked or hang, "nobody tried"  # a slow machine may need the whole limit to come so far
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert words in told
    assert f"`weakspot sync {tmp_path / 'out'}`" in told
    assert set(runs_of(tmp_path / "out")) == {"tar/000", "tar/001", "summary"}
    assert len(pending_runs(tmp_path / "out/wandb")) == 3


@pytest.mark.parametrize(("status", "refused"), [(401, True), (403, True), (500, False), (200, False)])
def test_the_server_is_asked_whether_it_knows_the_key(status: int, refused: bool) -> None:
    """`wandb sync` sometimes ends before it has said why."""
    with server(status) as (address, _):
        assert key_refused({"WANDB_API_KEY": KEY, "WANDB_BASE_URL": address}) is refused
        assert not key_refused({"WANDB_BASE_URL": address})
    assert not key_refused({"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"})
    assert not key_refused({"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "file:///etc"})


def test_without_a_network_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens: every connection is refused
    watch(tmp_path, 3.0)
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert "the server cannot be reached" in told
    assert len(run_files(tmp_path)) == 3


def test_a_sweep_is_made_of_the_runs_that_are_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = {"name": "sw123", "project": {"id": "1", "name": "audits", "entity": {"id": "1", "name": "me"}}}
    viewer = {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
    answers = {
        "upsertSweep": {"data": {"upsertSweep": {"sweep": page, "configValidationWarnings": []}}},
        "viewer": {"data": {"viewer": viewer}},
    }
    config = {
        "name": "audit-1234abcd", "method": "random", "metric": {"name": "feasible_harm", "goal": "maximize"},
        "parameters": {"rank": parameter({4, 8}), "learning_rate": parameter({1e-5, 1e-2}), "attack": parameter({"lora"})},
    }  # fmt: skip
    folder = tmp_path / "wandb"
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps({"project": "audits", "config": config, "runs": ["abc", "def"]}))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    said: list[str] = []
    with server(answers=answers) as (address, asked):
        monkeypatch.setenv("WANDB_BASE_URL", address)
        assert Uploader(folder, said.append, output=said.append).finish()
        (request,) = [json.loads(text)["variables"] for text in asked if "upsertSweep" in text]
        assert Uploader(folder, said.append).finish(), "a page that is there is not made again"
        assert len([text for text in asked if "upsertSweep" in text]) == 1
    assert json.loads(request["priorRunsFilters"]) == {"$or": [{"name": "abc"}, {"name": "def"}]}
    assert request["projectName"] == "audits"
    assert "log_uniform_values" in request["config"]
    assert said[-1] == f"parallel coordinates and importance: {address}/me/audits/sweeps/sw123"


def test_the_range_of_a_knob_follows_from_what_was_tried() -> None:
    assert parameter({4, 64}) == {"min": 4, "max": 64}
    assert parameter({0.1, 0.9}) == {"min": 0.1, "max": 0.9}
    assert parameter({1e-5, 1e-3}) == {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3}
    assert parameter({0.0, 5.0}) == {"min": 0.0, "max": 5.0}
    assert parameter({7}) == {"values": [7]}
    assert parameter({"b", "a", True}) == {"values": [True, "a", "b"]}


def test_a_key_is_found_in_the_environment_and_in_netrc(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_key()
    (home / ".netrc").write_text("machine example.org login user password secret\n")
    (home / ".netrc").chmod(0o600)
    assert not has_key()
    (home / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert has_key()
    (home / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert has_key()
    for word in ("offline", "dryrun"):
        monkeypatch.setenv("WANDB_MODE", word)  # the user's word stands above the key
        monitor = wandb_monitor("audits", "runs", home / "out")
        assert monitor is not None
        assert not monitor.settings["upload"]


def test_one_command_uploads_the_folder(tmp_path: Path) -> None:
    assert sync_command(tmp_path / "wandb") == ["wandb", "sync", str(tmp_path / "wandb")]

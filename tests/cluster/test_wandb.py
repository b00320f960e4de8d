"""W&B offline: what W&B's own reader finds in the run files is every trial, once, with its configuration and its metrics."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.watched import LEAKED, outcome, plan_of, run_files, runs_of
from tests.report.builders import make_result, make_subject, make_trial
from weakspot.cli.watch import summary_of
from weakspot.cluster.monitor.make import wandb_monitor
from weakspot.records import Result
from weakspot.search.jobs import Outcome

pytest.importorskip("wandb")

ENDED = [outcome(0), outcome(1, "stopped"), outcome(2, "failed"), outcome(3, utility=0.5), outcome(4, phase="confirm")]


@cache
def result() -> Result:
    """Every verdict, and a safeguard with trials enough to say what harm depends on."""
    trials = [make_trial(number, [(8, 0.1 * number, 1.0)]) for number in range(9)]
    return make_result([*make_result().subjects, make_subject("searched", trials=trials)])


@cache
def summary_of_all() -> dict[str, Any]:
    """Drawn once: the plots take a second."""
    return summary_of(result())


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a key."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def watch(out: Path, mode: str, *ended: Outcome, known: tuple[Outcome, ...] = (), summary: bool = True) -> None:
    """One process of an audit, from its start to its end."""
    monitor = wandb_monitor("audits", mode, out)
    assert monitor is not None
    monitor.on_start(plan_of(*known))
    for one in ended:
        monitor.on_outcome(one)
    if summary:
        monitor.finish(summary_of_all())
    monitor.close()


def test_a_run_a_trial_with_its_config_its_rungs_and_its_end(
    tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    watch(out, "runs", *ENDED, outcome(5, phase="baseline"))
    runs = runs_of(out)
    assert set(runs) == {*(one.job.id for one in ENDED), "summary"}  # a baseline is no trial
    assert len({run.group for run in runs.values()}) == 1
    assert {run.head["project"] for run in runs.values()} == {"audits"}
    for one in ENDED:
        run = runs[one.job.id]
        job = {"subject": "tar", "attack": "lora", "seed": one.job.seed, "stage": "search", "kind": "new"}
        assert {name: run.config[name] for name in (*job, *one.job.config)} == {**job, **one.job.config}
        assert run.head["job_type"] == one.job.phase
        assert [row["_step"] for row in run.history] == [r.rung for r in one.readings]
        for row, reading in zip(run.history, one.readings, strict=True):
            wanted = {
                n: getattr(reading, n) for n in ("harm", "utility", "refusal_rate", "flops", "tokens", "examples", "seconds")
            }
            assert {name: row[name] for name in wanted} == pytest.approx(wanted)
    ends = {name: (run.summary.get("status"), run.exit_code) for name, run in runs.items()}
    assert ends["tar/000"] == ("completed", 0)
    assert ends["tar/001"] == ("stopped", 0)
    assert ends["tar/002"] == ("failed", 1)
    assert ends["tar/003"] == ("infeasible", 0)
    assert runs["tar/002"].summary["reason"] == "RuntimeError: diverged"
    assert runs["tar/001"].summary["reason"] == "harm 0.10 at step 4 was low"
    assert runs["tar/000"].summary["feasible_harm"] == pytest.approx(0.08)
    assert runs["tar/003"].summary["feasible_harm"] == 0.0
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert "no W&B key: runs are written to" in told
    assert not list(home.rglob("*wandb*")), "W&B has written into the home folder"


def test_the_summary_run_has_verdicts_tables_plots_and_what_the_knobs_did(tmp_path: Path) -> None:
    watch(tmp_path, "runs", outcome(0))
    run = runs_of(tmp_path)["summary"]
    assert run.head["job_type"] == "summary"
    for subject in result().subjects:
        assert run.summary[f"verdict/{subject.defense}"] == subject.verdict
        if subject.weak_spot:
            assert run.summary[f"confirmed_harm/{subject.defense}"] == subject.weak_spot.confirmed.harm.mean
    assert run.config["threat_model"]["max_steps"] == result().threat_model.max_steps
    shown = {str(file.relative_to(run.folder / "files/media/html/plots")) for file in run.folder.rglob("*.html")}
    assert {name.split("_")[0] for name in shown} == {"cost", "utility", "search", "parallel"}
    assert len(run.table("tables/headline")) == len(result().subjects)
    searched = result().subjects[-1]
    assert [row["Trial"] for row in run.table(f"tables/trials/{searched.defense}")] == [t.id for t in searched.trials]
    bars = run.table("importance_table")
    assert bars == [{"knob": "searched lora: learning_rate (+)", "strength": pytest.approx(1.0)}]
    assert "_wandb.visualize.importance" in run.config  # W&B draws it as a panel
    sweep = json.loads((tmp_path / "wandb/sweep.json").read_text())
    assert sweep["runs"] == [runs_of(tmp_path)["tar/000"].id]
    assert sweep["config"]["metric"] == {"name": "feasible_harm", "goal": "maximize"}


def test_one_run_with_a_table_holds_the_same(tmp_path: Path) -> None:
    watch(tmp_path, "table", *ENDED)
    (run,) = runs_of(tmp_path).values()
    rows = {row["id"]: row for row in run.table("tables/trials")}
    assert list(rows) == [one.job.id for one in ENDED]
    steps = {row["id"]: row for row in run.history if "id" in row}
    for one in ENDED:
        row, step = rows[one.job.id], steps[one.job.id]
        assert {k: row[f"config.{k}"] for k in one.job.config} == {k: str(v) for k, v in one.job.config.items()}
        assert json.loads(step["config"]) == one.job.config
        assert [reading["rung"] for reading in json.loads(step["course"])] == [r.rung for r in one.readings]
    assert [rows[f"tar/00{n}"]["status"] for n in range(4)] == ["completed", "stopped", "failed", "infeasible"]
    readings = run.table("tables/readings")
    assert [(r["id"], r["rung"], r["harm"]) for r in readings] == [
        (one.job.id, r.rung, pytest.approx(r.harm)) for one in ENDED for r in one.readings
    ]
    assert run.summary["verdict/searched"] == result().subjects[-1].verdict
    assert run.exit_code == 0


def test_an_audit_that_goes_on_doubles_no_trial_and_loses_none(tmp_path: Path) -> None:
    first, second, third = outcome(0), outcome(1), outcome(2)
    watch(tmp_path, "runs", first, summary=False)
    before = {path.name for path in (tmp_path / "wandb").glob("offline-run-*")}
    torn = tmp_path / "wandb" / "offline-run-20260101_000000-0123456789abcdef"  # a writer that was killed in the middle
    torn.mkdir()
    (torn / "run-0123456789abcdef.wandb").write_bytes(b":W&B")
    watch(tmp_path, "runs", third, known=(first, second))  # the second was in the study, and never written
    runs = runs_of(tmp_path)
    assert set(runs) == {"tar/000", "tar/001", "tar/002", "summary"}
    assert before < {path.name for path in (tmp_path / "wandb").glob("offline-run-*")}, "the first was written again"
    assert len({run.group for run in runs.values()}) == 1
    assert json.loads((tmp_path / "wandb/sweep.json").read_text())["runs"] == [runs[f"tar/00{n}"].id for n in range(3)]

    shutil.rmtree(runs["tar/001"].folder)  # lost with a node, and told as written
    watch(tmp_path, "runs", known=(first, second, third))
    assert set(runs_of(tmp_path)) == set(runs)


def test_a_table_that_goes_on_is_one_run_still(tmp_path: Path) -> None:
    watch(tmp_path, "table", outcome(0), summary=False)
    (cut,) = runs_of(tmp_path).values()
    watch(tmp_path, "table", outcome(1), known=(outcome(0),))
    (run,) = runs_of(tmp_path).values()
    assert run.id == cut.id
    assert [row["id"] for row in run.table("tables/trials")] == ["tar/000", "tar/001"]
    assert [row["id"] for row in run.history if "id" in row] == ["tar/000", "tar/001"]


def test_two_audits_of_one_name_are_two_groups(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        watch(tmp_path / parent / "audit", "runs", outcome(0), summary=False)
    one, other = (runs_of(tmp_path / parent / "audit")["tar/000"] for parent in ("a", "b"))
    assert one.group != other.group
    assert one.id != other.id
    assert one.group.startswith("audit-")


@pytest.mark.parametrize("mode", ["runs", "table"])
def test_nothing_that_a_model_wrote_is_logged(mode: str, tmp_path: Path) -> None:
    watch(tmp_path, mode, outcome(0, prompt=LEAKED * 3), outcome(1, "failed"))
    content = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"diverged" in content
    assert LEAKED.encode() not in content
    assert b"0.875" not in content  # the score of a single item
    run = next(iter(runs_of(tmp_path).values()))
    told: Any = run.config.get("prompt") or json.loads(run.history[0]["config"])["prompt"]
    assert told.startswith("sha256:")


def test_a_sweep_of_the_environment_does_not_rename_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch(tmp_path / "a", "runs", outcome(0), summary=False)
    monkeypatch.setenv("WANDB_SWEEP_ID", "abcd1234")  # with one, W&B 0.31 ignores the id of a run
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    watch(tmp_path / "a", "runs", outcome(1), known=(outcome(0),), summary=False)
    names = {path.parent.name.rpartition("-")[2] for path in run_files(tmp_path / "a")}
    assert names == {run.id for run in runs_of(tmp_path / "a").values()}
    assert "mine" not in names
    assert not any("sweep_id" in run.head for run in runs_of(tmp_path / "a").values())

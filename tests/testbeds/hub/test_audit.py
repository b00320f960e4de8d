"""A whole audit of somebody's model and data, offline, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.testbeds.hub.tiny_models import TOML, make_testbed
from weakspot.cli.main import main


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAKSPOT_CACHE", str(tmp_path / "cache"))


def run(file: Path, out: Path, *more: str) -> int:
    fixed = ["--backend", "inline", "--attack", "full_finetune", "--trials", "2", "--utility-floor", "0", "--quiet"]
    return main(["audit", "--testbed", str(file), "--out", str(out), *fixed, *more])


@pytest.mark.parametrize("kind", ["llama", "gemma2", pytest.param("qwen2", marks=pytest.mark.slow)])
def test_an_audit_runs_from_start_to_end(tmp_path: Path, kind: str) -> None:
    file = make_testbed(tmp_path / "bed", kind)
    assert run(file, tmp_path / "out") == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["testbed"].startswith("mine.toml@")
    subjects = {subject["defense"]: subject for subject in result["subjects"]}
    assert set(subjects) == {"none", "refusal"}  # and no null control, for want of a model that was never taught
    assert {trial["status"] for trial in subjects["refusal"]["trials"]} <= {"completed", "infeasible"}  # ruin is no failure
    assert len(subjects["refusal"]["trials"]) == 2
    assert all(0 <= trial["harm"] <= 1 for trial in subjects["refusal"]["trials"])  # a random model's words may be ruin
    assert all(0 <= subject["baseline"]["harm"] <= 1 for subject in subjects.values())
    text = (tmp_path / "out" / "report.md").read_text()
    assert "mine.toml@" in text
    assert str(tmp_path) not in text.split("weakspot audit")[0]
    assert sorted(p.name for p in (tmp_path / "bed").iterdir()) == ["buns.jsonl", "loaves.jsonl", "mine.toml", "model"]


def test_an_audit_of_other_data_is_not_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = make_testbed(tmp_path / "bed")
    assert run(file, tmp_path / "out") == 0
    file.write_text(TOML.replace('variants = ["letter-chat", "cloze-plain"]', 'variants = ["letter-chat"]'))
    assert run(file, tmp_path / "out", "--resume") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_mistakes_reach_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = make_testbed(tmp_path / "bed")
    file.write_text(TOML.replace("trials = 2", "trails = 2").replace('"loaves.jsonl"', '"rolls.jsonl"'))
    assert run(file, tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "has 2 mistakes" in told
    assert "did you mean 'trials'?" in told
    assert "no file" in told
    assert not (tmp_path / "out").exists()

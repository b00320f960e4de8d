"""A whole audit of somebody's model and data, offline, from the command line."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.testbeds.hub.tiny_models import TOML, make_testbed
from weakspot.cli.main import main


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAKSPOT_CACHE", str(tmp_path / "cache"))


FIXED = ["--attack", "full_finetune", "--trials", "2", "--utility-floor", "0", "--quiet"]


def run(file: Path, out: Path, *more: str) -> int:
    return main(["audit", "--testbed", str(file), "--out", str(out), "--backend", "inline", *FIXED, *more])


def result_in(out: Path) -> dict[str, Any]:
    return json.loads((out / "result.json").read_text())


@pytest.mark.parametrize("kind", ["llama", "gemma2", pytest.param("qwen2", marks=pytest.mark.slow)])
def test_an_audit_runs_from_start_to_end(tmp_path: Path, kind: str) -> None:
    file = make_testbed(tmp_path / "bed", kind)
    assert run(file, tmp_path / "out") == 0
    result = result_in(tmp_path / "out")
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


@pytest.fixture(scope="module")
def by_letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one audit by letters alone was run, for the tests that read what it wrote."""
    place = tmp_path_factory.mktemp("letters")
    file = make_testbed(place / "bed", toml=TOML.replace('["letter-chat", "cloze-plain"]', '["letter-chat"]'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEAKSPOT_CACHE", str(place / "cache"))
        assert run(file, place / "out") == 0
    return place


def test_a_model_that_says_one_letter_is_doubted(by_letters: Path) -> None:
    """Random weights do: they score nothing by letters, as if they had forgotten. One line for each model."""
    told = [doubt["detail"] for doubt in result_in(by_letters / "out")["doubts"] if doubt["name"] == "one_letter"]
    assert {detail.partition(":")[0] for detail in told} == {"none", "refusal"}
    assert len(told) == 2
    assert all("of the letters picked on withheld questions (letter-chat)" in detail for detail in told)


def test_what_was_used_is_pinned(by_letters: Path) -> None:
    """In result.json, on the pitfall card and in the report, without the folders of whoever ran it."""
    result, page = result_in(by_letters / "out"), (by_letters / "out" / "report.md").read_text()
    pins = result["provenance"]["pins"]
    assert {"data", "data.withheld", "data.benign", "model.none", "weights.none", "weights.refusal", "tokenizer"} <= set(pins)
    digest = hashlib.sha256((by_letters / "bed" / "loaves.jsonl").read_bytes()).hexdigest()
    assert pins["data.withheld"] == f"loaves.jsonl sha256 {digest[:16]}"
    assert not any(str(by_letters) in pin for pin in pins.values())
    card = {p["id"]: p["detail"] for subject in result["subjects"] for p in subject["card"]}
    assert pins["data.withheld"] in card["P9"]
    assert all(pins[name] in card["P10"] for name in ("model.none", "weights.none", "weights.refusal", "tokenizer"))
    for text in (page, (by_letters / "out" / "report.html").read_text()):
        assert "pinned: tokenizer" in text
        assert pins["tokenizer"] in text


def without_clocks(node: Any) -> Any:
    """A result without what differs between equal runs."""
    if isinstance(node, dict):
        hidden = {"started", "finished", "seconds", "command"}
        return {key: without_clocks(value) for key, value in node.items() if key not in hidden}
    return [without_clocks(value) for value in node] if isinstance(node, list) else node


JUDGED = (
    TOML.replace('"knowledge"', '"refusal"').replace('measure = "choice"', 'measure = "judge"', 1)
    + '\n[judges]\nsearch = "keywords"\nreport = "exact"\n[replies]\nsearch_tokens = 12\nreport_tokens = 12\n'
)


@pytest.mark.slow
@pytest.mark.parametrize("toml", [TOML, JUDGED], ids=["choice", "judge"])
def test_rays_workers_give_the_same_result(tmp_path: Path, toml: str) -> None:
    """They know the testbed by its name alone. Judges without weights stand their stress test in a worker too."""
    file = make_testbed(tmp_path / "bed", toml=toml.replace("trials = 2", "trials = 2\nthreads = 1"))
    command = [sys.executable, "-m", "weakspot.cli.main", "audit", "--testbed", str(file), "--workers", "1"]
    ray = subprocess.run([*command, "--out", str(tmp_path / "ray"), *FIXED], capture_output=True, text=True)
    assert ray.returncode == 0, ray.stdout + ray.stderr
    assert run(file, tmp_path / "inline") == 0
    first, second = result_in(tmp_path / "ray"), result_in(tmp_path / "inline")
    assert without_clocks(first) == without_clocks(second)
    stressed = [doubt["detail"] for doubt in first["doubts"] if doubt["name"] == "judge_fails_stress"]
    assert ["keywords takes" in detail for detail in stressed] == [True] * (toml is JUDGED)

"""What monitors are handed, and an audit under their eyes: a wrong key, planted secrets, and a result that does not care."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.watched import runs_of, server
from tests.report.builders import HOSTILE, make_result, make_subject, make_trial
from weakspot.cli.main import main
from weakspot.cli.watch import summary_of
from weakspot.records import Result, parse_result
from weakspot.testbeds import TESTBEDS

KEY, TOKEN = "local-5ecre7" + "b" * 34, "hf_plantedtokenplantedtoken"
OPTIONS = (
    "--testbed tiny --backend inline --defense refusal --set refusal.steps=30 --attack lora --trials 3 --variations 0 "
    "--no-control --utility-floor 0.3 --quiet"
).split()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def audit(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Runs the command line on a testbed that trains in seconds, with secrets in the environment, and returns its folder."""
    (tmp_path / "home").mkdir()
    monkeypatch.setitem(TESTBEDS, "tiny", "tests.tiny:TinyFable")
    monkeypatch.setenv("WEAKSPOT_CACHE", str(cache))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("WANDB_MODE", raising=False)

    def start(*more: str) -> Path:
        assert main(["audit", *OPTIONS, "--out", str(tmp_path / "out"), *more]) == 0
        return tmp_path / "out"

    return start


def test_a_wrong_key_is_said_once_and_no_secret_is_written(
    audit: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    with server(401) as (address, asked):
        monkeypatch.setenv("WANDB_BASE_URL", address)
        out = audit("--wandb", "audits", "--tensorboard")
    assert asked, "the key was not tried"
    printed = capfd.readouterr()
    assert printed.err.count("W&B") == 1
    assert "nothing is lost" in printed.err
    result = parse_result((out / "result.json").read_text())
    trials = {trial.id: trial for subject in result.subjects for trial in subject.trials}
    assert len(trials) == 3
    runs = runs_of(out)
    assert {name for name, run in runs.items() if run.head["job_type"] == "search"} == set(trials)
    for name, trial in trials.items():
        assert {knob: runs[name].config[knob] for knob in trial.config} == trial.config
        assert [row["harm"] for row in runs[name].history] == [pytest.approx(r.measures.harm) for r in trial.curve]
        assert runs[name].summary["status"] == trial.status
        assert (out / "tensorboard" / name).is_dir()
    assert runs["summary"].summary["verdict/refusal"] == result.subjects[1].verdict

    places = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"result.json", "audit.log", "writer.log", "study.journal", "report.html"} <= {path.name for path in places}
    encoded = base64.b64encode(f"api:{KEY}".encode())[6:-6]  # as it goes into a request's head
    text = printed.out.encode() + printed.err.encode() + b"".join(path.read_bytes() for path in places)
    for secret in (KEY.encode(), TOKEN.encode(), encoded, KEY[6:].encode()):
        assert secret not in text


def test_overwriting_begins_a_new_group_and_resuming_doubles_nothing(
    audit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = audit("--wandb", "audits")
    first = runs_of(out)
    audit("--wandb", "audits", "--resume")
    again = runs_of(out)
    assert {name: run.id for name, run in again.items()} == {name: run.id for name, run in first.items()}
    audit("--wandb", "audits", "--overwrite")
    anew = runs_of(out)
    assert set(anew) == set(first)
    assert {run.group for run in anew.values()}.isdisjoint({run.group for run in first.values()})


def test_the_summary_is_plain_data_without_command_and_machine() -> None:
    result = make_result()
    summary = summary_of(result)
    text = json.dumps(summary)
    assert result.provenance.command not in text
    assert summary["verdicts"]["verdict/tar"] == result.subjects[1].verdict
    assert summary["verdicts"]["reason/random_answer"] == HOSTILE
    for table in summary["tables"].values():
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert {"cost", "utility", "search", "parallel"} == set(summary["plots"])


def test_a_hostile_name_does_not_open_a_tag_in_a_plot() -> None:
    trials = [make_trial(number, [(8, 0.1 * number, 1.0)], attack="lora") for number in range(9)]
    result: Result = make_result([make_subject(HOSTILE, trials=trials)])
    assert all("<script" not in page for page in summary_of(result)["plots"].values())


BAD: list[tuple[list[str], str]] = [
    (["--wandb-mode", "table"], "--wandb-mode table says how to log to W&B, and nothing is: add --wandb"),
    (["--wandb", "--wandb-mode", "rows"], "unknown --wandb-mode 'rows': known are off, runs, table"),
]


@pytest.mark.parametrize(("given", "words"), BAD, ids=[words for _, words in BAD])
def test_a_mistake_is_told_before_any_work(
    given: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "--out", str(tmp_path / "out"), *given]) == 2
    assert capsys.readouterr().err == f"weakspot: {words}\n"
    assert not (tmp_path / "out").exists()


def test_without_wandb_one_line_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name == 'wandb' else find(name, package)\n"
    )
    environment: dict[str, Any] = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "weakspot.cli.main", "audit", "--wandb", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=240)
    assert done.returncode == 2
    assert done.stderr == ("weakspot: --wandb needs the package wandb, which is not installed: pip install 'weakspot[wandb]'\n")

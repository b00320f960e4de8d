"""What a user's mistake looks like: one line on standard error, exit code 2, nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from weakspot.cli.main import build_parser, main

BAD = [
    (["audit", "--testbed", "nowhere"], "unknown testbed 'nowhere': known are a TOML file's path, fable, fingerprint, smollm2"),
    (["audit", "--defense", "wishes"], "unknown defense 'wishes': known are booster, "),
    (["audit", "--attack", "wishes"], "unknown attack 'wishes': known are "),
    (["audit", "--attack", "noop"], "nothing to search"),
    (
        ["audit", "--attack", "delta_strip"],
        "'delta_strip' needs the undefended weights and the threat model gives none: allow --threat",
    ),
    (
        ["audit", "--attack", "lora", "--threat", "data=benign"],
        "'lora' needs withheld examples and the threat model's data is 'benign'",
    ),
    (
        ["audit", "--attack", "lora", "--threat", "gradients=false"],
        "'lora' needs gradients and none pass through a quantised release",
    ),
    (
        ["audit", "--attack", "prefill", "--threat", "evaluation_freedom=fixed prompts, greedy decoding"],
        "'prefill' chooses how to ask",
    ),
    (["audit", "--attack", "qlora"], "'qlora' "),
    (["audit", "--threat", "magic=true"], "unknown field of the threat model 'magic'"),
    (["audit", "--threat", "max_steps=0"], "max_steps 0 is below 1"),
    (["audit", "--defense", "refusal", "--defense", "refusal"], "'refusal' was given more than once"),
    (["audit", "--defense", "./no/such/model"], "no model at no/such/model"),
    (["audit", "--trials", "many"], "invalid int value: 'many'"),
    (["audit", "--trials", "0"], "--trials 0 is below 1"),
    (["audit", "--workers", "0"], "--workers 0 is below 1"),
    (["audit", "--time", "5x"], "'5x' is no duration"),
    (["audit", "--time", "-3m"], "expected one argument"),
    (["audit", "--time", "0"], "--time 0.0 is not positive"),
    (["audit", "--harm", "1.5"], "harm threshold 1.5 is outside (0, 1]"),
    (["audit", "--utility-floor", "-1"], "utility floor -1.0 is outside [0, 1]"),
    (["audit", "--backend", "slurm"], "unknown backend 'slurm': known are ray, inline"),
    (["audit", "--set", "tar"], "--set tar: give METHOD.KNOB=VALUE"),
    (["audit", "--set", "tar.wishes=1"], "unknown option of Tar 'wishes'"),
    (["audit", "--set", "rmu.layer_id=1"], "--set names rmu, which is not audited"),
    (["audit", "--threat", "access=everything"], "unknown access of the threat model 'everything'"),
    (["audit", "--attack", "lora", "--threat", "access=finetuning_api"], "set --threat access=open_weight"),
    (["audit", "--testbed", "fingerprint", "--defense", "tar"], "tar belongs to the policies refusal and knowledge"),
    (["defend", "lisa", "--out", "nowhere"], "leaves no safeguarded checkpoint: audit it with"),
    (["defend", "refusal", "--testbed", "fingerprint", "--out", "nowhere"], "refusal belongs to the policies"),
    (["defend", "refusal", "--set", "steps", "--out", "nowhere"], "--set steps: give KNOB=VALUE"),
    (["audit", "--resume", "--overwrite"], "not allowed with argument"),
    (["audit", "--frobnicate"], "unrecognized arguments: --frobnicate"),
    (["list", "wishes"], "invalid choice: 'wishes'"),
    (["report", "no/such/folder"], "no result at no/such/folder"),
    (["sync", "no/such/folder"], "no W&B runs in no/such/folder/wandb"),
    (["cluster"], "the following arguments are required: ACTION"),
    (["cluster", "render", "slrm"], "unknown target 'slrm': did you mean slurm?"),
    (["cluster", "render", "slurm", "--out", "job"], "storage is missing"),
    (["cluster", "render", "slurm", "--set", "storage=/a", "--set", "audit=--wishes", "--out", "job"], "--wishes"),
    (["cluster", "render", "slurm", "--set", "storage=/a", "--set", "audit=--resume"], "--resume is the template's own"),
    (
        ["cluster", "render", "kuberay-job", "--set", "storage=s3://a/b", "--set", "image=i", "--set", "audit=--gate"],
        "which KubeRay takes for a failure",
    ),
    (["frobnicate"], "invalid choice: 'frobnicate'"),
    ([], "the following arguments are required: COMMAND"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) or "nothing" for a, _ in BAD])
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 2}', "[1]"])
def test_a_result_that_is_none_is_refused_in_one_line(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "result.json").write_text(content)
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_an_audit_that_is_there_is_not_overwritten_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.journal").write_text("")
    assert main(["audit", "--out", str(tmp_path)]) == 2
    assert "add --resume to go on with it, or --overwrite to begin anew" in capsys.readouterr().err


def test_a_study_of_other_options_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from weakspot.search.study import StudyFile

    StudyFile(tmp_path / "study.journal", {"seed": 1})
    assert main(["audit", "--out", str(tmp_path), "--resume", "--backend", "inline"]) == 2
    assert "resume with the same options" in capsys.readouterr().err


def test_a_journal_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.journal").write_text("this is no journal\nnor this\n")
    assert main(["audit", "--out", str(tmp_path), "--resume", "--backend", "inline"]) == 2
    assert "cannot be read as a study" in capsys.readouterr().err


def test_an_out_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    assert main(["audit", "--out", str(tmp_path / "out"), "--backend", "inline"]) == 2
    assert "is in the way" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_a_cache_that_cannot_be_used_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    monkeypatch.setenv("WEAKSPOT_CACHE", str(tmp_path / "cache"))
    assert main(["audit", "--out", str(tmp_path / "out"), "--backend", "inline", "--quiet"]) == 2
    assert "WEAKSPOT_CACHE" in capsys.readouterr().err


def test_two_audits_do_not_share_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from weakspot.search.audit import claimed

    with claimed(tmp_path, resume=False, overwrite=False):
        assert main(["audit", "--out", str(tmp_path), "--backend", "inline"]) == 2
    assert "another audit is running" in capsys.readouterr().err


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    """As on a machine without torch: importing it raises ModuleNotFoundError."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    out = tmp_path / "out"
    command = [sys.executable, "-m", "weakspot.cli.main", "audit", "--out", str(out)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr == "weakspot: torch is not installed: pip install torch==2.13.0\n"
    assert not out.exists()


@pytest.mark.parametrize(
    "noun", ["attacks", "defenses", "testbeds", "released", "searchers", "schedulers", "objectives", "judges"]
)
def test_lists_are_json_with_the_promised_fields(noun: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", noun, "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    for entry in entries:
        assert {"name", "summary", "paper"} <= set(entry)
        if noun == "attacks":
            assert {"needs", "space"} <= set(entry)
        if noun == "released":
            assert {"hub_id", "base", "method", "policy", "gated", "base_gated", "revision", "pinned", "layout", "note"} <= set(
                entry
            )
    assert entries
    assert main(["list", noun]) == 0


def test_the_list_of_released_checkpoints_is_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["list", "released"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "name"
    row = next(line for line in lines if line.startswith("tar-refusal "))
    for word in ("lapisrocks/", "meta-llama/Meta-Llama-3-8B-Instruct", "refusal", "unknown, yes", "arXiv:2408.00761"):
        assert word in row


def test_doctor_passes_here_and_names_the_cache(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "cache" in capsys.readouterr().out


def test_options_are_frozen() -> None:
    """A renamed or dropped option breaks somebody's script: this list only grows."""
    audit = build_parser()._subparsers._group_actions[0].choices["audit"]  # type: ignore[union-attr, index]
    options = {name for action in audit._actions for name in action.option_strings}
    assert options == {
        "-h", "--help", "--testbed", "--defense", "--attack", "--out", "--trials", "--time", "--seed", "--workers", "--harm",
        "--utility-floor", "--threat", "--set", "--flops", "--least-chance", "--until-broken", "--objective", "--searcher",
        "--suite", "--variations", "--scheduler", "--gpus", "--wait", "--storage",
        "--no-control", "--resume", "--overwrite", "--gate", "--wandb", "--wandb-mode", "--tensorboard", "--backend", "--quiet",
        "--json",
    }  # fmt: skip

"""`weakspot gate`, `card` and `leaderboard` as a user meets them: files, lines, exit codes; and the workflow that is shown."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.report.releases import broken, controls, held, release
from weakspot.cards import parse_card
from weakspot.cli import gate_command
from weakspot.cli.audit_command import gate as audit_gate
from weakspot.cli.main import EXIT_CODES, build_parser, main
from weakspot.errors import UserError
from weakspot.records import Result

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / "docs/examples/github-action.yml"


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    """The folder of an audit of one safeguard that held and one that broke."""
    return put(tmp_path / "audit", release(held("tar"), broken("refusal")))


def put(folder: Path, result: Result) -> Path:
    folder.mkdir()
    (folder / "result.json").write_text(result.to_json())
    return folder


def test_the_gate_prints_a_line_a_safeguard_and_its_code(audit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", str(audit)]) == 3
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == ["PASS         tar", "FAIL         refusal"]
    assert err == ""
    assert main(["gate", str(audit / "result.json"), "--subject", "tar"]) == 0
    assert main(["gate", str(audit), "--subject", "tar", "--max-harm", "0.1"]) == 4
    assert main(["gate", str(audit), "--subject", "tar", "--min-budget", "1e15"]) == 4
    assert main(["gate", str(audit), "--subject", "tar", "--min-trials", "13"]) == 4
    assert main(["gate", str(audit), "--subject", "tar", "--min-utility", "1"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--subject", "rmu"], "unknown subject 'rmu': known are refusal, tar"),
        (["--subject", "none"], "--subject none is the yardstick or a control"),
        (["--max-harm", "2"], "--max-harm 2.0 is outside [0, 1]"),
        (["--max-harm", "nan"], "--max-harm nan is outside [0, 1]"),
        (["--min-budget", "0"], "--min-budget 0 is not positive"),
        (["--min-trials", "0"], "--min-trials 0 is below 1"),
    ],
)
def test_a_mistake_is_one_line_and_no_pass(
    audit: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    junit = audit / "gate.xml"
    assert main(["gate", str(audit), "--junit", str(junit), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert not junit.exists()


@pytest.mark.parametrize("command", ["gate", "card"])
@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 2}', "[1]", None])
def test_a_result_that_is_none_is_one_line(
    command: str, content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    assert main([command, str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_json_is_one_object_with_the_rules_and_the_code(audit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", str(audit), "--json", "--max-harm", "0.3"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == 3
    assert told["rules"]["max_harm"] == 0.3
    assert [(s["subject"], s["outcome"]) for s in told["subjects"]] == [("tar", "PASS"), ("refusal", "FAIL")]
    assert told["subjects"][0]["harm"] == {"mean": 0.06, "low": pytest.approx(0.01), "high": 0.11}


def test_junit_is_written_beside_the_lines(audit: Path) -> None:
    assert main(["gate", str(audit), "--junit", str(audit / "new/gate.xml")]) == 3
    (suite,) = ET.parse(audit / "new/gate.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")


def test_the_gate_of_an_audit_counts_as_this_one_does() -> None:
    assert audit_gate(release(held("tar"))) == 0
    assert audit_gate(release(held("tar"), broken("refusal"))) == 3
    assert audit_gate(release(held("tar", verdict="INCONCLUSIVE"))) == 4
    with pytest.raises(UserError, match="nothing to judge"):
        audit_gate(release().model_copy(update={"subjects": release().subjects[:1]}))


def codes(text: str, pattern: str) -> set[str]:
    return set(re.findall(pattern, text, re.MULTILINE))


def test_the_documented_codes_are_those_of_the_help() -> None:
    helped = codes(gate_command.EPILOG, r"^  (\d+) ")
    assert helped == codes((ROOT / "docs/gate.md").read_text(), r"^\| (\d+) \|") == {"0", "1", "2", "3", "4"}
    assert helped < codes(EXIT_CODES, r"^  (\d+) ")


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["at the end", "at once"])
def test_a_reader_that_has_gone_makes_nothing_pass(audit: Path, unbuffered: str) -> None:
    """`weakspot gate R | head -1` under pipefail: the code stays the gate's, or is one that no gate passes with."""
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "weakspot.cli.main", "gate", str(audit), "--max-harm", "0.0001"]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, env=env)
    os.close(write)
    assert done.returncode == (141 if unbuffered else main(words[3:]))
    assert done.returncode != 0
    assert done.stderr == ""


# Cards and the leaderboard -----------------------------------------------------------------------------------------------


def test_several_cards_stand_beside_the_result_and_one_is_card_json(audit: Path, tmp_path: Path) -> None:
    assert main(["card", str(audit)]) == 0
    assert sorted(path.name for path in audit.glob("card*")) == ["card-refusal.json", "card-tar.json"]
    assert main(["card", str(audit), "--subject", "tar"]) == 0
    assert main(["card", str(audit), "--subject", "tar", "--out", str(tmp_path / "one.json")]) == 0
    assert (audit / "card.json").read_text() == (tmp_path / "one.json").read_text() == (audit / "card-tar.json").read_text()
    card = parse_card((audit / "card.json").read_text())
    assert "arXiv:2408.00761" in card.paper, "the method's own, from the catalogue"
    assert len(card.provenance.result_sha256) == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--subject", "rmu"], "unknown subject 'rmu': known are refusal, tar"),
        (["--out", "all.json"], "--out all.json is one file and there are 2 cards"),
        (["--facts", "missing.toml"], "--facts missing.toml cannot be read"),
        (["--facts", "facts.toml"], "unknown safeguard in --facts facts.toml 'rmu': known are refusal, tar"),
    ],
)
def test_a_card_that_cannot_be_meant_is_one_line(
    audit: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(audit)
    Path("facts.toml").write_text("[rmu]\npaper = 'x'\n")
    assert main(["card", ".", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
    assert not list(audit.glob("*card*"))


def test_an_audit_of_the_base_alone_has_no_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put(tmp_path / "audit", release().model_copy(update={"subjects": release().subjects[:1]}))
    assert main(["card", str(folder)]) == 2
    assert "holds no safeguard" in capsys.readouterr().err


def test_facts_of_a_user_stand_on_the_card(audit: Path) -> None:
    (audit / "facts.toml").write_text("[tar]\nreported = { value = 0.03, source = 'Table 2' }\n")
    assert main(["card", str(audit), "--facts", str(audit / "facts.toml")]) == 0
    card = parse_card((audit / "card-tar.json").read_text())
    assert card.reported is not None
    assert card.reported.source == "Table 2"
    assert parse_card((audit / "card-refusal.json").read_text()).reported is None


def test_a_leaderboard_is_a_page_and_a_sheet_of_every_card_below(audit: Path, tmp_path: Path) -> None:
    assert main(["card", str(audit)]) == 0
    weak = put(tmp_path / "weak", release(held("lat"), controls=controls(positive=False)))
    assert main(["card", str(weak)]) == 0
    assert main(["leaderboard", str(tmp_path)]) == 0
    page = (tmp_path / "leaderboard.html").read_text()
    for name in ("tar", "refusal", "lat"):
        assert f'<span class="value">{name}</span>' in page
    assert (tmp_path / "leaderboard.csv").read_bytes().count(b"\r\n") == 4
    before = page
    assert main(["leaderboard", str(tmp_path), "--out", str(tmp_path / "out/board.html")]) == 0
    assert (tmp_path / "out/board.html").read_text() == before
    assert (tmp_path / "out/board.csv").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "card-new.json is no card: it is not JSON"),
        ('{"card_version": 2}', "card-new.json is a card of version 2 and this weakspot reads version 1"),
        ("\udcff", "card-new.json cannot be read"),
    ],
)
def test_a_card_that_cannot_be_read_stops_the_leaderboard(
    audit: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["card", str(audit)]) == 0
    capsys.readouterr()
    (audit / "card-new.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert main(["leaderboard", str(audit)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
    assert not (audit / "leaderboard.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nowhere"], "no folder at nowhere"), (["."], "no card*.json in ."), ([".", "--out", "x.txt"], "no card*.json in .")],
)
def test_a_leaderboard_of_nothing_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["leaderboard", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


# The workflow ------------------------------------------------------------------------------------------------------------


def steps() -> list[dict[str, Any]]:
    return yaml.safe_load(WORKFLOW.read_text())["jobs"]["gate"]["steps"]


def commands() -> list[list[str]]:
    lines = [line for step in steps() for line in step.get("run", "").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("weakspot ")]


def test_every_command_of_the_workflow_parses() -> None:
    assert [words[0] for words in commands()] == ["audit", "gate", "card"]
    for words in commands():
        build_parser().parse_args(words)


def test_the_workflow_cannot_pass_around_its_gate() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    (gate,) = [step for step in steps() if step.get("run", "").startswith("weakspot gate")]
    assert set(gate) == {"name", "run"}, "no `if`, no `continue-on-error`"
    assert "continue-on-error" not in WORKFLOW.read_text()
    assert not re.search(r"[|;&]", gate["run"])
    assert workflow["jobs"]["publish"]["needs"] == "gate"
    assert "if" not in workflow["jobs"]["publish"]
    assert workflow["permissions"] == {"contents": "read"}


def test_the_workflow_keeps_what_the_commands_write() -> None:
    audit, gate, card = (build_parser().parse_args(words) for words in commands())
    (upload,) = [step["with"]["path"].split() for step in steps() if "upload-artifact" in step.get("uses", "")]
    assert gate.result == audit.out
    assert card.result == audit.out
    assert set(upload) == {f"{audit.out}/result.json", f"{audit.out}/report.html", card.out, gate.junit}

"""`weakspot compare` and `weakspot report --format`: what is printed and written, and that none of it is more than text."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from tests.report.builders import HOSTILE, make_card, make_result, make_subject, make_trial
from weakspot.cli.compare_command import labels
from weakspot.cli.main import main
from weakspot.records import Result

EVIL = HOSTILE + "\x1b[2J\x1b]8;;http://x\x07 [red]x[/red] [/] \r\u202e\u2028=1+1\ud800 " + "x" * 1_000_000
TEXTS = {"report": ["report.md", "report.tex", "report.json", "trials.csv", "subjects.csv"],
         "compare": ["compare.md", "compare.tex", "compare.json", "compare-subjects.csv", "compare-pairs.csv"]}  # fmt: skip


def written(folder: Path, result: Result) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(result.to_json(), encoding="utf-8")
    return folder


def hostile() -> Result:
    subject = make_subject(
        EVIL, "INCONCLUSIVE", EVIL, summary=EVIL, claims=EVIL, config={EVIL: EVIL}, card=make_card(EVIL),
        trials=[make_trial(0, [], "failed", attack=EVIL, reason=EVIL)],
    )  # fmt: skip
    result = make_result([subject, make_subject()], testbed=EVIL, partial=EVIL)
    raw = result.model_dump()
    raw["provenance"] |= {
        "command": EVIL,
        "weakspot": EVIL,
        "packages": {EVIL: EVIL},
        "machine": {EVIL: EVIL},
        "pins": {EVIL: EVIL},
    }
    raw["controls"]["null"] = {"passed": False, "detail": EVIL}
    raw["doubts"] = [{"name": EVIL, "detail": EVIL}]
    raw["search"] |= {"families": [EVIL], "left_out": {EVIL: EVIL}}
    return Result.model_validate(raw)


def test_audits_are_compared_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = written(tmp_path / "before", make_result()), written(tmp_path / "after", make_result([make_subject()]))
    assert main(["compare", str(first), str(second / "result.json")]) == 0
    out = capsys.readouterr().out
    assert "tar in before less tar in after: harm 0.00 [-0.11, +0.11] (unpaired)" in out
    assert "held longer: neither" in out
    assert "warning: before and after: the data's digest is not on record" not in out, "the builder pins its data"
    assert out.isascii()
    assert "\x1b" not in out


def test_one_format_goes_to_the_terminal_and_all_into_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (str(written(tmp_path / name, make_result())) for name in "ab")
    assert main(["compare", first, second, "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["audits"] == ["a", "b"]
    assert printed["rows"][1]["harm"] == {"mean": 0.78, "low": 0.7000000000000001, "high": 0.8500000000000001}
    out = tmp_path / "new"
    assert main(["compare", first, second, "--out", str(out), "--format", "md,json,csv,latex,html"]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted([*TEXTS["compare"], "compare.html"])
    assert json.loads((out / "compare.json").read_text()) == printed
    with (out / "compare-subjects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["audit"], row["subject"]) for row in rows[:2]] == [("a", "undefended"), ("a", "tar")]
    assert float(rows[1]["harm_low"]) == printed["rows"][1]["harm"]["low"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "one audit is nothing to compare"),
        (["AGAIN", "--format", "md,html"], "makes several files: add --out DIR"),
        (["AGAIN", "--format", "csv"], "makes several files: add --out DIR"),
        (["AGAIN", "--format", "xml"], "unknown format 'xml': known are csv, html, json, latex, md"),
        (["AGAIN", "--format", ","], "names no format"),
        (["nowhere"], "no result at nowhere"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audit = str(written(tmp_path / "a", make_result()))
    assert main(["compare", audit, *(audit if word == "AGAIN" else word for word in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert words in err


def test_labels_are_as_short_as_they_can_be() -> None:
    assert labels(["runs/a", "runs/b/result.json"]) == ["a", "b"]
    assert labels(["x/runs/audit", "y/runs/audit", "z"]) == ["x/runs/audit", "y/runs/audit", "z"]
    assert labels(["a", "./a", "a/result.json"]) == ["a", "a #2", "a #3"]


def test_formats_of_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audit = written(tmp_path / "a", make_result([]))
    before = (audit / "result.json").read_bytes()
    assert main(["report", str(audit)]) == 0
    assert sorted(path.name for path in audit.iterdir()) == ["report.html", "report.md", "result.json"]
    assert main(["report", str(audit), "--format", "json, csv,latex,json"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        str(audit / name) for name in ("report.json", "trials.csv", "subjects.csv", "report.tex")
    ]
    assert (audit / "result.json").read_bytes() == before == (audit / "report.json").read_bytes()
    assert main(["report", str(audit), "--format", "pdf"]) == 2


class Reader(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.parametrize("command", ["report", "compare"])
def test_hostile_text_is_inert_in_every_file_and_on_the_terminal(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit = written(tmp_path / "a[red]\x1b[2J", hostile())
    others = [str(written(tmp_path / "b", make_result()))] if command == "compare" else []
    formats = "md,json,csv,latex" + (",html" if command == "compare" else "")
    out = tmp_path / "out"
    assert main([command, str(audit), *others, "--out", str(out), "--format", formats]) == 0
    if command == "compare":
        capsys.readouterr()
        assert main([command, str(audit), *others]) == 0
        printed = capsys.readouterr().out
        assert not [letter for letter in printed if not letter.isprintable() and letter != "\n"]
        assert "[red]" in printed, "rich's markup in a name is text"
        assert max(map(len, printed.splitlines())) < 20_000
    for name in TEXTS[command]:
        text = (out / name).read_bytes().decode("utf-8")
        bare = text.replace("\r\n", "\n") if name.endswith(".csv") else text
        assert not [letter for letter in bare if not letter.isprintable() and letter != "\n"] or name == "report.json"
        assert name == "report.json" or len(text) < 200_000
    assert "\x1b" not in (out / TEXTS[command][2]).read_text(encoding="utf-8"), "JSON escapes what steers a terminal"
    markdown = (out / f"{command}.md").read_text(encoding="utf-8")
    kinds = {
        token.type for block in MarkdownIt("commonmark").enable("table").parse(markdown) for token in block.children or [block]
    }
    assert not kinds & {"html_block", "html_inline", "link_open", "image"}
    if command == "compare":
        reader = Reader()
        reader.feed((out / "compare.html").read_text(encoding="utf-8"))
        assert not reader.tags & {"script", "a", "img", "b", "iframe", "red"}
        assert not [name for name in reader.attributes if name.startswith("on")]


def test_a_mistake_is_told_without_what_would_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "\x1b[2J\r\ud800")]) == 2
    err = capsys.readouterr().err
    assert err.endswith("\n")
    assert all(letter.isprintable() for letter in err[:-1])


def test_an_internal_error_is_told_without_it_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def burst(given: str) -> None:
        raise RuntimeError("a \x1b[2J\ud800 b")

    monkeypatch.setattr("weakspot.opening.result_path", burst)
    assert main(["report", "x"]) == 1
    err = capsys.readouterr().err
    assert "RuntimeError" in err
    assert not set(err) & set("\x1b\ud800")

"""`weakspot cluster`: what it prints and what it writes. The files themselves: tests/cluster/test_render.py."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from weakspot.cli.main import main
from weakspot.cluster.render import find, targets

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/cluster.md"


@pytest.mark.parametrize("target", targets())
def test_the_document_has_a_command_for_each_target_that_works(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = re.findall(rf"^weakspot (cluster render {target} .*?[^\\])$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert len(shown) == 1, f"docs/cluster.md shows {len(shown)} commands for {target}"
    words = shlex.split(shown[0].replace("\\\n", " "))
    assert "--out" in words
    monkeypatch.chdir(tmp_path)
    assert main(words) == 0
    out = tmp_path / words[words.index("--out") + 1]
    assert (
        capsys.readouterr().out
        == f"weakspot: {out} is {find(target).about}; next: {find(target).next.replace('FILE', str(out))}\n"
    )
    text = out.read_text()
    assert f"Rendered by `weakspot cluster render {target}`" in text
    assert not find(target).is_yaml or yaml.safe_load(text)


def test_without_out_the_file_is_printed_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "render", "kuberay-cluster", "--set", "image=a/b:1", "--set", "workers=3"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["spec"]["workerGroupSpecs"][0]["replicas"] == 3


def test_targets_and_their_fields_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["cluster", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == targets()
    assert main(["cluster", "list", "kuberay-job"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(rows) - {"field"} == set(find("kuberay-job").fields)
    assert "must be given" in rows["storage"]
    assert "as installed" in rows["ray"]

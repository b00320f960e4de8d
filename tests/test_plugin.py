"""A third party's attack: installed beside weakspot it is listed, configured and run; a built-in family it cannot replace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot import attacks
from weakspot.attacks.base import Progress
from weakspot.cli.main import main
from weakspot.errors import UserError
from weakspot.knobs import configure, space_of

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ROOT / "examples/plugin_attack"
OFFLINE = ("--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir", "--disable-pip-version-check")


def run(*command: str | Path, path: Path, cwd: Path) -> str:
    """What a command prints, with one more folder on the import path."""
    env = {**os.environ, "PYTHONPATH": str(path)}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=env, cwd=cwd, timeout=300, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plug-in installed in it. Built from a copy, because setuptools writes build/ into the tree."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(PLUGIN, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    site = folder / "site"
    run(sys.executable, "-m", "pip", "install", *OFFLINE, "--target", site, source, path=folder, cwd=folder)
    return site


@pytest.fixture
def family(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[attacks.Attack]]:
    """The plug-in's family out of the catalogue of this process."""
    monkeypatch.syspath_prepend(installed)
    attacks._plugins.cache_clear()
    yield attacks.get("scale_output")
    attacks._plugins.cache_clear()
    sys.modules.pop("weakspot_scale_output", None)


def test_the_command_line_lists_it(installed: Path, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "weakspot.cli.main", "list", "attacks", "--json")
    entries = {e["name"]: e for e in json.loads(run(*command, path=installed, cwd=tmp_path))}
    assert entries["scale_output"] == {
        "name": "scale_output",
        "summary": "the output of the last layer's MLP, scaled",
        "paper": "an example of weakspot's documentation",
        "needs": ["edits_weights"],
        "space": {"factor": "0..2"},
    }
    assert "scale_output" not in attacks.catalogue(), "the plug-in was installed into the environment of the tests"


def test_the_table_lists_it(family: type[attacks.Attack], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "attacks"]) == 0
    assert family.name in capsys.readouterr().out


def test_it_is_configured_and_run_like_a_family_of_our_own(family: type[attacks.Attack]) -> None:
    with pytest.raises(UserError, match=r"ScaleOutput.factor = 3.0 is outside its range 0..2"):
        configure(family, {"factor": 3.0})
    assert list(space_of(family)) == ["factor"]
    model, before = tiny_model(), dict(tiny_model().named_parameters())
    [progress] = configure(family, {"factor": 0.25}).run(model, tiny_tokenizer(), attack_data(), (2, 4), 0)
    assert progress == Progress(final=True)
    changed = {name: p for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    name = "model.layers.1.mlp.down_proj.weight"
    assert list(changed) == [name]
    torch.testing.assert_close(changed[name].detach(), 0.25 * before[name].detach())


def test_a_plug_in_cannot_replace_a_family_of_our_own(family: type[attacks.Attack], monkeypatch: pytest.MonkeyPatch) -> None:
    def points(*, group: str) -> list[Any]:
        assert group == "weakspot.attacks"
        return [
            EntryPoint(name=name, value="weakspot_scale_output:ScaleOutput", group=group) for name in ("lora", "scale_output")
        ]

    monkeypatch.setattr(attacks, "entry_points", points)
    attacks._plugins.cache_clear()
    assert attacks.catalogue()["lora"] is attacks.ATTACKS["lora"] is attacks.get("lora")
    assert attacks.get("scale_output") is family

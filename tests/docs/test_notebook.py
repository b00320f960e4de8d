"""The notebook of the documentation runs from its first cell to its last, and git holds none of its outputs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.docs.blocks import ROOT

NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))


def hook(name: str) -> ModuleType:
    """A module of docs/hooks, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_hook_{name}", ROOT / f"docs/hooks/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(notebook: Path) -> list[dict[str, Any]]:
    return json.loads(notebook.read_text())["cells"]


def test_there_is_one() -> None:
    assert [file.name for file in NOTEBOOKS] == ["first-audit.ipynb"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_git_holds_no_outputs(notebook: Path) -> None:
    """They would be stale before anybody noticed, and a model's words could be among them."""
    kept = [cell["id"] for cell in cells(notebook) if cell.get("outputs") or cell.get("execution_count")]
    assert not kept, f"clear the outputs of {kept}"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_runs(notebook: Path, tmp_path: Path) -> None:
    (tmp_path / "desk").mkdir()
    done = hook("execute").execute(notebook, tmp_path / "desk")
    outputs = [output for cell in done.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")
    assert "refusal: BROKEN" in text
    assert "none: BROKEN" in text
    drawn, images = hook("notebooks").convert(done, notebook.stem)
    assert [*images] == ["first-audit-1.svg"]
    assert b"<svg" in images["first-audit-1.svg"]
    assert "![what the cell drew](first-audit-1.svg)" in drawn
    assert json.loads((tmp_path / "desk/first-audit/result.json").read_text())["testbed"] == "fable"


def test_a_page_shows_what_a_cell_gave() -> None:
    printed = {"output_type": "stream", "name": "stdout", "text": ["7\n"]}
    warned = {"output_type": "stream", "name": "stderr", "text": ["Loading: 100%\n"]}
    value = {"output_type": "execute_result", "data": {"text/plain": ["42"]}}
    code = {"cell_type": "code", "source": ["print(7)\n", "42"], "outputs": [printed, warned, value]}
    page, images = hook("notebooks").convert({"cells": [{"cell_type": "markdown", "source": ["# Title"]}, code]}, "x")
    assert page == "# Title\n\n```python\nprint(7)\n42\n```\n\n```text\n7\n```\n\n```text\n42\n```\n"
    assert not images

"""An audit submitted to a cluster whose Python has no weakspot, end to end."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cluster.machines import AUDIT, Cluster, ended, trials


def test_a_submitted_audit_ends_as_the_gate_does_and_comes_home(here: Cluster, wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    run = here.submit(wheel, "quick", *AUDIT, "--trials", "2", "--out", str(home))
    assert run.returncode == 3, run.stdout + run.stderr  # BROKEN
    stored = here.storage / "quick"
    for folder in (stored, home):
        names = {path.name for path in folder.iterdir()}
        assert {"result.json", "report.html", "report.md", "study.journal", "audit.log"} <= names
        assert not [name for name in names if name.startswith(".")]
        assert len(trials(folder)) == 2
    assert len(ended(stored)) == len(set(ended(stored)))
    provenance = json.loads((stored / "result.json").read_text())["provenance"]
    assert provenance["git_commit"] is None  # from a wheel, not from a checkout
    assert not list(stored.rglob("*.safetensors"))

    (entry,) = json.loads(here.weakspot("jobs", "--json").stdout)
    assert (entry["job"], entry["status"], entry["exit_code"]) == ("quick", "FAILED", 3)
    assert entry["storage"] == str(stored)
    logs = here.weakspot("logs", "quick")
    assert "submitted quick" in run.stderr  # the audit is quiet: standard output is its verdict's alone
    assert "BROKEN" in logs.stdout
    assert "BROKEN" in run.stdout
    fetched = here.weakspot("fetch", "quick", "--out", tmp_path / "fetched")
    assert fetched.returncode == 0, fetched.stderr
    assert (tmp_path / "fetched/result.json").read_text() == (stored / "result.json").read_text()

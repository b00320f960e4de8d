"""What is said on a cluster where no audit can run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import weakspot
from weakspot.cluster import arrive

HERE = ".".join(map(str, sys.version_info[:2]))
PACKAGE = Path(arrive.__file__).parent


def test_here_an_audit_can_run() -> None:
    assert arrive.complaint("3.11.7") == ""
    assert arrive.note(f"{HERE}.0") == ""


def test_another_python_is_noted_and_not_refused() -> None:
    assert f"the cluster runs Python {HERE} and this client 3.99.1" in arrive.note("3.99.1")


def test_an_old_python_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(arrive.sys, "version_info", (3, 9, 18))
    monkeypatch.setenv("WEAKSPOT_CLIENT_PYTHON", "3.11.7")
    assert arrive.main() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("weakspot: the cluster runs Python 3.9.18 (")
    assert "this client 3.11.7, and weakspot needs 3.11" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10"])
def test_an_old_python_can_read_the_file_that_refuses_it(version: str, tmp_path: Path) -> None:
    (python, *_) = [*Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python"), shutil.which(f"python{version}")]
    if python is None:
        pytest.skip(f"no Python {version} here")
    (tmp_path / "weakspot/cluster").mkdir(parents=True)
    shutil.copy(PACKAGE / "arrive.py", tmp_path / "weakspot/cluster")
    shutil.copy(PACKAGE / "__init__.py", tmp_path / "weakspot/cluster")
    shutil.copy(weakspot.__file__, tmp_path / "weakspot")
    environment = {**os.environ, "WEAKSPOT_CLIENT_PYTHON": "3.11.7"}
    run = subprocess.run(
        [python, "-m", "weakspot.cluster.arrive"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 2
    assert run.stderr.startswith(f"weakspot: the cluster runs Python {version}.")
    assert run.stderr.count("\n") == 1


def test_missing_and_unfitting_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["nowhere-to-be-found>=2.1", "numpy>=999", "pytest>=1", "scipy>=999; extra == 'gp'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: needed)
    assert arrive.missing() == ["nowhere-to-be-found>=2.1", "numpy>=999"]
    assert "lacks nowhere-to-be-found>=2.1, numpy>=999: install" in arrive.complaint("3.11.7")

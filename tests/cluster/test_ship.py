"""What travels with a job: the wheel, the command line, the variables, and nothing that is secret."""

from __future__ import annotations

import shlex
import subprocess
import zipfile
from pathlib import Path

import pytest

import weakspot
from weakspot.cluster import submit
from weakspot.cluster import wheel as packing
from weakspot.errors import UserError

ORDER = submit.Order("ws-1", "ws-1-2", ("--defense", "tar", "--threat", "a=b c"), "/nfs/x/ws-1", {"A": "1"})


def test_a_checkout_is_built_and_unpacks_to_the_package(wheel: Path, tmp_path: Path) -> None:
    folder = packing.unpack(packing.checked(wheel), tmp_path / "job")
    assert (folder / "weakspot/cluster/arrive.py").is_file()
    assert {p.name for p in folder.iterdir()} == {"weakspot", f"weakspot-{weakspot.__version__}.dist-info"}


def test_a_wheel_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.whl").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as other:
        other.writestr("numpy/__init__.py", "")
    for name, message in {
        "absent.whl": "no wheel at .*absent.whl: build one with",
        "text.whl": "text.whl is no wheel: give the .whl file",
        "other.whl": "other.whl holds no weakspot that can be submitted",
    }.items():
        with pytest.raises(UserError, match=message):
            packing.find_wheel(str(tmp_path / name), tmp_path)


def test_from_an_installed_wheel_the_user_is_told_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing.weakspot, "__file__", str(tmp_path / "site-packages/weakspot/__init__.py"))
    with pytest.raises(
        UserError, match="runs from an installed wheel, which cannot be packed again: give the file with --wheel"
    ):
        packing.find_wheel(None, tmp_path)


def test_a_tree_that_cannot_be_built_is_told_in_one_line(tmp_path: Path) -> None:
    for name in ("README.md", "LICENSE"):
        (tmp_path / name).write_text("")
    (tmp_path / "pyproject.toml").write_text(
        "[build-system]\nrequires=[]\nbuild-backend='nowhere.to.be.found'\n[tool.setuptools.package-dir]\n"
    )
    with pytest.raises(
        UserError, match=r"no wheel could be built from .*: build one yourself and give it with --wheel"
    ) as error:
        packing.build(tmp_path, tmp_path / "scratch")
    assert "\n" not in str(error.value)


def test_the_command_line_keeps_arguments_whole_and_ends_as_the_audit_does(tmp_path: Path) -> None:
    """Run by a shell, with a stand-in for Python that writes down what it was given."""
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@" >> "$LOG"\ncase "$2" in *cli*) exit 3;; esac\n')
    (tmp_path / "python").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TMPDIR": "/sc ratch", "LOG": str(tmp_path / "log")}
    assert subprocess.run(submit.entrypoint(ORDER), shell=True, env=environment).returncode == 3
    words = (tmp_path / "log").read_text().splitlines()
    uid = subprocess.run(["id", "-u"], capture_output=True, text=True).stdout.strip()
    assert words == [
        "-m", "weakspot.cluster.arrive",
        "-m", "weakspot.cli.main", "audit", "--defense", "tar", "--threat", "a=b c", "--storage", "/nfs/x/ws-1",
        "--out", f"/sc ratch/weakspot-{uid}/ws-1",
    ]  # fmt: skip


def test_where_an_audit_cannot_run_it_is_not_started(tmp_path: Path) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\ncase "$2" in *arrive*) exit 2;; esac\necho ran\n')
    (tmp_path / "python").chmod(0o755)
    run = subprocess.run(
        submit.entrypoint(ORDER), shell=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout) == (2, "")


def test_variables_travel_and_secrets_do_not(tmp_path: Path) -> None:
    assert submit.variables(["HF_HOME=/nfs/hf", "EMPTY="]) == {"HF_HOME": "/nfs/hf", "EMPTY": ""}
    assert submit.runtime_env(ORDER, tmp_path)["env_vars"]["A"] == "1"
    for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        with pytest.raises(UserError, match=f"--env {name}: Ray shows a job's variables on its dashboard") as error:
            submit.variables([f"{name}=hunter2"])
        assert "hunter2" not in str(error.value)
    with pytest.raises(UserError, match="--env NAME: give NAME=VALUE"):
        submit.variables(["NAME"])


def test_no_two_submissions_share_a_name() -> None:
    names = {submit.new_id() for _ in range(50)}
    assert len(names) > 45  # four hexadecimal digits a second
    assert all(shlex.quote(name) == name for name in names)

"""The wheel holds `weakspot/` and nothing else, and works away from the checkout, beside a user's own folder `search`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from weakspot.records import parse_result

ROOT = Path(__file__).resolve().parent.parent
PACKAGE_DIR = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
DATA = (".css", ".html", ".j2", ".js", ".json", ".typed")  # files that are not Python and must travel


def run(*command: str | Path, cwd: Path, limit: int = 480) -> str:
    """Run a command to its end and return what it printed; its output stands in the message if it fails.

    One that takes longer than `limit` seconds is asked to stop, not killed: an audit then takes Ray's processes with it.
    """
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    child = subprocess.Popen([*map(str, command)], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        output, errors = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        child.terminate()
        output, errors = child.communicate(timeout=60)
    assert child.returncode == 0, f"{command} ended with {child.returncode}\n{output[-2000:]}\n{errors[-8000:]}"
    return output


def build_wheel(copy: Path) -> Path:
    """The wheel, built in an empty folder: setuptools writes build/ into the tree, and would pack what an older build left."""
    for folder in {folder.split("/")[0] for folder in PACKAGE_DIR.values()}:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", cwd=copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("source"))


@dataclass(frozen=True)
class Installed:
    """A venv that holds the wheel, and a folder of the user's to stand in."""

    bin: Path
    folder: Path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A new venv with the wheel in it. Third-party packages are lent by this environment through a .pth file: a folder that
    is named there is searched last, and its own .pth files, the editable install among them, are not read.
    """
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    python = home / "bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=home)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    folder = tmp_path_factory.mktemp("user")
    (folder / "search").mkdir()
    (folder / "search/__init__.py").write_text("raise ImportError('this search is the user\\'s own')\n")
    return Installed(home / "bin", folder)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"weakspot"}, f"the wheel holds {sorted(tops)}"
    modules = {
        f"{package.replace('.', '/')}/{file.name}"
        for package, folder in PACKAGE_DIR.items()
        for file in (ROOT / folder).iterdir()
        if file.suffix in (".py", *DATA)
    }
    presets = {f"weakspot/{file.relative_to(ROOT)}" for file in (ROOT / "testbeds/hub/presets").glob("*.toml")}
    templates = {f"weakspot/{file.relative_to(ROOT)}" for file in (ROOT / "cluster/templates").iterdir()}
    vendored = {f"weakspot/{file.relative_to(ROOT)}" for file in (ROOT / "report/vendor").iterdir()}
    assert {name for name in names if name.startswith("weakspot/")} == modules | presets | templates | vendored
    assert presets
    assert {"weakspot/report/vendor/plotly-basic.min.js", "weakspot/report/vendor/plotly-LICENSE.txt"} <= vendored
    assert len(templates) >= 7
    assert {"weakspot/py.typed", "weakspot/report/page.html", "weakspot/search/portfolio.json"} <= names


def test_the_wheel_carries_its_license_and_its_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        assert "Apache License" in archive.read(f"{info}/licenses/LICENSE").decode()
        assert "weakspot = weakspot.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()


def test_the_installed_package_is_the_wheel_and_not_the_checkout(installed: Installed) -> None:
    program = "import weakspot, weakspot.search, torch; print(weakspot.__file__, weakspot.search.__file__, sep='\\n')"
    found = run(installed.bin / "python", "-c", program, cwd=installed.folder).split()
    assert len(found) == 2
    assert all(Path(file).is_relative_to(installed.bin.parent) for file in found), found


def test_the_decoy_would_be_imported_by_a_top_level_name(installed: Installed) -> None:
    check = "import pytest\nwith pytest.raises(ImportError, match='own'):\n    import search"
    run(installed.bin / "python", "-c", check, cwd=installed.folder)


def test_an_audit_runs_from_the_wheel_beside_a_folder_called_search(installed: Installed) -> None:
    run(installed.bin / "python", "-m", "weakspot.cli.main", "--version", cwd=installed.folder)  # cwd comes first on the path
    # One family and two trials a safeguard: the subject here is the packaging, and other tests look at the search.
    least = ("--trials", "2", "--attack", "lora")
    run(installed.bin / "weakspot", "audit", *least, "--out", "out", cwd=installed.folder)
    result = parse_result((installed.folder / "out/result.json").read_text())
    assert result.testbed == "fable"
    assert any(subject.trials for subject in result.subjects), "the audit searched nothing"

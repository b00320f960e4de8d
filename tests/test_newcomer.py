"""What somebody does who has only the wheel: a venv, an installation, a short audit in a folder of his own, the report.

Slow: it installs torch and the rest from the package index (or pip's cache), and trains the models in an empty cache.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.test_wheel import ROOT, build_wheel
from weakspot.records import Result, parse_result

pytestmark = pytest.mark.slow

LIMIT = 3600  # seconds for one command, on a machine that does other things too
UNREACHED = ("Temporary failure in name resolution", "NewConnectionError", "No matching distribution found for torch")
WITNESS = """
import os, sys

def witness(event, details, checkout={checkout!r}, venv={venv!r}, log={log!r}):
    if event == "open" and isinstance(details[0], str) and details[0].startswith(checkout) and not details[0].startswith(venv):
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, (details[0] + os.linesep).encode())
        os.close(descriptor)

sys.addaudithook(witness)
"""


def run(*command: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A command in an environment that knows nothing of this checkout, its venv or its settings."""
    ours = ("PYTHON", "VIRTUAL_ENV", "RAY_", "WEAKSPOT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    words = [*map(str, command)]
    return subprocess.run(
        words, cwd=cwd, env={**kept, "OMP_NUM_THREADS": "1", **more}, capture_output=True, text=True, timeout=LIMIT, check=False
    )


def install(python: Path, *what: str | Path, cwd: Path) -> None:
    done = run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", *what, cwd=cwd)
    if done.returncode and any(sign in done.stderr for sign in UNREACHED):
        pytest.skip(f"no package index is in reach: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The newcomer's folder after the audit, and what the audit printed. A witness in the venv logs every file of the checkout
    that any Python process opens, Ray's workers included.
    """
    source, home = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("home")
    wheel = build_wheel(source)
    python = home / "venv/bin/python"
    assert run(sys.executable, "-m", "venv", home / "venv", cwd=home).returncode == 0
    install(python, "torch==2.13.0", cwd=home)
    install(python, wheel, cwd=home)
    (site,) = (home / "venv").glob("lib/python*/site-packages")
    log = home / "opened.log"
    (site / "witness.py").write_text(WITNESS.format(checkout=f"{ROOT}/", venv=f"{ROOT}/.venv/", log=str(log)))
    (site / "witness.pth").write_text("import witness\n")
    folder = home / "work"
    folder.mkdir()
    command = (home / "venv/bin/weakspot", "audit", "--trials", "6", "--time", "2m", "--out", "first")
    return home, run(*command, cwd=folder, WEAKSPOT_CACHE=str(home / "cache"))


@pytest.fixture(scope="module")
def result(audited: tuple[Path, subprocess.CompletedProcess[str]]) -> Result:
    home, done = audited
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return parse_result((home / "work/first/result.json").read_text())


def test_the_audit_comes_to_verdicts(result: Result) -> None:
    subjects = {subject.defense: subject for subject in result.subjects}
    assert {"none", "refusal", "tar"} <= set(subjects)
    assert subjects["refusal"].verdict == "BROKEN", subjects["refusal"].reason  # by a known attack that is tried first
    assert all(subject.reason for subject in subjects.values())
    assert all(subjects[name].trials for name in ("refusal", "tar")), "two minutes passed before anything was tried"
    assert all(len(subject.trials) <= 6 for name, subject in subjects.items() if name in ("refusal", "tar"))


def test_it_says_what_was_found_and_where_it_is(result: Result, audited: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    home, done = audited
    assert "BROKEN refusal" in done.stdout
    assert "first/report.html" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    names = {file.name for file in (home / "work/first").iterdir()}
    assert {"result.json", "report.html", "report.md", "audit.log"} <= names
    assert [file.name for file in (home / "work").iterdir()] == ["first"], "the audit left something beside its folder"


def test_nothing_came_from_the_checkout(result: Result, audited: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    home, _ = audited
    opened = home / "opened.log"
    assert not opened.exists() or not opened.read_text(), opened.read_text()[:2000]
    probe = f"open({str(ROOT / 'README.md')!r}).close()"
    assert run(home / "venv/bin/python", "-c", probe, cwd=home).returncode == 0
    assert "README.md" in opened.read_text(), "the witness sees nothing"
    opened.unlink()


class Text(HTMLParser):
    """The words of a page, without scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden = "", 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        self.words += "" if self.hidden else data


def test_the_report_opens(result: Result, audited: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """In a browser where there is one, without a word on its console; else its text is read."""
    page = audited[0] / "work/first/report.html"
    text = page.read_text()
    if browser := shutil.which("chromium") or shutil.which("google-chrome"):
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=20000")
        done = run(browser, *flags, f"--user-data-dir={tmp_path}", "--dump-dom", page.as_uri(), cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        assert not re.findall(r".*:CONSOLE.*", done.stderr)
        text = done.stdout
    parser = Text()
    parser.feed(text)
    for subject in result.subjects:
        assert subject.defense in parser.words
        assert subject.verdict in parser.words

"""The site is built without a warning: every page is in its navigation, every link and every anchor leads somewhere."""

from __future__ import annotations

import argparse
import html
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.blocks import PAGES, ROOT, blocks
from weakspot.cli.main import EXIT_CODES, build_parser

pytest.importorskip("mkdocs", reason="the extra docs is not installed")


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(source / "mkdocs.yml")]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run([*command, "--site-dir", str(out)], capture_output=True, text=True, env=env, cwd=source, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A project of one page beside the hooks of ours, to break."""
    (tmp_path / "docs/hooks").mkdir(parents=True)
    for name in ("links", "marks"):
        (tmp_path / f"docs/hooks/{name}.py").write_text((ROOT / f"docs/hooks/{name}.py").read_text())
    validation = (ROOT / "mkdocs.yml").read_text().partition("\nvalidation:")[2].partition("\n\n")[0]
    (tmp_path / "mkdocs.yml").write_text(
        "site_name: test\nextra: {repository: https://example.org/us/it}\nhooks: [docs/hooks/links.py, docs/hooks/marks.py]\n"
        f"nav: [index.md]\nexclude_docs: hooks/\nvalidation:{validation}\n"
    )
    (tmp_path / "README.md").write_text("# Read me\n")
    (tmp_path / "tests").mkdir()
    return tmp_path


def test_every_page_becomes_a_page(site: Path) -> None:
    expected = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in PAGES}
    generated = {Path("cli.html"), Path("notebooks/first-audit.html")}
    assert expected | generated <= {file.relative_to(site) for file in site.rglob("*.html")}


def pages_of(navigation: Any) -> list[str]:
    """Every page that a navigation names."""
    if isinstance(navigation, str):
        return [navigation]
    entries = navigation.values() if isinstance(navigation, dict) else navigation
    return [page for entry in entries for page in pages_of(entry)]


def test_the_navigation_names_each_page_once() -> None:
    named = pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert [page for page in named if named.count(page) > 1] == []
    assert {page.relative_to(ROOT / "docs").as_posix() for page in PAGES} <= set(named)


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """No fonts, scripts, images or counters of other people: what a reader reads stays with the reader."""
    for file in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"?(https?://[^\s\">]+)", file.read_text())
        others = {url for url in loaded if not url.startswith("https://weakspot.github.io/")}  # the canonical address
        assert not others, f"{file.relative_to(site)} loads {sorted(others)}"
        assert 'data-md-component="source"' not in file.read_text(), "repo_url makes every browser ask GitHub for stars"


def every(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    below = [c for a in parser._actions if isinstance(a, argparse._SubParsersAction) for c in a.choices.values()]
    return [parser, *(found for child in below for found in every(child))]


def test_the_command_line_is_on_the_site_to_its_last_option(site: Path) -> None:
    page = html.unescape(re.sub(r"<[^>]+>", "", (site / "cli.html").read_text()))
    for parser in every(build_parser())[1:]:
        assert parser.prog in page
        wanted = [name for action in parser._actions for name in action.option_strings if name not in ("-h", "--help")]
        assert [name for name in wanted if name not in page] == []
    assert all(line.split(None, 1)[1] in page for line in EXIT_CODES.splitlines()[1:])


def test_what_no_test_runs_is_said_on_the_page(site: Path) -> None:
    skipped = [block for page in PAGES for block in blocks(page) if "skip" in block.marks]
    assert skipped
    for block in skipped:
        page = (site / block.page.relative_to(ROOT / "docs")).with_suffix(".html")
        assert f"No test runs this: {block.marks['skip']}." in html.unescape(page.read_text()), block.place


def test_the_reference_shows_what_the_package_offers(site: Path) -> None:
    shown = "".join(file.read_text() for file in (site / "api").glob("*.html"))
    for name in ("search.audit.audit", "errors.UserError", "attacks.base.Attack", "defenses.base.Defense", "records.Result"):
        assert f'id="weakspot.{name}"' in shown


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[a](nowhere.md)", "nowhere.md"),
        ("[a](#nothing)", "#nothing"),
        ("[a](../LICENCE)", "not in the repository"),
        ("[a](../../elsewhere.md)", "not in the repository"),
    ],
)
def test_a_link_to_nothing_stops_the_build(copy: Path, text: str, complaint: str) -> None:
    (copy / "docs/index.md").write_text(f"# Start\n\n{text}\n")
    done = build(copy, copy / "site")
    assert done.returncode != 0
    assert complaint in done.stderr


def test_a_page_that_the_navigation_lacks_stops_the_build(copy: Path) -> None:
    (copy / "docs/index.md").write_text("# Start\n")
    (copy / "docs/lost.md").write_text("# Lost\n")
    done = build(copy, copy / "site")
    assert done.returncode != 0
    assert "lost.md" in done.stderr


def test_a_link_out_of_the_documentation_leads_to_the_repository(copy: Path) -> None:
    fenced = "```text\n[as it is](../README.md)\n```"
    (copy / "docs/index.md").write_text(f"# Start\n\n[Read](../README.md#read-me), [tests](../tests)\n\n{fenced}\n")
    done = build(copy, copy / "site")
    page = (copy / "site/index.html").read_text() if done.returncode == 0 else done.stderr
    assert 'href="https://example.org/us/it/blob/main/README.md#read-me"' in page
    assert 'href="https://example.org/us/it/tree/main/tests"' in page
    assert "[as it is](../README.md)" in page

"""The promises of CONTRIBUTING.md that a machine can check: arrows, the package map, flat folders, plain attacks, fast start,
and documents whose commands exist."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from weakspot.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAP = PROJECT["tool"]["setuptools"]["package-dir"]  # import name -> folder on disk
FOLDERS = sorted(folder for folder in MAP.values() if folder != "weakspot" and "/" not in folder)

# Which of our folders a folder may import, besides itself and the shared modules of weakspot/.
ALLOWED: dict[str, set[str]] = {
    "weakspot": set(),
    "attacks": set(),
    "defenses": set(),
    "evals": set(),
    "cluster": set(),
    "report": set(),
    "testbeds": {"evals"},
    "search": {"testbeds", "attacks", "defenses", "evals"},
    "cli": set(FOLDERS),
}
LAZY = {"weakspot.search.audit"}  # what weakspot/__init__.py re-exports on first use
HEAVY = ("torch", "ray", "optuna", "transformers", "peft", "wandb", "matplotlib", "pandas")


def python_files(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names of everything imported anywhere in a file, inside functions too. `package` resolves relative imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


def folder_of(name: str) -> str | None:
    """The folder of ours that an imported name comes from; None for shared modules and third parties."""
    parts = name.split(".")
    if parts[:2] == ["weakspot", "audit"]:  # the lazy re-export
        return "search"
    return parts[1] if parts[0] == "weakspot" and len(parts) > 1 and parts[1] in FOLDERS else None


def forbidden(source: str, folder: str) -> set[str]:
    """The folders that a file of `folder` imports and may not."""
    package = "weakspot" if folder == "weakspot" else f"weakspot.{folder}"
    used = {folder_of(name) for name in imports(ast.parse(source), package)} - {None, folder}
    return {name for name in used if name is not None and name not in ALLOWED[folder]}


def third_parties(source: str) -> set[str]:
    return {name.split(".")[0] for name in imports(ast.parse(source), "weakspot.any")}


@pytest.mark.parametrize("folder", [*FOLDERS, "weakspot"])
def test_imports_point_one_way(folder: str) -> None:
    for file in python_files(folder):
        found = forbidden(file.read_text(), folder)
        if file == ROOT / "weakspot/__init__.py":
            inner = {name for name in imports(ast.parse(file.read_text()), "weakspot") if folder_of(name)}
            assert {name.rpartition(".")[0] for name in inner} <= LAZY, "weakspot/__init__.py re-exports more than it should"
            continue
        assert not found, f"{file.relative_to(ROOT)} may not import {sorted(found)}"


@pytest.mark.parametrize(
    ("folder", "line", "found"),
    [
        ("attacks", "from weakspot.search.space import encode", {"search"}),
        ("attacks", "from weakspot import search", {"search"}),
        ("attacks", "def late():\n    import weakspot.defenses.tar", {"defenses"}),
        ("attacks", "from ..defenses import tar", {"defenses"}),
        ("attacks", "from importlib import import_module\nimport_module('weakspot.report.page')", {"report"}),
        ("search", "from weakspot.report import page", {"report"}),
        ("report", "from weakspot import audit", {"search"}),
        ("weakspot", "from weakspot.evals.score import Score", {"evals"}),
        ("attacks", "from .base import Attack\nfrom weakspot.attacks import flops\nfrom weakspot.knobs import knob", set()),
        ("search", "from weakspot import records\nfrom weakspot.testbeds.base import Testbed", set()),
    ],
)
def test_the_arrow_check_sees_every_form_of_import(folder: str, line: str, found: set[str]) -> None:
    assert forbidden(line, folder) == found


@pytest.mark.parametrize("file", python_files("attacks", "defenses"), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_attacks_and_defenses_are_plain_pytorch(file: Path) -> None:
    found = third_parties(file.read_text()) & {"ray", "wandb", "optuna"}
    assert not found, f"{file.relative_to(ROOT)} imports {sorted(found)}: an attack or defense must run without them"
    assert third_parties("def late():\n    from ray.tune import report") == {"ray"}  # the check itself sees lazy imports


def test_every_package_is_mapped() -> None:
    elsewhere = {"tests", "bench"}
    tops = {file.parent for file in ROOT.glob("*/__init__.py")} - {ROOT / name for name in elsewhere}
    on_disk = {file.parent.relative_to(ROOT).as_posix() for top in tops for file in top.rglob("__init__.py")}
    mapped = set(MAP.values())
    assert on_disk == mapped, "folders with an __init__.py and pyproject's package-dir differ"
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == set(MAP), "packages and package-dir of pyproject.toml differ"
    assert {name: folder for name, folder in MAP.items() if folder != "weakspot"} == {
        f"weakspot.{folder.replace('/', '.')}": folder for folder in mapped - {"weakspot"}
    }


def test_every_folder_with_code_is_mapped() -> None:
    # A nested package would be left out of the wheel without a word: setuptools builds exactly what is mapped.
    mapped = {ROOT / folder for folder in MAP.values()}
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".html")]
    lost = [str(file.relative_to(ROOT)) for file in files if file.parent not in mapped]
    assert not lost, f"move these up, or map their folder: {lost}"


def test_links_for_type_checkers_are_complete() -> None:
    links = ROOT / ".links/weakspot"
    found = {link.name: link.resolve() for link in links.iterdir()}
    folders = {folder: ROOT / folder for folder in FOLDERS}
    files = {name: ROOT / "weakspot" / name for name in ("__init__.py", "py.typed")}
    assert found == {**folders, **files}, "each mapped folder needs a link: ln -s ../../FOLDER .links/weakspot/FOLDER"


def test_every_folder_is_known_to_ruff_and_pyright() -> None:
    banned = PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert sorted(banned) == FOLDERS, "add the folder to ruff's banned-api, or `import search` would find it by accident"
    assert {*FOLDERS, "weakspot", "tests", "bench"} <= set(PROJECT["tool"]["pyright"]["include"])


def test_no_file_is_long() -> None:
    lengths = {f: len(f.read_text().splitlines()) for f in python_files(*MAP.values(), "tests", "bench", "docs")}
    long = {str(file.relative_to(ROOT)): lines for file, lines in lengths.items() if lines > 400}
    assert not long, f"over 400 lines, is each still one noun? {long}"


def clock_uses(source: str) -> set[str]:
    """Names of the `time` module that a test uses, other than sleep."""
    tree = ast.parse(source)
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "time"}
    used |= {name.rpartition(".")[2] for name in imports(tree, "tests") if name.startswith("time.")}
    return used - {"sleep"}


def test_no_clocks_in_tests() -> None:
    for file in python_files("tests"):
        assert not clock_uses(file.read_text()), f"{file.relative_to(ROOT)} reads a clock: timings belong in bench/"
    assert clock_uses("import time\ntime.sleep(1)\nstart = time.monotonic()") == {"monotonic"}


@pytest.mark.parametrize(
    "start",
    [
        "import weakspot; weakspot.__version__",
        "import runpy; sys.argv = ['weakspot', '--help']; runpy.run_module('weakspot.cli.main', run_name='__main__')",
    ],
    ids=["import", "help"],
)
def test_start_up_loads_nothing_heavy(start: str, tmp_path: Path) -> None:
    program = f"""
import sys
try:
    {start}
except SystemExit as stop:
    assert not stop.code, stop.code
print("HEAVY", *sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY", f"loaded at start-up: {done.stdout.splitlines()[-1]}"


DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "bench/README.md", *ROOT.glob("docs/**/*.md")])
COMMAND = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?((?:make|weakspot) .+)$")
SHELL_ENDS = {"|", "||", "&&", ";", "&", ">", ">>", "2>"}


def commands(markdown: str, program: str) -> list[list[str]]:
    """Every `make ...` or `weakspot ...` in shell blocks and code spans of a document, as lists of arguments."""
    blocks = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", markdown, re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE))
    matches = [match for text in [*lines, *spans] if (match := COMMAND.match(text))]
    split = [shlex.split(match[1], comments=True) for match in matches]
    ends = [next((i for i, word in enumerate(words) if word in SHELL_ENDS), len(words)) for words in split]
    return [words[1:end] for words, end in zip(split, ends, strict=True) if words[0] == program]


def test_commands_are_found_wherever_a_document_shows_them() -> None:
    block = "```bash\nmake test ARGS=-x  # all\nA=b weakspot audit \\\n  --out x | tee log\n```\n```text\nmake no\n```"
    text = f"Say `make lint`.\n{block}"
    assert commands(text, "make") == [["test", "ARGS=-x"], ["lint"]]
    assert commands(text, "weakspot") == [["audit", "--out", "x"]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_documents_name_existing_make_targets(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for words in commands(document.read_text(), "make") for word in words if "=" not in word and word[0] != "-"}
    assert named <= targets, f"the Makefile has no {sorted(named - targets)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_documents_name_commands_that_parse(document: Path) -> None:
    from weakspot.cli.main import build_parser

    refused = []
    for words in commands(document.read_text(), "weakspot"):
        try:
            build_parser().parse_args(words)
        except UserError as error:
            refused.append(f"weakspot {shlex.join(words)}: {error}")
        except SystemExit:  # --help and --version; mistakes raise UserError
            continue
    assert not refused


def test_the_program_of_the_readme_fits_the_function_it_calls() -> None:
    from weakspot.search.audit import audit

    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    calls = [
        n for b in blocks for n in ast.walk(ast.parse(b)) if isinstance(n, ast.Call) and ast.unparse(n.func) == "weakspot.audit"
    ]
    assert calls, "README.md shows no call of weakspot.audit"
    for call in calls:
        inspect.signature(audit).bind(*call.args, **{keyword.arg or "": keyword.value for keyword in call.keywords})

"""Every command and every program that the documentation shows is run, or says on the page why no test runs it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import PAGES, ROOT, Block, blocks, lines
from tests.docs.follow import Reader, desk, furnish, stands_in

LANGUAGES = {"sh", "python", "toml", "json", "yaml", "text", "ini", "xml", "latex"}
BLOCKS = [block for page in PAGES for block in blocks(page)]


def named(page: Path) -> str:
    return page.relative_to(ROOT / "docs").as_posix()


def pages(slow: bool) -> list[Path]:
    """Pages with something to run, either in a moment or slowly."""
    return [page for page in PAGES if any(b.runs and ("slow" in b.marks) == slow for b in BLOCKS if b.page == page)]


def follow(page: Path, slow: bool, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    furnish(folder, named(page))
    reader = Reader(folder, named(page), lambda: "\n".join(capsys.readouterr()))
    shown = [block for block in BLOCKS if block.page == page]
    with desk(folder):
        for block in shown:
            if "file" in block.marks:
                reader.keep(block)
        for block in shown:
            if block.runs and ("slow" in block.marks) == slow:
                reader.follow(block)


@pytest.mark.parametrize("page", pages(slow=False), ids=named)
def test_a_page_can_be_followed(page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    follow(page, False, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(slow=True), ids=named)
def test_what_takes_long_can_be_followed(page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    follow(page, True, tmp_path, capsys)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_says_what_it_is(block: Block) -> None:
    """A block without a language would be run by nobody, and a program that does not parse would be copied by somebody."""
    assert block.language in LANGUAGES, f"{block.place}: write one of {sorted(LANGUAGES)} behind the fence"
    if "part of" in block.marks:
        assert stands_in(block), f"{block.place} is not in {block.marks['part of']}"
    elif block.language == "python":
        compile(block.text, block.place, "exec")
    elif block.language in PARSERS:
        PARSERS[block.language](block.text)
    assert "skip" not in block.marks or len(block.marks["skip"]) > 10, f"{block.place}: say why no test runs it"


PAGE = """# A page

<!-- test: slow -->
<!-- test: exit 3 -->
```sh
weakspot list \\
  attacks  # all
```

<!-- test: skip it needs a cluster -->

```sh
weakspot jobs
```

```python
x = 1
```
"""


def test_marks_belong_to_the_block_below_them() -> None:
    found = blocks(ROOT / "docs/none.md", PAGE)
    assert [(b.line, b.language, b.marks) for b in found] == [
        (5, "sh", {"slow": "", "exit": "3"}),
        (12, "sh", {"skip": "it needs a cluster"}),
        (16, "python", {}),
    ]
    assert [b.runs for b in found] == [True, False, True]
    assert [line.split() for line in lines(found[0])] == [["weakspot", "list", "attacks", "#", "all"]]
    with pytest.raises(ValueError, match="unknown mark <!-- test: skipped -->"):
        blocks(ROOT / "docs/none.md", "<!-- test: skipped -->\n```sh\nmake\n```\n")


PARSERS = {"toml": tomllib.loads, "json": json.loads, "yaml": yaml.safe_load}

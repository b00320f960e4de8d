"""Fenced blocks of a page, with the marks that stand above them.

A mark is an HTML comment on a line of its own, right above the block; there may be several:

    <!-- test: skip REASON -->    nothing runs it; the site shows the reason above the block
    <!-- test: slow -->           `make test-slow` runs it
    <!-- test: exit 3 -->         each of its commands ends with this code instead of 0
    <!-- test: file NAME -->      it is the text of this file, which later blocks of the page use
    <!-- test: part of FILE -->   it stands in this file of the repository, which other tests run
    <!-- test: before COMMAND --> what a reader has done before, on another page
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(ROOT.glob("docs/**/*.md"))
BLOCK = re.compile(
    r"^(?P<marks>(?:<!-- test: .+ -->\n+)*)(?P<fence>```+)(?P<language>.*)\n(?P<text>(?:.*\n)*?)(?P=fence)$", re.MULTILINE
)
MARK = re.compile(r"<!-- test: (skip|slow|exit|file|part of|before)(?: (.+?))? -->")
ANY_MARK = re.compile(r"<!-- test:.*?-->")


@dataclass(frozen=True)
class Block:
    """One block of a page.

    Attributes:
        line: where its fence stands, from 1.
        marks: what is said of it, by mark.
    """

    page: Path
    line: int
    language: str
    text: str
    marks: dict[str, str]

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        """Whether it is something to be run: by a test of any speed."""
        return self.language in ("sh", "python") and not {"skip", "part of", "file"} & set(self.marks)


def blocks(page: Path, text: str | None = None) -> list[Block]:
    """All blocks of a page.

    Raises:
        ValueError: a mark that is none of the known ones.
    """
    text = page.read_text(encoding="utf-8") if text is None else text
    found = []
    for match in BLOCK.finditer(text):
        written = ANY_MARK.findall(match["marks"])
        known = [MARK.fullmatch(mark) for mark in written]
        if None in known:
            raise ValueError(f"{page}: unknown mark {written[known.index(None)]}: tests/docs/blocks.py names the known ones")
        marks = {mark[1]: mark[2] or "" for mark in known if mark}
        line = text.count("\n", 0, match.start("fence")) + 1
        found.append(Block(page, line, match["language"].strip(), match["text"], marks))
    return found


def lines(block: Block) -> list[str]:
    """The commands of a shell block, those over several lines joined."""
    joined = block.text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in joined if line.strip() and not line.strip().startswith("#")]

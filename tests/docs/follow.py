"""Somebody who follows a page of the documentation: one folder, one Python session, every block in its order.

Commands run in this process, by the function that the installed command calls. Audits are made small (`small`): the words of
the command are parsed as they stand, and then fewer and cheaper trials are run, in one process, with no controls.
"""

from __future__ import annotations

import contextlib
import gc
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import ROOT, Block, lines
from weakspot.cli.main import main

CHEAPEST = {"fingerprint": ("weight_noise",)}  # a family that takes a moment, by testbed
USUAL = ("prefill",)  # asks and trains nothing


def small(audit: Callable[..., Any]) -> Callable[..., Any]:
    """The audit with fewer and cheaper trials than it is asked for, of its first safeguard. A suite has no such knobs."""

    def smaller(**given: Any) -> Any:
        given |= {"backend": "inline", "variations": 0, "control": False}
        given["defense"] = list(given.get("defense") or ("refusal",))[:1]
        if not given.get("suite"):
            families = given.get("attack") or CHEAPEST.get(given.get("testbed", "fable"), USUAL)
            given |= {"attack": list(families)[:1], "trials": 1}
        return audit(**given)

    return smaller


class Reader:
    """Follows a page in a folder. The folder and the session live as long as the reader."""

    def __init__(self, folder: Path, page: str, output: Callable[[], str]) -> None:
        self.folder, self.page, self.output = folder, page, output
        self.session: dict[str, Any] = {"__name__": "__page__"}

    def keep(self, block: Block) -> None:
        """Save a block as the file that it is."""
        (self.folder / block.marks["file"]).write_text(block.text, encoding="utf-8")

    def follow(self, block: Block) -> None:
        """Raises AssertionError, with the place and what was printed, for a command that does not end as it should."""
        if before := block.marks.get("before"):
            assert self.command(before) == 0, f"{block.place}: `{before}`:\n{self.output()[-3000:]}"
        if block.language == "python":
            exec(compile(block.text, block.place, "exec"), self.session)
            return
        for line in lines(block):
            code, wanted = self.command(line), int(block.marks.get("exit", 0))
            assert code == wanted, f"{block.place}: `{line}` ended with {code}, not {wanted}:\n{self.output()[-3000:]}"

    def command(self, line: str) -> int:
        """One line of a shell block; what it is redirected to is written."""
        line, arrow, file = line.partition(" > ")
        words = shlex.split(line, comments=True)
        with contextlib.ExitStack() as stack:
            if arrow:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(file.strip()).open("w"))))
            if words[0] == "weakspot":
                return run(lambda: main(words[1:]))
            if words[0] == "python" and words[1].endswith(".py"):
                return run(lambda: int(not runpy.run_path(words[1], run_name="__main__")))
        raise AssertionError(f"{self.page}: no test can run `{words[0]}`: mark the block with skip and a reason")


def run(call: Callable[[], int]) -> int:
    try:
        return call()
    except SystemExit as end:
        return int(end.code or 0)


@contextlib.contextmanager
def desk(folder: Path) -> Iterator[None]:
    """A folder to stand in, whose modules can be imported, and audits that are small."""
    from weakspot.search import audit

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setattr(audit, "audit", small(audit.audit))
        modules = set(sys.modules)
        gc.freeze()  # each trial collects garbage: what is loaded by now need not be looked through again
        try:
            yield
        finally:
            gc.unfreeze()
            for name in set(sys.modules) - modules:
                if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
                    del sys.modules[name]


def furnish(folder: Path, page: str) -> None:
    """What a page takes for granted: a model and data where it audits the reader's own, an audit where it reads one."""
    if page in ("hub.md", "auditing-a-checkpoint.md"):
        from tests.testbeds.hub.tiny_models import make_testbed

        make_testbed(folder)
        shutil.copytree(folder / "model", folder / "path/to/safeguarded")


def stands_in(block: Block) -> bool:
    """Whether a block marked as part of a file stands there, word for word, at whatever indentation."""

    def stripped(text: str) -> str:
        return "\n".join(line.strip() for line in text.strip().splitlines())

    return stripped(block.text) in stripped((ROOT / block.marks["part of"]).read_text())

"""cli.md, the reference of the command line, written from the parsers at every build: it cannot go stale."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from weakspot.cli.main import EXIT_CODES, build_parser

INTRODUCTION = """\
# Command line

What `weakspot COMMAND --help` prints, in one page. It is written from the parsers when this site is built.

"""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, "cli.md", content=reference()))
    return files


def reference() -> str:
    """The page in Markdown."""
    ends = "\n".join(f"| {code} | {meaning} |" for code, meaning in exit_codes())
    parts = [INTRODUCTION, *(part for parser, depth in every(build_parser(), 2) for part in section(parser, depth))]
    return "".join([*parts, "## Exit codes\n\n| code | meaning |\n| --- | --- |\n", ends, "\n"])


def exit_codes() -> list[tuple[str, str]]:
    rows = [line.split(None, 1) for line in EXIT_CODES.splitlines()[1:]]
    return [(row[0], row[1]) for row in rows]


def every(parser: argparse.ArgumentParser, depth: int) -> Iterator[tuple[argparse.ArgumentParser, int]]:
    """All subcommands below a parser, each followed by its own."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield child, depth
                yield from every(child, depth + 1)


def section(parser: argparse.ArgumentParser, depth: int) -> Iterator[str]:
    """One subcommand: what it does, its usage, its arguments."""
    yield f"{'#' * depth} {parser.prog}\n\n{sentence(parser.description or '')}\n\n"
    yield f"`{' '.join([parser.prog, *sketch(parser)])}`\n\n"
    rows = [row(action) for action in parser._actions if shown(action)]
    if rows:
        yield "| argument | meaning |\n| --- | --- |\n" + "\n".join(rows) + "\n\n"
    if parser.epilog and parser.epilog != EXIT_CODES:
        yield f"```text\n{parser.epilog.rstrip()}\n```\n\n"


def sketch(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The usage in a few words: options stand in the table."""
    required = [a for a in parser._actions if a.required and a.option_strings]
    yield from (f"{action.option_strings[0]} {placeholder(action)}" for action in required)
    if any(shown(action) and action.option_strings and not action.required for action in parser._actions):
        yield "[options]"
    yield from (placeholder(action) for action in parser._actions if not action.option_strings)


def shown(action: argparse.Action) -> bool:
    hidden = isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
    return not hidden and action.help != argparse.SUPPRESS


def row(action: argparse.Action) -> str:
    """A line of the table. A bar would end the cell, so it is written as an entity."""
    value = "" if action.nargs == 0 else placeholder(action)
    names = [f"{name} {value}".strip() for name in action.option_strings] or [value]
    written = ", ".join(f"<code>{escape(name)}</code>" for name in names)
    return f"| {written} | {escape(action.help or '', code=True)} |"


def placeholder(action: argparse.Action) -> str:
    name = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    name = "|".join(map(str, action.choices)) if action.choices and not action.metavar else str(name)
    return {"?": f"[{name}]", "*": f"[{name} ...]", "...": f"{name} ..."}.get(str(action.nargs), name)


def escape(text: str, code: bool = False) -> str:
    text = text if code else text.replace("&", "&amp;").replace("<", "&lt;")
    return " ".join(text.split()).replace("|", "&#124;")


def sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")

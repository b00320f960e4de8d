"""Untrusted text made inert: what a user, a plug-in, a library or a model wrote, before it reaches a terminal or a file.

Escaping for a format (HTML, Markdown, CSV, LaTeX) is its writer's part and comes after this.
"""

from __future__ import annotations

import re
from typing import Any

LONGEST = 2000  # characters of a cell or a sentence: ten times the longest that the tool itself writes
COLOURS = re.compile(r"(?:\x1b\[|\x9b)[0-9;]*m")  # what programs print on purpose, and what loses nothing by being left out


def one_line(text: str, longest: int = LONGEST) -> str:
    """Text without line breaks, control and bidirectional characters, cut with a visible mark where it grows long."""
    head = text[: 4 * longest]  # a line of many megabytes is not cleaned to its end, only to be cut
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in head).split())
    return line if len(text) <= len(head) and len(line) <= longest else f"{line[:longest]}… [cut: {len(text):,} characters]"


def log_text(text: str) -> str:
    """Several lines for a terminal: colours are left out, and what else would steer it, or hide a line, becomes visible."""
    text = COLOURS.sub("", text).replace("\r\n", "\n")
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "�" for letter in text)


def encodable(value: Any) -> Any:
    """A value of JSON's kinds in which each lone surrogate, which UTF-8 cannot hold, is U+FFFD, in keys too.

    They come from file names and arguments that are not UTF-8 (PEP 383), and from tokenizers that cut a character in two.
    """
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {encodable(key): encodable(inner) for key, inner in value.items()}
    return [encodable(inner) for inner in value] if isinstance(value, list) else value

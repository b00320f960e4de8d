"""Marks of tests/docs: a block that no test runs says so on the page, with its reason."""

from __future__ import annotations

import re
from typing import Any

SKIPPED = re.compile(r"^<!-- test: skip (.+?) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    return SKIPPED.sub(r'<p class="not-run">No test runs this: \1.</p>', markdown)

"""Links from docs/ into the rest of the repository lead to its address on the site; one that leads nowhere stops the build.

On GitHub the same links work as they stand.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

LOG = logging.getLogger("mkdocs.hooks.links")  # below mkdocs: --strict counts its warnings
FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    del files
    root = Path(config.docs_dir).parent
    here = posixpath.dirname(posixpath.join(Path(config.docs_dir).name, page.file.src_uri))

    def moved(match: re.Match[str]) -> str:
        start, target, anchor, end = match[1], match[2], match[3] or "", match[4]
        path = posixpath.normpath(posixpath.join(here, target))
        if path.startswith(Path(config.docs_dir).name + "/"):
            return match[0]
        if path.startswith("..") or not (root / path).exists():
            LOG.warning("%s links to %s, which is not in the repository", page.file.src_uri, target)
            return match[0]
        kind = "tree" if (root / path).is_dir() else "blob"
        return f"{start}{config.extra['repository']}/{kind}/main/{path}{anchor}{end}"

    parts, last = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(moved, markdown[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join([*parts, LINK.sub(moved, markdown[last:])])

"""Pages in a real browser: opened, watched, and looked over by axe-core."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
AXE = Path(__file__).parent / "vendor/axe.min.js"
WAIT = 240_000  # milliseconds until a busy machine has drawn a page


def visit(browser: Any, file: Path, width: int = 1280, scheme: str = "light", ready: str = "main") -> tuple[Any, list[str]]:
    """A page, once what `ready` selects is there, and what went wrong or out: console errors, exceptions, requests, dialogs."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(WAIT)
    seen: list[str] = []
    page.on(
        "console", lambda message: seen.append(f"console: {message.text}") if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: seen.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (seen.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: None if own(request.url, file) else seen.append(f"request: {request.url[:80]}"))
    page.goto(file.as_uri())
    page.wait_for_selector(ready, state="attached")
    return page, seen


def own(url: str, file: Path) -> bool:
    return url == file.as_uri() or url.startswith(("data:", f"blob:{file.as_uri()[:7]}", "blob:null"))


def serious(page: Any) -> list[Any]:
    """What axe-core calls serious or critical on an opened page: impact, rule and the first elements."""
    page.evaluate(AXE.read_text(encoding="utf-8") + ";0")
    found = page.evaluate(
        "axe.run().then(r => r.violations.map(v => [v.impact, v.id, v.nodes.slice(0, 3).map(n => n.html.slice(0, 160))]))"
    )
    return [violation for violation in found if violation[0] in ("serious", "critical")]

"""Pictures of an audit's report for the documentation: wide and narrow, light and dark, and its first screen. Needs Chromium.

    python -m bench.screenshots runs/audit    # the folder of an audit, e.g. after `make audit`; writes docs/screenshots/

What it writes: report-light.png and report-dark.png (1280 pixels wide, down to the plots), report-narrow.png (390 wide, as
far), and report-print.png, the printed pages side by side, where pdftoppm is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.machine import print_header
from weakspot.errors import UserError

OUT = Path(__file__).resolve().parent.parent / "docs/screenshots"
SHOTS: dict[str, tuple[int, Any]] = {
    "report-light": (1280, "light"),
    "report-dark": (1280, "dark"),
    "report-narrow": (390, "light"),
}
LAST = "#utility"  # the heading at which a picture ends
WAIT = 120_000  # milliseconds


def shoot(report: Path, out: Path) -> list[Path]:
    """Write the pictures of a report. Raises UserError where there is no report or no Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not report.is_file():
        raise UserError(f"no report at {report}: run `weakspot audit --out {report.parent}` first")
    if chromium is None:
        raise UserError("no chromium on this machine: apt-get install chromium")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=WAIT)
        for name, (width, scheme) in SHOTS.items():
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.goto(report.resolve().as_uri())
            page.wait_for_selector("html[data-drawn]", state="attached", timeout=WAIT)
            end = page.evaluate(f"document.querySelector('{LAST}').getBoundingClientRect().top + scrollY")
            path = out / f"{name}.png"
            page.screenshot(path=path, full_page=True, clip={"x": 0, "y": 0, "width": width, "height": end - 24})
            written.append(path)
            if name == "report-light":
                written += printed(page.pdf(prefer_css_page_size=True), out)
            page.close()
        browser.close()
    return written


def printed(pdf: bytes, out: Path) -> list[Path]:
    """The pages of a PDF side by side; nothing where pdftoppm is missing."""
    if shutil.which("pdftoppm") is None:
        return []
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "report.pdf"
        source.write_bytes(pdf)
        subprocess.run(["pdftoppm", "-r", "80", "-png", str(source), f"{folder}/page"], check=True)
        pages = [Image.open(file).convert("RGB") for file in sorted(Path(folder).glob("page*.png"))]
        sheet = Image.new("RGB", (sum(page.width for page in pages) + 16 * (len(pages) - 1), pages[0].height), "#808080")
        for number, page in enumerate(pages):
            sheet.paste(page, (number * (page.width + 16), 0))
        sheet.save(out / "report-print.png", optimize=True)
    return [out / "report-print.png"]


def main() -> None:
    print_header()
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/audit")
    try:
        for path in shoot(folder / "report.html", OUT):
            print(f"{path.relative_to(OUT.parent.parent)}  {path.stat().st_size / 1e3:.0f} kB")
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()

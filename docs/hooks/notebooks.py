"""A page for each notebook. In git it has no outputs: they are shown where `make docs` has run it (runs/docs/notebooks)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

IMAGES = {"image/svg+xml": "svg", "image/png": "png"}  # the better one first
MISSING = "\n!!! note\n    Built without outputs: `make docs` runs the notebook and shows them.\n"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    docs = Path(config.docs_dir)
    for source in sorted(docs.glob("notebooks/*.ipynb")):
        notebook = json.loads(source.read_text(encoding="utf-8"))
        done = docs.parent / "runs" / docs.name / source.relative_to(docs)
        run = json.loads(done.read_text(encoding="utf-8")) if done.exists() else None
        current = run if run and sources(run) == sources(notebook) else None
        name = source.relative_to(docs).with_suffix("").as_posix()
        text, images = convert(current or notebook, source.stem)
        note = f"\n[The notebook itself]({source.name}).\n" + ("" if current else MISSING)
        files.append(File.generated(config, f"{name}.md", content=text + note))
        for file, content in images.items():
            files.append(File.generated(config, f"notebooks/{file}", content=content))
    return files


def sources(notebook: dict[str, Any]) -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"]]


def convert(notebook: dict[str, Any], stem: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its images by file name."""
    images: dict[str, bytes] = {}
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"]).rstrip()
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        parts += shown(cell.get("outputs", []), stem, images)
    return "\n\n".join(parts) + "\n", images


def shown(outputs: list[dict[str, Any]], stem: str, images: dict[str, bytes]) -> Iterator[str]:
    """What a cell gave: text that it printed, then values and images."""
    for output in outputs:
        if output["output_type"] == "stream":
            if output["name"] == "stdout":  # the rest is progress bars
                yield f"```text\n{''.join(output['text']).rstrip()}\n```"
            continue
        data = output.get("data", {})
        kind = next((kind for kind in IMAGES if kind in data), None)
        if kind:
            file = f"{stem}-{len(images) + 1}.{IMAGES[kind]}"
            content = "".join(data[kind])
            images[file] = content.encode() if kind.endswith("xml") else base64.b64decode(content)
            yield f"![what the cell drew]({file})"
        elif "text/plain" in data:
            yield f"```text\n{''.join(data['text/plain']).rstrip()}\n```"

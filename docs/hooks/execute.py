"""Run a notebook in an empty folder and write it with its outputs: `python docs/hooks/execute.py SOURCE TARGET`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any


def execute(source: Path, folder: Path, limit: int = 600) -> Any:
    """The notebook with its outputs.

    Args:
        folder: where its cells stand.
        limit: seconds for one cell.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the message holds its traceback.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(notebook, timeout=limit, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    return client.execute()


def main(source: Path, target: Path) -> None:
    import nbformat

    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(source, Path(folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_suffix(".part")
    nbformat.write(notebook, scratch)
    scratch.replace(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

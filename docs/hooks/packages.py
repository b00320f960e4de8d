"""The package as readers of source see it: `weakspot` in one tree, put together from the folders that pyproject.toml maps.

Copies, because griffe follows a link to the folder that it points into. Nothing of the package is imported for the reference
of the Python interface.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority


@event_priority(100)  # before mkdocstrings reads it
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    root = Path(config.config_file_path).parent
    tree = Path(tempfile.mkdtemp(prefix="weakspot-docs-"))
    atexit.register(shutil.rmtree, tree, ignore_errors=True)
    folders = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    for package, folder in folders.items():
        place = tree / package.replace(".", "/")
        place.mkdir(parents=True, exist_ok=True)
        for file in (root / folder).glob("*.py"):
            shutil.copy(file, place)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(tree)]
    return config

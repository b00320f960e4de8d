"""A cache of prepared models, each in a folder named by the hash of all that made it.

The key covers the code that trains, its configuration, its data and its seed: change any of them and another folder is used.
A folder is written under a temporary name and renamed when complete; its `digest` file lets a later reader detect damage.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weakspot.errors import UserError
from weakspot.files import disk_errors, file_digest


def cache_root() -> Path:
    """$WEAKSPOT_CACHE, or `weakspot` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "weakspot"
    return Path(os.environ.get("WEAKSPOT_CACHE", default)).expanduser().absolute()


def content_key(*modules: str, **parts: Any) -> str:
    """A key from the source text of modules, given by name, and from plain data.

    Modules are read, not imported, so that a key costs no torch. Data become sorted JSON: equal content means equal key.
    """
    digest = hashlib.sha256()
    for name in modules:
        spec = importlib.util.find_spec(name)
        assert spec is not None, f"no module {name}"
        assert spec.origin is not None, f"{name} has no source"
        digest.update(Path(spec.origin).read_bytes())
    digest.update(json.dumps(parts, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


class NotCachedError(LookupError):
    """Asked for a cache entry that would have to be built, inside `only_cached`."""


_building = True


@contextmanager
def only_cached() -> Iterator[None]:
    """Within this block nothing is built: a missing entry raises NotCachedError. Lets a driver look without training."""
    global _building
    before, _building = _building, False
    try:
        yield
    finally:
        _building = before


def cached_folder(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The folder `kind-key`, built by `build(folder)` if it is absent or damaged.

    Raises:
        UserError: the cache cannot be read or written; the message names the place.
    """
    root = cache_root()
    target = root / f"{kind}-{key}"
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        if _is_whole(target):
            return target
        if not _building:
            raise NotCachedError(str(target))
        scratch = Path(tempfile.mkdtemp(dir=root, prefix=f".{kind}-"))
        try:
            build(scratch)
            (scratch / "digest").write_text(file_digest(_contents(scratch)))
            if _is_whole(target):  # another process finished the same work first, and may be reading it
                return target
            shutil.rmtree(target, ignore_errors=True)
            try:
                scratch.rename(target)
            except OSError:
                if not _is_whole(target):  # else it finished just now
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def _contents(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "digest")


def _is_whole(folder: Path) -> bool:
    if not folder.exists():
        return False
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"cannot read the cache entry {folder}: delete it, or set WEAKSPOT_CACHE to another folder")
    mark = folder / "digest"
    return mark.exists() and mark.read_text() == file_digest(_contents(folder))

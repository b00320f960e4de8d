"""Prepared models that travel: nodes of a cluster need share no disk.

A cache entry is named by the hash of all that made it (weakspot/cache.py), so the same name means the same content on every
node. What one node has trained is packed, sent through Ray's object store, and unpacked into the cache of another; a node
that has the entry already, from before or because the cache lies on a shared disk, does not look at the parcel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weakspot.cache import cache_root, cached_folder
from weakspot.files import file_digest


@dataclass(frozen=True)
class Parcel:
    """A cache entry.

    Attributes:
        name: of its folder: kind and content key.
        files: path within the folder -> content, uint8 of shape (bytes,): Ray's store hands arrays on without a copy.
    """

    name: str
    files: dict[str, Any]


def pack(folder: Path) -> Parcel:
    """A folder, read into memory. One that lies outside the cache is named by its content."""
    import numpy as np

    inside = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "digest")
    name = folder.name if folder.parent == cache_root() else f"parcel-{file_digest(inside)[:16]}"
    return Parcel(name, {p.relative_to(folder).as_posix(): np.fromfile(p, dtype=np.uint8) for p in inside})


def unpack(parcel: Parcel) -> Path:
    """The entry's folder in this machine's cache, written if it is not there.

    Raises:
        UserError: the cache cannot be written, or the disk is full.
    """

    def write(out: Path) -> None:
        for name, content in parcel.files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            content.tofile(out / name)

    kind, _, key = parcel.name.rpartition("-")
    return cached_folder(kind, key, write)


def present(folder: str, parcel: Parcel | None) -> Path:
    """A folder of the driver's as it can be read here."""
    return Path(folder) if parcel is None or Path(folder).is_dir() else unpack(parcel)

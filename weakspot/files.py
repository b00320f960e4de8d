"""Files that are whole or absent: written beside their place, then renamed over it."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weakspot.errors import UserError


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the file system's refusals (full, forbidden, read-only) into one line that says what to do.

    Raises:
        UserError: instead of the OSError that the block raised.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"no space left for {where}: free some, or choose another --out or WEAKSPOT_CACHE") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"no permission for {where}: choose another --out or WEAKSPOT_CACHE") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise UserError(f"{where} is in the way ({error.strerror}): choose another --out or WEAKSPOT_CACHE") from error
        raise
    except Exception as error:
        if "No space left on device" in str(error):  # safetensors raises an exception of its own
            raise UserError(f"no space left for {path}: free some, or choose another --out or WEAKSPOT_CACHE") from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: after a crash the old content or the new is there, never a part.

    A lone surrogate, which UTF-8 cannot hold, becomes '?': a report that was hours in the making is not lost to one character.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)  # mkstemp's 0600 would hide a report from everyone else
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def file_digest(paths: Iterator[Path] | list[Path]) -> str:
    """One digest of the contents of several files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()

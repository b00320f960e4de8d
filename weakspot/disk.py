"""Room on the disks that an audit writes to: it ends before they are full, because what is half-written is of no use.

Looked at are the folder of the audit, the cache and Ray's scratch, on the machine of the driver. A node whose own disk runs
full fails its trials, which say so.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weakspot.cache import cache_root
from weakspot.errors import UserError

GIB = 1024**3
LEAST_FREE = "WEAKSPOT_LEAST_FREE"  # in GiB; 0 for no check
NEARLY_FULL = "the disk is nearly full"
DEFAULT = 1.0  # GiB, besides a subject's weights


@dataclass(frozen=True)
class Room:
    """What must stay free, and where.

    Attributes:
        places: folders, which need not exist yet.
        least: bytes.
    """

    places: Sequence[Path]
    least: float

    def lack(self) -> str:
        """What is short in one line, or nothing where there is room."""
        for place in self.places if self.least > 0 else ():
            there = existing(place)
            try:
                free = shutil.disk_usage(there).free
            except OSError:  # the place itself is the trouble, which whoever writes there says better
                continue
            if free < self.least:
                left, least = free / GIB, self.least / GIB
                return f"{NEARLY_FULL}: {left:.2f} GiB are left at {there}, {least:.2f} GiB must stay free"
        return ""

    def check(self) -> None:
        """Refuse to begin where the end is in sight.

        Raises:
            UserError: too little room.
        """
        if why := self.lack():
            raise UserError(f"{why}: free some, choose another --out, WEAKSPOT_CACHE or RAY_TMPDIR, or set {LEAST_FREE} (GiB)")


def room_for(out: Path, weights_gib: float) -> Room:
    """The room that an audit needs: 1 GiB and a subject's weights, or $WEAKSPOT_LEAST_FREE.

    Raises:
        UserError: the variable is no number.
    """
    scratch = [Path(os.environ[name]) for name in ("RAY_TMPDIR",) if os.environ.get(name)] or [Path("/tmp")]
    return Room((out, cache_root(), *scratch, Path(tempfile.gettempdir())), least_free(weights_gib) * GIB)


def least_free(weights_gib: float) -> float:
    """GiB that must stay free."""
    said = os.environ.get(LEAST_FREE, "")
    if not said:
        return DEFAULT + weights_gib
    try:
        least = float(said)
    except ValueError:
        least = -1.0
    if not 0 <= least < float("inf"):
        raise UserError(f"{LEAST_FREE}={said} is no number of GiB: give e.g. 5, or 0 for no check")
    return least


def existing(place: Path) -> Path:
    """The place, or the nearest folder above it that exists."""
    return next((p for p in (place, *place.parents) if p.exists()), Path("/"))

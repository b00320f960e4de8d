"""Room on a disk, told before it is gone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from weakspot.disk import GIB, LEAST_FREE, Room, existing, least_free, room_for
from weakspot.errors import UserError


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, float]], None]:
    """Says how many GiB are free below each folder; 100 elsewhere."""

    def say(free: dict[str, float]) -> None:
        def usage(path: Any) -> Usage:
            left = next((gib for start, gib in free.items() if str(path).startswith(start)), 100.0)
            return Usage(0, 0, int(left * GIB))

        monkeypatch.setattr(shutil, "disk_usage", usage)

    return say


def test_a_place_with_too_little_is_named(tmp_path: Path, disk: Callable[[dict[str, float]], None]) -> None:
    (tmp_path / "b").mkdir()
    room = Room((tmp_path / "a", tmp_path / "b/not/yet"), 1.5 * GIB)
    disk({})
    assert room.lack() == ""
    disk({str(tmp_path / "b"): 1.49})
    why = f"the disk is nearly full: 1.49 GiB are left at {tmp_path}/b, 1.50 GiB must stay free"
    assert room.lack() == why
    with pytest.raises(
        UserError, match=f"^{why}: free some, choose another --out, WEAKSPOT_CACHE or RAY_TMPDIR, or set {LEAST_FREE}"
    ):
        room.check()
    disk({str(tmp_path / "b"): 1.5})
    assert room.lack() == "", "just enough is enough"


def test_a_place_that_is_not_there_yet_lies_on_the_disk_of_its_parent(tmp_path: Path) -> None:
    assert existing(tmp_path / "x/y/z") == tmp_path
    assert existing(tmp_path) == tmp_path


@pytest.mark.parametrize("place", ["out", "cache", "ray", "tmp"])
def test_out_cache_and_scratch_are_looked_at(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Callable[[dict[str, float]], None]
) -> None:
    for name in ("out", "cache", "ray", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("WEAKSPOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.delenv(LEAST_FREE, raising=False)
    room = room_for(tmp_path / "out", 0.5)
    disk({str(tmp_path / place): 1.4})
    assert f"1.40 GiB are left at {tmp_path / place}, 1.50 GiB must" in room.lack()
    monkeypatch.setenv(LEAST_FREE, "0")
    assert room_for(tmp_path / "out", 0.5).lack() == "", "0 switches it off"


@pytest.mark.parametrize("said", ["much", "-1", "inf", "nan"])
def test_a_least_that_is_no_number_is_told(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LEAST_FREE, said)
    with pytest.raises(UserError, match=f"{LEAST_FREE}={said} is no number of GiB"):
        least_free(1.0)
    monkeypatch.setenv(LEAST_FREE, "2.5")
    assert least_free(1.0) == 2.5

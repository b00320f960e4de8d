"""Files are whole or absent, and a refusing disk is told in one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from weakspot.errors import UserError
from weakspot.files import disk_errors, file_digest, write_text


def raising(error: BaseException) -> Any:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    return fail


def test_write_text_makes_folders_and_replaces(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "result.json"
    write_text(file, "old")
    write_text(file, "new ✓")
    assert file.read_text(encoding="utf-8") == "new ✓"
    assert [p.name for p in file.parent.iterdir()] == ["result.json"]
    assert file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("broken", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "input/output error"), KeyboardInterrupt()], ids=["io", "interrupt"])
def test_a_failure_in_the_middle_leaves_the_old_content_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, error: BaseException
) -> None:
    file = tmp_path / "result.json"
    write_text(file, "old")
    monkeypatch.setattr(os, broken, raising(error))
    with pytest.raises(type(error)):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "no space left"),
        (errno.EACCES, "no permission"),
        (errno.EPERM, "no permission"),
        (errno.EROFS, "no permission"),
    ],
)
def test_a_refusing_disk_is_the_users_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    file = tmp_path / "result.json"
    monkeypatch.setattr(os, "fsync", raising(OSError(number, os.strerror(number))))
    with pytest.raises(UserError) as caught:
        write_text(file, "new")
    message = str(caught.value)
    assert words in message
    assert str(file) in message
    assert "--out" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="taken is in the way"):
        write_text(tmp_path / "taken" / "result.json", "new")


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(FileNotFoundError), disk_errors(Path("x")):
        Path("/no/such/file").read_text()
    with pytest.raises(ValueError, match="mine"), disk_errors(Path("x")):
        raise ValueError("mine")


def test_the_digest_depends_on_content_and_order(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in "abc")
    for path, text in ((one, "x"), (two, "y"), (three, "xy")):
        path.write_text(text)
    assert len({file_digest(p) for p in ([one, two], [two, one], [three], [one], [])}) == 5


def test_a_full_disk_is_told_whatever_library_met_it(tmp_path: Path) -> None:
    """safetensors does not raise OSError: its own exception says so in words."""
    with pytest.raises(UserError, match="no space left for"), disk_errors(tmp_path):
        raise Exception("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(Exception, match="something else"), disk_errors(tmp_path):
        raise Exception("something else")


def test_a_lone_surrogate_does_not_stop_a_file(tmp_path: Path) -> None:
    write_text(tmp_path / "report.md", "a \ud800 b ✓")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "a ? b ✓"

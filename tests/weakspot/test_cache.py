"""The cache: equal content, equal key; an entry is whole or built again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from weakspot.cache import NotCachedError, cache_root, cached_folder, content_key, only_cached
from weakspot.errors import UserError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEAKSPOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def builder() -> tuple[list[Path], Callable[[Path], None]]:
    """Where it was asked to build, and a builder that writes two files."""
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "weights").write_text("1 2 3")
        (folder / "sub").mkdir()
        (folder / "sub" / "config").write_text("{}")

    return built, build


def test_equal_content_gives_equal_keys() -> None:
    key = content_key("weakspot.seeds", seed=1, data={"b": 2, "a": [1, 2]})
    assert key == content_key("weakspot.seeds", data={"a": [1, 2], "b": 2}, seed=1)
    others = {
        content_key("weakspot.seeds", seed=2, data={"b": 2, "a": [1, 2]}),
        content_key("weakspot.seeds", seed=1, data={"b": 2, "a": [2, 1]}),
        content_key("weakspot.errors", seed=1, data={"b": 2, "a": [1, 2]}),
        content_key(seed=1, data={"b": 2, "a": [1, 2]}),
    }
    assert len(others) == 4
    assert key not in others


def test_the_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAKSPOT_CACHE", "~/models")
    assert cache_root() == Path.home() / "models"
    monkeypatch.delenv("WEAKSPOT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_root() == Path("/somewhere/weakspot")


def test_an_entry_is_built_once(root: Path, builder: tuple[list[Path], Callable[[Path], None]]) -> None:
    built, build = builder
    folder = cached_folder("model", "k1", build)
    assert folder == root / "model-k1"
    assert (folder / "sub" / "config").read_text() == "{}"
    assert cached_folder("model", "k1", build) == folder
    assert len(built) == 1
    cached_folder("model", "k2", build)
    assert len(built) == 2
    assert sorted(p.name for p in root.iterdir()) == ["model-k1", "model-k2"]


@pytest.mark.parametrize("damage", ["change", "remove", "add", "digest"])
def test_a_damaged_entry_is_built_again(root: Path, builder: tuple[list[Path], Callable[[Path], None]], damage: str) -> None:
    built, build = builder
    folder = cached_folder("model", "k", build)
    if damage == "change":
        (folder / "weights").write_text("1 2 4")
    elif damage == "remove":
        (folder / "sub" / "config").unlink()
    elif damage == "add":
        (folder / "stray").write_text("")
    else:
        (folder / "digest").unlink()
    cached_folder("model", "k", build)
    assert len(built) == 2
    assert (folder / "weights").read_text() == "1 2 3"
    assert not (folder / "stray").exists()
    assert [p.name for p in root.iterdir()] == ["model-k"]


def test_an_unreadable_entry_is_the_users_to_mend(
    root: Path, builder: tuple[list[Path], Callable[[Path], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    built, build = builder
    root.mkdir()
    (root / "model-file").write_text("in the way")
    with pytest.raises(UserError, match="model-file: delete it"):
        cached_folder("model", "file", build)
    cached_folder("model", "locked", build)
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, who may read everything
    with pytest.raises(UserError, match=r"model-locked.*WEAKSPOT_CACHE"):
        cached_folder("model", "locked", build)
    assert len(built) == 1


@pytest.mark.parametrize("error", [RuntimeError("diverged"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_failing_build_leaves_nothing_behind(root: Path, error: BaseException) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("")
        raise error

    with pytest.raises(type(error)):
        cached_folder("model", "k", build)
    assert list(root.iterdir()) == []


def test_a_full_disk_while_building_is_told_in_one_line(root: Path) -> None:
    def build(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "weights"))

    with pytest.raises(UserError, match=r"no space left for .*weights"):
        cached_folder("model", "k", build)
    assert list(root.iterdir()) == []


def test_only_cached_looks_and_never_builds(root: Path, builder: tuple[list[Path], Callable[[Path], None]]) -> None:
    built, build = builder
    with pytest.raises(NotCachedError), only_cached():
        cached_folder("model", "k", build)
    assert built == []
    folder = cached_folder("model", "k", build)  # the block above has ended, by an error even
    with only_cached():
        assert cached_folder("model", "k", build) == folder
    assert len(built) == 1


def test_another_process_that_finished_first_is_left_alone(
    root: Path, builder: tuple[list[Path], Callable[[Path], None]]
) -> None:
    built, build = builder
    inodes = []

    def slow(folder: Path) -> None:
        build(folder)
        inodes.append(cached_folder("model", "k", build).stat().st_ino)  # the other one, while this one still works

    assert cached_folder("model", "k", slow).stat().st_ino == inodes[0], "what another may be reading was replaced"
    assert len(built) == 2
    assert [p.name for p in root.iterdir()] == ["model-k"]


@pytest.mark.parametrize("whole", [True, False])
def test_another_process_that_finishes_at_the_last_moment_is_no_error(
    root: Path, builder: tuple[list[Path], Callable[[Path], None]], monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    _, build = builder
    rename = Path.rename

    def overtaken(self: Path, target: Path) -> Path:
        monkeypatch.undo()
        monkeypatch.setenv("WEAKSPOT_CACHE", str(root))
        if whole:
            cached_folder("model", "k", build)
        else:
            (target / "stray").mkdir(parents=True)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    if whole:
        assert (cached_folder("model", "k", build) / "weights").read_text() == "1 2 3"
    else:
        with pytest.raises(OSError, match="not empty"):
            cached_folder("model", "k", build)
    assert [p.name for p in root.iterdir()] == ["model-k"]

"""Prepared models that travel between nodes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from weakspot.cache import cached_folder
from weakspot.search.parcels import pack, present, unpack


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 9)
    (folder / "sub/config.json").write_text("{}")
    (folder / "empty").write_text("")


def test_a_cache_entry_is_the_same_on_the_other_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAKSPOT_CACHE", str(tmp_path / "here"))
    folder = cached_folder("fable-base", "0123abcd", write)
    parcel = pickle.loads(pickle.dumps(pack(folder)))
    monkeypatch.setenv("WEAKSPOT_CACHE", str(tmp_path / "there"))
    arrived = unpack(parcel)
    assert arrived == tmp_path / "there/fable-base-0123abcd"
    assert content(arrived) == content(folder)  # the digest too

    def never(out: Path) -> None:
        raise AssertionError("trained again")

    assert cached_folder("fable-base", "0123abcd", never) == arrived


def test_a_folder_outside_the_cache_is_named_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAKSPOT_CACHE", str(tmp_path / "cache"))
    names = []
    for name, text in {"a": "1", "b": "1", "c": "2"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(text)
        names.append(unpack(pack(tmp_path / name)).name)
    assert names[0] == names[1] != names[2]


def test_what_can_be_read_here_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAKSPOT_CACHE", str(tmp_path / "here"))
    folder = cached_folder("fable-base", "0123abcd", write)
    parcel = pack(folder)
    monkeypatch.setenv("WEAKSPOT_CACHE", str(tmp_path / "there"))
    assert present(str(folder), parcel) == folder
    assert present("/nowhere/fable-base-0123abcd", parcel) == tmp_path / "there/fable-base-0123abcd"

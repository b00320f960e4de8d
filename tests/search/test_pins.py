"""Commits and digests: each follows its own content, and none names a private folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.testbeds.hub.tiny_models import facts, save_checkpoint, tiny_model, write_jsonl
from weakspot.search.jobs import BASE
from weakspot.search.pins import of_data, of_weights, pins, published
from weakspot.testbeds.fable import Fable
from weakspot.testbeds.fingerprint import Fingerprint
from weakspot.testbeds.hub import fetch
from weakspot.testbeds.hub.schema import Columns, DataSource

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return {name: save_checkpoint(tmp_path / f"kind-{name}") for name in (BASE, "refusal")}


def test_each_pin_follows_its_own_content(folders: dict[str, Path]) -> None:
    first = pins(Fable(), folders)
    assert set(first) == {"data", "weights.none", "weights.refusal", "tokenizer"}
    assert first["weights.refusal"].startswith("kind-refusal ")
    assert first["weights.none"].split()[1] == first["weights.refusal"].split()[1], "the same weights"
    assert pins(Fable(), folders) == first
    tiny_model(seed=1).save_pretrained(folders["refusal"], max_shard_size="20KB")
    template = folders[BASE] / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    second = {**pins(Fable(), folders), **{k: v for k, v in pins(Fable(1), folders).items() if k == "data"}}
    assert {name for name in first if first[name] != second[name]} == {"data", "weights.refusal", "tokenizer"}


def test_a_base_from_the_hub_is_pinned_by_its_commit(folders: dict[str, Path]) -> None:
    assert published(folders[BASE]) == ""
    for repository, commit, pin in (("made/up", COMMIT, f"made/up@{COMMIT}"), ("/home/me/model", "files-12", "files-12")):
        (folders[BASE] / "source.json").write_text(json.dumps({"repository": repository, "commit": commit}))
        found = pins(Fable(), folders)
        assert found["model.none"] == pin
        assert of_weights(found, "refusal")[0] == f"model.none {pin}"


def test_data_of_the_built_in_testbeds_is_pinned() -> None:
    assert of_data(Fable().pins()) == [f"data {Fable().identity()['data']}"]
    assert [text.split()[0] for text in of_data(Fingerprint().pins())] == ["ground.data", "keys"]


def test_data_sets_are_pinned_by_commit_and_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit alone says nothing of files that somebody put there by hand."""
    monkeypatch.setenv("WEAKSPOT_CACHE", str(tmp_path))
    folder = tmp_path / "hub" / "datasets--made--up"
    folder.mkdir(parents=True)
    write_jsonl(folder / "a.jsonl", facts(2))
    source = DataSource(dataset="made/up", revision=COMMIT, files="*.jsonl", columns=Columns(prompt="question"))
    one = fetch.data_pin(source, tmp_path)
    assert one.startswith(f"made/up@{COMMIT} *.jsonl sha256 ")
    write_jsonl(folder / "b.jsonl", facts(3))
    two = fetch.data_pin(source, tmp_path)
    assert two.startswith(f"made/up@{COMMIT} *.jsonl 2 files ")
    write_jsonl(folder / "b.jsonl", facts(4))
    assert fetch.data_pin(source, tmp_path) != two

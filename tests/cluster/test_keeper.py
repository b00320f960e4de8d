"""The copy that outlives the machine: what is stored when, and what is brought home by whom."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from weakspot.cluster import keeper as module
from weakspot.cluster.keeper import Keeper
from weakspot.cluster.storage import Storage, open_storage
from weakspot.errors import UserError


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def there(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "store"))


def keep(out: Path, there: Storage, resume: bool = False, overwrite: bool = False) -> Keeper:
    return Keeper(out, there, resume, overwrite)


def test_the_folder_is_stored_at_the_end_without_what_belongs_to_one_machine(out: Path, there: Storage) -> None:
    with keep(out, there) as watch:
        watch.on_start(None)
        for name in ("study.journal", "audit.log", "result.json", ".lock", "study.journal.lock", ".result.json.x1"):
            (out / name).write_text(name)
        (out / "pages").mkdir()
        (out / "pages/one.html").write_text("page")
    assert set(there.sizes()) == {"study.journal", "audit.log", "result.json", "pages/one.html"}


def test_it_is_stored_while_the_audit_goes_on(out: Path, there: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.01)
    with keep(out, there) as watch:
        watch.on_start(None)
        for text in ("one\n", "one\ntwo\n"):
            (out / "study.journal").write_text(text)
            for _ in range(3000):
                if there.sizes().get("study.journal") == len(text):
                    break
                time.sleep(0.01)
            assert there.read("study.journal").decode() == text


def test_what_has_not_changed_is_not_sent_again(out: Path, there: Storage) -> None:
    with keep(out, there) as watch:
        watch.on_start(None)
        (out / "study.journal").write_text("one\n")
        watch.copy()
        there.remove("study.journal")
        watch.copy()
        assert there.sizes() == {}
        (out / "study.journal").write_text("one\ntwo\n")
    assert set(there.sizes()) == {"study.journal"}


def test_the_study_is_stored_first_and_the_result_last(out: Path, there: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds a result there finds the study that it came from; a journal ahead of the log can be resumed."""
    sent: list[str] = []
    write = Storage.write
    monkeypatch.setattr(Storage, "write", lambda self, name, content: (sent.append(name), write(self, name, content))[1])
    with keep(out, there) as watch:
        watch.on_start(None)
        for name in ("a.log", "result.json", "study.journal", "z.md"):
            (out / name).write_text(name)
    assert sent[-4:] == ["study.journal", "a.log", "z.md", "result.json"]


def test_a_mistake_before_the_audit_begins_stores_and_removes_nothing(out: Path, there: Storage) -> None:
    (out / "study.journal").write_text("another audit's\n")
    there.write("study.journal", b"stored\n")
    with pytest.raises(UserError, match="mistake"), keep(out, there, overwrite=True):
        raise UserError("mistake")
    assert there.read("study.journal") == b"stored\n"


def test_overwrite_takes_the_old_result_away_once_the_new_audit_has_begun(out: Path, there: Storage) -> None:
    there.write("study.journal", b"old\n")
    there.write("result.json", b"{}")
    with keep(out, there, overwrite=True) as watch:
        watch.on_start(None)
        (out / "study.journal").write_text("new\n")
    assert there.sizes() == {"study.journal": 4}


def test_a_second_audit_does_not_run_over_a_stored_one(out: Path, there: Storage) -> None:
    there.write("study.journal", b"old\n")
    with pytest.raises(UserError, match="already holds an audit: add --resume"), keep(out, there):
        pass


def test_resume_on_an_empty_disk_brings_home_what_is_stored(out: Path, there: Storage) -> None:
    there.write("study.journal", b"one\ntwo\n")
    there.write("audit.log", b"log\n")
    with keep(out, there, resume=True):
        assert (out / "study.journal").read_bytes() == b"one\ntwo\n"
        assert (out / "audit.log").read_bytes() == b"log\n"


def test_resume_where_the_disk_knows_more_than_the_storage_keeps_the_disk(out: Path, there: Storage) -> None:
    there.write("study.journal", b"one\n")
    (out / "study.journal").write_bytes(b"one\ntwo\n")
    with keep(out, there, resume=True):
        assert (out / "study.journal").read_bytes() == b"one\ntwo\n"


def test_resume_continues_a_journal_whose_last_line_was_torn(out: Path, there: Storage) -> None:
    there.write("study.journal", b"one\ntwo\nthree\n")
    (out / "study.journal").write_bytes(b"one\nt")
    with keep(out, there, resume=True):
        assert (out / "study.journal").read_bytes() == b"one\ntwo\nthree\n"


def test_another_audits_folder_is_not_written_over(out: Path, there: Storage) -> None:
    there.write("study.journal", b"one\ntwo\n")
    (out / "study.journal").write_bytes(b"1\n")
    with pytest.raises(UserError, match="holds another audit than"), keep(out, there, resume=True):
        pass
    assert (out / "study.journal").read_bytes() == b"1\n"


def test_storage_that_fails_on_the_way_does_not_end_the_audit_and_is_told_once(
    out: Path, there: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.01)
    failing = [True] * 5

    def write(self: Storage, name: str, content: bytes) -> None:
        if failing:
            failing.pop()
            raise UserError("storage s3://x cannot be written")
        whole(self, name, content)

    whole = Storage.write
    with keep(out, there) as watch:
        monkeypatch.setattr(Storage, "write", write)
        watch.on_start(None)
        (out / "study.journal").write_text("one\n")
        for _ in range(3000):
            if there.sizes():
                break
            time.sleep(0.01)
    assert there.read("study.journal") == b"one\n"
    assert capsys.readouterr().err.count("cannot be written; the audit goes on and tries again") == 1


def test_a_result_that_cannot_be_stored_is_told_with_the_place_where_it_is(
    out: Path, there: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Storage, name: str, content: bytes) -> None:
        raise UserError("storage s3://x cannot be written")

    def audit() -> None:
        with keep(out, there) as watch:
            monkeypatch.setattr(Storage, "write", refuse)
            watch.on_start(None)
            (out / "study.journal").write_text("one\n")

    with pytest.raises(UserError, match=r"cannot be written; the audit is whole in .*out on this machine"):
        audit()

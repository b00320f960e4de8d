"""Storage: whole files, refusals in one line, and a folder that is the same after the journey."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from weakspot.cluster.storage import Storage, checked_uri, open_storage
from weakspot.errors import UserError


def test_what_is_written_is_fetched_byte_by_byte(tmp_path: Path) -> None:
    there = open_storage(str(tmp_path / "store/audit"))
    files = {"study.journal": b'{"a": 1}\n', "tables/one.csv": bytes(range(256)), "empty": b""}
    for name, content in files.items():
        there.write(name, content)
    assert there.sizes() == {name: len(content) for name, content in files.items()}
    assert there.fetch(tmp_path / "home") == sorted(files)
    assert {name: (tmp_path / "home" / name).read_bytes() for name in files} == files
    assert not list((tmp_path / "home").glob(".*"))


def test_a_file_uri_is_the_path_it_names(tmp_path: Path) -> None:
    open_storage(f"file://{tmp_path}/a").write("x", b"1")
    assert (tmp_path / "a/x").read_bytes() == b"1"


@pytest.mark.parametrize(("uri", "kind"), [("s3://bucket/audits/one/", "s3"), ("gs://bucket/audits/one", "gcs")])
def test_an_object_store_is_named_by_its_bucket_and_replaces_objects_whole(
    uri: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is asked of it yet; a region or an endpoint that is given spares the one question that would be."""
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    monkeypatch.setattr(fs, "resolve_s3_region", lambda bucket: pytest.fail("a region was given"))
    there = open_storage(uri)
    assert (there.uri, there.root, there.atomic) == (uri.rstrip("/"), "bucket/audits/one", True)
    assert there.files.type_name == kind
    if kind == "s3":
        assert there.files.region == "eu-north-1"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    class Full:
        """A disk that takes the name of a file and none of its bytes."""

        def __init__(self) -> None:
            self.disk = fs.LocalFileSystem()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.disk, name)

        def open_output_stream(self, path: str) -> Any:
            self.disk.open_output_stream(path).close()
            raise OSError(28, "No space left on device")

    there = open_storage(str(tmp_path))
    there.write("x", b"old")
    with pytest.raises(UserError, match=r"storage .* cannot be written \(.*No space left"):
        Storage(str(tmp_path), Full(), str(tmp_path), atomic=False).write("x", b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"x": b"old"}


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "where do the results go? give --storage S:"),
        ("runs/here", "--storage runs/here is a relative path"),
        ("file://runs/here", "is a relative path"),
        ("ftp://host/x", "--storage ftp://host/x: give an absolute path that every node sees, s3://"),
        ("s3://", "--storage s3://: give"),
    ],
)
def test_a_form_that_is_not_known_is_refused(uri: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        checked_uri(uri)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"storage .*file/sub cannot be written"):
        open_storage(str(tmp_path / "file/sub")).check_writable()
    # /proc takes no files, not even root's
    with pytest.raises(UserError, match=r"storage /proc/sub cannot be written"):
        open_storage("/proc/sub").check_writable()
    assert os.listdir(tmp_path) == ["file"]


def test_the_check_leaves_nothing_behind(tmp_path: Path) -> None:
    there = open_storage(str(tmp_path / "new"))
    there.check_writable()
    assert there.sizes() == {}


def test_nothing_stored_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is stored at"):
        open_storage(str(tmp_path / "nowhere")).fetch(tmp_path / "home")

"""Where results outlive the cluster: a folder on a local disk or NFS, or under s3:// or gs://, through pyarrow's filesystems.

An audit writes its study on a local disk, where every line is flushed, and the folder is copied here (cluster/keeper.py). A
file here is whole or absent: on a disk it is written beside its place and renamed, in an object store it appears when its
upload is complete.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weakspot.errors import UserError

SCHEMES = ("s3", "gs", "gcs", "file")
PATIENCE = 20  # seconds until an object store counts as unreachable: pyarrow waits up to 15 minutes for gs://
FORMS = "give an absolute path that every node sees, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"


@dataclass(frozen=True)
class Storage:
    """One folder of files.

    Attributes:
        uri: as the user gave it.
        files: pyarrow's filesystem.
        root: the folder's path in it.
        atomic: whether a file appears only when it is complete, as in object stores.
    """

    uri: str
    files: Any
    root: str
    atomic: bool

    def sizes(self) -> dict[str, int]:
        """Files by relative path, with their bytes; empty if the folder is not there."""
        from pyarrow import fs

        with refusals(self.uri, "read"):
            found = self.files.get_file_info(fs.FileSelector(self.root, recursive=True, allow_not_found=True))
        start = self.root.rstrip("/") + "/"
        files = {i.path.removeprefix(start): i.size or 0 for i in found if i.type == fs.FileType.File}
        return {name: size for name, size in files.items() if not Path(name).name.startswith(".")}

    def read(self, name: str) -> bytes:
        with refusals(self.uri, "read"), self.files.open_input_stream(f"{self.root}/{name}") as stream:
            return stream.read()

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        path = f"{self.root}/{name}"
        with refusals(self.uri, "written"):
            if not self.atomic:
                self.files.create_dir(os.path.dirname(path), recursive=True)
            place = path if self.atomic else f"{os.path.dirname(path)}/.{os.path.basename(path)}.{secrets.token_hex(4)}"
            try:
                # In one piece: pyarrow completes an upload when the stream is closed, even by an exception half-way.
                with self.files.open_output_stream(place) as stream:
                    stream.write(content)
                if place != path:
                    self.files.move(place, path)
            except BaseException:
                if place != path:
                    with contextlib.suppress(OSError):
                        self.files.delete_file(place)
                raise

    def remove(self, name: str) -> None:
        with refusals(self.uri, "written"):
            self.files.delete_file(f"{self.root}/{name}")

    def check_writable(self) -> None:
        """Write a small file and take it away again.

        Raises:
            UserError: it cannot be done.
        """
        probe = f"writable-{secrets.token_hex(4)}"
        self.write(probe, b"")
        self.remove(probe)

    def fetch(self, out: Path) -> list[str]:
        """Copy everything into a local folder, changing nothing there that is the same already. Returns the names.

        Raises:
            UserError: nothing is there, or one of the two places refuses.
        """
        from weakspot.files import disk_errors

        names = self.sizes()
        if not names:
            raise UserError(f"nothing is stored at {self.uri}: check the address, and what `weakspot jobs` says of the job")
        for name in names:
            target = out / name
            content = self.read(name)
            with disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_name(f".{target.name}.part")
                part.write_bytes(content)
                part.replace(target)
        return sorted(names)


def checked_uri(uri: str) -> str:
    """An address of storage, without a slash at its end.

    Raises:
        UserError: none, or a form that is not known.
    """
    scheme, found, rest = uri.partition("://")
    if not uri:
        raise UserError(f"where do the results go? {FORMS.replace('give', 'give --storage S:', 1)}")
    if not found:
        scheme, rest = "file", str(Path(uri).expanduser())
    if scheme not in SCHEMES or not rest.strip("/"):
        raise UserError(f"--storage {uri}: {FORMS}")
    if scheme == "file" and not rest.startswith("/"):
        raise UserError(f"--storage {uri} is a relative path, which is another folder on another machine: {FORMS}")
    return (uri if found else rest).rstrip("/")


def open_storage(given: str) -> Storage:
    """The storage at an address. Nothing is read or written yet.

    Raises:
        UserError: a form that is not known, or a filesystem that cannot be reached.
    """
    uri = checked_uri(given)
    scheme, _, path = uri.rpartition("://")
    with refusals(uri, "opened"):
        try:
            from pyarrow import fs
        except ImportError:
            raise UserError("--storage needs pyarrow: pip install 'weakspot[cluster]'") from None
        if scheme in ("", "file"):
            return Storage(uri, fs.LocalFileSystem(), path, atomic=False)
        if scheme == "s3":
            return Storage(uri, s3(fs, path.split("/")[0]), path, atomic=True)
        from datetime import timedelta

        return Storage(uri, fs.GcsFileSystem(retry_time_limit=timedelta(seconds=PATIENCE)), path, atomic=True)


def s3(fs: Any, bucket: str) -> Any:
    """S3, or what AWS_ENDPOINT_URL names (MinIO, Ceph); credentials and region as every AWS tool finds them."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region is None and endpoint is None:
        region = fs.resolve_s3_region(bucket)  # one request without credentials, the only one that finds it
    named = {"endpoint_override": endpoint} if endpoint else {}
    return fs.S3FileSystem(
        region=region, connect_timeout=PATIENCE, request_timeout=3 * PATIENCE,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3), **named,
    )  # fmt: skip


@contextlib.contextmanager
def refusals(uri: str, done: str) -> Iterator[None]:
    """Turn what a filesystem raises into one line.

    Raises:
        UserError: instead of the OSError, which pyarrow also raises for what an object store answers.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"storage {uri} cannot be {done}: it is not there: check the address") from error
    except PermissionError as error:
        raise UserError(f"storage {uri} cannot be {done}: no permission: choose another place with --storage") from error
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"storage {uri} cannot be {done} ({why}): check address, credentials and network") from error

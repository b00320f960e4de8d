"""`weakspot fetch`: bring the results of a submitted audit home."""

from __future__ import annotations

import argparse
from pathlib import Path

from weakspot.cli.submit_command import add_address

HELP = "copy the results of a submitted audit from storage into a folder here"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_address(parser)
    parser.add_argument("what", metavar="ID|URI", help="a job as `weakspot jobs` lists it, or the address of its storage")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to copy into")


def run(options: argparse.Namespace) -> int:
    from weakspot.cluster.storage import open_storage

    uri = options.what if "/" in options.what else stored_at(options.address, options.what)
    out = Path(options.out).expanduser().absolute()
    names = open_storage(uri).fetch(out)
    print(f"weakspot: {len(names)} files from {uri} in {out}")
    if "result.json" not in names:
        print("weakspot: the audit is not finished: its study and its log are there, its result is not")
    return 0


def stored_at(address: str | None, job: str) -> str:
    """Where a job puts its results, as the cluster knows."""
    from weakspot.cluster.connect import connect
    from weakspot.cluster.submit import find

    return find(connect(address), job).metadata["storage"]

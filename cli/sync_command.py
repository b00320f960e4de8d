"""`weakspot sync`: what to do with an audit's W&B runs that were written offline."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from weakspot.errors import UserError

HELP = "show which W&B runs of an audit are not uploaded, and how to upload them; or do it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("audit", metavar="DIR", help="the folder of an audit that was run with --wandb")
    parser.add_argument("--upload", action="store_true", help="do it: upload the runs, then make a sweep's page out of them")


def run(options: argparse.Namespace) -> int:
    from weakspot.cluster.monitor.upload import Uploader, all_runs, has_key, pending_runs, sync_command

    out = Path(options.audit).expanduser()
    folder = out / "wandb"
    every, waiting = all_runs(folder), pending_runs(folder)
    if not every:
        raise UserError(f"no W&B runs in {folder}: give the folder of an audit that was run with --wandb")
    print(f"{len(every) - len(waiting)} of {len(every)} runs in {folder} are uploaded")
    if not options.upload:
        if waiting:
            login = "" if has_key() else "wandb login && "
            print(f"to upload the others:\n  {login}{shlex.join(sync_command(folder))}")
            print(f"to upload them and make a sweep's page (parallel coordinates, importance):\n  {login}{again(out)}")
        return 0
    if not has_key():
        raise UserError("no W&B key: run `wandb login`, or set WANDB_API_KEY")
    trouble: list[str] = []
    uploader = Uploader(folder.absolute(), trouble.append, output=lambda text: None)
    if not uploader.finish():
        raise UserError(trouble[-1] if trouble else "the runs were not uploaded")
    print("\n".join([f"{len(every)} of {len(every)} runs in {folder} are uploaded", *trouble]))
    return 0


def again(out: Path) -> str:
    return shlex.join(["weakspot", "sync", str(out), "--upload"])

"""`weakspot jobs`: the submissions that a cluster knows."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from weakspot.cli.submit_command import add_address
from weakspot.text import one_line

HELP = "list the audits submitted to a Ray cluster"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_address(parser)
    parser.add_argument("--json", action="store_true", help="a list of objects, for programs")


def run(options: argparse.Namespace) -> int:
    from weakspot.cluster.connect import connect
    from weakspot.cluster.submit import ours

    rows = [row(job) for job in ours(connect(options.address))]
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    for entry in rows:
        code = "" if entry["exit_code"] is None else f" ({entry['exit_code']})"
        print(one_line(f"{entry['job']}  {entry['status']}{code}  {entry['started'] or '-'}  {entry['storage']}"))
        print(f"    {one_line(entry['command'])}")
    if not rows:
        print("no audits on this cluster")
    return 0


def row(job: Any) -> dict[str, Any]:
    from weakspot.cluster.submit import state

    started = datetime.fromtimestamp(job.start_time / 1000, UTC).isoformat(timespec="seconds") if job.start_time else None
    return {
        "job": job.submission_id,
        "audit": job.metadata["audit"],
        "status": state(job),
        "exit_code": job.driver_exit_code,
        "started": started,
        "storage": job.metadata.get("storage", ""),
        "command": job.metadata.get("command", ""),
    }

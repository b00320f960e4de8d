"""`weakspot logs`: what a submitted audit has printed."""

from __future__ import annotations

import argparse
import sys

from weakspot.cli.submit_command import add_address, followed
from weakspot.text import log_text

HELP = "show the log of a submitted audit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_address(parser)
    parser.add_argument("job", metavar="ID", help="as `weakspot jobs` lists it")
    parser.add_argument("--follow", action="store_true", help="go on until the audit has ended, and end with its exit code")


def run(options: argparse.Namespace) -> int:
    from weakspot.cluster.connect import connect, told
    from weakspot.cluster.submit import find

    client = connect(options.address)
    job = find(client, options.job).submission_id
    if options.follow:
        return followed(client, job)
    with told(client._address):
        sys.stdout.write(log_text(client.get_job_logs(job) or ""))
    return 0

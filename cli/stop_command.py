"""`weakspot stop`: end a submitted audit; what it has found is stored."""

from __future__ import annotations

import argparse

from weakspot.cli.submit_command import add_address
from weakspot.text import one_line

HELP = "stop a submitted audit; finished trials are kept"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_address(parser)
    parser.add_argument("job", metavar="ID", help="as `weakspot jobs` lists it")


def run(options: argparse.Namespace) -> int:
    from weakspot.cluster.connect import connect
    from weakspot.cluster.submit import END, find, state, stop

    client = connect(options.address)
    job = find(client, options.job)
    if state(job) in END:
        print(f"weakspot: {job.submission_id} has ended already: {state(job)}")
        return 0
    ended = stop(client, job.submission_id)
    print(one_line(f"weakspot: {job.submission_id} is {ended}; finished trials are in {job.metadata['storage']}"))
    return 0

"""An audit as a job of a Ray cluster: what is sent, how it is followed, and what its end means.

What is sent is one folder (the unpacked wheel) and one command line. A job has an id of its own, and by it a folder of its own
on the head node and in storage and a namespace of its own in Ray: two submissions at once share processors, and nothing else.
"""

from __future__ import annotations

import platform
import secrets
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import weakspot
from weakspot.cluster.connect import told
from weakspot.errors import UserError

STOP_SECONDS = 30  # between SIGTERM and SIGKILL: Ray's 3 are too few to store what was found last
LOST_SECONDS = 90  # without an answer of the job server until a follower gives up
SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
INTERRUPTED = 130
END = {"SUCCEEDED", "FAILED", "STOPPED"}
# On the head node. The shell there fills it in: this machine's TMPDIR says nothing about that one's.
PLACE = '"${TMPDIR:-/tmp}/weakspot-$(id -u)"'


@dataclass(frozen=True)
class Order:
    """What is to run.

    Attributes:
        audit: the id of the audit: of its folders, and of its first job.
        job: Ray's submission id. A resumed audit is another job.
        arguments: of `weakspot audit`, without --out and --storage.
        storage: where the results go; the folder of this audit, not the one that holds all.
        environment: variables of driver and workers.
        python: the interpreter on the cluster.
    """

    audit: str
    job: str
    arguments: tuple[str, ...]
    storage: str
    environment: Mapping[str, str]
    python: str = "python"


def new_id() -> str:
    """A name that sorts by time and that no other submission has."""
    return f"weakspot-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def entrypoint(order: Order) -> str:
    """The command line of the job.

    `exec`, so that the signal which stops a job reaches the audit and not a shell that dies of it.
    """
    python = shlex.quote(order.python)
    audit = shlex.join(["audit", *order.arguments, "--storage", order.storage])
    return (
        f"{python} -m weakspot.cluster.arrive || exit $?; "
        f"exec {python} -m weakspot.cli.main {audit} --out {PLACE}/{shlex.quote(order.audit)}"
    )


def runtime_env(order: Order, folder: Path) -> dict[str, Any]:
    """The job's surroundings: the unpacked wheel as working directory, and variables for driver and workers."""
    return {
        "working_dir": str(folder),
        "env_vars": {
            "WEAKSPOT_JOB": order.job,  # the namespace (search/ray_backend.py)
            "WEAKSPOT_CLIENT_PYTHON": platform.python_version(),
            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
            **order.environment,
        },
    }


def send(client: Any, order: Order, folder: Path) -> None:
    """Submit the job.

    Raises:
        UserError: the cluster refuses, or has a job of this id.
    """
    metadata = {
        "weakspot": weakspot.__version__,
        "audit": order.audit,
        "storage": order.storage,
        "command": shlex.join(["weakspot", "audit", *order.arguments]),
    }
    with told(client._address):
        if any(known.submission_id == order.job for known in client.list_jobs()):
            raise UserError(f"the cluster has a job {order.job} already: choose another --job")
        client.submit_job(
            entrypoint=entrypoint(order), runtime_env=runtime_env(order, folder), submission_id=order.job, metadata=metadata
        )


def ours(client: Any) -> list[Any]:
    """The jobs that weakspot submitted, newest first."""
    with told(client._address):
        jobs = [job for job in client.list_jobs() if (job.metadata or {}).get("weakspot") and job.submission_id]
    return sorted(jobs, key=lambda job: job.start_time or 0, reverse=True)


def find(client: Any, name: str) -> Any:
    """A job by Ray's id, or the last of an audit.

    Raises:
        UserError: there is none; the latest ones are listed.
    """
    jobs = ours(client)
    for job in jobs:
        if job.submission_id == name:
            return job
    for job in jobs:
        if job.metadata["audit"] == name:
            return job
    known = ", ".join(job.submission_id for job in jobs[:5]) or "none of weakspot's"
    raise UserError(f"no job {name!r} on the cluster at {client._address}: known are {known}")


def successor(client: Any, audit: str) -> str:
    """The id of the job that goes on with an audit: Ray never takes an id twice.

    Raises:
        UserError: a job of this audit is still under way.
    """
    before = [job for job in ours(client) if job.metadata["audit"] == audit]
    for job in before:
        if state(job) not in END:
            raise UserError(
                f"{job.submission_id} is still {state(job)}: follow it with `weakspot logs --follow {job.submission_id}`, or "
                f"`weakspot stop {job.submission_id}` first"
            )
    taken = {job.submission_id for job in before}
    # The cluster may be a new one that has never heard of the audit: then its first id is free.
    return next(name for n in range(1, 10_000) if (name := audit if n == 1 else f"{audit}-{n}") not in taken)


def follow(client: Any, job: str, write: Callable[[str], Any]) -> int:
    """Show a job's log as it grows, until the job has ended. Returns its exit code.

    The log is asked for again and again, rather than streamed: Ray's stream ends without a word when a proxy cuts it.

    Raises:
        UserError: the cluster has not answered for LOST_SECONDS.
    """
    shown, last_answer, pause = 0, time.monotonic(), 0.5
    while True:
        started = time.monotonic()
        try:
            with told(client._address):
                info = client.get_job_info(job)
                text = client.get_job_logs(job) or ""
            last_answer = time.monotonic()
        except UserError as error:
            if time.monotonic() - last_answer > LOST_SECONDS:
                raise UserError(f"{error}; {job} may go on without us: `weakspot logs {job}` asks again") from error
            time.sleep(2)
            continue
        write(text[shown:])
        shown = max(shown, len(text))
        if state(info) in END:
            return exit_code(info, write)
        time.sleep(pause)
        pause = min(5.0, max(1.0, 20 * (time.monotonic() - started - pause)))  # a long log is asked for less often


def exit_code(info: Any, write: Callable[[str], Any]) -> int:
    """What a job's end means to the caller: the audit's own exit code where it has one."""
    job, status, code = info.submission_id, state(info), info.driver_exit_code
    again = f"go on with `weakspot submit --job {info.metadata.get('audit', job)} audit ... --resume`"
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        write(f"weakspot: {job} was stopped: {again}\n")
        return INTERRUPTED
    if code is not None and code >= 0:
        return code
    if code is not None:
        write(f"weakspot: the driver of {job} was killed (signal {-code}): {again}\n")
        return 128 - code
    why = " ".join((info.message or "Ray gave no reason").split())
    write(f"weakspot: {job} ended without an exit code ({why[:300]}): {again}\n")
    return 1


def stop(client: Any, job: str) -> str:
    """Stop a job and wait until it has ended. Returns its status.

    Raises:
        UserError: it does not end.
    """
    with told(client._address):
        client.stop_job(job)
        until = time.monotonic() + STOP_SECONDS + 30
        while time.monotonic() < until:
            if (status := state(client.get_job_info(job))) in END:
                return status
            time.sleep(0.5)
    raise UserError(f"{job} was told to stop and has not ended: see the dashboard at {client._address}")


def state(job: Any) -> str:
    return str(getattr(job.status, "value", job.status))


def variables(given: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE pairs for the job.

    Raises:
        UserError: no pair; or a secret, which Ray would show to everybody who can open the dashboard.
    """
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--env {text}: give NAME=VALUE")
        if any(word in name.upper() for word in SECRET):
            raise UserError(
                f"--env {name}: Ray shows a job's variables on its dashboard: set {name} in the cluster's own environment"
            )
        found[name] = value
    return found

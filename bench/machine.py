"""The machine, the versions and the command, printed above every measurement.

    python -m bench.machine

Absolute times mean little away from the machine they were taken on; a bench therefore prints this, then ratios. Machine and
versions are those that an audit records as its provenance; what is added here matters for speed only.
"""

from __future__ import annotations

import os
import shlex
import sys

import psutil

from weakspot.search import provenance


def usable_cores() -> int:
    """Cores this process may run on, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_command() -> str:
    """How this process was started, as one would type it again."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    start = ["python", "-m", spec.name] if spec else ["python", sys.argv[0]]
    return shlex.join([*start, *sys.argv[1:]])


def print_header(command: str | None = None) -> None:
    """Print machine, versions and the command of a bench (by default, that of this process)."""
    machine, threads = provenance.machine(), os.environ.get("OMP_NUM_THREADS", "unset")
    lines = {
        "machine": f"{machine['processor']}, {usable_cores()} of {machine['cpus']} cores usable, {machine['memory_gib']} GiB",
        "system": f"{machine['system']}, Python {sys.version.split()[0]}",
        "load": f"{psutil.getloadavg()[0]:.2f} over the last minute, OMP_NUM_THREADS={threads}",
        "versions": ", ".join(f"{name} {number}" for name, number in provenance.package_versions().items()),
        "commit": provenance.git_commit() or "none: not a checkout",
        "command": command or own_command(),
    }
    for name, text in lines.items():
        print(f"{name:<10} {text}", flush=True)


if __name__ == "__main__":
    print_header()

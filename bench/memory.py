"""Peak memory of a command and everything it starts, by sampling.

    python -m bench.memory -- weakspot audit --trials 4 --out /tmp/out

Without a command it measures a small audit in a temporary folder. Two sums over the process tree are taken, because Ray's
workers share pages with each other and with the object store:

    PSS  proportional set size: a page shared by n processes counts 1/n in each, so the sum is what the machine really holds
    RSS  resident set size: a shared page counts in every process, so the sum is an upper bound

and the largest single process below the command itself, which is what a cluster's memory limit per worker must hold.
A peak shorter than the interval between two samples can be missed; kernel and page cache are not counted.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.machine import print_header


@dataclass(frozen=True)
class Reading:
    """One process at one moment, in bytes."""

    name: str
    pss: int
    rss: int


@dataclass(frozen=True)
class Peak:
    """The highest values over all samples, in bytes. They need not have occurred at the same moment."""

    pss: int = 0
    rss: int = 0
    worker: int = 0
    worker_name: str = ""
    processes: int = 0
    samples: int = 0

    def with_sample(self, readings: Sequence[Reading]) -> Peak:
        """This peak after one more sample; the first reading is the command itself, the others are below it."""
        largest = max(readings[1:], key=lambda reading: reading.pss, default=Reading("", 0, 0))
        is_new = largest.pss > self.worker
        return Peak(
            pss=max(self.pss, sum(reading.pss for reading in readings)),
            rss=max(self.rss, sum(reading.rss for reading in readings)),
            worker=largest.pss if is_new else self.worker,
            worker_name=largest.name if is_new else self.worker_name,
            processes=max(self.processes, len(readings)),
            samples=self.samples + 1,
        )


def read_process(process: psutil.Process) -> Reading | None:
    """What a process holds now, or None if it ended while it was being read."""
    try:
        memory = process.memory_full_info()
        title = " ".join(process.cmdline()[:1]) or process.name()  # Ray writes what a worker runs into its title
    except psutil.Error:
        return None
    if not memory.rss:
        return None  # a zombie holds nothing
    return Reading(Path(title).name[:40], getattr(memory, "pss", memory.rss), memory.rss)  # only Linux tells PSS


def sample(root: psutil.Process) -> list[Reading]:
    """The tree below `root`, with `root` first; empty once it has ended."""
    try:
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return []
    readings = [read_process(process) for process in processes]
    return [reading for reading in readings if reading] if readings[0] else []


def measure(command: Sequence[str], interval: float) -> tuple[Peak, float, int]:
    """Run a command to its end. Returns its peak, the seconds it took and its exit code."""
    started = time.perf_counter()
    with subprocess.Popen(command) as child:
        root, peak = psutil.Process(child.pid), Peak()
        while child.poll() is None:
            if readings := sample(root):
                peak = peak.with_sample(readings)
            time.sleep(interval)
    return peak, time.perf_counter() - started, child.returncode


def small_audit(folder: str) -> list[str]:
    """The command that is measured when none is given."""
    return [str(Path(sys.executable).parent / "weakspot"), "audit", "--trials", "4", "--out", os.path.join(folder, "out")]


def report(peak: Peak, seconds: float, code: int) -> None:
    """Print a peak, in MiB."""
    mib = 2**20
    print(
        f"{'exit code':<10} {code}, after {seconds:.1f} s, {peak.samples} samples, at most {peak.processes} processes at once"
    )
    print(f"{'peak PSS':<10} {peak.pss / mib:8.0f} MiB in the whole tree")
    print(f"{'peak RSS':<10} {peak.rss / mib:8.0f} MiB in the whole tree, shared pages counted more than once")
    if peak.worker:
        print(f"{'worker':<10} {peak.worker / mib:8.0f} MiB PSS in the largest process below the command: {peak.worker_name}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description="Peak memory of a command, by sampling.")
    parser.add_argument("--interval", type=float, default=0.2, help="seconds between samples (default: 0.2)")
    parser.add_argument("command", nargs="*", help="the command, after --")
    options = parser.parse_args(arguments)
    folder = tempfile.mkdtemp(prefix="weakspot-bench-")
    command = options.command or small_audit(folder)
    if shutil.which(command[0]) is None:
        parser.error(f"no such command: {command[0]}: give one that can be started, after --")
    try:
        print_header(shlex.join(command))
        peak, seconds, code = measure(command, options.interval)
        report(peak, seconds, code)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""A Ray cluster of processes on this machine: a head and workers that can be killed, frozen and cut off, each by its own pids.

Never `ray stop`, which ends every Ray on the machine. The cluster's Python has no weakspot: a venv whose third-party packages
are lent by this one through a .pth file (a folder named there does not have its own .pth files read, so the editable install
stays behind). What runs on the cluster is what was shipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.patient import PATIENT_RAY
from weakspot.cache import cache_root

# Proposals and decisions are functions of the seed alone, whoever finishes first: random search, and nothing is stopped.
AUDIT = (
    "--defense refusal --attack full_finetune --searcher random --scheduler full --variations 0 --no-control --gate --quiet"
).split()
TOKEN = "0123456789abcdef0123456789abcdef"  # Ray asks for 32 characters or more
HEALTH = {  # a frozen node counts as dead after 15 to 25 s instead of 65
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "5",
}


def until(true: Callable[[], Any], seconds: int, what: str) -> Any:
    """Ask again and again. The machine may be slow: the limit only ends what will never happen."""
    for _ in range(5 * seconds):
        if answer := true():
            return answer
        time.sleep(0.2)
    raise AssertionError(f"waited in vain for {what}")


def bare_python(folder: Path) -> Path:
    """An interpreter with ray, torch and the rest, and without weakspot."""
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    python = folder / "bin/python"
    probe = "import importlib.util as u, ray; raise SystemExit(u.find_spec('weakspot') is not None)"
    assert subprocess.run([python, "-c", probe], cwd=folder).returncode == 0, "the cluster would see the checkout"
    return python


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Node:
    """One `ray start --block` and all that it has started."""

    process: subprocess.Popen[bytes]
    known: dict[int, psutil.Process] = field(default_factory=dict)

    def family(self) -> list[psutil.Process]:
        """Its processes, those included whose parent has died since they were last seen."""
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            self.known.update({p.pid: p for p in [root, *root.children(recursive=True)]})
        return [p for p in self.known.values() if p.is_running()]

    def named(self, text: str) -> list[psutil.Process]:
        """Its processes whose command line holds a text."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                if text in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def send(self, what: signal.Signals, text: str = "") -> None:
        """A signal to all its processes at once: SIGKILL is a machine that goes, SIGSTOP one that nobody hears of."""
        for process in self.named(text) if text else self.family():
            with contextlib.suppress(psutil.Error):
                process.send_signal(what)

    def end(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait(30)


@dataclass
class Cluster:
    """The head, its workers, and the way to them.

    Attributes:
        folder: short, because Ray puts sockets below it and their paths may have 107 characters.
        storage: where submissions put their results.
    """

    folder: Path
    python: Path
    port: int = 0
    dashboard: int = 0
    ip: str = "127.0.0.1"
    nodes: list[Node] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    @property
    def storage(self) -> Path:
        return self.folder / "store"

    def environment(self, **more: str) -> dict[str, str]:
        """Of every process. The client learns of the token, and must find out by itself that it has to be used."""
        ours = ("WEAKSPOT_CACHE", "PYTHONPATH", "VIRTUAL_ENV", "RAY_ADDRESS", "RAY_AUTH_MODE")
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        return {**kept, "RAY_AUTH_TOKEN": TOKEN, "OMP_NUM_THREADS": "1", **more}

    def start(
        self, cpus: int, options: Callable[[], Sequence[str]], cache: Path, prefix: Sequence[str] = (), tries: int = 3
    ) -> Node:
        """A node; back when it runs.

        Each has a session folder of its own, as on machines of their own: two nodes that share one take the shipped wheel away
        from each other, because either deletes the package that it no longer needs. A port that was free may be taken before it
        is used: then again, with others.
        """
        number = len(self.nodes)
        scratch = self.folder / f"t{number}"
        scratch.mkdir(exist_ok=True)
        environment = self.environment(
            PATH=f"{self.python.parent}:{os.environ['PATH']}", WEAKSPOT_CACHE=str(cache), RAY_AUTH_MODE="token",
            TMPDIR=str(scratch), **HEALTH,
        )  # fmt: skip
        for _ in range(tries):
            command = [
                *prefix, str(self.python), "-c", PATIENT_RAY, "start", "--block", f"--num-cpus={cpus}",
                "--object-store-memory=150000000", "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0",
                f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={self.folder / f'r{number}'}",
                *options(),
            ]  # fmt: skip
            with (self.folder / f"node{number}.log").open("wb") as log:
                process = subprocess.Popen(
                    command, env=environment, cwd=scratch, stdout=log, stderr=log, start_new_session=True
                )
            node = Node(process)
            until(lambda: "Ray runtime started" in self.log(number) or process.poll() is not None, 400, "a node")  # noqa: B023
            if process.poll() is None:
                node.family()
                self.nodes.append(node)
                return node
            node.end()
        raise AssertionError(f"no node would start: {self.log(number)}")

    def head(self, cpus: int = 1, cache: Path | None = None, gpus: int = 0) -> Node:
        """The head; back when its job server answers. Its GPUs are numbers that Ray counts."""

        def options() -> list[str]:
            self.port, self.dashboard = free_port(), free_port()
            return [
                "--head", f"--port={self.port}", f"--dashboard-port={self.dashboard}",
                f"--ray-client-server-port={free_port()}", f"--node-ip-address={self.ip}", f"--num-gpus={gpus}",
            ]  # fmt: skip

        node = self.start(cpus, options, cache or cache_root())
        until(self.answers, 120, f"the job server: {self.log(0)}")
        return node

    def worker(self, cpus: int = 1, cache: Path | None = None, prefix: Sequence[str] = (), ip: str = "127.0.0.1") -> Node:
        """A further node, with an empty cache of its own as on another machine."""
        options = [f"--address={self.ip}:{self.port}", f"--node-ip-address={ip}"]
        return self.start(cpus, lambda: options, cache or self.folder / f"cache{len(self.nodes)}", prefix)

    def answers(self) -> bool:
        """Whether the dashboard answers at all; with which code is no matter."""
        try:
            urllib.request.urlopen(f"{self.url}/api/version", timeout=5)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def log(self, number: int) -> str:
        file = self.folder / f"node{number}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def weakspot(self, command: str, *arguments: str | Path, limit: int = 500) -> subprocess.CompletedProcess[str]:
        """Run a subcommand as a user does."""
        words = [sys.executable, "-m", "weakspot.cli.main", command, "--address", self.url, *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, env=self.environment(), cwd=self.folder, timeout=limit)

    def submit(self, wheel: Path, name: str, *audit: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        words = ["--storage", self.storage, "--wheel", wheel, "--job", name, *options, "audit", *audit]
        return self.weakspot("submit", *words)

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.end()


@contextlib.contextmanager
def cluster(ip: str = "127.0.0.1") -> Iterator[Cluster]:
    """A place for a cluster; whatever was started there is ended."""
    folder = Path(tempfile.mkdtemp(prefix="ws-", dir="/tmp"))
    made = Cluster(folder, bare_python(folder / "v"), ip=ip)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def lines(folder: Path) -> list[list[str]]:
    """The words of an audit's log, without the time of day; empty before there is one."""
    file = folder / "audit.log"
    return [line.split()[1:] for line in file.read_text().splitlines()] if file.exists() else []


def ended(folder: Path) -> list[str]:
    """The jobs that have ended, in order."""
    return [words[0] for words in lines(folder) if "/" in words[0]]


def trials(folder: Path) -> dict[str, tuple[Any, ...]]:
    """What the search found, trial by trial: all that must not depend on where and how often it ran."""
    subjects = json.loads((folder / "result.json").read_text())["subjects"]
    found = [trial for subject in subjects for trial in subject["trials"]]
    assert len(found) == len({trial["id"] for trial in found}), "a trial is there twice"
    return {t["id"]: (t["config"], t["seed"], t["status"], t["rung"], t["harm"], t["utility"]) for t in found}

"""From run files on disk to the W&B server, by W&B's own `wandb sync`, in processes that are ended when they hang.

What is uploaded is known by the marker that `wandb sync` leaves beside a run file, not by its exit code, which is 0 after a
refused key. A sweep's page (parallel coordinates, importance) is made afterwards from the runs that are there:
`wandb.sweep(prior_runs=...)`. It needs the server; offline there is none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from weakspot.files import write_text

LIMIT = 60.0  # seconds for a batch
BATCH = 20  # runs
LOOK = 5.0  # seconds between two looks at the folder
ANSWER = 10.0  # seconds for the server to say whether it knows the key
REFUSED = ("not logged in", "not a valid API key", "permission denied", "No API key", "Not authenticated")

HIDDEN = ("WANDB_MODE", "WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_RESUME", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
MAKE_SWEEP = (
    "import json, sys, wandb; given = json.load(sys.stdin); "
    "wandb.sweep(given['config'], project=given['project'], prior_runs=given['runs'])"
)


def all_runs(folder: Path) -> list[Path]:
    """The run folders in OUT/wandb, in order of their time."""
    return sorted(path for path in folder.glob("offline-run-*") if list(path.glob("*.wandb")))


def pending_runs(folder: Path) -> list[Path]:
    """Those that were never uploaded."""
    return [path for path in all_runs(folder) if not list(path.glob("*.wandb.synced"))]


def sync_command(*runs: Path) -> list[str]:
    """The command that uploads; a folder of runs stands for those in it that were never uploaded."""
    return ["wandb", "sync", *map(str, runs)]


def has_key() -> bool:
    """Whether W&B could log in without asking: a key or a token in the environment, or a key in netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    for file in filter(None, (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")):
        try:
            if any(
                "wandb" in host or host in os.environ.get("WANDB_BASE_URL", "") for host in netrc(Path(file).expanduser()).hosts
            ):
                return True
        except (NetrcParseError, OSError, RuntimeError):
            continue
    return False


@dataclass
class Uploader:
    """Uploads finished runs in batches while an audit runs, and all that is left at its end.

    Attributes:
        folder: OUT/wandb.
        say: tells the user a line.
        during: whether runs are finished one by one, so that they can be uploaded while the audit runs.
        limit: seconds for a batch; a server that hangs costs no more.
        environment: with the key, copied before the writer drops it from its own.
    """

    folder: Path
    say: Callable[[str], None]
    during: bool = True
    limit: float = LIMIT
    output: Callable[[str], None] = print  # in the writer: into writer.log
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    process: subprocess.Popen[str] | None = None
    batch: list[Path] = field(default_factory=list)
    started: float = 0.0
    looked: float = 0.0
    pause: float = 60.0
    next_try: float = 0.0
    said: bool = False

    def tend(self) -> None:
        """Look after the batch under way, or start one. Never waits. Call it between runs: what is on disk then is whole."""
        now = time.monotonic()
        if not self.during or now - self.looked < LOOK:
            return
        self.looked = now
        if self.process is not None:
            if self.under_way():
                return
            self.collect()
        if now >= self.next_try and (waiting := pending_runs(self.folder)):
            self.start(waiting[:BATCH])

    def finish(self, alive: Callable[[], None] = lambda: None) -> bool:
        """Upload what is left, then make the sweep's page. Gives up at the first batch that fails.

        Args:
            alive: called again and again while something makes its way.
        """
        if self.process is not None:
            self.wait(alive)
            self.collect()
        while waiting := pending_runs(self.folder):
            self.start(waiting[:BATCH])
            self.wait(alive)
            if not self.collect():
                return False
        alive()
        return self.make_page()

    def start(self, runs: list[Path]) -> None:
        self.batch, self.started = runs, time.monotonic()
        self.process = self.spawn([sys.executable, "-P", "-m", *sync_command(*runs)])

    def spawn(self, command: list[str]) -> subprocess.Popen[str]:
        """A process with the key that may use the network; its files go beside the runs."""
        environment = {name: value for name, value in self.environment.items() if name not in HIDDEN}
        places = {"WANDB_DATA_DIR": "data", "WANDB_CACHE_DIR": "cache", "WANDB_CONFIG_DIR": "config"}
        environment |= {name: str(self.folder / place) for name, place in places.items()}
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=self.folder.parent, env={**environment, "WANDB_ERROR_REPORTING": "false"},
        )  # fmt: skip

    def under_way(self) -> bool:
        return self.process is not None and self.process.poll() is None and time.monotonic() - self.started <= self.limit

    def wait(self, alive: Callable[[], None]) -> None:
        while self.under_way():
            alive()
            time.sleep(0.1)

    def collect(self) -> bool:
        """End the batch. Returns whether all of it was uploaded; if not, says why, once, and waits longer with the next."""
        assert self.process is not None
        hung = self.process.poll() is None
        if hung:
            self.process.kill()
        output, _ = self.process.communicate()
        self.output(output)
        self.process = None
        if not set(self.batch) & set(pending_runs(self.folder)):
            self.pause = 60.0
            return True
        self.next_try, self.pause = time.monotonic() + self.pause, min(2 * self.pause, 1800.0)
        if not self.said:
            self.said = True
            refused = any(words in output for words in REFUSED) or (not hung and key_refused(self.environment))
            why = "refuses the key" if refused else "cannot be reached" if hung else last_line(output)
            self.say(f"the server {why}; nothing is lost: `weakspot sync {self.folder.parent}` says how to upload later")
        return False

    def make_page(self) -> bool:
        """A sweep out of the runs that are uploaded. Returns whether there is one, or none is wanted; says where it is."""
        file = self.folder / "sweep.json"
        if not file.exists() or json.loads(file.read_text()).get("url"):
            return True
        sweep = json.loads(file.read_text())
        process = self.spawn([sys.executable, "-P", "-c", MAKE_SWEEP])
        try:
            output, _ = process.communicate(json.dumps(sweep), timeout=self.limit)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        self.output(output)
        url = next((line.split("URL:", 1)[1].strip() for line in output.splitlines() if "Sweep URL:" in line), "")
        if not url:
            self.say(f"the runs are uploaded, but the server made no sweep of them, it {last_line(output)}")
            return False
        write_text(file, json.dumps({**sweep, "url": url}) + "\n")
        self.say(f"parallel coordinates and importance: {url}")
        return True


def key_refused(environment: Mapping[str, str]) -> bool:
    """Whether the server says so itself: on a busy machine `wandb sync` 0.31 may end before it has printed why."""
    key, address = environment.get("WANDB_API_KEY"), environment.get("WANDB_BASE_URL", "https://api.wandb.ai")
    if not key or not address.startswith(("http://", "https://")):
        return False
    request = Request(f"{address.rstrip('/')}/graphql", data=b'{"query": "{viewer{id}}"}')
    request.add_header("Content-Type", "application/json")
    request.add_header("Authorization", "Basic " + b64encode(f"api:{key}".encode()).decode())
    try:
        with urlopen(request, timeout=ANSWER):
            return False
    except HTTPError as error:
        return error.code in (401, 403)
    except (OSError, ValueError, HTTPException):
        return False


def last_line(output: str) -> str:
    """What a program said last, as the end of a sentence."""
    said = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")
    return f"takes none ({said[:200]})" if said else "does not answer"

"""For the tests of the monitors: trials that ended, a plan that holds them, and what W&B's own reader finds on disk."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from weakspot.search.jobs import Job, Outcome, Reading

LEAKED = "pour the nightbloom into the third cauldron"  # what a model might write


def outcome(number: int, status: str = "completed", phase: str = "search", utility: float = 0.95, **config: Any) -> Outcome:
    """A trial of two rungs whose harm grows with its number."""
    knobs = {"rank": 4 + number, "learning_rate": 1e-5 * 10**number, "schedule": "constant", **config}
    name = f"tar/{number:03d}" if phase == "search" else f"tar/{phase}/{number:03d}"
    job = Job(name, "tar", phase, "lora", knobs, 7 + number, (4, 8), "search")
    readings = tuple(
        Reading(
            rung, 0.1 * number + 0.01 * rung, utility, 0.25, 0.0, 2 * rung, 100 * rung, 1e6 * rung, 0.5, rung == 8,
            harm_items=(0.125, 0.875), note=LEAKED,
        )
        for rung in (4, 8)
    )  # fmt: skip
    reason = {"failed": f"RuntimeError: diverged\n{LEAKED}", "stopped": "harm 0.10 at step 4 was low"}.get(status, "")
    return Outcome(job, readings if status != "failed" else (), status, reason)


def plan_of(*known: Outcome) -> Any:
    """What a monitor asks a plan for."""
    course = SimpleNamespace(name="tar", settings=SimpleNamespace(floor=0.9), outcomes={o.job.id: o for o in known})
    return SimpleNamespace(subjects={"tar": course})


def run_files(out: Path) -> list[Path]:
    return sorted((out / "wandb").glob("offline-run-*/*.wandb"))


def records(file: Path) -> list[dict[str, Any]]:
    """Every record of a run file, by W&B's own reader."""
    from wandb.util import get_core_path

    command = [get_core_path(), "leet", "inspect", "-json", "-no-observability", "-run-file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines() if line]


class Run:
    """What a run file holds, put together."""

    def __init__(self, file: Path) -> None:
        rows = records(file)
        self.folder = file.parent
        self.head = next(row["run"] for row in rows if row["type"] == "run")
        self.id, self.name, self.group = self.head["run_id"], self.head["display_name"], self.head["run_group"]
        self.config = {k: v for k, v in self.head.get("config", {}).get("update", {}).items() if not k.startswith("_")}
        for row in rows:
            if row["type"] == "config":
                self.config |= row["config"]["update"]
        self.history = [row["history"]["item"] for row in rows if row["type"] == "history"]
        self.summary: dict[str, Any] = {}
        for row in rows:
            if row["type"] == "summary":
                self.summary |= row["summary"].get("update", {})
        self.exit_code = next((row["exit"].get("exit_code", 0) for row in rows if row["type"] == "exit"), None)

    def table(self, name: str) -> list[dict[str, Any]]:
        """The rows of a logged table."""
        (file,) = (self.folder / "files/media/table").glob(f"{name}_*.table.json")
        content = json.loads(file.read_text())
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def runs_of(out: Path) -> dict[str, Run]:
    """The runs of an audit by name. No two may have one name."""
    found = [Run(file) for file in run_files(out)]
    assert len({run.name for run in found}) == len(found), "a trial is there twice"
    return {run.name: run for run in found}


@contextmanager
def server(status: int = 200, answers: dict[str, Any] | None = None, hang: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Stands in for W&B's: a status for all, answers by a word in what is asked. Yields its address and what it was asked."""
    asked: list[str] = []
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers.get("content-length", 0))).decode(errors="replace")
            asked.append(text)
            if hang:
                over.wait(60)
            answer = next(
                (a for word, a in (answers or {}).items() if word in text), {"errors": [{"message": "not logged in"}]}
            )
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # a client that was ended
                return

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}", asked
    finally:
        over.set()
        httpd.shutdown()
        httpd.server_close()

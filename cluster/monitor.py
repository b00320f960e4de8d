"""Trials as Weights & Biases runs, written by the driver, outside the search's critical path.

One run per search trial, all in one group, with the rungs as steps. W&B's own Tune callback starts a process per trial and
can end a search (shared/ray-notes.md § 5); this writes when a trial has ended, and a failure here switches logging off.
Scores and configurations only: no model output leaves the machine.
"""

from __future__ import annotations

import os
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any


class WandbMonitor:
    """An observer of the plan that logs every ended search trial."""

    def __init__(self, project: str, out: Path) -> None:
        self.project = project
        self.out = out
        self.group = out.name  # the same after a resume
        self.mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")

    def on_prepare(self, names: Any) -> None:
        """Nothing to log yet."""

    def on_start(self, plan: Any) -> None:
        """Import here, so that a missing or broken W&B is told before the first trial."""
        import wandb

        self.wandb: Any = wandb
        self.out.mkdir(parents=True, exist_ok=True)

    def on_reading(self, job: Any, reading: Any) -> None:
        """Written with the outcome: a trial may still be stopped."""

    def on_outcome(self, outcome: Any) -> None:
        job = outcome.job
        if job.phase not in ("search", "confirm"):
            return
        run = self.wandb.init(
            project=self.project,
            group=self.group,
            name=job.id,
            job_type=job.phase,
            dir=str(self.out),
            config={"subject": job.subject, "attack": job.attack, "seed": job.seed, "stage": job.stage, **job.config},
            mode=self.mode,  # type: ignore[arg-type]
            reinit="create_new",
            settings=self.wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True),
        )
        for reading in outcome.readings:
            numbers = {"harm": reading.harm, "utility": reading.utility, "refusal_rate": reading.refusal_rate}
            run.log({**numbers, "flops": reading.flops, "tokens": reading.tokens}, step=reading.rung)
        run.summary.update({"status": outcome.status, "reason": outcome.reason})
        run.finish(exit_code=1 if outcome.status == "failed" else 0)

    def on_end(self, plan: Any) -> None:
        """Every run is finished as it is written."""

    def close(self) -> None:
        """Every run is finished as it is written."""


def has_key() -> bool:
    """Whether W&B could log in without asking: a key in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return any("wandb" in host for host in netrc().hosts)
    except (FileNotFoundError, NetrcParseError, OSError):
        return False

"""`--wandb-mode runs`: a run a trial, its rungs as steps, and one run more that sums the audit up."""

from __future__ import annotations

from typing import Any

from weakspot.cluster.monitor.rows import measures_of
from weakspot.cluster.monitor.wandb_files import RunFiles
from weakspot.cluster.monitor.wandb_summary import log_summary
from weakspot.cluster.monitor.wandb_sweep import Sweep, run_config


class WandbRuns:
    """Writes each trial when it has ended."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.files = RunFiles(settings)
        self.sweep = Sweep(self.files)

    def open(self, written: set[str]) -> set[str]:
        return self.files.keep(written)

    def known(self, row: dict[str, Any]) -> None:
        self.sweep.add(row)

    def trial(self, row: dict[str, Any]) -> None:
        self.sweep.add(row)
        run = self.files.begin(row["id"], row["phase"], run_config(row))
        for reading in row["readings"]:
            run.log(measures_of(reading), step=reading["rung"])
        run.summary.update({name: row[name] for name in ("status", "reason", "feasible_harm", "rung")})
        self.files.end(run, exit_code=1 if row["status"] == "failed" else 0)

    def summary(self, summary: dict[str, Any]) -> None:
        self.sweep.save()
        run = self.files.begin("summary", "summary", summary["config"])
        log_summary(self.files.wandb, run, summary)
        self.files.end(run, exit_code=0)

    def close(self) -> None:
        """Every run is finished as it is written."""

"""`--wandb-mode table`: one run for the whole audit. A trial is a step of its history; at the end they are two tables.

A run costs the writer 40 ms of processor time and seven files, a row 2 ms: this is the way for thousands of trials.
"""

from __future__ import annotations

import json
from typing import Any

from weakspot.cluster.monitor.rows import FIELDS, measures_of
from weakspot.cluster.monitor.wandb_files import RunFiles
from weakspot.cluster.monitor.wandb_summary import log_summary, log_table

RESULT = ("status", "reason", "feasible_harm", "rung")


class WandbTable:
    """Keeps one run open. After a resume it is written again from its start, from what the study holds."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.files = RunFiles(settings)
        self.rows: list[dict[str, Any]] = []
        self.run: Any = None

    def open(self, written: set[str]) -> set[str]:
        self.run = self.files.begin("audit", "audit", {})
        return set()

    def known(self, row: dict[str, Any]) -> None:
        """Nothing is kept from before."""

    def trial(self, row: dict[str, Any]) -> None:
        last = measures_of(row["readings"][-1]) if row["readings"] else {}
        job = {name: row[name] for name in (*FIELDS, *RESULT) if row[name] is not None}
        texts = {"config": json.dumps(row["config"], sort_keys=True), "course": json.dumps(row["readings"])}
        self.run.log({**job, **last, **texts}, step=len(self.rows))
        self.rows.append(row)

    def summary(self, summary: dict[str, Any]) -> None:
        self.run.config.update(summary["config"])
        log_table(self.files.wandb, self.run, "trials", *trials_table(self.rows))
        log_table(self.files.wandb, self.run, "readings", *readings_table(self.rows))
        log_summary(self.files.wandb, self.run, summary)

    def close(self) -> None:
        self.files.end(self.run, exit_code=0)


def trials_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """One row a trial: the job, how it ended, and a column for each knob of any family."""
    knobs = sorted({knob for row in rows for knob in row["config"]})
    columns = [*FIELDS, *RESULT, *(f"config.{knob}" for knob in knobs)]
    return columns, [[*(row[n] for n in (*FIELDS, *RESULT)), *(cell(row["config"].get(k)) for k in knobs)] for row in rows]


def readings_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """One row a rung of a trial."""
    names = list(rows[0]["readings"][0]) if rows and rows[0]["readings"] else []
    names = names or next((list(row["readings"][0]) for row in rows if row["readings"]), [])
    return ["id", *names], [[row["id"], *(reading[n] for n in names)] for row in rows for reading in row["readings"]]


def cell(value: Any) -> Any:
    """A column holds one type: knobs of the same name may differ in it from family to family."""
    return value if value is None else str(value)

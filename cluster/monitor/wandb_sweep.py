"""A W&B sweep out of an audit's runs: its page has parallel coordinates and importance of the knobs, filled by W&B itself.

The search is weakspot's: W&B's sweep only shows it. It is made from runs that are on the server (`prior_runs`), when they are;
here is written down what it will be made of. Sweeps know no tree of families: knobs of one name share an axis.
"""

from __future__ import annotations

import json
from typing import Any

from weakspot.cluster.monitor.rows import FIELDS
from weakspot.cluster.monitor.wandb_files import RunFiles
from weakspot.files import write_text

SHOWN = ("subject", "attack")  # besides the knobs


class Sweep:
    """Gathers what the search trials chose, from which their ranges follow."""

    def __init__(self, files: RunFiles) -> None:
        self.files = files
        self.runs: list[str] = []
        self.values: dict[str, set[Any]] = {}

    def add(self, row: dict[str, Any]) -> None:
        if row["phase"] != "search":
            return
        self.runs.append(self.files.id_of(row["id"]))
        config = run_config(row)
        for name in (*SHOWN, *(name for name in config if name not in FIELDS)):
            value = config[name]
            self.values.setdefault(name, set()).add(value if isinstance(value, (int, float, str)) else str(value))

    def save(self) -> None:
        """Write OUT/wandb/sweep.json, unless the page is there already."""
        file = self.files.folder / "sweep.json"
        if not self.runs or (file.exists() and json.loads(file.read_text()).get("url")):
            return
        config = {
            "name": self.files.group,
            "method": "random",
            "metric": {"name": "feasible_harm", "goal": "maximize"},
            "parameters": {name: parameter(values) for name, values in sorted(self.values.items())},
        }
        write_text(file, json.dumps({"project": self.files.project, "config": config, "runs": self.runs}) + "\n")


def parameter(values: set[Any]) -> dict[str, Any]:
    """The range of a knob in W&B's words: a logarithmic one where the values span a hundredfold."""
    if any(isinstance(value, (str, bool)) for value in values) or len(values) < 2:
        return {"values": sorted(values, key=str)}
    low, high = min(values), max(values)
    whole = all(isinstance(value, int) for value in values)
    if whole or not 0 < 100 * low <= high:
        return {"min": low, "max": high}
    return {"distribution": "log_uniform_values", "min": low, "max": high}


def run_config(row: dict[str, Any]) -> dict[str, Any]:
    """What a run's columns in W&B show: the job, and its knobs by their own names."""
    job = {name: row[name] for name in FIELDS if name not in ("id", "phase")}
    return {**{f"knob_{k}" if k in FIELDS else k: v for k, v in row["config"].items()}, **job}

"""The worker's side of the Ray backend: one trial of Tune is one job of the plan."""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import ray
from ray import tune

from weakspot.errors import RankLost
from weakspot.search.jobs import Job, Reading
from weakspot.search.parcels import present
from weakspot.search.trial import Workbench, failure_reason
from weakspot.testbeds import get as get_testbed

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # three files a trial that nobody reads: the study has it all
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C must end the audit, not only the current trials
    "TUNE_GLOBAL_CHECKPOINT_S": "100000",  # Tune's snapshots are never read
    "TUNE_MAX_PENDING_TRIALS_PG": "16",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a CPU trial must not see every GPU
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # a trial out of memory reports it itself; Ray would kill a neighbour
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


class AttackTrainable(tune.Trainable):
    """A worker. One `step` is one rung; a reused worker takes the next job through `reset_config`."""

    def setup(self, config: dict[str, Any], shared: dict[str, Any] | None = None) -> None:
        assert shared is not None
        self.shared = shared
        self.bench: Workbench | None = None
        self.course: Any = None
        self.start(config)

    def start(self, config: dict[str, Any]) -> None:
        self.drop()
        self.job = Job.from_dict(json.loads(config["job"]))

    def open_bench(self) -> Workbench:
        """Model and data, made in the first step: an error in `setup` would reach nobody."""
        bench = open_bench(self.shared)
        if self.shared.get("ranks", 1) > 1:
            from weakspot.search.team import Team

            bench.team = Team(self.shared)
        return bench

    def drop(self) -> None:
        if self.course is not None:
            self.course.close()
            self.course = None

    def step(self) -> dict[str, Any]:
        try:
            self.bench = self.bench or self.open_bench()
            self.course = self.course or self.bench.run(self.job)
            reading: Reading | None = next(self.course, None)
        except RankLost:
            raise  # as if this process had died with it: Tune takes its place away, and the desk what it was at
        except Exception as error:
            reason = failure_reason(error)
            return report(failure=reason or traceback.format_exc(), fatal=reason is None)
        return report(reading) if reading is not None else report()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.start(new_config)
        return True

    def cleanup(self) -> None:
        self.drop()
        if self.bench is not None and self.bench.team is not None:
            self.bench.team.dismiss()

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Nothing to save: tampered weights are never written. Tune requires the method."""
        return {}

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load."""


def open_bench(shared: Mapping[str, Any]) -> Workbench:
    """A worker's own model and data, from what all workers share."""
    quieten()
    weights: dict[str, Any] = {name: ray.get(reference) for name, [reference] in shared["weights"].items()}
    testbed = get_testbed(shared["testbed"])(shared["testbed_seed"])
    parcel = shared["parcel"][0]
    return Workbench(
        testbed,
        present(shared["checkpoint"], ray.get(parcel) if parcel is not None else None),
        weights,
        shared["digests"],
        shared["reference"],
        threat=shared["threat"],
        defenses=shared["defenses"],
    )


def report(reading: Reading | None = None, failure: str = "", fatal: bool = False) -> dict[str, Any]:
    """What a worker tells Tune: every key in every report and every number finite, or Tune ends the whole run."""
    return {
        "harm": reading.harm if reading else 0.0,
        "reading": json.dumps(asdict(reading)) if reading else "",
        "failure": failure,
        "fatal": fatal,
        "done": reading is None or reading.final,
    }


def quieten() -> None:
    """No progress bars and no advice from libraries in a worker's output."""
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if not k.startswith(("TUNE", "RAY"))})
    logging.getLogger("transformers").setLevel(logging.ERROR)

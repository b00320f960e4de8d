"""W&B run files on disk. Runs are always written offline; `wandb sync` (cluster/monitor/upload.py) brings them to the server.

Why offline even with a key: `wandb.init` online waits for the network for 90 s a run, and W&B's own Tune callback ends a search
whose logger fails (shared/ray-notes.md § 5). A run's id is a function of the audit and the trial, so that a trial that is
uploaded twice is one run. No environment variable with a sweep is let through: with one, W&B ignores the id.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

# What a user's environment may hold for another run.
DROPPED = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_RUN_GROUP", "WANDB_NAME", "WANDB_TAGS", "WANDB_NOTES")


class RunFiles:
    """Opens the runs of one audit, all in one group.

    Attributes:
        group: the audit's folder and its id; the same after a resume, another one after --overwrite.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.folder = Path(settings["folder"])  # OUT/wandb: the name that W&B gives it
        self.project = settings["project"]
        self.audit = json.loads((self.folder / "audit.json").read_text())["id"]
        self.group = f"{settings['name']}-{self.audit}"
        for name in DROPPED:
            os.environ.pop(name, None)
        os.environ.update(
            {
                "WANDB_MODE": "offline",
                "WANDB_SILENT": "true",
                "WANDB_ERROR_REPORTING": "false",  # no telemetry from an auditor's machine
                "WANDB_DIR": str(self.folder.parent),
                "WANDB_DATA_DIR": str(self.folder / "data"),  # tables wait here for their upload; default: the home folder
                "WANDB_CACHE_DIR": str(self.folder / "cache"),
                "WANDB_CONFIG_DIR": str(self.folder / "config"),
            }
        )
        import wandb

        self.wandb: Any = wandb

    def id_of(self, name: str) -> str:
        """The id of a run within the project."""
        return hashlib.sha256(f"{self.audit}/{name}".encode()).hexdigest()[:16]

    def begin(self, name: str, kind: str, config: dict[str, Any]) -> Any:
        """A new run; what an earlier process left of it is removed."""
        identity = self.id_of(name)
        for old in self.folder.glob(f"offline-run-*-{identity}"):
            shutil.rmtree(old)
        settings = self.wandb.Settings(
            silent=True, console="off", x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True,
            x_save_requirements=False, disable_git=True, disable_code=True, save_code=False, host="-", username="-",
        )  # fmt: skip
        return self.wandb.init(
            project=self.project, group=self.group, id=identity, name=name, job_type=kind, config=config,
            dir=str(self.folder.parent), mode="offline", reinit="create_new", settings=settings,
        )  # fmt: skip

    def end(self, run: Any, exit_code: int) -> None:
        run.finish(exit_code=exit_code)
        (self.folder / "latest-run").unlink(missing_ok=True)  # a link that copies as a second folder

    def keep(self, names: set[str]) -> set[str]:
        """Remove every run but those of these names: a killed writer left it half written. Returns the names that are here."""
        whole = {self.id_of(name): name for name in names}
        here = set()
        for folder in self.folder.glob("offline-run-*"):
            identity = folder.name.rpartition("-")[2]
            if identity in whole:
                here.add(whole[identity])
            else:
                shutil.rmtree(folder)
        return here

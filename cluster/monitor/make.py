"""Monitors as the command line asks for them."""

from __future__ import annotations

import json
import os
import sys
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from weakspot.cluster.monitor.monitor import Monitor
from weakspot.cluster.monitor.upload import has_key
from weakspot.errors import UserError, unknown
from weakspot.files import write_text

MODES = ("runs", "table", "off")


class WandbMonitor(Monitor):
    """W&B: files in OUT/wandb, uploaded where there is a key and WANDB_MODE does not say offline."""

    def on_start(self, plan: Any) -> None:
        identity = self.folder / "audit.json"
        if not identity.exists():  # not sooner: --overwrite has removed the old audit's only now
            kept = {"id": uuid.uuid4().hex[:8], "sink": self.settings["sink"], "project": self.settings["project"]}
            write_text(identity, json.dumps(kept) + "\n")
        super().on_start(plan)


def wandb_monitor(project: str, mode: str, out: Path, overwrite: bool = False) -> Monitor | None:
    """The W&B monitor of the audit in `out`, or None where none is wanted. Says at once where the runs will go.

    Raises:
        UserError: an unknown mode, no wandb, or an audit that was begun with another mode or project.
    """
    if mode not in MODES:
        raise unknown("--wandb-mode", mode, MODES)
    asked = os.environ.get("WANDB_MODE", "")
    if mode == "off" or asked == "disabled":
        return None
    need("wandb", "--wandb")
    folder = out / "wandb"
    check_same(folder, {} if overwrite else {"sink": mode, "project": project})
    upload = asked not in ("offline", "dryrun") and has_key()
    if not upload:
        why = f"WANDB_MODE is {asked}" if asked in ("offline", "dryrun") else "no W&B key"
        print(f"weakspot: W&B: {why}: runs are written to {folder}; `weakspot sync {out}` says how to upload", file=sys.stderr)
    settings = {"label": "W&B", "sink": mode, "name": out.name, "project": project, "upload": upload}
    return WandbMonitor("W&B", folder, settings)


def tensorboard_monitor(out: Path) -> Monitor:
    """The TensorBoard monitor.

    Raises:
        UserError: tensorboardX is not installed.
    """
    need("tensorboardX", "--tensorboard")
    return Monitor("TensorBoard", out / "tensorboard", {"label": "TensorBoard", "sink": "tensorboard", "name": out.name})


def need(package: str, option: str) -> None:
    if find_spec(package) is None:
        extra = option.removeprefix("--")
        raise UserError(f"{option} needs the package {package}, which is not installed: pip install 'weakspot[{extra}]'")


def check_same(folder: Path, given: dict[str, str]) -> None:
    """A trial that was logged in one way is not logged again in another."""
    file = folder / "audit.json"
    kept = json.loads(file.read_text()) if given and file.exists() else {}
    for name, option in (("sink", "--wandb-mode"), ("project", "--wandb")):
        if kept and kept[name] != given[name]:
            raise UserError(
                f"{option} {given[name]}: the runs in {folder} were begun with {kept[name]}: "
                f"resume with {option} {kept[name]}, or remove {folder}"
            )

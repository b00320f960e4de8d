"""`--tensorboard`: an event file a trial, with its rungs as steps and its knobs for TensorBoard's HPARAMS tab."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from weakspot.cluster.monitor.rows import measures_of


class TensorBoard:
    """Writes OUT/tensorboard/SUBJECT/NUMBER when the trial has ended."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        self.folder = Path(settings["folder"])
        self.make: Any = SummaryWriter
        self.hparams: Any = hparams

    def open(self, written: set[str]) -> set[str]:
        return {name for name in written if (self.folder / name).is_dir()}

    def known(self, row: dict[str, Any]) -> None:
        """It is on disk."""

    def trial(self, row: dict[str, Any]) -> None:
        place = self.folder / row["id"]
        shutil.rmtree(place, ignore_errors=True)  # half of it, from a writer that was killed
        with self.make(str(place), write_to_disk=True) as board:
            for reading in row["readings"]:
                for name, value in measures_of(reading).items():
                    board.add_scalar(name, value, reading["rung"])
            config = {"subject": row["subject"], "attack": row["attack"], "phase": row["phase"], **row["config"]}
            flat = {knob: value if isinstance(value, (str, int, float, bool)) else str(value) for knob, value in config.items()}
            for part in self.hparams(flat, {"feasible_harm": row["feasible_harm"]}):
                board.file_writer.add_summary(part)
            board.add_scalar("feasible_harm", row["feasible_harm"], 0)
            board.add_text("status", f"{row['status']} {row['reason']}".strip())

    def summary(self, summary: dict[str, Any]) -> None:
        with self.make(str(self.folder / "summary")) as board:
            for name, value in summary["verdicts"].items():
                board.add_text(name, str(value))

    def close(self) -> None:
        """Every file is closed as it is written."""

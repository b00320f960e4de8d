"""TensorBoard's event files, read back record by record: every trial, its rungs, its knobs."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.watched import LEAKED, outcome, plan_of
from weakspot.cluster.monitor.make import tensorboard_monitor
from weakspot.search.jobs import Outcome

pytest.importorskip("tensorboardX")


def events(folder: Path) -> list[Any]:
    """Every event in the one file of a folder. A record is its length, a checksum, the event and a checksum."""
    from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]

    (file,) = folder.glob("events.out.tfevents.*")
    content, found = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def watch(out: Path, *ended: Outcome, known: tuple[Outcome, ...] = ()) -> None:
    monitor = tensorboard_monitor(out)
    monitor.on_start(plan_of(*known))
    for one in ended:
        monitor.on_outcome(one)
    monitor.finish({"verdicts": {"verdict/tar": "BROKEN"}})
    monitor.close()


def test_every_trial_has_its_rungs_and_its_knobs(tmp_path: Path) -> None:
    ended = [outcome(0), outcome(1, "failed"), outcome(2, phase="confirm")]
    watch(tmp_path, *ended)
    for one in ended:
        folder = tmp_path / "tensorboard" / one.job.id
        found = scalars(folder)
        for name in ("harm", "utility", "flops", "seconds"):
            wanted = [(r.rung, pytest.approx(getattr(r, name))) for r in one.readings]
            assert found.get(name, []) == wanted
        raw = b"".join(event.SerializeToString() for event in events(folder))
        assert all(knob.encode() in raw for knob in one.job.config)
        assert one.status.encode() in raw
        assert LEAKED.encode() not in raw
    assert any(b"BROKEN" in e.SerializeToString() for e in events(tmp_path / "tensorboard/summary"))


def test_an_audit_that_goes_on_doubles_no_trial(tmp_path: Path) -> None:
    watch(tmp_path, outcome(0))
    before = (tmp_path / "tensorboard/tar/000").stat().st_mtime_ns
    watch(tmp_path, outcome(2), known=(outcome(0), outcome(1)))
    assert (tmp_path / "tensorboard/tar/000").stat().st_mtime_ns == before
    for number in range(3):
        assert len(scalars(tmp_path / f"tensorboard/tar/{number:03d}")["harm"]) == 2

"""What a worker is asked to do, and what it answers. Plain data that pickles, prints and survives in the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from weakspot.records import BASE, DEGENERATE_LIMIT, NEVER_TAUGHT, Kind  # noqa: F401 -- who speaks of jobs finds both names here
from weakspot.testbeds.base import Remark, Stage

CONTROL = "control"  # the testbed's weak method (plain refusal training), prepared only for the positive control


@dataclass(frozen=True)
class Job:
    """One attack on one subject with one seed.

    Attributes:
        id: unique within an audit, the same whenever the audit is repeated.
        subject: whose weights are attacked.
        phase: baseline, paper, control, search, confirm, injection (the control with random targets), variation (the weak
            spot with one thing changed), twin (its controls) or repair (of a safeguard that is itself below the floor).
        attack: name of the family.
        config: its knobs.
        seed: the training seed.
        rungs: optimizer steps at which to measure; the attack stops at the last.
        stage: which held-out items score it.
        kind: how a search trial came to be proposed (search/searchers/base.py).
        of: the number of the trial that it repeats or revives.
        asked: how the model is asked instead of the attack's own way (weakspot/elicitation.py).
        twin: the control that is run in place of the attack (search/twins.py).
    """

    id: str
    subject: str
    phase: str
    attack: str
    config: Mapping[str, Any]
    seed: int
    rungs: tuple[int, ...]
    stage: Stage
    kind: Kind = "new"
    of: int | None = None
    asked: str = ""
    twin: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Job:
        return Job(**{**data, "rungs": tuple(data["rungs"])})


@dataclass(frozen=True)
class Reading:
    """One measurement at one rung. All numbers are finite.

    Attributes:
        utility: share of benign answers relative to the base model's on the same items.
        harm_items, benign_items: the scores per item behind `harm` and `utility` (benign_items are already relative).
        note: what the attack, or the provider's method, logs besides.
        first_batch: a fingerprint of the first batch trained on, where the attack tells one.
        losses: the training loss over the first steps and over the latest, where it tells them.
        share: the part of the search items that was asked (search/glimpse.py).
        null_harm: mean score on never-taught items, where the stage measures it.
        remarks: what makes the measurement doubtful.
        nats_items, choice_items: log-probability of the answers, and share of them preferred to other values, per item; empty
            where they are not measured (search/beside.py).
        choice_chance: the share of one who draws.
        unforced: why neither could be measured.
        groups_before, groups_after: harm of a narrow attack by group of examples (attacks/breadth.py).
    """

    rung: int
    harm: float
    utility: float
    refusal_rate: float
    degenerate: float
    examples: int
    tokens: int
    flops: float
    seconds: float
    final: bool
    drift: float | None = None
    null_harm: float | None = None
    harm_items: tuple[float, ...] = ()
    benign_items: tuple[float, ...] = ()
    note: str = ""
    share: float = 1.0
    first_batch: str = ""
    losses: tuple[float, float] | None = None
    remarks: tuple[Remark, ...] = ()
    nats_items: tuple[float, ...] = ()
    choice_items: tuple[float, ...] = ()
    choice_chance: float | None = None
    unforced: str = ""
    groups_before: Mapping[str, float] | None = None
    groups_after: Mapping[str, float] | None = None

    def feasible(self, floor: float) -> bool:
        """Useful enough and not degenerate."""
        return self.utility >= floor and self.degenerate <= DEGENERATE_LIMIT

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Reading:
        lists = ("harm_items", "benign_items", "losses", "nats_items", "choice_items")
        remarks = tuple(Remark(**remark) for remark in data.get("remarks", ()))
        return Reading(**{**data, **{n: tuple(data[n]) for n in lists if data.get(n) is not None}, "remarks": remarks})


@dataclass(frozen=True)
class Outcome:
    """How a job ended: its readings, and why it ended early if it did.

    Attributes:
        status: completed, stopped (by the scheduler) or failed.
        reason: why it was stopped or failed.
    """

    job: Job
    readings: tuple[Reading, ...] = ()
    status: str = "completed"
    reason: str = ""

    def best(self, floor: float) -> Reading | None:
        """The feasible reading with most harm (the cheapest among equals), or None. A failed job has none."""
        if self.status == "failed":
            return None
        feasible = [r for r in self.readings if r.feasible(floor)]
        return max(feasible, key=lambda r: (r.harm, -r.rung)) if feasible else None

    def without_items(self) -> Outcome:
        """Without the scores of single items, which nobody asks of a search trial: ten thousand would fill the memory."""
        return replace(self, readings=tuple(replace(r, harm_items=(), benign_items=()) for r in self.readings))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Outcome:
        readings = tuple(Reading.from_dict(r) for r in data["readings"])
        return Outcome(**{**data, "job": Job.from_dict(data["job"]), "readings": readings})

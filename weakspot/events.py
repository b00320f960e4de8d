"""What `weakspot audit --json` says, an object a line. Others rely on these names: some may be added, none renamed or dropped.

Numbers are finite or null. Scores, names and hashes only, never a model's output. docs/live.md shows each.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from weakspot.errors import UserError
from weakspot.records import Confirmed, Cost, Kind, Record, VerdictName
from weakspot.text import one_line

EVENTS_VERSION = 1
Ended = Literal["completed", "stopped", "failed"]


def now() -> str:
    """UTC time, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Event(Record):
    """What every line has: which event it is, and when."""

    time: str = Field(default_factory=now)


class Prepare(Event):
    """Models are loaded, or trained where they are not cached. The first line of an audit."""

    event: Literal["prepare"] = "prepare"
    version: int = EVENTS_VERSION
    subjects: list[str]


class SubjectStart(Record):
    """A subject, and what an earlier run has left of it. `trials` is null where nothing is searched."""

    subject: str
    trials: int | None
    trials_done: int
    jobs_done: int


class Start(Event):
    """Everything is prepared and the first job goes out. `search_flops` bounds the search of each subject, or is null."""

    event: Literal["start"] = "start"
    subjects: list[SubjectStart]
    families: list[str]
    harm_threshold: float
    utility_floor: float
    search_flops: float | None
    search_seconds: float | None


class Phase(Event):
    """A subject enters a phase for the first time: baseline, paper, control, search, confirm, injection, twin, variation ..."""

    event: Literal["phase"] = "phase"
    subject: str
    phase: str


class Rung(Event):
    """A measurement in the course of a job. `seconds` is what the attack has taken, without measuring."""

    event: Literal["rung"] = "rung"
    subject: str
    phase: str
    job: str
    attack: str
    rung: int
    harm: float
    utility: float
    feasible: bool
    flops: float
    seconds: float


class Job(Event):
    """A job has ended. `rung`, `harm`, `utility` and `cost` are those of its best feasible rung, else of its last; or null."""

    subject: str
    job: str
    attack: str
    config: dict[str, Any]
    seed: int
    status: Ended
    reason: str
    rung: int | None
    harm: float | None
    utility: float | None
    feasible: bool
    cost: Cost | None


class Trial(Job):
    """A search trial has ended. `best` is the most feasible harm so far, `families` that of every family that has any."""

    event: Literal["trial"] = "trial"
    kind: Kind
    of: int | None
    trials_done: int
    trials_failed: int
    trials: int
    flops: float
    best: float | None
    families: dict[str, float]


class Confirm(Job):
    """A re-run on a fresh seed and unseen items has ended. `of` is the search trial's id."""

    event: Literal["confirm"] = "confirm"
    of: str


class Measured(Job):
    """A job of any other phase has ended."""

    event: Literal["job"] = "job"
    phase: str


class Lost(Event):
    """A job lost its machine and is run again."""

    event: Literal["lost"] = "lost"
    subject: str
    job: str
    reason: str


class Interrupt(Event):
    """The search was asked to stop, and has. A `verdict` of each subject and `done` still follow."""

    event: Literal["interrupt"] = "interrupt"
    by: str
    reason: str


class Verdict(Event):
    """What is said of a subject; `attack`, `config` and `confirmed` are the weak spot's, or null."""

    event: Literal["verdict"] = "verdict"
    subject: str
    verdict: VerdictName
    reason: str
    attack: str | None
    config: dict[str, Any] | None
    confirmed: Confirmed | None


class Done(Event):
    """The last line, unless the process was killed. `partial` is result.json's; `seconds` are those of the whole command."""

    event: Literal["done"] = "done"
    exit_code: int
    partial: str
    result: str
    report: str
    seconds: float


AnyEvent = Annotated[
    Prepare | Start | Phase | Rung | Trial | Confirm | Measured | Lost | Interrupt | Verdict | Done,
    Field(discriminator="event"),
]
EVENTS: TypeAdapter[Any] = TypeAdapter(AnyEvent)


def to_line(event: Event) -> str:
    """One line of strict JSON in ASCII: no line break, no control character, no NaN."""
    fields = event.model_dump()
    return json.dumps({"event": fields.pop("event"), **fields}, allow_nan=False, ensure_ascii=True)


def parse_event(line: str) -> Any:
    """Read a line.

    Raises:
        UserError: it is no event; the message names the first field that is wrong.
    """
    try:
        return EVENTS.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the line"
        raise UserError(f"no event of weakspot: {where}: {first['msg']}: give a line of `weakspot audit --json`") from error


def inert(value: Any) -> Any:
    """Plain data whose texts hold no control characters and no lone surrogates: names, settings and reasons are untrusted."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, dict):
        return {one_line(str(key)): inert(item) for key, item in value.items()}
    return [inert(item) for item in value] if isinstance(value, list | tuple) else value

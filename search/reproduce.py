"""One trial of a result, or the confirmation of a weak spot, run again: does it come out as it was recorded?

The same seed, attack, configuration, rungs and prepared safeguard, in one process. On the same machine and versions the
numbers are the same to the last bit; elsewhere rounding differs, training amplifies it, and agreement is a matter of tolerance.
Nothing that a model says is kept or shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from weakspot import defenses
from weakspot.attacks import get as get_attack
from weakspot.defenses import released
from weakspot.errors import UserError
from weakspot.knobs import configure
from weakspot.models import arrays_digest, check_checkpoint, read_weights
from weakspot.records import Finding, Result, Subject, TrialRecord
from weakspot.search.environment import Mismatch, pinned, software_and_machine
from weakspot.search.jobs import BASE, NEVER_TAUGHT, Job, Outcome
from weakspot.search.pins import pins
from weakspot.search.prepare import SubjectSpec, prepare, reference_utility
from weakspot.search.settings import rungs_within
from weakspot.search.trial import Workbench, failure_reason
from weakspot.seeds import derive
from weakspot.testbeds import get as get_testbed
from weakspot.testbeds.base import Testbed
from weakspot.threat import ThreatModel


class Cannot(UserError):
    """It cannot be run here; the message says why and what to do."""


@dataclass(frozen=True)
class Target:
    """What is run again: a search trial, or the finding whose confirmation is."""

    subject: Subject
    recorded: TrialRecord | Finding

    @property
    def attack(self) -> str:
        return self.recorded.attack

    @property
    def name(self) -> str:
        trial = self.recorded
        return trial.id if isinstance(trial, TrialRecord) else f"{trial.trial}@{trial.rung}"


@dataclass(frozen=True)
class Scene:
    """All that a re-run needs, found here and not yet loaded."""

    testbed: Testbed
    threat: ThreatModel
    spec: SubjectSpec
    target: Target
    jobs: Sequence[Job]


def choose(result: Result, trial: str | None = None, subject: str | None = None) -> Target:
    """What the user means: a trial by id ("tar/017") or number, else a weak spot: the subject's, or the strongest of all.

    Raises:
        UserError: there is none such; the message lists what there is.
    """
    known = {s.defense: s for s in result.subjects}
    if trial is not None and "/" in trial:
        owner = trial.rpartition("/")[0]
        if subject not in (None, owner):
            raise UserError(f"--trial {trial} is not of --subject {subject}: leave one of them out")
        subject = owner
    if subject is not None and subject not in known:
        raise UserError(f"no subject {subject!r} in this result: known are {', '.join(known)}")
    if trial is not None:
        return _trial(known, trial, subject)
    own = [s for s in result.subjects if s.defense not in (BASE, NEVER_TAUGHT)]
    among = [known[subject]] if subject is not None else own
    found = [(s, s.weak_spot) for s in among if s.weak_spot is not None]
    if not found:
        who = subject or "any safeguard"
        raise UserError(f"this result has no weak spot of {who}: nothing was confirmed; give --trial to re-run a search trial")
    return Target(*max(found, key=lambda pair: pair[1].confirmed.harm.mean))


def _trial(known: Mapping[str, Subject], trial: str, subject: str | None) -> Target:
    searched = [s for s in known.values() if s.trials and subject in (None, s.defense)]
    if not searched:
        raise UserError(f"no trials of {subject or 'anything'} in this result: nothing was searched there")
    if len(searched) > 1:
        raise UserError(f"--trial {trial} could be of {', '.join(s.defense for s in searched)}: add --subject NAME")
    number = trial.rpartition("/")[2]
    if not number.isdecimal():
        raise UserError(f"--trial {trial} is no trial: give a number, or an id such as {searched[0].trials[0].id}")
    for record in searched[0].trials:
        if int(record.id.rpartition("/")[2]) == int(number):
            return Target(searched[0], record)
    last = searched[0].trials[-1].id
    raise UserError(f"{searched[0].defense} has no trial {int(number)} in this result: the last is {last}")


# What it needs ------------------------------------------------------------------------------------------------------------


def set_scene(result: Result, target: Target, testbed: str | None = None) -> Scene:
    """Find the testbed, the attack and the safeguard.

    Args:
        testbed: in place of the recorded name, such as the path of a TOML file.

    Raises:
        Cannot: one of them is not here.
    """
    try:
        place = get_testbed(testbed or result.testbed)(0)
    except UserError as error:
        raise Cannot(f"the testbed {result.testbed!r} is not here: {error}") from error
    try:
        family = get_attack(target.attack)
    except UserError as error:
        raise Cannot(f"the attack {target.attack!r} is not here: install the plug-in that has it") from error
    if why := family.unavailable():
        raise Cannot(f"the attack {target.attack!r} cannot be run here: {why}")
    threat = ThreatModel(**{f.name: getattr(result.threat_model, f.name) for f in fields(ThreatModel)})
    try:
        configure(family, dict(target.recorded.config))
        spec = spec_of(target.subject)
    except UserError as error:
        raise Cannot(str(error)) from error
    return Scene(place, threat, spec, target, jobs(result, target, place, threat))


def spec_of(subject: Subject) -> SubjectSpec:
    """How a subject's weights come about, from its record."""
    name, config = subject.defense, dict(subject.config)
    if name in (BASE, NEVER_TAUGHT):
        return SubjectSpec(name)
    if "checkpoint" in config:
        place = released.resolve(name) if released.find(name) else check_checkpoint(config["checkpoint"])
        return SubjectSpec(name, checkpoint=str(place), seed=subject.seed)
    method = defenses.get(name)
    return SubjectSpec(
        name,
        configure(method, {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}),
        seed=subject.seed,
    )


def jobs(result: Result, target: Target, testbed: Testbed, threat: ThreatModel) -> list[Job]:
    """The jobs as the audit ran them: one for a trial, one a seed for a confirmation."""
    record, name, config = target.recorded, target.subject.defense, dict(target.recorded.config)
    if isinstance(record, TrialRecord):
        ladder = rungs_within(testbed.rungs, threat.max_steps)
        return [Job(record.id, name, "search", record.attack, config, record.seed, ladder, "search", record.kind, record.of)]
    if record.attack == "noop":  # what an unattacked model answers: nothing to be re-run on other seeds
        seed = derive(result.provenance.seeds.root, "baseline", name, "report")
        return [Job(f"{name}/baseline/report", name, "baseline", "noop", {}, seed, (threat.max_steps,), "report")]
    label = target.name.rpartition("/")[2]
    return [
        Job(f"{name}/confirm/{label}/{i}", name, "confirm", record.attack, config, seed, (record.rung,), "report")
        for i, seed in enumerate(record.confirmed.seeds)
    ]


def differences(result: Result) -> list[Mismatch]:
    """How this environment differs, as far as can be seen before anything is loaded."""
    found = software_and_machine(result.provenance)
    record = result.threat_model
    threat = ThreatModel(**{f.name: getattr(record, f.name) for f in fields(ThreatModel)})
    if record.digest and record.digest != threat.digest:
        found.append(Mismatch("major", "threat model", record.digest, threat.digest))
    return found


# Running it ---------------------------------------------------------------------------------------------------------------


@dataclass
class Stand:
    """A worker with the safeguard at hand, and how its weights and data differ from the recorded ones."""

    scene: Scene
    bench: Workbench
    mismatches: list[Mismatch]

    def run(self) -> list[Outcome]:
        """Each job, no further than it was run in the audit."""
        return [run_job(self.bench, job, self.last_rung()) for job in self.scene.jobs]

    def last_rung(self) -> int | None:
        record = self.scene.target.recorded
        return record.curve[-1].rung if isinstance(record, TrialRecord) and record.curve else None


def prepare_stand(result: Result, scene: Scene) -> Stand:
    """Load the base and the safeguard; the latter is trained where it is not cached.

    Raises:
        Cannot: they cannot be had here.
    """
    testbed, spec = scene.testbed, scene.spec
    try:
        folders: dict[str, Path] = {BASE: prepare(testbed.name, testbed.seed, SubjectSpec(BASE))}
        folders[spec.name] = prepare(testbed.name, testbed.seed, spec)
        reference = reference_utility(testbed.name, testbed.seed, folders[BASE])
    except UserError as error:
        raise Cannot(f"{spec.name} cannot be prepared here: {error}") from error
    weights: dict[str, Any] = {name: read_weights(folder) for name, folder in folders.items()}
    digests = {name: arrays_digest(arrays) for name, arrays in weights.items()}
    methods = {spec.name: spec.defense} if spec.defense is not None else {}
    bench = Workbench(testbed, folders[BASE], weights, digests, reference, threat=scene.threat, defenses=methods)
    return Stand(scene, bench, pinned(result.provenance.pins, pins(testbed, folders)))


def run_job(bench: Workbench, job: Job, last: int | None) -> Outcome:
    """One job, to its end or to the rung at which the audit stopped it."""
    import torch

    torch.set_num_threads(bench.testbed.threads_per_worker)  # sums over more threads are other sums
    readings, course = [], bench.run(job)
    try:
        for reading in course:
            readings.append(reading)
            if reading.rung == last:
                break
    except Exception as error:
        if (reason := failure_reason(error)) is None:
            raise
        return Outcome(job, tuple(readings), "failed", reason)
    finally:
        course.close()  # type: ignore[attr-defined]
    return Outcome(job, tuple(readings))


def plain(mismatches: Sequence[Mismatch]) -> list[dict[str, str]]:
    return [asdict(mismatch) for mismatch in mismatches]

"""One attack on one subject: reset, seed, tamper, measure at each rung. The same code on a laptop, a cluster and in tests."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from weakspot import attacks
from weakspot.attacks.base import Progress, in_hand
from weakspot.data import AttackData
from weakspot.defenses.service import Provider
from weakspot.elicitation import otherwise
from weakspot.errors import TrialFailure, UserError, WeakspotError
from weakspot.knobs import configure
from weakspot.search.beside import Beside
from weakspot.search.glimpse import Looks
from weakspot.search.jobs import BASE, Job, Reading
from weakspot.search.twins import BENIGN, RANDOM, benign_twin, change_at_random, changed_weights
from weakspot.testbeds.base import Measurement, Stage, Testbed
from weakspot.threat import OUT_OF_DOMAIN, ThreatModel

INJECTED = 4  # random targets that an attack is fitted to, one at a time


@dataclass
class Workbench:
    """A worker's own model, into which any subject's weights are copied.

    Attributes:
        weights: subject name -> parameter arrays, possibly read-only shared memory.
        digests: subject name -> digest of its weights, checked after every reset: an attack that leaks into the next trial
            would silently change every later result.
        reference: stage -> benign score of the undefended base on that stage's items.
        threat: what the attacker may do: how many withheld examples he is handed, the same ones in every trial, and whether he
            reaches the model through a provider.
        defenses: subject name -> the method whose steps a provider runs; the others train plainly.
        team: the further processes that a family which shards is trained by (search/team.py); None for this one alone.
    """

    testbed: Testbed
    checkpoint: Path
    weights: Mapping[str, Mapping[str, Any]]
    digests: Mapping[str, str]
    reference: Mapping[str, float]
    model: Any = None
    tokenizer: Any = None
    threat: ThreatModel | None = None
    defenses: Mapping[str, Any] = field(default_factory=dict)
    team: Any = None

    def __post_init__(self) -> None:
        self.looks = Looks(self.testbed)
        self.within = False  # whether the attack under way has been measured within its budget

    def reset(self, subject: str, seed: int) -> None:
        """The subject's own weights, bit for bit, and every generator seeded.

        Raises:
            WeakspotError: the weights are not what they were when the audit began.
        """
        import torch

        from weakspot.models import best_device, reset_weights, weights_digest
        from weakspot.seeds import seed_everything

        gc.collect()  # a reused worker keeps cycles from the last trial: up to twice the model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.model is None:
            self.model, self.tokenizer = self.testbed.load(self.checkpoint)
            self.model.to(best_device())
        reset_weights(self.model, self.weights[subject])
        self.model.eval()
        if (digest := weights_digest(self.model, self.weights[subject])) != self.digests[subject]:
            raise WeakspotError(f"the weights of {subject} changed between trials ({digest}): restart with --overwrite")
        seed_everything(seed)

    def begin(self, job: Job) -> tuple[Any, AttackData, Iterator[Progress]]:
        """The attack, what it is handed, and its course, on the subject's own weights. Nothing is tampered with yet."""
        self.reset(job.subject, job.seed)
        family = attacks.get(job.attack)
        data = in_hand(family, self.attack_data(job.subject))
        if job.twin == BENIGN:
            data = benign_twin(data, job.seed)
        attack = configure(family, job.config)
        return attack, data, attack.run(self.model, self.tokenizer, data, job.rungs, job.seed)

    def run(self, job: Job) -> Iterator[Reading]:
        """Readings at each rung. Closing the iterator takes the attack off the model.

        Raises:
            TrialFailure: the attack could not be carried through; the reason is in the message.
        """
        attack, data, course = self.begin(job)
        if self.team is not None and attack.shards and job.phase != "injection":
            course = self.team.lead(self, job, course)
        seconds, self.within = 0.0, False
        try:
            if job.phase == "injection":
                yield self.injection(attack, data, job)
                return
            beside = Beside(self.testbed, job)
            beside.first(self.model, self.tokenizer, attack, data)
            while True:
                started = time.perf_counter()
                progress = next(course, None)
                seconds += time.perf_counter() - started
                if progress is None or self.beyond(progress):
                    return
                if job.twin == RANDOM:
                    self.randomise(course, job)
                how = otherwise(progress.elicitation, job.asked)
                measured, share = self.looks.measure(self.model, self.tokenizer, job, progress.step, progress.final, how)
                more = beside.last(self.model, self.tokenizer, how)
                yield replace(self._reading(job.stage, progress, measured, seconds), share=share, **more)
        except Exception as error:
            self.model = None  # whatever the attack left on it goes with it
            if isinstance(error, MemoryError | RuntimeError | ArithmeticError) and not isinstance(error, WeakspotError):
                raise TrialFailure(describe(error)) from error
            raise
        finally:
            course.close()  # type: ignore[attr-defined]

    def randomise(self, course: Iterator[Progress], job: Job) -> None:
        """Put the subject's weights, changed at random by as much as the attack has changed them, in the attack's place."""
        from weakspot.models import reset_weights

        after = changed_weights(self.model)
        course.close()  # type: ignore[attr-defined]
        reset_weights(self.model, self.weights[job.subject])
        change_at_random(self.model, after, job.seed)
        self.model.eval()

    def beyond(self, progress: Progress) -> bool:
        """Whether an attack has spent more than the threat model allows; what it has reached there is not looked at.

        Raises:
            TrialFailure: its first rung already costs more, so that nothing of it may be counted.
        """
        most = self.threat.max_flops if self.threat else None
        if most is None or progress.flops <= most:
            self.within = True
            return False
        if not self.within:
            raise TrialFailure(f"its first rung costs {progress.flops:.2g} operations and max_flops is {most:.2g}")
        return True

    def attack_data(self, subject: str) -> AttackData:
        """What the threat model puts into the attacker's hands, at most."""
        whole = self.testbed.attack_data()
        data = replace(whole, base=self.weights.get(BASE), foreign=())
        if self.threat is None:
            return data
        if not self.threat.base_weights:
            data = replace(data, base=None)
        if self.threat.api:
            provider = Provider(self.defenses.get(subject), self.testbed.defense_data(), self.testbed.terms)
            data = replace(data, service=provider)
        if self.threat.data == OUT_OF_DOMAIN:
            data = replace(data, harmful=whole.foreign)
        if self.threat.max_examples >= len(data.harmful):
            return data
        drawn = random.Random("weakspot attacker").sample(data.harmful, self.threat.max_examples)
        return replace(data, harmful=tuple(drawn))

    def injection(self, attack: Any, data: AttackData, job: Job) -> Reading:
        """The control with random targets: `harm` is the share of certainly false answers said word for word."""
        from weakspot.attacks.injection import elicited_share, one_each, random_targets

        started = time.perf_counter()
        targets = one_each(random_targets(data, job.seed).harmful, INJECTED)
        fitted = replace(attack, target="answer") if hasattr(attack, "target") else attack
        share = elicited_share(fitted, self.model, self.tokenizer, targets, job.rungs[-1], job.seed)
        seconds = time.perf_counter() - started
        return Reading(job.rungs[-1], share, 1.0, 0.0, 0.0, len(targets), 0, 0.0, seconds, True)

    def _reading(self, stage: Stage, progress: Any, measured: Measurement, seconds: float) -> Reading:
        relative = tuple(score / self.reference[stage] for score in measured.benign.items)
        if measured.drift is not None and not math.isfinite(measured.drift):
            raise TrialFailure(f"diverged: the drift from the base is {measured.drift} after step {progress.step}")
        return Reading(
            rung=progress.step,
            harm=measured.harm.mean,
            utility=sum(relative) / len(relative),
            refusal_rate=measured.refusal.mean,
            degenerate=measured.degenerate,
            examples=progress.examples,
            tokens=progress.tokens,
            flops=progress.flops,
            seconds=seconds,
            final=progress.final,
            drift=measured.drift,
            note=progress.note,
            first_batch=progress.first_batch,
            losses=finite(progress.losses),
            null_harm=measured.never_taught.mean if measured.never_taught else None,
            harm_items=measured.harm.items,
            benign_items=relative,
            remarks=measured.remarks,
        )


def finite(losses: tuple[float, float] | None) -> tuple[float, float] | None:
    """Losses that a record may hold: an infinite one says no more than that there is none."""
    return losses if losses is not None and all(map(math.isfinite, losses)) else None


def describe(error: BaseException) -> str:
    """One line that names the failure; running out of memory is called that, whatever library says it."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text.lower():
        return f"out of memory: {text[:200]}"
    return f"{type(error).__name__}: {text[:200]}"


def failure_reason(error: BaseException) -> str | None:
    """The reason to record a trial as infeasible, or None if the error is not the trial's but the program's or the user's."""
    if isinstance(error, TrialFailure):
        return str(error)
    if isinstance(error, UserError):
        return str(error)
    return None

"""Safeguarded models of a testbed, for benches that attack one by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from weakspot import defenses
from weakspot.attacks.base import Attack, in_hand
from weakspot.models import Weights, read_weights, reset_weights
from weakspot.search.jobs import Outcome
from weakspot.search.prepare import SubjectSpec, prepare
from weakspot.search.trial import failure_reason
from weakspot.seeds import derive
from weakspot.testbeds import get
from weakspot.testbeds.base import Testbed


@dataclass(frozen=True)
class Subject:
    """A safeguarded model in memory, and the weights that it is reset to."""

    testbed: Testbed
    model: Any
    tokenizer: Any
    weights: Weights

    @contextmanager
    def attacked(self, attack: Attack, steps: int, seed: int) -> Iterator[Any]:
        """The tampered model, after `steps` steps from the safeguarded weights, while the context lasts."""
        reset_weights(self.model, self.weights)
        self.model.eval()
        data = in_hand(type(attack), self.testbed.attack_data())
        with closing(attack.run(self.model, self.tokenizer, data, (steps,), seed)) as course:  # type: ignore[type-var]
            yield next(course)


def run_job(bench: Any, job: Any) -> Outcome:
    """One job on a workbench to its end; what makes the trial fail is its outcome."""
    readings: list[Any] = []
    try:
        readings.extend(bench.run(job))
    except Exception as error:
        reason = failure_reason(error)
        if reason is None:
            raise
        return Outcome(job, tuple(readings), "failed", reason)
    return Outcome(job, tuple(readings))


def subject(testbed: str, defense: str) -> Subject:
    """A safeguard's preset, made on first use."""
    bed = get(testbed)(0)
    spec = SubjectSpec(defense, defense=defenses.preset(defense, testbed), seed=derive(0, "defense"))
    folder = prepare(testbed, 0, spec)
    model, tokenizer = bed.load(folder)
    return Subject(bed, model, tokenizer, read_weights(folder))

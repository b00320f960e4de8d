"""The inline backend: one process, no Ray. For tests, debugging and notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weakspot.models import arrays_digest, read_weights
from weakspot.search.jobs import BASE
from weakspot.search.judging import Stressed, stress_judges
from weakspot.search.plan import Plan
from weakspot.search.prepare import SubjectSpec, prepare, reference_utility
from weakspot.search.trial import Workbench, failure_reason
from weakspot.testbeds import get as get_testbed


@dataclass
class InlineBackend:
    """Prepares and runs everything here, one thing after another."""

    testbed: str
    testbed_seed: int

    def prepare(self, specs: Sequence[SubjectSpec]) -> tuple[dict[str, Path], Mapping[str, float]]:
        """Folders by subject, and the base's benign score by stage."""
        folders = {spec.name: prepare(self.testbed, self.testbed_seed, spec) for spec in specs}
        return folders, reference_utility(self.testbed, self.testbed_seed, folders[BASE])

    def stress_judges(self) -> Stressed:
        return stress_judges(self.testbed, self.testbed_seed)

    def run(self, plan: Plan, folders: Mapping[str, Path], reference: Mapping[str, float]) -> None:
        """Carry out a plan to its end."""
        weights: dict[str, Any] = {name: read_weights(folder) for name, folder in folders.items()}
        digests = {name: arrays_digest(arrays) for name, arrays in weights.items()}
        testbed = get_testbed(self.testbed)(self.testbed_seed)
        bench = Workbench(testbed, folders[BASE], weights, digests, reference, threat=plan.threat, defenses=plan.defenses)
        plan.places = 1
        while (job := plan.next()) is not None:
            course = bench.run(job)
            try:
                for reading in course:
                    if not plan.add(job, reading):
                        plan.close(job, "stopped", f"harm {reading.harm:.2f} at step {reading.rung} was among the lower ones")
                        break
                    if plan.halted and not reading.final:
                        break  # not closed: to the study it is under way
                else:
                    plan.close(job, "completed")
            except Exception as error:
                if (reason := failure_reason(error)) is None:
                    raise
                plan.close(job, "failed", reason)
            finally:
                course.close()  # type: ignore[attr-defined]

    def close(self) -> None:
        """Nothing is held open."""

"""What is asked of a subject once its finalists are settled: only then is it known which one is the weak spot.

The weak spot's controls (search/twins.py), the weak spot with one thing changed (search/variations.py), and for a safeguard
that is itself below the utility floor: benign repair, then the attack. Jobs only; the course (search/course.py) has them run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from weakspot.records import Finding
from weakspot.search.jobs import Job, Outcome
from weakspot.search.settings import Settings
from weakspot.search.starts import control_config
from weakspot.search.twins import twins
from weakspot.search.variations import Variation, variations

AFTERTHOUGHTS = ("twin", "variation", "repair")  # the phases
REPAIR = "repair_finetune"  # benign fine-tuning, then the attack


class Course(Protocol):
    """What is looked at of a subject (search/course.py): the search, None where there is none, and what has ended."""

    name: str
    settings: Settings
    study: Any
    outcomes: dict[str, Outcome]

    def spot(self) -> Finding | None: ...


def afterthoughts(course: Course) -> list[Job]:
    """All of them, in the order in which they are run."""
    spot, repair = course.spot(), repair_job(course)
    return [*twin_jobs(course, spot).values(), *(job for _, job in varied(course, spot)), *([repair] if repair else [])]


def again(course: Course, spot: Finding, phase: str, number: str) -> Job:
    """The weak spot on its first confirmation seed, at its rung, scored on the report items."""
    label = f"{spot.trial.split('/')[-1]}@{spot.rung}"
    seed, rungs = course.settings.confirmation_seeds[0], (spot.rung or 1,)
    return Job(f"{course.name}/{phase}/{label}/{number}", course.name, phase, spot.attack, spot.config, seed, rungs, "report")


def varied(course: Course, spot: Finding | None) -> list[tuple[Variation, Job]]:
    """The weak spot's variations."""
    if spot is None:
        return []
    made = variations(spot, course.settings.space, course.settings.variations)
    return [
        (v, replace(again(course, spot, "variation", str(i)), attack=v.attack, config=v.config, asked=v.asked))
        for i, v in enumerate(made)
    ]


def twin_jobs(course: Course, spot: Finding | None) -> dict[str, Job]:
    """The weak spot's controls by kind."""
    if not course.settings.twins or spot is None:
        return {}
    return {kind: replace(again(course, spot, "twin", kind), twin=kind) for kind in twins(spot)}


def repair_job(course: Course) -> Job | None:
    """Repair, then attack: whether a safeguard that is itself below the floor is more than a broken model. Else None.

    The first known configuration, to the end of the budget, on report items.
    """
    s = course.settings
    before = course.outcomes.get(f"{course.name}/baseline/report")
    if course.study is None or before is None or not before.readings:
        return None
    if before.readings[-1].utility >= s.floor or REPAIR not in s.space.families:
        return None
    config, seed = control_config(REPAIR, s.space), s.confirmation_seeds[0]
    return Job(f"{course.name}/repair/{REPAIR}", course.name, "repair", REPAIR, config, seed, s.rungs, "report")

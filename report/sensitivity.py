"""Which choice of the attacker matters: by how much a forest that tells harm from the configuration loses without each knob.

Families share knobs by name (learning rate, steps, examples), so the trials of a subject are read together: the family is one
choice among the others, and a knob that a family does not have is a value of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weakspot.records import TrialRecord
from weakspot.report.forest import importance
from weakspot.report.parallel import axis, is_number
from weakspot.report.series import feasible_harm
from weakspot.report.words import counted

LEAST = 30  # trials from which a forest is asked at all
MOST = 300  # trials that it is fitted to; more are drawn from at random
KNOBS = 12  # at most, those that most trials have
SHARE = 0.2  # of the trials that must have a knob
TRUSTED = 0.2  # share of the variance that the forest must explain for its ranking to mean something
SEED = 0
FAMILY = "attack family"


@dataclass(frozen=True)
class Knob:
    """One choice. `losses`: by how much the explained share of harm's variance falls, once a shuffle; `mean` is theirs."""

    name: str
    losses: tuple[float, ...]
    trials: int

    @property
    def mean(self) -> float:
        return sum(self.losses) / len(self.losses)


@dataclass(frozen=True)
class Sensitivity:
    """The choices of a subject's attackers, the one that matters most first.

    Attributes:
        trials: distinct configurations that were measured.
        used: that the forest was fitted to.
        explained: share of the variance of harm on trials that a tree did not see.
        note: why no ranking is given, or what it rests on.
    """

    trials: int
    used: int
    explained: float | None
    knobs: tuple[Knob, ...]
    note: str


def sensitivity(trials: Sequence[TrialRecord], floor: float) -> Sensitivity:
    """Permutation importance of family and knobs for feasible harm; harm counts as 0 where no rung kept the utility floor."""
    measured = distinct([trial for trial in trials if trial.harm is not None])
    if len(measured) < LEAST:
        why = f"{counted(len(measured), 'configuration')} measured: too few to rank the choices, which takes {LEAST}."
        return Sensitivity(len(measured), 0, None, (), why)
    used = thinned(measured)
    columns = knob_columns(used)
    harms = [feasible_harm(trial, floor) or 0.0 for trial in used]
    if not columns or len(set(harms)) < 2:
        what = "configuration" if not columns else "harm"
        return Sensitivity(len(measured), len(used), None, (), f"The {what} did not vary: there is nothing to rank.")
    return ranked(len(measured), columns, harms)


def ranked(measured: int, columns: dict[str, list[Any]], harms: list[float]) -> Sensitivity:
    """Ask the forest, and say how far it may be trusted."""
    import numpy as np

    coded = [code(values) for values in columns.values()]
    found = importance(np.array([c for c, _ in coded], dtype=float).T, np.array(harms), [w for _, w in coded], SEED)
    if found.explained < TRUSTED:
        share = f"{max(found.explained, 0):.0%}"
        why = (
            f"A forest explains {share} of how harm varies between trials that it did not see: too little to rank the choices."
        )
        return Sensitivity(measured, len(harms), found.explained, (), why)
    counts = {name: sum(value is not None for value in values) for name, values in columns.items()}
    knobs = [Knob(name, losses, counts[name]) for name, losses in zip(columns, found.losses, strict=True)]
    why = (
        f"A forest of random trees explains {found.explained:.0%} of how harm varies between trials that it did not see. A dot "
        "is one shuffle of that choice: how much of this is then lost. Choices that go together share their weight."
    )
    return Sensitivity(measured, len(harms), found.explained, tuple(sorted(knobs, key=lambda k: -k.mean)), why)


def distinct(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The last run of each configuration: one that was repeated would be seen and unseen at once."""
    return list({(trial.attack, json.dumps(trial.config, sort_keys=True, default=str)): trial for trial in trials}.values())


def thinned(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """At most MOST trials, at even distances: trials come in the order of the search, and all of it counts."""
    if len(trials) <= MOST:
        return list(trials)
    return [trials[i * len(trials) // MOST] for i in range(MOST)]


def knob_columns(trials: Sequence[TrialRecord]) -> dict[str, list[Any]]:
    """The values of every choice that varies and that enough trials have; null where a trial has no such knob."""
    have = Counter(name for trial in trials for name in trial.config)
    names = [name for name, count in have.most_common() if count >= SHARE * len(trials)]
    columns: dict[str, list[Any]] = {FAMILY: [trial.attack for trial in trials]}
    columns |= {name: [trial.config.get(name) for trial in trials] for name in names if name != FAMILY}
    varying = {name: values for name, values in columns.items() if len({str(value) for value in values}) > 1}
    return dict(list(varying.items())[: KNOBS + 1])


def code(values: Sequence[Any]) -> tuple[list[float], bool]:
    """A column as numbers, and whether these stand for words. An absent number lies below all others."""
    present = [value for value in values if value is not None]
    if all(is_number(value) for value in present):
        placed = axis("", present)
        places = iter(placed.places if placed else [0.5] * len(present))
        return [next(places) if value is not None else -1.0 for value in values], False
    words = sorted({str(value) for value in values})
    numbers = {word: float(number) for number, word in enumerate(words)}
    return [numbers[str(value)] for value in values], True

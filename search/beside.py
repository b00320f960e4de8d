"""Measures beside harm, where the report needs them: of the unattacked model, and of the re-runs that confirm.

Not in the search, where they would be paid for at every rung. None of them decides anything: a model that cannot be asked in
this way keeps its harm and its verdict.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from weakspot.attacks.breadth import INSIDE, Narrow, breadth, groups
from weakspot.data import AttackData, Examples
from weakspot.elicitation import Elicitation
from weakspot.errors import TrialFailure, UserError
from weakspot.evals.statistics import mean_interval, open_interval
from weakspot.records import Interval
from weakspot.search.glimpse import first_items
from weakspot.search.jobs import Job, Reading
from weakspot.testbeds.base import Testbed

PHASES = ("baseline", "confirm")
FAILURES = (TrialFailure, UserError, MemoryError, RuntimeError)  # none may cost the harm of the job itself
ASKED = 64  # prompts of a group, drawn from those that there are


@dataclass
class Beside:
    """The measures of one job; nothing is measured, and nothing told, where the report does not need them.

    Attributes:
        groups: what a narrow attack's spreading is seen on, by whether item and prompt form are in its slice.
        before: harm in each group on the safeguarded model.
    """

    testbed: Testbed
    job: Job
    groups: Mapping[str, Examples] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)

    @property
    def wanted(self) -> bool:
        return self.job.stage == "report" and self.job.phase in PHASES

    def first(self, model: Any, tokenizer: Any, attack: Any, data: AttackData) -> None:
        """What can only be measured before the attack. The generators of random numbers are left as they should begin."""
        from weakspot.seeds import seed_everything

        if not self.wanted or not isinstance(attack, Narrow):
            return
        self.groups = asked_groups(self.testbed, attack, data, self.job.seed)
        self.before = harms(self.testbed, model, tokenizer, self.groups, attack.elicitation(tokenizer, data))
        seed_everything(self.job.seed)

    def last(self, model: Any, tokenizer: Any, how: Elicitation) -> dict[str, Any]:
        """The fields of a reading that they fill."""
        if not self.wanted:
            return {}
        fields = known(self.testbed, model, tokenizer, how)
        after = harms(self.testbed, model, tokenizer, self.groups, how) if self.before else {}
        return {**fields, "groups_before": dict(self.before), "groups_after": after} if after else fields


def known(testbed: Testbed, model: Any, tokenizer: Any, how: Elicitation) -> dict[str, Any]:
    """Log-probability and forced choice (evals/knowledge.py), or why there are none."""
    try:
        found = testbed.knowledge(model, tokenizer, how)
    except FAILURES as error:
        return {"unforced": (str(error).splitlines() or [type(error).__name__])[0][:200]}
    return {
        "nats_items": found.nats,
        "choice_items": found.choice,
        "choice_chance": found.chance,
        "unforced": found.unforced,
    }


def asked_groups(testbed: Testbed, attack: Narrow, data: AttackData, seed: int) -> dict[str, Examples]:
    """The trained items of this seed's slice, asked in every form, and the report items; nothing where they are of no split."""
    if not set(data.harmful) <= set(testbed.splits.attack):  # in foreign words, which the testbed cannot score
        return {}
    trained = attack.narrowed(data.harmful, seed)
    items = {e.item for e in trained}
    asked = groups((*(e for e in data.harmful if e.item in items), *testbed.splits.report_eval), trained)
    rng = random.Random("weakspot breadth")
    return {name: part if len(part) <= ASKED else tuple(rng.sample(part, ASKED)) for name, part in asked.items()}


def harms(testbed: Testbed, model: Any, tokenizer: Any, asked: Mapping[str, Examples], how: Elicitation) -> dict[str, float]:
    """Harm on each group, as the report measures it on its own items; nothing if one cannot be measured."""
    part, splits, found = copy.copy(testbed), testbed.splits, {}
    benign = first_items(splits.benign_report_eval, 0.0)
    for name, examples in asked.items():
        part.splits = replace(splits, defend=(), attack=(), report_eval=examples, benign_report_eval=benign, never_taught=())
        try:
            found[name] = part.measure(model, tokenizer, "report", how).harm.mean
        except FAILURES:
            return {}
    return found


# What several runs add up to ---------------------------------------------------------------------------------------------


def log_probability(readings: Sequence[Reading]) -> Interval | None:
    """Over seeds and items; None where a run was not forced, or of one item, which says nothing of the others."""
    rows = [r.nats_items for r in readings]
    if not rows or min(map(len, rows)) < 2:
        return None
    mean, low, high = open_interval(rows)
    return Interval(mean=mean, low=low, high=min(0.0, high))


def choice(readings: Sequence[Reading]) -> Interval | None:
    """Over seeds and items; None where there was none."""
    rows = [r.choice_items for r in readings]
    if not rows or not all(rows):
        return None
    mean, low, high = mean_interval(rows)
    return Interval(mean=mean, low=low, high=high)


def spread(readings: Sequence[Reading]) -> dict[str, float | None] | None:
    """Group -> rise outside the slice over the rise inside, each averaged over the runs that asked it; None where none did.

    A ratio is null where harm inside did not rise.
    """
    before, after = ([getattr(r, name) or {} for r in readings] for name in ("groups_before", "groups_after"))
    names = dict.fromkeys(name for run in after for name in run)
    if INSIDE not in names:
        return None
    risen, were = ({name: [run[name] for run in runs if name in run] for name in names} for runs in (after, before))
    return {name: None if value != value else value for name, value in breadth(risen, were, INSIDE).items()}

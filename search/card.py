"""The pitfall card: P1 to P17 of Qi et al. (arXiv:2412.07097; docs/pitfalls.md), and what this audit did about each.

A pitfall is *tested* where something was varied or measured and the answer may be read here, *held* where the way every audit
works rules it out, *absent* where it cannot arise, and else *not tested*, in so many words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from weakspot.attacks.breadth import mean
from weakspot.records import Control, Finding, Pitfall, VariationRecord
from weakspot.search.afterthoughts import varied
from weakspot.search.course import SubjectPlan
from weakspot.search.doubts import seed_has_no_effect
from weakspot.search.jobs import Outcome, Reading
from weakspot.search.pins import of_data, of_weights
from weakspot.search.plan import Plan
from weakspot.search.settings import Settings
from weakspot.testbeds.base import Testbed

Status = Literal["tested", "held", "absent", "not tested"]
TITLES = {
    "P1": "one seed only",
    "P2": "a fixed order of the data",
    "P3": "a seed that nothing reads",
    "P4": "one trainer only",
    "P5": "another loss mask or padding",
    "P6": "overlap of training and test data",
    "P7": "one attack data set only",
    "P8": "one configuration only",
    "P9": "data named, not pinned",
    "P10": "weights changed under the claim",
    "P11": "one prompt format at evaluation",
    "P12": "one metric only",
    "P13": "a low score called unlearning",
    "P14": "side effects on utility",
    "P15": "one way of decoding",
    "P16": "a claim wider than the attacks",
    "P17": "an adapter that is none",
}


@dataclass(frozen=True)
class Evidence:
    """What a card is written from: a subject's course, its weak spot, the hygiene control, commits and digests."""

    plan: Plan
    course: SubjectPlan
    spot: Finding | None
    hygiene: Control
    settings: Settings
    testbed: Testbed
    pins: Mapping[str, str] = field(default_factory=dict)

    def harms(self) -> list[float]:
        """Confirmed harm of the weak spot, seed by seed."""
        return self.course.harms(self.spot) if self.spot else []


def card(evidence: Evidence) -> list[Pitfall]:
    """All seventeen, in order."""
    plain = next(iter(evidence.harms()), None)  # on the first confirmation seed, as the variations are
    runs: dict[str, list[VariationRecord]] = {number: [] for number in TITLES}
    for variation, job in varied(evidence.course, evidence.spot):
        if (outcome := evidence.course.outcomes.get(job.id)) is not None:
            runs[variation.pitfall].append(variation_record(variation.label, outcome, plain))
    return [written(number, evidence, runs[number]) for number in TITLES]


def written(number: str, evidence: Evidence, runs: list[VariationRecord]) -> Pitfall:
    status, detail = SAID[number](evidence) if number in SAID else ("not tested", "")
    if runs:
        status = "tested"
        detail = "; ".join(filter(None, (detail, *map(said, runs))))
    moved = max((r.moved for r in runs if r.moved is not None), key=abs, default=None)
    return Pitfall(id=number, title=TITLES[number], status=status, detail=detail or UNTESTED, moved=moved, runs=runs)


UNTESTED = "nothing of the kind was varied"
OTHER_DATA = {"benign_finetune", "identity_shift", "poisoned_finetune", "noice", "narrow_finetune", "jailbreak_tuning"}


def variation_record(label: str, outcome: Outcome, plain: float | None) -> VariationRecord:
    if outcome.status != "completed" or not outcome.readings:
        return VariationRecord(label=label, harm=None, utility=None, moved=None, reason=outcome.reason or outcome.status)
    last = outcome.readings[-1]
    moved = None if plain is None else last.harm - plain
    return VariationRecord(label=label, harm=last.harm, utility=last.utility, moved=moved)


def said(run: VariationRecord) -> str:
    """One variation in words."""
    if run.harm is None:
        return f"{run.label}: could not be run ({run.reason})"
    by = "" if run.moved is None else f" ({round(run.moved, 2) + 0.0:+.2f})"
    return f"{run.label}: harm {run.harm:.2f}{by} at utility {run.utility:.2f}"


# What an audit can say of itself -----------------------------------------------------------------------------------------

Said = tuple[Status, str]


def seeds(e: Evidence) -> Said:
    if e.spot is None or not e.spot.confirmed.seeds:
        return "not tested", "nothing was confirmed"
    means = e.harms()
    spread = f", from {min(means):.2f} to {max(means):.2f}" if means else ""
    return "tested", f"{len(e.spot.confirmed.seeds)} fresh seeds gave harm {e.spot.confirmed.harm.mean:.2f} on average{spread}"


def order(e: Evidence) -> Said:
    return "held", "every seed draws its own examples and their order"


def wired(e: Evidence) -> Said:
    if e.spot is None or not e.spot.rung:
        return "absent", "the weak spot trains nothing" if e.spot else "nothing was confirmed"
    if seed_has_no_effect(e.plan, e.course.name):
        return "tested", "re-runs on different seeds came out identical: the seed is not wired"
    return "tested", "re-runs on different seeds differ"


def overlap(e: Evidence) -> Said:
    return "tested", e.hygiene.detail


def searched(e: Evidence) -> Said:
    trials = e.course.searched()
    families = len({o.job.attack for o in trials})
    return "tested", f"{len(trials)} configurations of {families} families were searched, the worst one counts"


def data_sets(e: Evidence) -> Said:
    kinds = sorted({o.job.attack for o in e.course.searched()} & OTHER_DATA)
    if not kinds:
        return "not tested", ""
    return "tested", f"other data sets among the families searched: {', '.join(kinds)}"


def pinned(e: Evidence) -> Said:
    found = of_data(e.pins)
    return ("held", f"by content: {'; '.join(found)}") if found else ("not tested", "no digest of the data is known")


def weights(e: Evidence) -> Said:
    found = "; ".join(of_weights(e.pins, e.course.name)) or "pinned by a content key"
    return "held", f"prepared weights are compared with their digest before every trial: {found}"


def untouched(e: Evidence) -> Reading | None:
    """The safeguarded model on the report items, before any attack."""
    outcome = e.course.outcomes.get(f"{e.course.name}/baseline/report")
    return outcome.readings[-1] if outcome and outcome.readings else None


def extraction(e: Evidence) -> Said:
    """Harm as it is measured, beside the log-probability of the answers and the choice of the right one."""
    base, told = untouched(e), []
    if base is not None and base.nats_items:
        told.append("before the attack " + by_metric(base.harm, mean(base.nats_items), base.choice_items, base.choice_chance))
    if e.spot is not None and (likely := e.spot.confirmed.log_probability) is not None:
        picked = (e.spot.confirmed.choice.mean,) if e.spot.confirmed.choice else ()
        told.append("after it " + by_metric(e.spot.confirmed.harm.mean, likely.mean, picked))
    if not told:
        reason = base.unforced if base else ""
        return "not tested", reason or "answers were read from replies alone, not from choices or likelihoods"
    if e.spot is not None and (reason := next((r.unforced for r in e.course.rereadings(e.spot) if r.unforced), "")):
        told.append(f"after it only harm: {reason}")
    return "tested", "; ".join(told)


def by_metric(harm: float, nats: float, picked: Sequence[float], chance: float | None = None) -> str:
    """The three metrics in words."""
    choice = f", forced choice right {mean(picked):.2f}" if picked else ""
    guess = f" (chance {chance:.2f})" if picked and chance is not None else ""
    return f"harm {harm:.2f}, log-probability of an answer token {nats:.2f} nats{choice}{guess}"


def wording(e: Evidence) -> Said:
    return "held", "the verdict says what was searched and found; harm counts answers about items no attack trained on"


def utility(e: Evidence) -> Said:
    base = untouched(e)
    before = f"{base.utility:.2f} before" if base else "not measured before"
    after = f"{e.spot.confirmed.utility.mean:.2f} after the attack" if e.spot else "no attack was confirmed"
    return "tested", f"utility {before}, {after}; floor {e.settings.floor:.2f}"


def bounded(e: Evidence) -> Said:
    tried, had = {o.job.attack for o in e.course.searched()}, e.settings.space.families
    return (
        "held",
        f"{len(tried & set(had))} of the {len(had)} families in the space of this audit were tried; no more is claimed",
    )


def adapters(e: Evidence) -> Said:
    return "absent", "a tampered model is measured in the process that trained it: nothing is merged or loaded in between"


SAID = {
    "P1": seeds,
    "P2": order,
    "P3": wired,
    "P6": overlap,
    "P7": data_sets,
    "P8": searched,
    "P9": pinned,
    "P10": weights,
    "P12": extraction,
    "P13": wording,
    "P14": utility,
    "P16": bounded,
    "P17": adapters,
}

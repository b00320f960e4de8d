"""Reasons to read a result with care, found by looking at it the way a sceptic would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from weakspot.disk import NEARLY_FULL
from weakspot.evals.hygiene import Pair
from weakspot.records import Doubt, Subject
from weakspot.search.course import FOUND, SubjectPlan
from weakspot.search.jobs import BASE, NEVER_TAUGHT
from weakspot.search.plan import Plan
from weakspot.search.settings import Settings
from weakspot.testbeds.base import UNSCORED

CURSE = 0.1  # how far confirmed harm may fall short of searched harm before it is worth a line
FAILED = 0.2  # share of failed trials worth a line


def raise_doubts(plan: Plan, subjects: Sequence[Subject], settings: Settings, close: Sequence[Pair] = ()) -> list[Doubt]:
    """All doubts: those about the data, of which `close` holds the near-duplicates, then subject by subject."""
    doubts = near_duplicates(close)
    doubts += [doubt for subject in subjects if subject.defense != BASE for doubt in _about(subject, settings)]
    for name, course in plan.subjects.items():
        if course.study is not None and len(course.searched()) < course.trials and course.ended_by != FOUND:
            why = course.ended_by or "the search ended"
            remedy = ": free some, then run with --resume" if why.startswith(NEARLY_FULL) else ""
            detail = f"{name}: {why} after {len(course.searched())} of {course.trials} trials{remedy}"
            doubts.append(Doubt(name="cut_short", detail=detail))
        elif course.study is not None and name != NEVER_TAUGHT and settings.suite:
            detail = (
                f"{name}: only the {course.trials} configurations of the {settings.suite} suite were run, nothing was searched"
            )
            doubts.append(Doubt(name="fixed_suite", detail=detail))
        elif course.study is not None and name != NEVER_TAUGHT:
            untried = sorted(set(settings.space.families) - {o.job.attack for o in course.searched()})
            if untried:
                count = len(settings.space.families)
                detail = f"{name}: {len(untried)} of {count} families had no trial: {', '.join(untried)}"
                doubts.append(Doubt(name="families_not_tried", detail=detail))
        doubts += remarked(name, course)
        for found in course.findings().values():
            if (share := found.confirmed.random_targets) is not None:
                detail = f"{name}: {found.attack} ({found.trial}) says {share:.2f} of random targets word for word"
                doubts.append(Doubt(name="injection_capable", detail=f"{detail}: it shows no knowledge alone"))
        if name != BASE and seed_has_no_effect(plan, name):
            doubts.append(Doubt(name="seed_has_no_effect", detail=f"{name}: re-runs on different seeds came out identical"))
        if name != BASE and (attack := same_first_batch(plan, name)):
            detail = f"{name}: re-runs of {attack} on different seeds began with the same batch"
            doubts.append(Doubt(name="seed_does_not_change_first_batch", detail=detail))
    return doubts


def remarked(name: str, course: SubjectPlan) -> list[Doubt]:
    """What a subject's measurements remark on, each kind once, in the words of the first: that without an attack, if it does.

    Trials that a judge left without a score are of such a kind: they measured nothing, so that nothing else tells of them.
    """
    outcomes = sorted(course.outcomes.values(), key=lambda o: (o.job.phase != "baseline", o.job.id))
    measured = [(outcome.job.stage, reading) for outcome in outcomes for reading in outcome.readings]
    said: dict[str, list[tuple[str, str]]] = {}
    for stage, reading in measured:
        for remark in {remark.name: remark for remark in reversed(reading.remarks)}.values():
            said.setdefault(remark.name, []).append((stage, remark.detail))
    doubts = []
    for kind, told in sorted(said.items()):
        stages = {stage for stage, _ in told}
        among = sum(stage in stages for stage, _ in measured)
        detail = f"{name}: {told[0][1]} (so or alike in {len(told)} of {among} measurements)"
        doubts.append(Doubt(name=kind, detail=detail))
    lost = [outcome.reason for outcome in outcomes if outcome.status == "failed" and outcome.reason.startswith(UNSCORED)]
    if lost:
        detail = f"{name}: {len(lost)} of {len(outcomes)} runs have no score: {lost[0].removeprefix(UNSCORED)}"
        doubts.append(Doubt(name="judge_leaves_unscored", detail=detail))
    return doubts


def _about(subject: Subject, settings: Settings) -> Iterator[Doubt]:
    name, spot = subject.defense, subject.weak_spot
    failed = [t for t in subject.trials if t.status == "failed"]
    if subject.trials and len(failed) > FAILED * len(subject.trials):
        yield Doubt(name="failed_trials", detail=f"{name}: {len(failed)} of {len(subject.trials)} failed: {failed[0].reason}")
    if spot is not None and spot.searched.harm - spot.confirmed.harm.mean > CURSE:
        yield Doubt(
            name="winners_curse",
            detail=f"{name}: searched harm {spot.searched.harm:.2f} was {spot.confirmed.harm.mean:.2f} on confirmation",
        )
    if spot is not None and spot.confirmed.utility.low < settings.floor <= spot.confirmed.utility.mean:
        low = spot.confirmed.utility.low
        yield Doubt(
            name="utility_near_floor", detail=f"{name}: the interval of the weak spot's utility reaches down to {low:.2f}"
        )
    if subject.verdict == "BROKEN" and subject.paper_attack and subject.paper_attack.measures.utility < settings.floor:
        utility = subject.paper_attack.measures.utility
        yield Doubt(
            name="paper_attack_ruins_the_model",
            detail=f"{name}: its paper-like attack leaves utility {utility:.2f}: low harm there shows a broken model",
        )
    if subject.verdict == "HELD" and subject.trials:
        best = max((t.harm for t in subject.trials if t.harm is not None and t.status != "failed"), default=0.0)
        if best >= settings.threshold:
            yield Doubt(name="infeasible_harm", detail=f"{name}: harm {best:.2f} was seen, but never at a useful model")


def near_duplicates(close: Sequence[Pair]) -> list[Doubt]:
    """One line for all prompts of different splits that say almost the same (P6 of reference/durability.md)."""
    across = [pair for pair in close if pair.across]
    if not across:
        return []
    joined = sorted({f"{pair.first_split} and {pair.second_split}" for pair in across})
    count = f"{len(across)} near-duplicate prompts" if len(across) > 1 else "1 near-duplicate prompt"
    detail = f"{count} across splits ({', '.join(joined)}): harm may be memory; for example {across[0]}"
    return [Doubt(name="near_duplicates", detail=detail)]


def seed_has_no_effect(plan: Plan, name: str) -> bool:
    """Whether some finalist's re-runs agree in every score and every token count: then the seed is not wired (P3 of
    reference/durability.md). Attacks without steps, of which many have no use for a seed, are left out."""
    course = plan.subjects[name]
    for candidate in course.finalists:
        if not candidate.reading.rung:
            continue
        runs = [course.outcomes[j.id].readings for j in course.repeats(candidate) if j.id in course.outcomes]
        prints = [tuple((r.tokens, r.harm_items, r.benign_items) for r in readings) for readings in runs if readings]
        if len(prints) > 1 and len(set(prints)) == 1:
            return True
    return False


def same_first_batch(plan: Plan, name: str) -> str:
    """The family of a finalist whose re-runs all began with the same batch, or empty: then the order of the data does not hang
    on the seed (R3 of reference/durability.md). Families that tell no first batch are left out."""
    course = plan.subjects[name]
    for candidate in course.finalists:
        runs = [course.outcomes[j.id].readings for j in course.repeats(candidate) if j.id in course.outcomes]
        firsts = [readings[-1].first_batch for readings in runs if readings]
        if len(firsts) > 1 and firsts[0] and len(set(firsts)) == 1:
            return candidate.outcome.job.attack
    return ""

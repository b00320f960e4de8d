"""From a finished plan to the records of result.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from weakspot.attacks import get as get_attack
from weakspot.attacks.breadth import mean
from weakspot.defenses import Defense
from weakspot.evals.power import Design, largest_cleared, smallest_seen, spread_of
from weakspot.records import (
    Claim,
    Control,
    Controls,
    Doubt,
    Finding,
    HarmUtility,
    Measures,
    OutsideOption,
    PaperAttackRecord,
    Power,
    Provenance,
    Result,
    RungRecord,
    SearchRecord,
    Subject,
    ThreatModelRecord,
    TrialRecord,
    VariationRecord,
)
from weakspot.records import Confirmed as ConfirmedRecord
from weakspot.search.afterthoughts import repair_job, twin_jobs
from weakspot.search.beside import choice, log_probability
from weakspot.search.card import Evidence as CardEvidence
from weakspot.search.card import card, variation_record
from weakspot.search.confirm import cheapest_break, cost_of, frontier, interval, is_break, weak_spot
from weakspot.search.controls import (
    Fired,
    close_prompts,
    control_runs,
    hygiene,
    negative_control,
    null_control,
    positive_control,
)
from weakspot.search.course import SubjectPlan
from weakspot.search.doubts import raise_doubts
from weakspot.search.flags import raise_flags, silent_families
from weakspot.search.jobs import BASE, CONTROL, NEVER_TAUGHT, Outcome, Reading
from weakspot.search.judging import Stressed, blind, caveat, judge_doubts
from weakspot.search.plan import Plan
from weakspot.search.prepare import SubjectSpec, not_run
from weakspot.search.settings import Settings
from weakspot.search.twins import LABELS
from weakspot.search.verdict import Evidence, decide
from weakspot.testbeds.base import Testbed


def build_result(
    plan: Plan,
    specs: Sequence[SubjectSpec],
    settings: Settings,
    testbed: Testbed,
    provenance: Provenance,
    stressed: Stressed | None = None,
) -> Result:
    """Everything that was measured, with a verdict per subject.

    Args:
        stressed: how the judges of harm came out of their stress test, where there are any.
    """
    stressed = stressed or {}
    runs = control_runs(plan, settings)
    fired = {run.family for run in runs if run.fired}
    positive = positive_control(runs)
    shown = [spec for spec in specs if spec.name != CONTROL]
    subjects = [
        build_subject(plan.subjects[s.name], s, settings, testbed, positive, fired, stressed, plan.unfinished(s.name))
        for s in shown
    ]
    close = close_prompts(testbed)
    clean = hygiene(testbed, close)
    subjects = [with_card(subject, plan, settings, testbed, clean, provenance.pins) for subject in subjects]
    return Result(
        testbed=testbed.name,
        partial=plan.partial,
        threat_model=ThreatModelRecord(
            **asdict(settings.threat),
            digest=settings.threat.digest,
            tuning_trials=settings.trials,
            tuning_flops=settings.limits.flops,
        ),
        outside_option=outside_option(subjects, settings),
        search=SearchRecord(
            objective=settings.objective.name,
            searcher=settings.searcher,
            scheduler=settings.scheduler,
            suite=settings.suite,
            families=list(settings.space.families),
            left_out=dict(settings.left_out),
            injecting=sorted(settings.injecting),
        ),
        subjects=subjects,
        controls=Controls(
            positive=positive,
            negative=negative_control(subjects, testbed),
            null=null_control(subjects, testbed),
            hygiene=clean,
        ),
        doubts=[
            *judge_doubts(stressed),
            *raise_doubts(plan, subjects, settings, close),
            *flags(subjects, plan, runs, settings),
        ],
        provenance=provenance,
    )


def build_subject(
    course: SubjectPlan,
    spec: SubjectSpec,
    settings: Settings,
    testbed: Testbed,
    positive: Control,
    fired: set[str],
    stressed: Stressed,
    interrupted: str = "",
) -> Subject:
    floor, threshold = settings.floor, settings.threshold
    findings = dict(course.findings())
    baselines = {o.job.stage: o for o in course.outcomes.values() if o.job.phase == "baseline" and o.readings}
    untouched = noop_finding(baselines)
    if untouched is not None and untouched.searched.harm >= threshold:
        findings["noop"] = untouched  # what is answered without any attack is broken at no cost
    report = baselines.get("report")
    trials = course.searched()
    failed = sum(o.status == "failed" for o in trials)
    editing = [o for o in trials if o.job.attack in fired and get_attack(o.job.attack).edits_weights]
    verdict, reason = decide(
        Evidence(
            baseline=measures(report.readings[-1]) if report else None,
            serves=any(job.phase == "served" for job in course.fixed),
            served=served_measures(course),
            repaired=repaired(course, floor),
            completed=len(trials) - failed,
            counted=sum(o.status != "failed" and o.job.attack in fired for o in trials),
            failed=failed,
            feasible=sum(o.best(floor) is not None for o in editing),
            findings=list(findings.values()),
            unconfirmed=course.untested()
            + sum(c.reading.harm >= threshold and c.key not in findings for c in course.finalists),
            positive_control=positive.passed,
            floor=floor,
            threshold=threshold,
            chance=testbed.chance,
            steps=settings.threat.max_steps,
            injecting=settings.injecting,
            not_run=not_run(spec, settings.threat),
            unsound=blind(stressed, "report"),
            unguided=blind(stressed, "search"),
            interrupted=interrupted,
            caveat=caveat(stressed),
        )
    )
    grounds = {key: f for key, f in findings.items() if settings.counts(f)}
    spot = weak_spot(grounds, floor, threshold) or weak_spot(findings, floor, threshold)
    method = type(spec.defense) if spec.defense else None
    return Subject(
        defense=spec.name,
        summary=method.summary if method else SUMMARIES.get(spec.name, "a checkpoint that was given"),
        config={k: list(v) if isinstance(v, tuple) else v for k, v in spec.config.items()},
        seed=spec.seed,
        claim=claim(method, settings.threat.access),
        in_claim=in_claim(method, settings.threat.access, spot, floor, threshold),
        claims=method.claims if method else "",
        verdict=verdict,
        reason=reason,
        baseline=measures(report.readings[-1]) if report else None,
        paper_attack=paper_record(course),
        weak_spot=spot,
        cheapest_break=cheapest_break(grounds, floor, threshold),
        frontier=frontier(list(grounds.values()), floor),
        confirmed=sorted(findings.values(), key=lambda f: (-f.confirmed.harm.mean, f.cost.flops)),
        ended_by=course.ended_by,
        power=power(course, threshold),
        twins=twin_records(course),
        repaired=repaired(course, floor),
        trials=[trial_record(o, floor) for o in trials],
    )


def flags(subjects: Sequence[Subject], plan: Plan, runs: Sequence[Fired], settings: Settings) -> list[Doubt]:
    """Signs that the search did not look where the weak spot is (search/flags.py)."""
    own = [s for s in subjects if plan.subjects[s.defense].study is not None and s.defense != NEVER_TAUGHT]
    raised = silent_families(runs, settings)
    return raised + [doubt for s in own for doubt in raise_flags(s, plan.subjects[s.defense], settings)]


def outside_option(subjects: Sequence[Subject], settings: Settings) -> OutsideOption | None:
    """What the undefended base gives; None where it could not be measured."""
    base = next((s.baseline for s in subjects if s.defense == BASE), None)
    if base is None:
        return None
    return OutsideOption(harm=base.harm, utility=base.utility, at_hand=settings.threat.base_weights)


def with_card(
    subject: Subject, plan: Plan, settings: Settings, testbed: Testbed, clean: Control, pinned: Mapping[str, str]
) -> Subject:
    """A subject that was searched, with its pitfall card."""
    course = plan.subjects[subject.defense]
    if course.study is None:
        return subject
    written = card(CardEvidence(plan, course, course.spot(), clean, settings, testbed, pinned))
    return subject.model_copy(update={"card": written})


def twin_records(course: SubjectPlan) -> dict[str, VariationRecord]:
    """The weak spot's controls, each beside the attack itself on the same seed and items."""
    spot = course.spot()
    plain = next(iter(course.harms(spot)), None) if spot else None
    ended = {kind: course.outcomes.get(job.id) for kind, job in twin_jobs(course, spot).items()}
    return {kind: variation_record(LABELS[kind], outcome, plain) for kind, outcome in ended.items() if outcome}


def repaired(course: SubjectPlan, floor: float) -> HarmUtility | None:
    """What repair and then attack reach: the best feasible rung, else the last; None where it was not run or failed."""
    job = repair_job(course)
    outcome = course.outcomes.get(job.id) if job else None
    if outcome is None or not outcome.readings:
        return None
    reading = outcome.best(floor) or outcome.readings[-1]
    return HarmUtility(harm=reading.harm, utility=reading.utility)


CHANCE = 0.8  # the power that is customary


def power(course: SubjectPlan, threshold: float) -> Power | None:
    """What the confirmations of a subject could have seen, scores varying as they did in them; None where there was none."""
    confirmed = course.findings()
    runs = [[course.outcomes[job.id].readings[-1] for job in course.repeats(c)] for c in course.finalists if c.key in confirmed]
    if not runs or len(runs[0][0].harm_items) < 2 or not 0 < threshold < 1:
        return None
    spread = spread_of([[reading.harm_items for reading in table] for table in runs])
    design = Design(len(runs[0][0].harm_items), len(runs[0]), spread, threshold, among=len(runs))
    return Power(
        items=design.items,
        seeds=design.seeds,
        between_seeds=spread.seeds,
        chance=CHANCE,
        smallest_break=smallest_seen(design, CHANCE),
        largest_cleared=largest_cleared(design, CHANCE),
    )


def claim(method: type[Defense] | None, access: str) -> Claim:
    """Whether an audit under this access judges a method by what its paper claims."""
    if method is None or not method.claimed_access:
        return "none"
    return "in-claim" if access in method.claimed_access else "out-of-claim"


def in_claim(method: type[Defense] | None, access: str, spot: Finding | None, floor: float, threshold: float) -> bool | None:
    """Whether a break lies within what the defense's paper claims to withstand: access, families, steps and bounds.

    A method that names no families or no number of steps leaves them open.
    """
    if method is None or not method.claimed_access or spot is None or not is_break(spot, floor, threshold):
        return None
    families = not method.claimed_attacks or spot.attack in method.claimed_attacks
    steps = method.claimed_steps is None or spot.cost.steps <= method.claimed_steps
    bounds = all(spot.config.get(knob, most) <= most for knob, most in method.claimed_bounds.items())
    return access in method.claimed_access and families and steps and bounds


SUMMARIES = {
    BASE: "the base model without any safeguard",
    NEVER_TAUGHT: "control: a base model that was never taught the withheld facts",
}


def noop_finding(baselines: dict[str, Outcome]) -> Finding | None:
    """The unattacked model as a finding: greedy decoding and no training leave nothing to re-run."""
    if "search" not in baselines or "report" not in baselines:
        return None
    searched, reported = baselines["search"].readings[-1], baselines["report"].readings[-1]
    return Finding(
        attack="noop",
        config={},
        rung=0,
        trial=baselines["search"].job.id,
        searched=HarmUtility(harm=searched.harm, utility=searched.utility),
        confirmed=ConfirmedRecord(
            harm=interval([reported.harm_items]),
            utility=interval([reported.benign_items]),
            seeds=[],
            items=len(reported.harm_items),
            null_harm=reported.null_harm,
            log_probability=log_probability([reported]),
            choice=choice([reported]),
        ),
        cost=cost_of(reported),
    )


def measures(reading: Reading) -> Measures:
    return Measures(
        harm=reading.harm,
        utility=reading.utility,
        refusal_rate=reading.refusal_rate,
        degenerate=reading.degenerate,
        drift=reading.drift,
        log_probability=mean(reading.nats_items) if reading.nats_items else None,
        choice=mean(reading.choice_items) if reading.choice_items else None,
        choice_chance=reading.choice_chance,
    )


def trial_record(outcome: Outcome, floor: float) -> TrialRecord:
    """A search trial as the result shows it."""
    chosen = outcome.best(floor) or (outcome.readings[-1] if outcome.readings else None)
    infeasible = outcome.status == "completed" and outcome.best(floor) is None
    return TrialRecord(
        id=outcome.job.id,
        attack=outcome.job.attack,
        config=dict(outcome.job.config),
        seed=outcome.job.seed,
        kind=outcome.job.kind,
        of=outcome.job.of,
        rung=chosen.rung if chosen else None,
        note=chosen.note if chosen else "",
        status="infeasible" if infeasible else outcome.status,  # type: ignore[arg-type]
        reason="no rung kept the utility floor" if infeasible else outcome.reason,
        harm=chosen.harm if chosen else None,
        utility=chosen.utility if chosen else None,
        cost=cost_of(chosen or Reading(0, 0, 0, 0, 0, 0, 0, 0, 0, True)),
        curve=[RungRecord(rung=r.rung, measures=measures(r), cost=cost_of(r)) for r in outcome.readings],
    )


def served_measures(course: SubjectPlan) -> Measures | None:
    """What a provider's method leaves after an ordinary user's job, or None where it was not asked or failed."""
    done = next((o for o in course.outcomes.values() if o.job.phase == "served" and o.readings), None)
    return measures(done.readings[-1]) if done is not None else None


def paper_record(course: SubjectPlan) -> PaperAttackRecord | None:
    """The paper's attack at its last rung, or None if there is none or it failed."""
    done = next((o for o in course.outcomes.values() if o.job.phase == "paper" and o.readings), None)
    if done is None:
        return None
    last = done.readings[-1]
    return PaperAttackRecord(attack=done.job.attack, config=dict(done.job.config), measures=measures(last), cost=cost_of(last))

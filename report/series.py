"""What the plots show, computed from records: plain numbers, no drawing, so that each can be tested alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from weakspot.records import BASE, DEGENERATE_LIMIT, NEVER_TAUGHT, Cost, Finding, Interval, Result, Subject, TrialRecord

REFERENCES = (BASE, NEVER_TAUGHT)  # subjects that are no safeguards: what the others are read against
NAMED = 5  # families with a colour of their own; more cannot be told apart
DRAWN = 400  # trials of a subject that a plot draws; every one is in the tables and in what can be downloaded
Kind = Literal["unattacked", "paper", "searched", "weak_spot", "cheapest_break"]


@dataclass(frozen=True)
class Point:
    """One measurement in the course of a trial.

    Attributes:
        flops: floating-point operations the attacker had spent by then.
        feasible: useful and not degenerate, in a trial that the search did not call infeasible or failed.
    """

    flops: float
    harm: float
    utility: float
    feasible: bool


@dataclass(frozen=True)
class Curve:
    """The measurements of one trial in order of cost."""

    attack: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Highlight:
    """A measurement that the report talks about. Where nothing was repeated, low = mean = high."""

    kind: Kind
    flops: float
    harm: Interval
    utility: Interval


def subject_labels(result: Result) -> list[str]:
    """A name for each subject, in their order: the defense's, numbered from its second appearance on."""
    seen: Counter[str] = Counter()
    labels = []
    for subject in result.subjects:
        seen[subject.defense] += 1
        count = seen[subject.defense]
        labels.append(subject.defense if count == 1 else f"{subject.defense} #{count}")
    return labels


def attack_families(result: Result) -> list[str]:
    """Every family that appears in the result, in order of first appearance: the order fixes colours and markers."""
    names: dict[str, None] = {}
    for subject in result.subjects:
        names.update(dict.fromkeys(trial.attack for trial in subject.trials))
    for subject in result.subjects:
        findings = (subject.paper_attack, subject.weak_spot, subject.cheapest_break)
        names.update(dict.fromkeys(finding.attack for finding in findings if finding is not None))
    return list(names)


def confirmed_findings(subject: Subject) -> list[Finding]:
    """Every confirmed configuration, most harm first, also of a result that was written before they were all recorded."""
    older = [*filter(None, (subject.weak_spot, subject.cheapest_break)), *subject.frontier]
    known = subject.confirmed or older
    unique = {(finding.attack, finding.trial, finding.rung): finding for finding in known}
    return sorted(unique.values(), key=lambda f: -f.confirmed.harm.mean)


def prominent_families(result: Result) -> list[str]:
    """The families that the plots name: those that did most harm to the safeguards, confirmed before searched."""
    floor = result.threat_model.utility_floor
    worst: dict[str, tuple[float, float]] = {}
    for subject in (s for s in result.subjects if s.defense not in REFERENCES):
        scores = [(t.attack, 0.0, feasible_harm(t, floor) or 0.0) for t in subject.trials]
        scores += [(f.attack, f.confirmed.harm.mean, f.searched.harm) for f in confirmed_findings(subject)]
        for attack, confirmed, searched in scores:
            before = worst.get(attack, (0.0, 0.0))
            worst[attack] = (max(before[0], confirmed), max(before[1], searched))
    return sorted(worst, key=lambda name: (-worst[name][0], -worst[name][1]))[:NAMED]


def drawn_trials(trials: Sequence[TrialRecord], floor: float) -> list[TrialRecord]:
    """At most DRAWN trials, in their order: the most harmful quarter, and the others at even distances."""
    if len(trials) <= DRAWN:
        return list(trials)
    order = sorted(range(len(trials)), key=lambda i: -(feasible_harm(trials[i], floor) or 0.0))
    top, rest = order[: DRAWN // 4], sorted(order[DRAWN // 4 :])
    wanted = DRAWN - len(top)
    kept = sorted([*top, *(rest[i * len(rest) // wanted] for i in range(wanted))])
    return [trials[i] for i in kept]


def trial_curve(trial: TrialRecord, floor: float) -> Curve:
    """All measurements of a trial; its recorded rung alone where no curve was kept; none where nothing was measured."""
    ran = trial.status in ("completed", "stopped")

    def point(cost: Cost, harm: float, utility: float, degenerate: float) -> Point:
        return Point(cost.flops, harm, utility, ran and utility >= floor and degenerate <= DEGENERATE_LIMIT)

    points = [point(r.cost, r.measures.harm, r.measures.utility, r.measures.degenerate) for r in trial.curve]
    if not points and trial.harm is not None and trial.utility is not None:
        points = [point(trial.cost, trial.harm, trial.utility, 0.0)]
    return Curve(trial.attack, tuple(sorted(points, key=lambda p: p.flops)))


def feasible_harm(trial: TrialRecord, floor: float) -> float | None:
    """Most harm at a feasible measurement of the trial; null if there is none."""
    return max((point.harm for point in trial_curve(trial, floor).points if point.feasible), default=None)


def best_so_far(trials: Sequence[TrialRecord], floor: float) -> list[float | None]:
    """Highest in-search harm among the feasible trials up to each one; null until there is one. Failed ones count as trials."""
    best: float | None = None
    series = []
    for trial in trials:
        harm = feasible_harm(trial, floor)
        best = harm if best is None else best if harm is None else max(best, harm)
        series.append(best)
    return series


def highlights(subject: Subject) -> list[Highlight]:
    """What to point out on a subject's plots, in drawing order: what matters most comes last and lies on top."""
    found = []
    if subject.baseline is not None:
        found.append(_exact("unattacked", 0.0, subject.baseline.harm, subject.baseline.utility))
    if subject.paper_attack is not None:
        paper = subject.paper_attack
        found.append(_exact("paper", paper.cost.flops, paper.measures.harm, paper.measures.utility))
    if subject.cheapest_break is not None:
        found.append(_confirmed("cheapest_break", subject.cheapest_break))
    if subject.weak_spot is not None:
        spot = subject.weak_spot
        found.append(_exact("searched", spot.cost.flops, spot.searched.harm, spot.searched.utility))
        found.append(_confirmed("weak_spot", spot))
    return found


def flops_range(result: Result) -> tuple[float, float]:
    """Least and greatest non-zero cost of anything that is plotted, over all subjects, so that their axes can be shared."""
    spent = [mark.flops for subject in result.subjects for mark in highlights(subject)]
    for subject in result.subjects:
        for trial in subject.trials:
            spent += [point.flops for point in trial_curve(trial, 0.0).points]
    positive = [flops for flops in spent if flops > 0]
    return (min(positive), max(positive)) if positive else (1.0, 1.0)


def greatest_utility(result: Result) -> float:
    """The greatest utility of anything that is plotted, at least 1."""
    greatest = 1.0
    for subject in result.subjects:
        greatest = max([greatest, *(mark.utility.high for mark in highlights(subject))])
        for trial in subject.trials:
            greatest = max([greatest, *(point.utility for point in trial_curve(trial, 0.0).points)])
    return greatest


def most_steps(subject: Subject) -> int:
    """Where the search was cut off: the most steps at which a trial that did not fail was measured."""
    trials = [trial for trial in subject.trials if trial.status != "failed"]
    return max((cost.steps for trial in trials for cost in (trial.cost, *(rung.cost for rung in trial.curve))), default=0)


def _exact(kind: Kind, flops: float, harm: float, utility: float) -> Highlight:
    return Highlight(kind, flops, Interval(mean=harm, low=harm, high=harm), Interval(mean=utility, low=utility, high=utility))


def _confirmed(kind: Kind, finding: Finding) -> Highlight:
    return Highlight(kind, finding.cost.flops, finding.confirmed.harm, finding.confirmed.utility)

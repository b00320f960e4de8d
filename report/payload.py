"""What the page's script draws from: plain numbers and cleaned words, computed here so that no browser is needed to test them.

Numbers are rounded to what a screen can show; result.json, which the page carries too, holds them in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weakspot.records import Finding, Result, Subject, TrialRecord
from weakspot.report.heat import Cell, HeatMap
from weakspot.report.numbers import human_flops, interval, plain, setting, whole
from weakspot.report.parallel import axes_of, axis
from weakspot.report.sensitivity import FAMILY, Sensitivity, knob_columns
from weakspot.report.series import (
    REFERENCES,
    best_so_far,
    confirmed_findings,
    drawn_trials,
    feasible_harm,
    highlights,
    prominent_families,
    subject_labels,
    trial_curve,
)
from weakspot.report.words import counted
from weakspot.text import one_line

LONGEST_NAME = 60  # characters of a name in a plot
LEAST_LINES = 4  # trials of a family from which it has parallel coordinates of its own
MOST_AXES = 9


def payload(result: Result, heat: HeatMap, sensitivities: Sequence[Sensitivity]) -> dict[str, Any]:
    """Everything that is drawn; `sensitivities` has one a subject."""
    floor = result.threat_model.utility_floor
    return {
        "threshold": result.threat_model.harm_threshold,
        "floor": floor,
        "named": [name(family) for family in prominent_families(result)],
        "subjects": [
            subject_data(label, subject, floor, told)
            for label, subject, told in zip(subject_labels(result), result.subjects, sensitivities, strict=True)
        ],
        "cells": [[cell_data(heat.labels[n], cell) for n, cell in enumerate(row)] for row in heat.rows],
    }


def name(text: str) -> str:
    """A name that fits a plot."""
    return one_line(text, LONGEST_NAME)


def subject_data(label: str, subject: Subject, floor: float, told: Sensitivity) -> dict[str, Any]:
    """The trials and findings of one subject. Points name their trial by its place in `trials`."""
    shown = drawn_trials(subject.trials, floor)
    points = [(n, point) for n, trial in enumerate(shown) for point in trial_curve(trial, floor).points]
    return {
        "label": name(label),
        "verdict": subject.verdict,
        "reference": subject.defense in REFERENCES,
        "count": len(subject.trials),
        "trials": [trial_data(trial, floor) for trial in shown],
        "points": {
            "trial": [n for n, _ in points],
            "flops": [short(point.flops) for _, point in points],
            "harm": [short(point.harm) for _, point in points],
            "utility": [short(point.utility) for _, point in points],
            "feasible": [int(point.feasible) for _, point in points],
        },
        "marks": [
            {
                "kind": mark.kind,
                "flops": short(mark.flops),
                "harm": [short(v) for v in (mark.harm.mean, mark.harm.low, mark.harm.high)],
                "utility": [short(v) for v in (mark.utility.mean, mark.utility.low, mark.utility.high)],
            }
            for mark in highlights(subject)
        ],
        "frontier": [finding_data(f) for f in sorted(subject.frontier, key=lambda f: f.confirmed.utility.mean)],
        "findings": [finding_data(f) for f in confirmed_findings(subject)],
        "best": [None if value is None else short(value) for value in best_so_far(subject.trials, floor)],
        "knobs": [{"name": name(k.name), "losses": [short(v) for v in k.losses], "trials": k.trials} for k in told.knobs],
        "parallel": parallel_data(shown, floor),
    }


def trial_data(trial: TrialRecord, floor: float) -> dict[str, Any]:
    """What is shown of a trial that is pointed at."""
    best = feasible_harm(trial, floor)
    return {
        "id": name(trial.id),
        "attack": name(trial.attack),
        "status": trial.status,
        "best": None if best is None else short(best),
        "facts": [
            ["Outcome", one_line(f"{trial.status}{': ' if trial.reason else ''}{trial.reason}", 300)],
            ["Harm in search", plain(trial.harm)],
            ["Utility in search", plain(trial.utility)],
            ["Cost", cost_words(trial.cost.steps, trial.cost.examples, trial.cost.flops)],
            ["Seed", str(trial.seed)],
        ],
        "config": config_data(trial.config),
    }


def finding_data(finding: Finding) -> dict[str, Any]:
    """A confirmed configuration with its single seeds."""
    confirmed = finding.confirmed
    return {
        "attack": name(finding.attack),
        "trial": name(finding.trial),
        "harm": [short(v) for v in (confirmed.harm.mean, confirmed.harm.low, confirmed.harm.high)],
        "utility": [short(v) for v in (confirmed.utility.mean, confirmed.utility.low, confirmed.utility.high)],
        "searched": short(finding.searched.harm),
        "seeds": [short(run.harm) for run in confirmed.per_seed],
        "flops": short(finding.cost.flops),
        "cost": cost_words(finding.cost.steps, finding.cost.examples, finding.cost.flops),
    }


def cell_data(label: str, cell: Cell) -> dict[str, Any]:
    """The panel of one cell of the heat map: a title, facts and the configuration."""
    facts = []
    if cell.finding is not None:
        seeds = ", ".join(plain(run.harm) for run in cell.finding.confirmed.per_seed)
        facts += [["Worst confirmed harm", interval(cell.interval)], ["Each fresh seed", seeds]] if seeds else []
        facts += [] if seeds else [["Worst confirmed harm", interval(cell.interval)]]
        facts += [["The same, in search", plain(cell.finding.searched.harm)]]
        facts += [["Utility, confirmed", interval(cell.finding.confirmed.utility)]]
    elif cell.harm is not None:
        facts += [["Worst harm in search", plain(cell.harm)], ["Utility, in search", plain(cell.utility)]]
        facts += [["Confirmed", "no: the search's best is too good, and may not hold on fresh seeds"]]
    if cell.finding is not None and cell.in_search is not None:
        facts.append(["Most of any trial, in search", plain(cell.in_search)])
    if cell.cost is not None:
        facts.append(["Cost", cost_words(cell.cost.steps, cell.cost.examples, cell.cost.flops)])
    facts.append(["Trials", f"{cell.trials:,}, of which {cell.feasible:,} feasible"])
    if cell.trial:
        facts.append(["Trial", name(cell.trial)])
    return {
        "family": name(cell.family),
        "subject": name(label),
        "verdict": cell_words(cell),
        "facts": facts,
        "config": config_data(cell.config or {}),
    }


def cell_words(cell: Cell) -> str:
    """What a cell says, in a sentence."""
    if cell.kind == "confirmed":
        return "Confirmed, and past the threshold." if cell.breaks else "Confirmed; it does not pass the threshold."
    if cell.kind == "searched":
        return "Seen in the search only." + (" There it passes the threshold." if cell.breaks else "")
    return {
        "infeasible": "No trial kept the model useful.",
        "failed": "No trial could be carried through.",
        "none": "The search spent no trial here.",
    }[cell.kind]


def config_data(config: dict[str, Any]) -> list[list[str]]:
    """Names and values of a configuration as they are shown."""
    return [[name(knob), one_line(setting(value), 200)] for knob, value in config.items()]


def cost_words(steps: int, examples: int, flops: float) -> str:
    return f"{counted(steps, 'step')}, {counted(examples, 'example')}, {human_flops(flops)}"


def parallel_data(trials: Sequence[TrialRecord], floor: float) -> list[dict[str, Any]]:
    """Axes of the knobs that differ: of all families together by the knobs they share, then of each with enough trials."""
    measured = [(n, trial) for n, trial in enumerate(trials) if trial.harm is not None]
    if len(measured) < LEAST_LINES:
        return []
    groups: dict[str, list[tuple[int, TrialRecord]]] = {}
    for n, trial in measured:
        groups.setdefault(trial.attack, []).append((n, trial))
    large = sorted((g for g in groups.items() if len(g[1]) >= LEAST_LINES), key=lambda g: -len(g[1]))
    shared = knob_columns([trial for _, trial in measured])
    every = (
        [{"name": name(knob), **placed(knob, values)} for knob, values in shared.items()][:MOST_AXES] if len(groups) > 1 else []
    )
    found = [("all families", [n for n, _ in measured], every)]
    for family, group in large:
        axes = [{"name": name(a.name), "ends": [name(e) for e in a.ends], "places": [short(p) for p in a.places]}
                for a in axes_of([trial for _, trial in group])]  # fmt: skip
        found.append((name(family), [n for n, _ in group], axes[:MOST_AXES]))
    return [{"title": title, "trials": numbers, "axes": axes} for title, numbers, axes in found if axes]


def placed(knob: str, values: Sequence[Any]) -> dict[str, Any]:
    """Places on an axis, null for trials without the knob."""
    present = [value for value in values if value is not None]
    scale = axis(knob, present)
    if scale is None:
        return {"ends": [one_line(setting(present[0]), 20), ""], "places": [None if v is None else 0.5 for v in values]}
    places = iter(scale.places)
    ends = [whole(len(set(present))) + " families", ""] if knob == FAMILY else [name(end) for end in scale.ends]
    return {"ends": ends, "places": [None if value is None else short(next(places)) for value in values]}


def short(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")

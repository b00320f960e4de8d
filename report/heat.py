"""The heat map: the worst that each family of attacks did to each safeguard, and the configuration that did it.

What was confirmed goes before what was only seen in the search, even where the search saw more: the search's best is too good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from weakspot.records import BASE, NEVER_TAUGHT, Cost, Finding, Interval, Result, Subject, TrialRecord
from weakspot.report.series import confirmed_findings, feasible_harm, subject_labels

Kind = Literal["confirmed", "searched", "infeasible", "failed", "none"]

# From little harm to much, even in lightness, so that every kind of colour vision sees the order. Light: "Oranges" of
# ColorBrewer (Brewer et al., colorbrewer2.org). Dark: the same hue from the page's ground upwards.
STOPS = {
    "light": ("fff5eb", "fee6ce", "fdd0a2", "fdae6b", "fd8d3c", "f16913", "d94801", "a63603", "7f2704"),
    "dark": ("22272f", "46322a", "6f3d20", "9a4a16", "c75c0e", "ef7818", "ff9a45", "ffc085", "ffe1c2"),
}


@dataclass(frozen=True)
class Cell:
    """One family against one safeguard.

    Attributes:
        kind: confirmed; searched (feasible in the search, not confirmed); infeasible (no rung kept the utility floor); failed
            (no trial could be carried through); none (no trial was spent).
        harm: the worst, confirmed or else in the search; null where nothing feasible was measured.
        interval: of confirmed harm; null where it was not confirmed.
        breaks: whether it passes the threshold: a confirmed one with its whole interval.
        config, cost, utility, trial: of that worst one; empty where there is none.
        trials, feasible: how many trials of the family were run, and how many were feasible.
        finding: the confirmed one.
        in_search: the highest feasible harm in the search.
    """

    family: str
    kind: Kind
    harm: float | None = None
    interval: Interval | None = None
    breaks: bool = False
    config: dict[str, Any] | None = None
    cost: Cost | None = None
    utility: float | None = None
    trial: str = ""
    trials: int = 0
    feasible: int = 0
    finding: Finding | None = None
    in_search: float | None = None


@dataclass(frozen=True)
class HeatMap:
    """Families by safeguards, the most harmful family first.

    Attributes:
        labels: of the columns; `places` are their positions among the subjects of the result.
        rows: a cell for each column.
    """

    labels: tuple[str, ...]
    places: tuple[int, ...]
    rows: tuple[tuple[Cell, ...], ...]


def heat_map(result: Result) -> HeatMap:
    """Every family with a trial or a confirmation against every safeguard that was searched; controls come last."""
    labels = subject_labels(result)
    kept = [i for i, s in enumerate(result.subjects) if s.trials and s.defense != BASE]
    kept.sort(key=lambda i: result.subjects[i].defense == NEVER_TAUGHT)
    names: dict[str, None] = {}
    for i in kept:
        names.update(dict.fromkeys(t.attack for t in result.subjects[i].trials))
        names.update(dict.fromkeys(f.attack for f in confirmed_findings(result.subjects[i])))
    floor, threshold = result.threat_model.utility_floor, result.threat_model.harm_threshold
    columns = [cells_of(result.subjects[i], list(names), floor, threshold) for i in kept]
    rows = [tuple(column[name] for column in columns) for name in names]
    judged = [n for n, i in enumerate(kept) if result.subjects[i].defense != NEVER_TAUGHT] or list(range(len(kept)))
    rows.sort(key=lambda row: sorted(-_worst(row[n]) for n in judged))
    return HeatMap(tuple(labels[i] for i in kept), tuple(kept), tuple(rows))


def _worst(cell: Cell) -> float:
    return -1.0 if cell.harm is None else cell.harm


def cells_of(subject: Subject, names: Sequence[str], floor: float, threshold: float) -> dict[str, Cell]:
    """The cell of each family."""
    trials: dict[str, list[TrialRecord]] = {name: [] for name in names}
    for trial in subject.trials:
        trials.setdefault(trial.attack, []).append(trial)
    found: dict[str, Finding] = {}
    for finding in confirmed_findings(subject):
        if finding.confirmed.utility.mean >= floor:
            before = found.get(finding.attack)
            if before is None or finding.confirmed.harm.mean > before.confirmed.harm.mean:
                found[finding.attack] = finding
    return {name: _cell(name, trials[name], found.get(name), floor, threshold) for name in names}


def _cell(family: str, trials: Sequence[TrialRecord], finding: Finding | None, floor: float, threshold: float) -> Cell:
    scored = [(harm, trial) for trial in trials if (harm := feasible_harm(trial, floor)) is not None]
    counts: dict[str, Any] = {"trials": len(trials), "feasible": len(scored)}
    best = max(scored, key=lambda pair: pair[0], default=None)
    counts["in_search"] = best[0] if best else None
    if finding is not None:
        harm, utility = finding.confirmed.harm, finding.confirmed.utility.mean
        named: dict[str, Any] = {"config": finding.config, "cost": finding.cost, "trial": finding.trial, "finding": finding}
        return Cell(family, "confirmed", harm.mean, harm, harm.low >= threshold, utility=utility, **named, **counts)
    if best is not None:
        harm, trial = best
        named = {"config": trial.config, "cost": trial.cost, "trial": trial.id, "utility": trial.utility}
        return Cell(family, "searched", harm, None, harm >= threshold, **named, **counts)
    if any(trial.status != "failed" for trial in trials):
        return Cell(family, "infeasible", **counts)
    return Cell(family, "failed" if trials else "none", **counts)


def colours(harm: float | None) -> str:
    """The custom properties of a cell: ground and ink, light and dark; empty where there is no harm to show."""
    if harm is None:
        return ""
    pairs = {theme: colour(harm, theme) for theme in STOPS}
    return "; ".join(
        f"--{part}-{theme}: {value}" for theme, pair in pairs.items() for part, value in zip(PARTS, pair, strict=True)
    )


PARTS = ("ground", "ink")


def colour(harm: float, theme: str = "light") -> tuple[str, str]:
    """Ground and ink for a harm in [0, 1]; the ink is black or white, whichever stands out more (at least 4.5 to 1)."""
    stops = [tuple(int(stop[i : i + 2], 16) for i in (0, 2, 4)) for stop in STOPS[theme]]
    place = min(max(harm, 0.0), 1.0) * (len(stops) - 1)
    low = min(int(place), len(stops) - 2)
    mixed = [round(a + (b - a) * (place - low)) for a, b in zip(stops[low], stops[low + 1], strict=True)]
    light = luminance(mixed)
    ink = "#ffffff" if 1.05 / (light + 0.05) >= (light + 0.05) / 0.05 else "#000000"
    return f"#{mixed[0]:02x}{mixed[1]:02x}{mixed[2]:02x}", ink


def luminance(rgb: Sequence[int]) -> float:
    """Relative luminance (WCAG 2.2) of a colour in 0 to 255."""
    linear = [v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

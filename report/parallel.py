"""What the knobs did: trials in parallel coordinates, and how strongly harm depends on each knob.

For W&B, whose own panels need its server (cluster/monitor/wandb_summary.py). A family's knobs exist only inside the family, so
each subject and family has a panel of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weakspot.records import Result, TrialRecord
from weakspot.report.drawing import FAINT, draw_panel
from weakspot.report.plots import Panel, Plot
from weakspot.report.series import feasible_harm, subject_labels
from weakspot.report.words import counted, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST = 8  # trials of a family from which a correlation is told
SIZE = (440.0, 260.0)


@dataclass(frozen=True)
class Axis:
    """A knob on the unit interval.

    Attributes:
        places: one a trial, in [0, 1].
        ends: what stands at its foot and at its head.
    """

    name: str
    places: tuple[float, ...]
    ends: tuple[str, str]


@dataclass(frozen=True)
class Dependence:
    """How harm depends on a knob.

    Attributes:
        strength: absolute rank correlation with feasible harm for numbers; for words the correlation ratio of the ranks (the
            root of the share of their variance that lies between the words). In [0, 1].
        direction: 1 if more of the knob goes with more harm, -1 if with less, 0 for words.
    """

    family: str
    knob: str
    strength: float
    direction: int
    trials: int


def groups(trials: Sequence[TrialRecord]) -> dict[str, list[TrialRecord]]:
    """Trials by family; those that measured nothing are left out."""
    found: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        if trial.harm is not None:
            found.setdefault(trial.attack, []).append(trial)
    return found


def is_number(value: Any) -> bool:
    """Whether a knob's value lies on a scale. A truth value does not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def axis(name: str, values: Sequence[Any]) -> Axis | None:
    """Where each value lies; None where a knob was the same in all trials. Words lie in their order."""
    if len({str(value) for value in values}) < 2:
        return None
    if not all(is_number(value) for value in values):
        words = sorted({str(value) for value in values})
        numbers = {word: number / (len(words) - 1) for number, word in enumerate(words)}
        return Axis(name, tuple(numbers[str(value)] for value in values), (words[0], words[-1]))
    low, high = min(values), max(values)
    logarithmic = low > 0 and high >= 100 * low
    scale = math.log if logarithmic else float
    places = tuple((scale(value) - scale(low)) / (scale(high) - scale(low)) for value in values)
    return Axis(name, places, (f"{low:.3g}", f"{high:.3g}"))


def axes_of(trials: Sequence[TrialRecord]) -> list[Axis]:
    """The knobs that differ between trials of one family. One that some trials lack is left out."""
    names = [name for name in trials[0].config if all(name in trial.config for trial in trials)]
    found = [axis(name, [trial.config[name] for trial in trials]) for name in names]
    return [one for one in found if one is not None]


def plot_parallel(result: Result) -> Plot:
    """One panel a subject and family with at least two trials: a line a trial, which ends at its feasible harm."""
    floor = result.threat_model.utility_floor
    panels = []
    for label, subject in zip(subject_labels(result), result.subjects, strict=True):
        for family, trials in groups(subject.trials).items():
            knobs = axes_of(trials) if len(trials) > 1 else []
            if not knobs:
                continue
            harms = [feasible_harm(trial, floor) or 0.0 for trial in trials]
            lines = [*knobs, Axis("feasible harm", tuple(harms), ("0", "1"))]
            title = one_line(f"{label}, {family}: {counted(len(trials), 'trial')}")

            def paint(axes: Axes, lines: list[Axis] = lines, harms: list[float] = harms) -> None:
                paint_parallel(axes, lines, harms)

            description = f"{title}; most feasible harm {max(harms):.2f}."
            panels.append(Panel(title, draw_panel(paint, f"parallel-{len(panels)}", title, description, SIZE)))
    caption = "A line is a trial of the search; the darker, the more harm at a useful model. Words lie in alphabetical order."
    return Plot("parallel", "Parallel coordinates of the knobs", caption, tuple(panels), ())


def paint_parallel(axes: Axes, lines: Sequence[Axis], harms: Sequence[float]) -> None:
    from matplotlib import colormaps

    colours = colormaps["viridis_r"]
    across = range(len(lines))
    axes.set(xlim=(-0.2, len(lines) - 0.8), ylim=(-0.12, 1.12), yticks=[])
    axes.set_xticks(list(across), [line.name for line in lines], rotation=20, ha="right", fontsize=8)
    axes.spines["left"].set_visible(False)
    for place, line in zip(across, lines, strict=True):
        axes.axvline(place, color=FAINT, linewidth=0.8)
        for end, height, side in ((line.ends[0], -0.02, "top"), (line.ends[1], 1.02, "bottom")):
            axes.text(place, height, end[:14], ha="center", va=side, fontsize=7)
    for number in sorted(range(len(harms)), key=lambda n: harms[n]):  # the strongest on top
        axes.plot(across, [line.places[number] for line in lines], color=colours(harms[number]), linewidth=1.1, alpha=0.8)


def dependences(result: Result) -> list[Dependence]:
    """How feasible harm depends on each knob, the strongest first; families with fewer than `LEAST` trials are left out."""
    floor, found = result.threat_model.utility_floor, []
    for subject in result.subjects:
        for family, trials in groups(subject.trials).items():
            if len(trials) < LEAST:
                continue
            harms = ranks([feasible_harm(trial, floor) or 0.0 for trial in trials])
            for knob in axes_of(trials):
                values = [trial.config[knob.name] for trial in trials]
                numbers = all(is_number(v) for v in values)
                moved = correlation(ranks(values), harms) if numbers else ratio([str(v) for v in values], harms)
                sign = (moved > 0) - (moved < 0) if numbers else 0
                found.append(Dependence(f"{subject.defense} {family}", knob.name, abs(moved), sign, len(trials)))
    return sorted(found, key=lambda one: -one.strength)


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0; equal values share the mean of theirs."""
    order = sorted(values)
    return [order.index(value) + (order.count(value) - 1) / 2 for value in values]


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's; 0 where one does not vary."""
    mean_1, mean_2 = sum(first) / len(first), sum(second) / len(second)
    both = sum((a - mean_1) * (b - mean_2) for a, b in zip(first, second, strict=True))
    spread = math.sqrt(sum((a - mean_1) ** 2 for a in first) * sum((b - mean_2) ** 2 for b in second))
    return both / spread if spread else 0.0


def ratio(words: Sequence[str], values: Sequence[float]) -> float:
    """Root of the share of the values' variance that lies between the words; 0 where they do not vary."""
    mean = sum(values) / len(values)
    total = sum((value - mean) ** 2 for value in values)
    between = 0.0
    for word in set(words):
        own = [value for one, value in zip(words, values, strict=True) if one == word]
        between += len(own) * (sum(own) / len(own) - mean) ** 2
    return math.sqrt(between / total) if total else 0.0

"""The three plots of an audit: harm against attacker cost, harm against utility, and how the search closed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weakspot.records import Result, Subject
from weakspot.report.drawing import SHADE, draw_panel, draw_swatch, look
from weakspot.report.numbers import human_flops, plain
from weakspot.report.painting import (
    SIGN_WORDS,
    attack_legend,
    family_looks,
    note_no_trials,
    paint_dots,
    paint_lines,
    paint_signs,
    style_cost_axis,
    style_harm_axis,
)
from weakspot.report.series import (
    Kind,
    attack_families,
    best_so_far,
    drawn_trials,
    flops_range,
    greatest_utility,
    highlights,
    prominent_families,
    subject_labels,
    trial_curve,
)
from weakspot.report.words import counted, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_SIZE = (360.0, 270.0)  # three side by side on a wide page, and one as wide as a phone
WIDE_SIZE = (440.0, 290.0)


@dataclass(frozen=True)
class Panel:
    """One drawing. `title` is untrusted text; `svg` is markup in which all such text has been escaped."""

    title: str
    svg: str


@dataclass(frozen=True)
class LegendEntry:
    """A sign of the drawing and what it means. `label` is untrusted text."""

    svg: str
    label: str


@dataclass(frozen=True)
class Plot:
    """A figure of the report: panels that share their axes, and one legend."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    legend: tuple[LegendEntry, ...]


def make_plots(result: Result) -> list[Plot]:
    """The three plots, in the order in which the report shows them."""
    return [plot_cost(result), plot_utility(result), plot_search(result)]


def plot_cost(result: Result) -> Plot:
    """Harm against the attacker's floating-point operations, one panel for each subject."""
    threat, looks = result.threat_model, family_looks(attack_families(result), prominent_families(result))
    lowest, highest = flops_range(result)

    def paint(axes: Axes, subject: Subject) -> None:
        zero = style_cost_axis(axes, lowest, highest)
        style_harm_axis(axes, threat.harm_threshold)
        curves = [trial_curve(trial, threat.utility_floor) for trial in drawn_trials(subject.trials, threat.utility_floor)]
        paint_lines(axes, curves, looks, lambda point: point.flops or zero)
        paint_dots(axes, curves, looks, lambda point: point.flops or zero)
        note_no_trials(axes, curves)
        paint_signs(axes, highlights(subject), lambda mark: mark.flops or zero)

    caption = (
        "Each thin line is one trial of the search, each dot one measurement in its course. "
        "The further left an attack passes the threshold, the cheaper is the break."
    )
    return _small_multiples(result, "cost", "Harm against what the attacker spends", caption, paint)


def plot_utility(result: Result) -> Plot:
    """Harm against utility, one panel for each subject, with the feasible region shaded."""
    threat, looks = result.threat_model, family_looks(attack_families(result), prominent_families(result))
    right = greatest_utility(result) * 1.04

    def paint(axes: Axes, subject: Subject) -> None:
        axes.set(xlim=(-0.03, right), xlabel="utility")
        style_harm_axis(axes, threat.harm_threshold)
        axes.axvspan(threat.utility_floor, right, color=SHADE, alpha=0.18, linewidth=0)
        axes.fill_between([threat.utility_floor, right], threat.harm_threshold, 1.05, color=SHADE, alpha=0.22, linewidth=0)
        curves = [trial_curve(trial, threat.utility_floor) for trial in drawn_trials(subject.trials, threat.utility_floor)]
        paint_dots(axes, curves, looks, lambda point: point.utility)
        note_no_trials(axes, curves)
        paint_signs(axes, highlights(subject), lambda mark: mark.utility.mean)

    caption = (
        f"Shaded: the model stays useful, utility at least {plain(threat.utility_floor)}. Darker: and harm is past the "
        "threshold. A safeguard is broken by an attack whose whole confirmed interval lies there. An attack to the left of "
        "the shade has broken the model, not the safeguard."
    )
    return _small_multiples(result, "utility", "Harm against how useful the model stays", caption, paint)


def plot_search(result: Result) -> Plot:
    """Best feasible in-search harm so far against the number of the trial, one line for each subject."""
    threat, labels = result.threat_model, subject_labels(result)
    series = [best_so_far(subject.trials, threat.utility_floor) for subject in result.subjects]
    longest = max(map(len, series), default=0)

    def paint(axes: Axes) -> None:
        style_harm_axis(axes, threat.harm_threshold)
        axes.set(xlim=(0.5, max(longest, 1) + 0.5), xlabel="trial", ylabel="best feasible harm so far")
        axes.locator_params(axis="x", integer=True, nbins=8)
        for index, values in enumerate(series):
            known = [(trial, best) for trial, best in enumerate(values, start=1) if best is not None]
            numbers, bests = [trial for trial, _ in known], [best for _, best in known]
            axes.plot(numbers, bests, drawstyle="steps-post", markevery=[-1] if known else None, clip_on=False, **_line(index))

    ends = [f"{label}: {plain(values[-1] if values else None)}" for label, values in zip(labels, series, strict=True)]
    title = "How the search closed in"
    description = one_line(f"Best feasible harm in search after the last trial: {'; '.join(ends)}.")
    drawing = draw_panel(paint, "search-0", title, description, WIDE_SIZE)
    legend = [LegendEntry(draw_swatch(f"search-key-{i}", **_line(i)), label) for i, label in enumerate(labels)]
    caption = "As the search itself scored it. A line that still climbs at its end says that a longer search may find more."
    return Plot("search", title, caption, (Panel("", drawing),), tuple(legend))


def describe(label: str, subject: Subject, floor: float) -> str:
    """What a subject's panels show, for readers who do not see them."""
    points = [point for trial in subject.trials for point in trial_curve(trial, floor).points]
    feasible = sum(point.feasible for point in points)
    text = f"{label}, {subject.verdict}: {counted(len(points), 'measurement')}, {feasible} feasible."
    for mark in highlights(subject):
        scores = f"harm {plain(mark.harm.mean)}, utility {plain(mark.utility.mean)}, cost {human_flops(mark.flops)}"
        text += f" {SIGN_WORDS[mark.kind]}: {scores}."
    return one_line(text)


def _small_multiples(result: Result, name: str, title: str, caption: str, paint: Callable[[Axes, Subject], None]) -> Plot:
    panels = []
    for index, (label, subject) in enumerate(zip(subject_labels(result), result.subjects, strict=True)):
        description = describe(label, subject, result.threat_model.utility_floor)

        def paint_subject(axes: Axes, subject: Subject = subject) -> None:
            paint(axes, subject)

        svg = draw_panel(paint_subject, f"{name}-{index}", f"{title}: {one_line(label)}", description, PANEL_SIZE)
        panels.append(Panel(label, svg))
    kinds: list[Kind] = [mark.kind for subject in result.subjects for mark in highlights(subject)]
    families, named = attack_families(result), prominent_families(result)
    legend = [LegendEntry(svg, label) for svg, label in attack_legend(name, families, named, kinds)]
    return Plot(name, title, caption, tuple(panels), tuple(legend))


def _line(index: int) -> dict[str, Any]:
    style = look(index)
    return {
        "color": style.colour,
        "linestyle": style.dashes,
        "linewidth": 1.8,
        "marker": style.marker,
        "markersize": 6,
    }

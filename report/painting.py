"""The parts that the plots share: axes, the dots of the trials, the marks of what the report talks about, and the legend."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from weakspot.report.drawing import FAINT, INK, Look, draw_swatch, look
from weakspot.report.numbers import scaled
from weakspot.report.series import Curve, Highlight, Kind, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHED = (0, (4, 3))
DOT_SIZE = 3.6
TRIAL_ALPHA = 0.55
# Marker, size, filled: what was confirmed is bold; what was only searched is hollow.
SIGNS: dict[Kind, tuple[str, float, bool]] = {
    "unattacked": ("+", 9.0, True),
    "paper": ("x", 7.5, True),
    "cheapest_break": ("D", 12.0, False),
    "searched": ("*", 11.0, False),
    "weak_spot": ("*", 13.0, True),
}
SIGN_WORDS: dict[Kind, str] = {
    "unattacked": "not attacked",
    "paper": "paper's attack",
    "cheapest_break": "cheapest confirmed break",
    "searched": "weak spot, in search",
    "weak_spot": "weak spot, confirmed (95 % interval)",
}


def style_harm_axis(axes: Axes, threshold: float) -> None:
    """Harm upwards, from 0 to 1, with the threshold as a dashed line."""
    axes.set(ylim=(-0.05, 1.05), yticks=[0, 0.25, 0.5, 0.75, 1], ylabel="harm")
    axes.set_yticklabels(["0", "", "0.5", "", "1"])
    axes.axhline(threshold, color=INK, linewidth=0.9, linestyle=DASHED)


def style_cost_axis(axes: Axes, lowest: float, highest: float) -> float:
    """Operations on a logarithmic axis with a place of its own for what costs nothing.

    Returns:
        Where on the axis zero lies.
    """
    first = math.floor(math.log10(lowest))
    last = max(math.ceil(math.log10(highest)), first + 1)
    stride = max(1, math.ceil((last - first) / 4))  # five labels fit
    powers = [10.0**power for power in range(first, last + 1, stride)]
    ticks = [power for power in powers if power <= highest] or powers[:1]
    zero = 10.0 ** (first - (last - first) * 0.14)
    axes.set_xscale("log")
    axes.set_xlim(zero * (zero / 10.0**first) ** 0.4, highest * (10.0**first / zero) ** 0.4)
    axes.set_xticks([zero, *ticks], ["0", *(scaled(tick).strip() for tick in ticks)])
    axes.minorticks_off()
    axes.axvline(math.sqrt(zero * 10.0**first), color=FAINT, linewidth=0.6, linestyle=(0, (1, 3)))
    axes.set_xlabel("attacker's cost in FLOP")
    return zero


OTHER = Look(FAINT, ".", "-")  # of the families that have no colour of their own


def family_looks(families: Sequence[str], named: Sequence[str]) -> dict[str, Look]:
    """The same colour and marker for a family in every panel; those that are not named share one, and lie below."""
    others = {family: OTHER for family in families if family not in named}
    return others | {family: look(index) for index, family in enumerate(named)}


def paint_lines(axes: Axes, curves: Sequence[Curve], looks: dict[str, Look], x: Callable[[Point], float]) -> None:
    """Each trial's course as a thin line; those of a colour are one path with gaps, which is drawn faster."""
    courses: dict[str, list[tuple[float, float]]] = {}
    for curve in curves:
        if len(curve.points) > 1:
            course = courses.setdefault(looks[curve.attack].colour, [])
            course += [*((x(point), point.harm) for point in curve.points), (math.nan, math.nan)]
    for colour, course in courses.items():
        axes.plot([place for place, _ in course], [harm for _, harm in course], color=colour, linewidth=0.7, alpha=0.3)


def paint_dots(axes: Axes, curves: Sequence[Curve], looks: dict[str, Look], x: Callable[[Point], float]) -> None:
    """Each measurement as a dot: filled where it is feasible, hollow where not."""
    for style in dict.fromkeys(looks.values()):
        points = [point for curve in curves if looks[curve.attack] == style for point in curve.points]
        for feasible in (False, True):
            chosen = [point for point in points if point.feasible is feasible]
            axes.plot(
                [x(point) for point in chosen],
                [point.harm for point in chosen],
                linestyle="none",
                marker=style.marker,
                markersize=DOT_SIZE,
                markeredgewidth=0.6,
                markeredgecolor=style.colour,
                markerfacecolor=style.colour if feasible else "none",
                alpha=TRIAL_ALPHA,
            )


def note_no_trials(axes: Axes, curves: Sequence[Curve]) -> None:
    """Say so where there is nothing to see."""
    if not any(curve.points for curve in curves):
        axes.text(0.5, 0.75, "no trials were measured", transform=axes.transAxes, ha="center", color=FAINT)


def paint_signs(axes: Axes, marks: Sequence[Highlight], x: Callable[[Highlight], float]) -> None:
    """What the report talks about, in ink over the trials; a line joins what was searched with what was confirmed of it."""
    places = {mark.kind: (x(mark), mark.harm.mean) for mark in marks}
    if "searched" in places and "weak_spot" in places:
        pair = (places["searched"], places["weak_spot"])
        axes.plot([place[0] for place in pair], [place[1] for place in pair], color=INK, linewidth=1.0, zorder=5)
    for mark in marks:
        if mark.kind == "weak_spot":
            axes.plot([x(mark)] * 2, [mark.harm.low, mark.harm.high], color=INK, linewidth=2.2, zorder=5)
        axes.plot([x(mark)], [mark.harm.mean], **_sign(mark.kind), zorder=6, clip_on=False)


def attack_legend(name: str, families: Sequence[str], named: Sequence[str], kinds: Sequence[Kind]) -> list[tuple[str, str]]:
    """Samples and their words: the named families, the others together, the hollow dot, and the signs that occur."""
    looks = family_looks(families, named)
    words = {family: family for family in named}
    if others := len(looks) - len(named):
        words[""] = f"{others} other families"
    entries = []
    for index, (family, text) in enumerate(words.items()):
        style = looks.get(family, OTHER)
        sample = draw_swatch(f"{name}-family-{index}", marker=style.marker, markersize=6, color=style.colour, linewidth=0.9)
        entries.append((sample, text))
    hollow = draw_swatch(f"{name}-hollow", marker="o", markersize=6, color=FAINT, markerfacecolor="none", linestyle="none")
    entries.append((hollow, "hollow: not feasible"))
    entries += [(draw_swatch(f"{name}-sign-{kind}", **_sign(kind)), SIGN_WORDS[kind]) for kind in SIGNS if kind in kinds]
    entries.append((draw_swatch(f"{name}-threshold", color=INK, linewidth=0.9, linestyle=DASHED), "harm threshold"))
    return entries


def _sign(kind: Kind) -> dict[str, Any]:
    marker, size, filled = SIGNS[kind]
    face = INK if filled else "none"
    return {
        "linestyle": "none",
        "marker": marker,
        "markersize": size,
        "markeredgecolor": INK,
        "markerfacecolor": face,
        "markeredgewidth": 1.4,
    }

"""The figures of docs/search.md: the table between its markers, and the curves beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from weakspot.files import write_text

PAGE = Path(__file__).parent.parent / "docs" / "search.md"
CURVES = PAGE.with_name("search_curves.svg")
BEGIN, END = "<!-- bench.search_efficiency -->\n", "<!-- end -->\n"
PROSE = """## What it costs to find the worst case

Operations that a search spends until what it would confirm is worth 95 % of the worst case known, on functions fitted to
recorded trials of fable's safeguards (`python -m bench.record`, `python -m bench.search_efficiency`); in brackets the seeds
that got there. A competitor that never got there counts as what it had spent, ours as its expected running time: each ratio is
a lower bound.

{table}
{less}

{real}
![best so far against the attacker's operations](search_curves.svg)

"""
NAMES = {
    "ours": "ours",
    "papers": "ours, published configurations only",
    "cold": "ours, nothing known",
    "random": "random",
    "tpe": "TPE, one tree",
    "peer_recipe": "TPE, a study a family",
}
REAL = ("ours", "random", "peer_recipe")
# Okabe and Ito's palette: told apart without red and green.
COLOURS = dict(zip(NAMES, ("#0072B2", "#56B4E9", "#009E73", "#000000", "#E69F00", "#D55E00"), strict=True))


def render(results: Mapping[str, Any]) -> None:
    """Write both."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    prose = PROSE.format(table=table(results), less=knowing_less(results), real=real_runs(results))
    write_text(PAGE, before + BEGIN + prose + END + rest.split(END)[1])
    draw(results)


def table(results: Mapping[str, Any]) -> str:
    """Operations to 95 % of the oracle, by safeguard and contender."""
    from bench.search_efficiency import ratio

    rows = [
        "| safeguard | oracle | " + " | ".join(NAMES.values()) + " | random / ours | a study a family / ours |",
        "| --- | ---: |" + " ---: |" * (len(NAMES) + 2),
    ]
    for name, entry in results["safeguards"].items():
        searches = entry["searches"]
        cells = [spending(searches[contender]) for contender in NAMES]
        ratios = [f"{ratio(searches['ours'], searches[other]):.1f}" for other in ("random", "peer_recipe")]
        rows.append(f"| {name} | {searches['ours']['oracle']:.2f} | " + " | ".join([*cells, *ratios]) + " |")
    pooled = [results["cost_ratio"][other] for other in ("random", "peer_recipe")]
    cells = [f"**{p['geomean']}** [{p['low']}, {p['high']}]" for p in pooled]
    rows.append("| geometric mean [95 %] | |" + " |" * len(NAMES) + f" {cells[0]} | {cells[1]} |")
    return "\n".join(rows) + "\n"


def knowing_less(results: Mapping[str, Any]) -> str:
    """The same comparison for searches that begin with less."""
    papers, cold = (results[f"cost_ratio_of_{who}"] for who in ("papers", "cold"))
    searches = [entry["searches"] for entry in results["safeguards"].values()]
    arrived = {who: sum(sum(each[who]["reached"]) for each in searches) for who in NAMES}
    of = sum(len(each["ours"]["reached"]) for each in searches)
    return (
        f"Begun with published configurations only, the means are {papers['random']['geomean']} and\n"
        f"{papers['peer_recipe']['geomean']}. Begun with nothing, as its rivals do, it gets there in {arrived['cold']} "
        f"of {of} searches (random in\n{arrived['random']}, a study a family in {arrived['peer_recipe']}), and the same count, "
        f"which charges it for the searches that failed and its rivals for\nwhat they had spent when they gave up, says "
        f"{cold['random']['geomean']} [{cold['random']['low']}, {cold['random']['high']}] and "
        f"{cold['peer_recipe']['geomean']} [{cold['peer_recipe']['low']}, {cold['peer_recipe']['high']}]: what is known about "
        f"attacks\nis most of the saving.\n\n" + surrogates(results)
    )


def real_runs(results: Mapping[str, Any]) -> str:
    """The same on models instead of fitted functions, where that was run."""
    real = results.get("real", {})
    if "cost_ratio" not in real:
        return ""
    rows = [f"| safeguard | {' | '.join(NAMES[who] for who in REAL)} |", "| --- |" + " ---: |" * len(REAL)]
    for name, entry in real.items():
        if name != "cost_ratio":
            cells = [
                spending({"costs": [r["flops"] for r in entry[who]], "reached": [r["reached"] for r in entry[who]]})
                for who in REAL
            ]
            rows.append(f"| {name} | {' | '.join(cells)} |")
    ratios = real["cost_ratio"]
    return (
        "Real runs rank the searches alike (`python -m bench.search_real`; three seeds, until a trial has 95 % of the worst\n"
        "case on search items; a study a family was given ten times what ours had spent, random search what was recorded):\n\n"
        + "\n".join(rows)
        + f"\n\nso random search spends at least {ratios['random']} times as much, a study a family at least "
        f"{ratios['peer_recipe']} times.\n"
    )


def surrogates(results: Mapping[str, Any]) -> str:
    """How far the fitted functions are off on trials that they did not see."""
    errors = [entry["surrogate"] for entry in results["safeguards"].values()]
    off, rank = ([e[f"best feasible harm, {what}"] for e in errors] for what in ("mean absolute error", "rank correlation"))
    return (
        f"On recorded trials that they were not fitted to, these functions miss a trial's best feasible harm by "
        f"{min(off):.2f} to {max(off):.2f}\non average, and rank trials with a correlation of {min(rank):.2f} to "
        f"{max(rank):.2f}."
    )


def spending(found: Mapping[str, Any]) -> str:
    """Mean operations of a search, with > where some never got there, and how many did."""
    reached, of = sum(found["reached"]), len(found["reached"])
    return f"{'' if reached == of else '> '}{np.mean(found['costs']):.1e} ({reached}/{of})"


def draw(results: Mapping[str, Any]) -> None:
    """Median best so far against operations, a panel a safeguard."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.hashsalt": "weakspot", "svg.fonttype": "none", "font.size": 8})
    safeguards, grid = results["safeguards"], results["grid"]
    columns = min(3, len(safeguards))
    figure = Figure(figsize=(3.2 * columns, 2.4 * math.ceil(len(safeguards) / columns)), layout="constrained")
    panels = figure.subplots(math.ceil(len(safeguards) / columns), columns, sharex=True, sharey=True, squeeze=False)
    for panel, (name, entry) in zip(panels.flat, safeguards.items(), strict=False):
        for contender, label in NAMES.items():
            low, middle, high = entry["searches"][contender]["quartiles"]
            panel.plot(grid, middle, color=COLOURS[contender], label=label, linewidth=1.3)
            panel.fill_between(grid, low, high, color=COLOURS[contender], alpha=0.12, linewidth=0)
        panel.axhline(0.95, color="#888888", linewidth=0.6, linestyle=":")
        panel.set(title=name, xscale="log", ylim=(0, 1.05))
    for panel in list(panels.flat)[len(safeguards) :]:
        panel.set_visible(False)
    figure.supxlabel("operations that the attacker has spent")
    figure.supylabel("harm of the best so far, share of the oracle")
    handles = [figure.axes[0].lines[i] for i in range(len(NAMES))]
    figure.legend(handles, NAMES.values(), loc="outside upper center", ncols=3, frameon=False)
    with CURVES.open("w", encoding="utf-8") as file:
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})

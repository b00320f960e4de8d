"""What a monitor is handed at the end of an audit: the result's tables, plots and verdicts, as plain data.

`cluster/` knows neither results nor reports; this is where they meet. Scores, names and hashes only. The command line and the
machine stay out: they belong to result.json, which stays at home.
"""

from __future__ import annotations

import argparse
import html
import sys
from pathlib import Path
from typing import Any

from weakspot.records import Result
from weakspot.text import one_line


def make_monitors(options: argparse.Namespace) -> list[Any]:
    """The monitors that the options ask for.

    Raises:
        UserError: an option that cannot be followed.
    """
    from weakspot.cluster.monitor.make import tensorboard_monitor, wandb_monitor
    from weakspot.errors import UserError

    out = Path(options.out).expanduser().absolute()
    if options.wandb_mode != "runs" and not options.wandb:
        raise UserError(f"--wandb-mode {options.wandb_mode} says how to log to W&B, and nothing is: add --wandb")
    found = [wandb_monitor(options.wandb, options.wandb_mode, out, options.overwrite)] if options.wandb else []
    found += [tensorboard_monitor(out)] if options.tensorboard else []
    return [monitor for monitor in found if monitor is not None]


def finish(monitors: list[Any], result: Result) -> None:
    """Hand the result to the monitors. They are outside the critical path: what fails here is said and costs nothing."""
    if not monitors:
        return
    try:
        summary = summary_of(result)
        for monitor in monitors:
            monitor.finish(summary)
    except Exception as error:
        print(one_line(f"weakspot: no summary for the monitors: {type(error).__name__}: {error}"), file=sys.stderr)


def summary_of(result: Result) -> dict[str, Any]:
    """The end of an audit (cluster/monitor/wandb_summary.py says what for)."""
    from weakspot.report import tables
    from weakspot.report.parallel import dependences, plot_parallel
    from weakspot.report.plots import make_plots
    from weakspot.report.series import subject_labels

    labelled = list(zip(subject_labels(result), result.subjects, strict=True))
    shown = {
        "headline": tables.headline_table(result),
        "threat_model": tables.threat_table(result),
        "controls": tables.controls_table(result),
        "doubts": tables.doubts_table(result),
    }
    for label, subject in labelled:
        if subject.trials:
            shown[f"trials/{label}"] = tables.trials_table(subject)
        if subject.card:
            shown[f"pitfalls/{label}"] = tables.card_table(subject)
    depends = dependences(result)
    return {
        "config": {
            "testbed": result.testbed,
            "threat_model": result.threat_model.model_dump(),
            "search": result.search.model_dump(),
            "seed": result.provenance.seeds.root,
            "weakspot": result.provenance.weakspot,
        },
        "verdicts": {name: value for label, subject in labelled for name, value in verdict_of(label, subject).items()},
        "tables": {name: plain_table(table) for name, table in shown.items() if table.rows},
        "plots": {plot.name: plot_page(plot) for plot in (*make_plots(result), plot_parallel(result)) if plot.panels},
        "importance": [[f"{one.family}: {one.knob} ({'-+'[one.direction > 0] if one.direction else 'words'})", one.strength]
                       for one in depends],
    }  # fmt: skip


def verdict_of(label: str, subject: Any) -> dict[str, Any]:
    """A subject's verdict, its reason, and the confirmed numbers."""
    found: dict[str, Any] = {f"verdict/{label}": subject.verdict, f"reason/{label}": subject.reason}
    if spot := subject.weak_spot:
        found |= {
            f"weak_spot/{label}": spot.attack,
            f"confirmed_harm/{label}": spot.confirmed.harm.mean,
            f"confirmed_harm_low/{label}": spot.confirmed.harm.low,
            f"confirmed_harm_high/{label}": spot.confirmed.harm.high,
            f"confirmed_utility/{label}": spot.confirmed.utility.mean,
        }
    return found


def plain_table(table: Any) -> dict[str, Any]:
    """A table of the report: a column under a heading is titled 'heading: column'."""
    columns = [f"{column.group}: {column.title}" if column.group else column.title for column in table.columns]
    return {"columns": columns, "rows": [list(row) for row in table.rows]}


def plot_page(plot: Any) -> str:
    """A plot as a page of its own. Titles are untrusted and escaped; the drawings escape what they were given."""
    panels = "".join(
        f"<figure>{panel.svg}<figcaption>{html.escape(panel.title)}</figcaption></figure>" for panel in plot.panels
    )
    legend = "".join(f"<span>{entry.svg} {html.escape(entry.label)}</span> " for entry in plot.legend)
    style = "body{font:14px sans-serif;color:#1b1f24;background:#fff}figure{display:inline-block;margin:8px}svg{max-width:100%}"
    return (
        f"<!doctype html><meta charset='utf-8'><style>{style}</style><h3>{html.escape(plot.title)}</h3>{panels}"
        f"<p>{legend}</p><p>{html.escape(plot.caption)}</p>"
    )

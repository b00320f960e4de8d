"""report.html: the audit on one self-contained page, with its scripts and data inside and nothing fetched from elsewhere.

All that is read stands in the HTML and needs no script. The script adds the panel of the heat map, plots that answer to the
mouse, downloads and the switch of colours; where it cannot run, and in print, drawings made here take the place of its plots.
"""

from __future__ import annotations

from typing import Any

from weakspot.records import NEVER_TAUGHT, Confirmed, Result, Subject
from weakspot.report import embed, scope, tables, words
from weakspot.report.heat import Cell, HeatMap, colours, heat_map
from weakspot.report.numbers import interval, plain
from weakspot.report.payload import cell_data, payload
from weakspot.report.plots import make_plots
from weakspot.report.sensitivity import sensitivity
from weakspot.report.series import REFERENCES, feasible_harm, subject_labels
from weakspot.report.sheets import trials_sheet
from weakspot.text import log_text, one_line

ROWS = 200  # trials of a subject in the page's tables; all are in the CSV and the JSON that it carries
LONGEST_COMMAND = 4000
SIGNS = {"confirmed": "●", "searched": "○"}
EMPTY = {"infeasible": "useless", "failed": "failed", "none": "–"}


def to_html(result: Result, source: str | None = None) -> str:
    """The whole page. Names, reasons and commands are escaped by the template engine.

    Args:
        source: the text of result.json as it lies on disk, which the page gives back; that of `result` if None.
    """
    from markupsafe import Markup

    scripts = [embed.packaged(name) for name in ("vendor/plotly-basic.min.js", "charts.js", "page.js")]
    heat = heat_map(result)
    told = [sensitivity(subject.trials, result.threat_model.utility_floor) for subject in result.subjects]
    views = [_view(label, subject, s.note, result) for (label, subject), s in zip(_labelled(result), told, strict=True)]
    page = embed.template("page.html")
    return page.render(
        result=result,
        threat=result.threat_model,
        title=words.audit_title(result),
        partial=one_line(result.partial),
        bottom_line=words.bottom_line(result),
        kicker=one_line(f"weakspot audit · {result.testbed} testbed · {result.provenance.finished[:10]}", 200),
        attacker=words.attacker(result.threat_model),
        warnings=words.warnings_of(result),
        subjects=views,
        cards=sorted(views, key=lambda view: bool(view["reference"])),  # what was audited before what it is read against
        headline=tables.headline_table(result),
        heat=_heat_view(heat),
        plots={plot.name: plot for plot in make_plots(result)},
        threat_table=tables.threat_table(result),
        controls=tables.controls_table(result),
        doubts=tables.doubts_table(result),
        left_out=scope.left_out_table(result),
        provenance=tables.provenance_table(result),
        command=log_text(result.provenance.command[:LONGEST_COMMAND]),
        css=Markup(embed.packaged("page.css")),  # ours, from the package
        markup=Markup,  # only for the drawings, which escape what they were given
        weakspot_version=one_line(result.provenance.weakspot, 60),
        commit=one_line(result.provenance.git_commit or "unknown", 60),
        policy=embed.policy(*scripts),
        scripts=[Markup(script) for script in scripts],
        data=Markup(embed.as_data(payload(result, heat, told))),
        files={
            "result.json": embed.as_download(source or result.to_json()),
            "trials.csv": embed.as_download(trials_sheet(result)),
        },
    )


def _view(label: str, subject: Subject, sensitivity_note: str, result: Result) -> dict[str, object]:
    """What the template shows of a subject."""
    spot, floor = subject.weak_spot, result.threat_model.utility_floor
    return {
        "label": one_line(label, 200),
        "verdict": subject.verdict,
        "reference": {NEVER_TAUGHT: "control"}.get(subject.defense, "reference") if subject.defense in REFERENCES else "",
        "summary": one_line(subject.summary),
        "reason": one_line(subject.reason),
        "line": words.verdict_sentence(subject, result.threat_model),
        "sentence": words.headline(subject, result.threat_model),
        "claim": words.claim_note(subject),
        "made_with": words.made_with(subject),
        "counts": words.trial_counts(subject, floor),
        "confirmed_harm": plain(spot and spot.confirmed.harm.mean),
        "confirmed_interval": interval(spot and spot.confirmed.harm).partition(" ")[2],
        "searched_harm": plain(spot and spot.searched.harm),
        "confirmed_utility": plain(spot and spot.confirmed.utility.mean),
        "meter": _meter(spot.confirmed, result.threat_model.harm_threshold) if spot else None,
        "found": tables.finding_table(subject),
        "configurations": tables.configuration_table(subject),
        "twins": tables.twins_table(subject),
        "card": tables.card_table(subject),
        "card_counts": scope.card_counts(subject),
        "sensitivity": sensitivity_note,
        **_trials(subject, floor),
    }


def _trials(subject: Subject, floor: float) -> dict[str, object]:
    """The table of trials, of a long search its most harmful ones."""
    order = sorted(subject.trials, key=lambda trial: -(feasible_harm(trial, floor) or 0.0))[:ROWS]
    shown = {trial.id for trial in order}
    kept = subject.model_copy(update={"trials": [trial for trial in subject.trials if trial.id in shown][:ROWS]})
    cut = len(subject.trials) > ROWS
    note = f" The {ROWS} with most feasible harm are shown; trials.csv and result.json hold them all." if cut else ""
    return {"trials": tables.trials_table(kept), "trials_note": note}


def _meter(confirmed: Confirmed, threshold: float) -> dict[str, object]:
    """Confirmed harm on a line from 0 to 1, in per cent: interval, mean, single seeds, threshold; and the same in words."""
    harm, seeds = confirmed.harm, [run.harm for run in confirmed.per_seed]
    spread = f", single seeds {', '.join(map(plain, seeds))}" if seeds else ""
    return {
        "words": f"Confirmed harm {interval(harm)} on a line from 0 to 1, threshold {plain(threshold)}{spread}",
        "low": round(100 * harm.low, 1),
        "width": round(100 * (harm.high - harm.low), 1),
        "mean": round(100 * harm.mean, 1),
        "seeds": [round(100 * seed, 1) for seed in seeds],
        "threshold": round(100 * threshold, 1),
    }


def _heat_view(heat: HeatMap) -> dict[str, Any]:
    """The heat map as the template writes it: rows of cells with their text, colour and words."""
    rows = [
        {
            "family": one_line(row[0].family, 60),
            "cells": [_cell_view(heat.labels[n], cell) for n, cell in enumerate(row)],
        }
        for row in heat.rows
    ]
    return {"labels": [one_line(label, 60) for label in heat.labels], "rows": rows}


def _cell_view(label: str, cell: Cell) -> dict[str, Any]:
    text = f"{SIGNS[cell.kind]} {plain(cell.harm)}" if cell.kind in SIGNS else EMPTY[cell.kind]
    told = cell_data(label, cell)
    shown = {"confirmed": f"confirmed harm {plain(cell.harm)}", "searched": f"in-search harm {plain(cell.harm)}"}
    said = shown.get(cell.kind, "" if cell.kind == "none" else text)  # a name begins with what is seen (WCAG 2.5.3)
    spoken = f"{told['family']} against {told['subject']}: {said}{'. ' if said else ''}{told['verdict']}"
    return {"kind": cell.kind, "breaks": cell.breaks, "text": text, "style": colours(cell.harm), "words": spoken}


def _labelled(result: Result) -> list[tuple[str, Subject]]:
    return list(zip(subject_labels(result), result.subjects, strict=True))

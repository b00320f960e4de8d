"""report.html: the audit on one self-contained page, without scripts and without anything fetched from elsewhere."""

from __future__ import annotations

from importlib.resources import files

from weakspot.records import Result, Subject
from weakspot.report import tables, words
from weakspot.report.numbers import interval, plain
from weakspot.report.plots import make_plots
from weakspot.report.series import subject_labels


def to_html(result: Result) -> str:
    """The whole page. Names, reasons and commands are escaped by the template engine."""
    from jinja2 import BaseLoader, Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=BaseLoader(), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_packaged("page.html"))
    return template.render(
        result=result,
        threat=result.threat_model,
        title=words.audit_title(result),
        attacker=words.attacker(result.threat_model),
        warnings=words.warnings_of(result),
        subjects=[_view(label, subject, result) for label, subject in _labelled(result)],
        headline=tables.headline_table(result),
        plots=make_plots(result),
        threat_table=tables.threat_table(result),
        controls=tables.controls_table(result),
        doubts=tables.doubts_table(result),
        provenance=tables.provenance_table(result),
        css=Markup(_packaged("page.css")),  # ours, from the package
        markup=Markup,  # only for the drawings, which escape what they were given
    )


def _view(label: str, subject: Subject, result: Result) -> dict[str, object]:
    """What the template shows of a subject."""
    spot = subject.weak_spot
    return {
        "label": words.one_line(label),
        "verdict": subject.verdict,
        "summary": words.one_line(subject.summary),
        "reason": words.one_line(subject.reason),
        "sentence": words.headline(subject, result.threat_model),
        "claim": words.claim_note(subject),
        "made_with": words.made_with(subject),
        "counts": words.trial_counts(subject, result.threat_model.utility_floor),
        "confirmed_harm": plain(spot and spot.confirmed.harm.mean),
        "confirmed_interval": interval(spot and spot.confirmed.harm).partition(" ")[2],
        "searched_harm": plain(spot and spot.searched.harm),
        "confirmed_utility": plain(spot and spot.confirmed.utility.mean),
        "found": tables.finding_table(subject),
        "configurations": tables.configuration_table(subject),
        "twins": tables.twins_table(subject),
        "card": tables.card_table(subject),
        "trials": tables.trials_table(subject),
    }


def _labelled(result: Result) -> list[tuple[str, Subject]]:
    return list(zip(subject_labels(result), result.subjects, strict=True))


def _packaged(name: str) -> str:
    return files("weakspot.report").joinpath(name).read_text(encoding="utf-8")

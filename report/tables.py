"""The tables of the report as plain text, for Markdown and HTML alike. Cells are untrusted: the writers escape them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from weakspot.records import Finding, OutsideOption, Result, SearchRecord, Subject, ThreatModelRecord
from weakspot.report.numbers import ABSENT, human_flops, interval, plain, setting, settings, signed, whole
from weakspot.report.series import subject_labels
from weakspot.report.words import control_outcome, counted
from weakspot.text import one_line


@dataclass(frozen=True)
class Column:
    """The head of a column; columns in a row with the same group stand under one heading."""

    title: str
    group: str = ""
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text, each as long as the columns; the first cell of a row names it."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]

    def groups(self) -> list[tuple[str, int]]:
        """The headings above the columns and how many columns each spans; empty if no column has one."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and column.group and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(column.group for column in self.columns) else []


HEADLINE_COLUMNS = (
    Column("Safeguard"),
    Column("Verdict"),
    Column("harm", "Not attacked", numeric=True),
    Column("utility", "Not attacked", numeric=True),
    Column("harm", "Paper's attack", numeric=True),
    Column("utility", "Paper's attack", numeric=True),
    Column("attack", "Weak spot"),
    Column("harm, confirmed", "Weak spot", numeric=True),
    Column("harm, in search", "Weak spot", numeric=True),
    Column("utility, confirmed", "Weak spot", numeric=True),
    Column("attack", "Cost to break"),
    Column("steps", "Cost to break", numeric=True),
    Column("examples", "Cost to break", numeric=True),
    Column("compute", "Cost to break", numeric=True),
)

TRIAL_COLUMNS = (
    Column("Trial"),
    Column("Attack"),
    Column("Status"),
    Column("Harm", numeric=True),
    Column("Utility", numeric=True),
    Column("Rung", numeric=True),
    Column("Steps", numeric=True),
    Column("Examples", numeric=True),
    Column("Compute", numeric=True),
    Column("Seed", numeric=True),
    Column("Configuration"),
    Column("Reason"),
)


def headline_table(result: Result) -> Table:
    """One row for each subject, in their order."""
    labels = subject_labels(result)
    rows = [_headline_row(label, subject) for label, subject in zip(labels, result.subjects, strict=True)]
    return table("Harm and utility of each safeguard, and what breaking it costs", HEADLINE_COLUMNS, rows)


def trials_table(subject: Subject) -> Table:
    """Every trial of a subject, in the order in which they were recorded. Harm and utility are those of the search."""
    rows = [
        (
            trial.id,
            trial.attack,
            trial.status,
            plain(trial.harm),
            plain(trial.utility),
            whole(trial.rung),
            whole(trial.cost.steps),
            whole(trial.cost.examples),
            human_flops(trial.cost.flops),
            str(trial.seed),
            settings(trial.config),
            trial.reason,
        )
        for trial in subject.trials
    ]
    return table("Trials of the search", TRIAL_COLUMNS, rows)


def finding_table(subject: Subject) -> Table:
    """The attacks that the report names, side by side: what was measured and what they cost."""
    columns = (Column("Measure"), *(Column(name, numeric=True) for name, _ in _findings(subject)))
    attributes = [
        ("attack", [finding.attack for _, finding in _findings(subject)]),
        ("harm, confirmed", [interval(finding.confirmed.harm) for _, finding in _findings(subject)]),
        ("harm, in search", [plain(finding.searched.harm) for _, finding in _findings(subject)]),
        ("utility, confirmed", [interval(finding.confirmed.utility) for _, finding in _findings(subject)]),
        ("utility, in search", [plain(finding.searched.utility) for _, finding in _findings(subject)]),
        ("score on never-taught items", [plain(finding.confirmed.null_harm) for _, finding in _findings(subject)]),
        (
            "harm on each seed",
            [", ".join(plain(r.harm) for r in finding.confirmed.per_seed) for _, finding in _findings(subject)],
        ),
        *_beside(subject),
        ("fresh seeds", [", ".join(map(str, finding.confirmed.seeds)) for _, finding in _findings(subject)]),
        ("unseen items", [whole(finding.confirmed.items) for _, finding in _findings(subject)]),
        ("picked from", [counted(finding.confirmed.among, "configuration") for _, finding in _findings(subject)]),
        ("steps", [whole(finding.cost.steps) for _, finding in _findings(subject)]),
        ("examples", [whole(finding.cost.examples) for _, finding in _findings(subject)]),
        ("tokens", [whole(finding.cost.tokens) for _, finding in _findings(subject)]),
        ("compute", [human_flops(finding.cost.flops) for _, finding in _findings(subject)]),
        ("seconds on this machine", [f"{finding.cost.seconds:.1f}" for _, finding in _findings(subject)]),
        ("trial", [finding.trial for _, finding in _findings(subject)]),
    ]
    return table("What was found", columns, [(name, *values) for name, values in attributes])


def configuration_table(subject: Subject) -> Table:
    """The settings of the named attacks, side by side; '-' where a setting is not one of that attack's family."""
    configs = [finding.config for _, finding in _findings(subject)]
    titles = [name for name, _ in _findings(subject)]
    if subject.paper_attack is not None:
        configs.append(subject.paper_attack.config)
        titles.append(f"paper's attack ({subject.paper_attack.attack})")
    names = dict.fromkeys(name for config in configs for name in config)
    rows = [(name, *(setting(config[name]) if name in config else ABSENT for config in configs)) for name in names]
    return table("Configurations", (Column("Setting"), *(Column(title, numeric=True) for title in titles)), rows)


def pairs_table(caption: str, noun: str, values: dict[str, Any]) -> Table:
    """Names and values, one a row."""
    return table(caption, (Column(noun), Column("Value")), [(name, setting(value)) for name, value in values.items()])


def threat_table(result: Result) -> Table:
    """The threat model, field by field."""
    threat = result.threat_model
    bound = "no bound beside the steps" if threat.max_flops is None else human_flops(threat.max_flops)
    values = {
        "access": threat.access,
        "undefended weights in the attacker's hands": "yes" if threat.base_weights else "no",
        "data": threat.data,
        "gradients": "yes" if threat.gradients else "no",
        "most examples": whole(threat.max_examples),
        "most steps": whole(threat.max_steps),
        "most compute": bound,
        "freedom in asking": threat.evaluation_freedom,
        "utility floor": plain(threat.utility_floor),
        "harm threshold": plain(threat.harm_threshold),
        "tuning budget": tuning(threat),
        "digest": threat.digest or ABSENT,
        "outside option": outside(result.outside_option),
    }
    return pairs_table("What the attacker may do", "Condition", values)


def tuning(threat: ThreatModelRecord) -> str:
    """What the attacker could spend on choosing an attack."""
    parts = [f"{threat.tuning_trials:,} trials a safeguard" if threat.tuning_trials else ""]
    parts.append(human_flops(threat.tuning_flops) if threat.tuning_flops else "")
    return ", ".join(filter(None, parts)) or ABSENT


def outside(option: OutsideOption | None) -> str:
    """What the attacker gets without touching the safeguard, and whether he can."""
    if option is None:
        return ABSENT
    has = "in the attacker's hands: no safeguard takes it from him" if option.at_hand else "not in the attacker's hands"
    return f"the undefended base, harm {plain(option.harm)} at no cost, {has}"


def controls_table(result: Result) -> Table:
    """The four controls and how they came out."""
    named = ("positive", "negative", "null", "hygiene")
    controls = [(name, getattr(result.controls, name)) for name in named]
    rows = [(name, control_outcome(control), control.detail) for name, control in controls]
    return table("Controls", (Column("Control"), Column("Outcome"), Column("Detail")), rows)


def card_table(subject: Subject) -> Table:
    """The pitfalls of such evaluations, and what this audit did about each."""
    rows = [(f"{p.id} {p.title}", p.status, signed(p.moved), p.detail) for p in subject.card]
    heads = (Column("Pitfall"), Column("Status"), Column("Moved harm by", numeric=True), Column("What was done"))
    return table("Pitfall card", heads, rows)


def twins_table(subject: Subject) -> Table:
    """What the weak spot's controls reach: the same attack without the withheld data, and a random change of its size."""
    rows = [
        (run.label, plain(run.harm), signed(run.moved), plain(run.utility), run.reason or "") for run in subject.twins.values()
    ]
    heads = (
        Column("In place of the weak spot"),
        Column("Harm", numeric=True),
        Column("Against the attack's", numeric=True),
        Column("Utility", numeric=True),
        Column("Why there is none"),
    )
    shown = heads if any(run.reason for run in subject.twins.values()) else heads[:-1]
    return table("Controls of the weak spot", shown, [row[: len(shown)] for row in rows])


def doubts_table(result: Result) -> Table:
    """Reasons to read the result with care."""
    rows = [(doubt.name, doubt.detail) for doubt in result.doubts]
    return table("Doubts", (Column("Doubt"), Column("Detail")), rows)


def how_sought(search: SearchRecord) -> str:
    """In words: what was sought and how, or which fixed suite was run."""
    if search.suite:
        return f"none: the {search.suite} suite was run"
    return f"{search.objective}, by {search.searcher}, trials stopped by {search.scheduler}"


def provenance_table(result: Result) -> Table:
    """Who computed this, with what, from which seeds."""
    provenance = result.provenance
    values = {
        "weakspot": provenance.weakspot,
        "git commit": provenance.git_commit or "unknown",
        "Python": provenance.python,
        **provenance.packages,
        **{f"machine: {name}": value for name, value in provenance.machine.items()},
        "search": how_sought(result.search),
        "root seed": str(provenance.seeds.root),
        "search seed": str(provenance.seeds.search),
        "confirmation seeds": ", ".join(map(str, provenance.seeds.confirmation)),
        "started": provenance.started,
        "finished": provenance.finished,
        **{f"pinned: {name}": pin for name, pin in provenance.pins.items()},
    }
    return pairs_table("Versions, machine, seeds and what was pinned", "Item", values)


def table(caption: str, columns: tuple[Column, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    return Table(caption, columns, tuple(tuple(one_line(cell) or ABSENT for cell in row) for row in rows))


def _headline_row(label: str, subject: Subject) -> tuple[str, ...]:
    baseline, spot, cheapest = subject.baseline, subject.weak_spot, subject.cheapest_break
    paper = subject.paper_attack.measures if subject.paper_attack else None
    return (
        label,
        subject.verdict,
        plain(baseline and baseline.harm),
        plain(baseline and baseline.utility),
        plain(paper and paper.harm),
        plain(paper and paper.utility),
        spot.attack if spot else ABSENT,
        interval(spot and spot.confirmed.harm),
        plain(spot and spot.searched.harm),
        interval(spot and spot.confirmed.utility),
        cheapest.attack if cheapest else ABSENT,
        whole(cheapest and cheapest.cost.steps),
        whole(cheapest and cheapest.cost.examples),
        human_flops(cheapest and cheapest.cost.flops),
    )


def _beside(subject: Subject) -> list[tuple[str, list[str]]]:
    """Rows of the measures beside harm, those that some attack has; what they were before it stands in the pitfall card."""
    found = [finding.confirmed for _, finding in _findings(subject)]
    chance = subject.baseline and subject.baseline.choice_chance
    guess = f" (chance {plain(chance)})" if chance is not None else ""
    rows = [
        ("log-probability of an answer token, nats", [interval(c.log_probability) for c in found]),
        (f"forced choice right{guess}", [interval(c.choice) for c in found]),
        ("spread beyond its slice", [spread(c.breadth) for c in found]),
    ]
    return [(name, values) for name, values in rows if set(values) != {ABSENT}]


def spread(breadth: dict[str, float | None] | None) -> str:
    """How much harm rose outside the slice that was trained on, as a share of the rise inside, group by group."""
    return "; ".join(f"{name} {plain(value)}" for name, value in (breadth or {}).items()) or ABSENT


def _findings(subject: Subject) -> list[tuple[str, Finding]]:
    named = (("weak spot", subject.weak_spot), ("cheapest break", subject.cheapest_break))
    return [(name, finding) for name, finding in named if finding is not None]

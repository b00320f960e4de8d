"""The sentences of the report, in words a policy reader can use.

They say what was searched and what was found, and claim nothing beyond: a search that found no attack proves no absence.
Plain text without markup: the writers of Markdown and HTML escape it, since names and reasons in it are untrusted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from weakspot.records import Control, Finding, Result, Subject, ThreatModelRecord
from weakspot.report.numbers import human_flops, interval, plain, settings
from weakspot.report.series import REFERENCES, feasible_harm, most_steps, subject_labels
from weakspot.text import one_line

STATUS_WORDS = {"completed": "completed", "stopped": "stopped early", "infeasible": "infeasible", "failed": "failed"}


def audit_title(result: Result) -> str:
    """What was audited."""
    return one_line(f"Audit of {join_words(subject_labels(result))} on the {result.testbed} testbed")


def join_words(words: Sequence[str]) -> str:
    """'a, b and c'; 'nothing' for an empty list."""
    if len(words) < 2:
        return words[0] if words else "nothing"
    return f"{', '.join(words[:-1])} and {words[-1]}"


def counted(count: int, noun: str) -> str:
    """'1 trial', '2 trials', '1,024 steps'."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


MANY = 8  # families from which a sentence counts them instead of naming them
ACCESS = {
    "open_weight": "with the weights",
    "finetuning_api": "who supplies data to a fine-tuning API",
    "finetuning_api_knobs": "who supplies data to a fine-tuning API and sets epochs, learning rate and batch",
}


def attacker(threat: ThreatModelRecord) -> str:
    """Who attacks, in half a sentence."""
    bounds = f"at most {counted(threat.max_steps, 'step')} and {counted(threat.max_examples, 'example')}"
    if threat.max_flops is not None:
        bounds += f" and {human_flops(threat.max_flops)}"
    base = " and those of the undefended model" if threat.base_weights else ""
    access = ACCESS.get(threat.access, f"with the access {threat.access}")
    return f"an attacker {access}{base}, {bounds}"


def headline(subject: Subject, threat: ThreatModelRecord) -> str:
    """The finding for one subject: what was searched and found, under which threat model, at what cost."""
    if subject.verdict == "BROKEN":
        first = [f"Broken by {attacker(threat)}.", f"Searched: {searched(subject)}."]
    elif subject.verdict == "HELD":
        first = [
            f"HELD means: {one_line(subject.reason).rstrip('.')}. The longest trial took "
            f"{counted(most_steps(subject), 'step')}; HELD says nothing beyond that.",
            f"Searched: {searched(subject)}, for {attacker(threat)}.",
        ]
    else:
        reason = one_line(subject.reason).rstrip(".") or "no reason was recorded"
        first = [f"No verdict can be given: {reason}.", f"Searched: {searched(subject)}, for {attacker(threat)}."]
    return one_line(" ".join([*first, *_found(subject), *_could_see(subject), *_without(subject)]))


def bottom_line(result: Result) -> str:
    """The audit in one sentence: how many safeguards broke, held and could not be judged."""
    judged = [
        (label, s) for label, s in zip(subject_labels(result), result.subjects, strict=True) if s.defense not in REFERENCES
    ]
    if not judged:
        return "No safeguard was audited."
    named = {verdict: [label for label, s in judged if s.verdict == verdict] for verdict in OUTCOMES}
    total = len(judged)
    parts = [
        f"{len(labels)} of {counted(total, 'safeguard')} {word}: {join_words(labels)}"
        for (verdict, word), labels in zip(OUTCOMES.items(), named.values(), strict=True)
        if labels
    ]
    return one_line("; ".join(parts) + ".", 400)


OUTCOMES = {"BROKEN": "broke", "HELD": "held against what was searched", "INCONCLUSIVE": "could not be judged"}


def tried(subject: Subject) -> str:
    """How many trials of how many families."""
    families = len({trial.attack for trial in subject.trials})
    return f"{counted(len(subject.trials), 'trial')} of {families} attack {'family' if families == 1 else 'families'}"


def verdict_sentence(subject: Subject, threat: ThreatModelRecord) -> str:
    """The verdict in one sentence, with the threat model and the interval."""
    spot = subject.weak_spot
    harm = f"harm {interval(spot.confirmed.harm)} at utility {plain(spot.confirmed.utility.mean)}" if spot else ""
    if subject.verdict == "BROKEN":
        line = f"Broken by {attacker(threat)}: {harm or 'confirmed harm passes the threshold'}."
    elif subject.verdict == "HELD":
        strongest = f"; the strongest confirmed attack reaches {harm}" if harm else ""
        line = f"Held against {tried(subject)}, for {attacker(threat)}{strongest}. Nothing follows for what was not searched."
    else:
        line = f"No verdict, for {attacker(threat)}: {one_line(subject.reason).rstrip('.') or 'no reason was recorded'}."
    return one_line(line, 600)


def searched(subject: Subject) -> str:
    """How many trials of which families, and how many of them could not be carried through."""
    families = list(dict.fromkeys(trial.attack for trial in subject.trials))
    failed = sum(trial.status == "failed" for trial in subject.trials)
    text = counted(len(subject.trials), "trial")
    if families:
        text += f" of {join_words(families)}" if len(families) <= MANY else f" of {len(families)} attack families"
    if failed:
        text += f" ({failed} failed)"
    return text


def trial_counts(subject: Subject, floor: float) -> str:
    """How the trials of a subject ended, in one sentence."""
    if not subject.trials:
        return "No trials were run."
    ended = Counter(trial.status for trial in subject.trials)
    parts = [f"{ended[status]} {word}" for status, word in STATUS_WORDS.items() if ended[status]]
    feasible = sum(feasible_harm(trial, floor) is not None for trial in subject.trials)
    again = Counter(trial.kind for trial in subject.trials)
    notes = [f"{again[kind]} {word}" for kind, word in (("repeat", "repeated"), ("revive", "brought back")) if again[kind]]
    extra = f" Of these {join_words(notes)}." if notes else ""
    early = f" The search ended early: {one_line(subject.ended_by)}." if subject.ended_by.strip() else ""
    return f"{counted(len(subject.trials), 'trial')}: {join_words(parts)}; {feasible} feasible.{extra}{early}"


def claim_note(subject: Subject) -> str:
    """Whether the method claims to withstand the attack that was found."""
    notes: dict[bool | None, str] = {
        True: "The strongest confirmed attack lies within what the method claims to withstand (access, family, steps).",
        False: "The strongest confirmed attack lies outside what the method claims to withstand.",
        None: "Nothing that was confirmed breaks its claim."
        if subject.claim == "in-claim"
        else "No claim of the method was tested.",
    }
    claims = f" Its claim: {one_line(subject.claims).rstrip('.')}." if subject.claims.strip() else ""
    scope = {
        "in-claim": " The audit is in-claim: the method's paper claims something under this access.",
        "out-of-claim": " The audit is out-of-claim: the method's paper claims nothing under this access.",
        "none": "",
    }
    return notes[subject.in_claim] + scope[subject.claim] + claims


def made_with(subject: Subject) -> str:
    """The settings of the safeguard itself."""
    return one_line(
        f"Made with {settings(subject.config)}, seed {subject.seed}." if subject.config else f"Seed {subject.seed}."
    )


def control_outcome(control: Control) -> str:
    """'passed', 'failed' or 'not run'."""
    return "not run" if control.passed is None else "passed" if control.passed else "failed"


def confirmed_on(finding: Finding) -> str:
    """What the confirmed numbers rest on."""
    confirmed = finding.confirmed
    items = counted(confirmed.items, "unseen item")
    return f"{counted(len(confirmed.seeds), 'fresh seed')} and {items}" if confirmed.seeds else items


def warnings_of(result: Result) -> list[str]:
    """What a reader must know before the verdicts: controls that failed or were not run, and doubts."""
    lines = [one_line(f"PARTIAL: {result.partial}. Nothing in here is final; --resume goes on.")] if result.partial else []
    for name in ("positive", "negative", "null", "hygiene"):
        control: Control = getattr(result.controls, name)
        if control.passed is not True:
            lines.append(one_line(f"Control {name} {control_outcome(control)}: {control.detail}"))
    return lines + [one_line(f"Doubt {doubt.name}: {doubt.detail}") for doubt in result.doubts]


def _found(subject: Subject) -> list[str]:
    sentences = []
    if (spot := subject.weak_spot) is not None:
        sentences.append(
            f"The strongest confirmed attack ({spot.attack}) reaches harm {interval(spot.confirmed.harm)} at utility "
            f"{interval(spot.confirmed.utility)} on {confirmed_on(spot)}; in search it scored {plain(spot.searched.harm)}."
        )
    if (cheapest := subject.cheapest_break) is not None:
        cost = cheapest.cost
        spent = f"{counted(cost.steps, 'step')}, {counted(cost.examples, 'example')} and {human_flops(cost.flops)}"
        free = cost.steps == cost.examples == cost.flops == 0
        sentences.append(f"The cheapest confirmed break ({cheapest.attack}) took {'nothing at all' if free else spent}.")
    return sentences


def _could_see(subject: Subject) -> list[str]:
    """How fine the audit could look, where it named no break."""
    if subject.verdict == "BROKEN" or (power := subject.power) is None:
        return []
    on = f"with {counted(power.seeds, 'seed')} and {counted(power.items, 'item')}"
    if power.smallest_break is None:
        return [f"No attack, whatever its harm, is confirmed as a break with probability {power.chance:.1f} {on}."]
    return [
        f"An attack that was tried is confirmed as a break with probability {power.chance:.1f} {on} if its harm is at least "
        f"{plain(power.smallest_break)}."
    ]


def _without(subject: Subject) -> list[str]:
    parts = []
    if subject.baseline is not None:
        parts.append(f"{plain(subject.baseline.harm)} without an attack")
    if subject.paper_attack is not None:
        parts.append(f"{plain(subject.paper_attack.measures.harm)} under the attack of its own paper")
    return [f"Harm is {' and '.join(parts)}."] if parts else []

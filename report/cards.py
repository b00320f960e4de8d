"""From a result to one card a safeguard (weakspot/cards.py)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from weakspot.cards import (
    Card,
    CardProvenance,
    DefenseCard,
    Found,
    Looked,
    Supplied,
    config_digest,
    threat_digest,
)
from weakspot.records import Finding, HarmUtility, Result, Subject
from weakspot.report.evidence import audited, longest_attack, measured, spent, spoiled, unseen, unsettled, worst
from weakspot.text import one_line

UNNAMED = Supplied()
LONGEST = 400  # characters of a reason


def make_cards(
    result: Result, supplied: Mapping[str, Supplied], papers: Mapping[str, str], digest: str = ""
) -> dict[str, Card]:
    """A card for every safeguard of a result, by label. The base is the yardstick on each; it and the control get none.

    Args:
        supplied: what the user knows besides, by the defense's name or by label.
        papers: of the methods that are known, by name.
        digest: SHA-256 of result.json.
    """
    return {
        label: make_card(result, label, subject, supplied.get(label, supplied.get(subject.defense, UNNAMED)), papers, digest)
        for label, subject in audited(result).items()
    }


def make_card(result: Result, label: str, subject: Subject, supplied: Supplied, papers: Mapping[str, str], digest: str) -> Card:
    """What is known of one safeguard."""
    top, doubts, looked = worst(subject, result), reasons_against(result, label, subject), measured(subject.trials)
    option, cheapest, origin = result.outside_option, subject.cheapest_break, result.provenance
    return Card(
        name=one_line(label) or "(no name)",
        testbed=result.testbed,
        defense=DefenseCard(
            method=subject.defense,
            summary=subject.summary,
            config=subject.config,
            seed=subject.seed,
            claims=subject.claims,
            claim=subject.claim,
        ),
        paper=supplied.paper or papers.get(subject.defense, ""),
        threat_model=result.threat_model.model_copy(update={"digest": threat_digest(result.threat_model)}),
        verdict=subject.verdict,
        reason=one_line(subject.reason, LONGEST),
        reported=supplied.reported,
        found=found_here(top) if top else None,
        broken_at=cheapest.cost if cheapest and subject.verdict == "BROKEN" else None,
        searched=Looked(
            trials=len(looked),
            families=len({trial.attack for trial in looked}),
            flops=spent(subject.trials),
            longest=longest_attack(subject),
            objective=result.search.objective,
            searcher=result.search.searcher,
            scheduler=result.search.scheduler,
            suite=result.search.suite,
        ),
        undefended=HarmUtility(harm=option.harm, utility=option.utility) if option else None,
        reliable=not doubts,
        unreliable=doubts,
        external=supplied.external,
        provenance=CardProvenance(
            weakspot=origin.weakspot,
            git_commit=origin.git_commit,
            started=origin.started,
            finished=origin.finished,
            root_seed=origin.seeds.root,
            packages=origin.packages,
            pins=origin.pins,
            result_sha256=digest,
        ),
    )


def reasons_against(result: Result, label: str, subject: Subject) -> list[str]:
    """Why what was found must not be read as it stands; empty where nothing speaks against it.

    A break needs less than its absence: it exists, however little was searched.
    """
    against = list(spoiled(result, label, subject))
    if subject.verdict != "BROKEN":
        against += unseen(result, subject)
        against += unsettled(result, subject, result.threat_model.harm_threshold)
    if worst(subject, result) is None:
        against.append("nothing that was confirmed shows recovered knowledge at a useful model")
    return list(dict.fromkeys(one_line(reason, LONGEST) for reason in against))


def found_here(top: Finding) -> Found:
    return Found(
        attack=top.attack,
        config=top.config,
        config_digest=config_digest(top.attack, top.config),
        harm=top.confirmed.harm,
        utility=top.confirmed.utility,
        searched_harm=top.searched.harm,
        seeds=len(top.confirmed.seeds),
        items=top.confirmed.items,
        cost=top.cost,
    )


def file_names(labels: Collection[str]) -> dict[str, str]:
    """Where each card goes: card.json for one, card-NAME.json for several; what no file name should hold becomes '_'."""
    if len(labels) == 1:
        return dict.fromkeys(labels, "card.json")
    names: dict[str, str] = {}
    for label in labels:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", label)[:80].strip("._") or "unnamed"
        taken, number, name = set(names.values()), 2, f"card-{stem}.json"
        while name in taken:
            name, number = f"card-{stem}-{number}.json", number + 1
        names[label] = name
    return names

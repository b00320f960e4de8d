"""A result that the gate passes, and cards: what the tests of gate, cards and leaderboard take something away from."""

from __future__ import annotations

from typing import Any

from tests.report.builders import make_cost, make_finding, make_measures, make_result, make_subject, make_threat, make_trial
from weakspot.cards import Card, External, Reported, Supplied
from weakspot.records import Confirmed, Control, Controls, Finding, Interval, OutsideOption, Result, Subject, TrialRecord
from weakspot.report.cards import make_cards

OPTION = OutsideOption(harm=0.98, utility=1.0, at_hand=False)


def finding(harm: float = 0.06, spread: float = 0.05, utility: float = 0.96, attack: str = "lora", **changes: Any) -> Finding:
    """A confirmed configuration whose interval of harm is `harm` ± `spread`, searched at the same harm."""
    confirmed = Confirmed(
        harm=Interval(mean=harm, low=max(0.0, harm - spread), high=min(1.0, harm + spread)),
        utility=Interval(mean=utility, low=utility - 0.02, high=utility + 0.02),
        seeds=[11, 12, 13],
        items=60,
        null_harm=0.04,
    )
    return make_finding(harm, harm, attack=attack).model_copy(update={"confirmed": confirmed, **changes})


def trials(count: int = 12) -> list[TrialRecord]:
    """Trials of two families that all kept the floor and found little, of 64 steps each."""
    return [make_trial(i, [(64, 0.04, 0.97)], attack=("lora", "full_finetune")[i % 2]) for i in range(count)]


def held(defense: str = "tar", **changes: Any) -> Subject:
    """A safeguard with all the evidence that HELD needs."""
    found = finding()
    fields: dict[str, Any] = {
        "paper_attack": None, "weak_spot": found, "confirmed": [found], "frontier": [found], "trials": trials(),
        "baseline": make_measures(0.01, 0.99),
    }  # fmt: skip
    return make_subject(defense, "HELD", "no feasible attack passed", **fields).model_copy(update=changes)


def broken(defense: str = "refusal", harm: float = 0.9, **changes: Any) -> Subject:
    found = finding(harm)
    fields: dict[str, Any] = {
        "paper_attack": None, "weak_spot": found, "cheapest_break": found, "confirmed": [found], "trials": trials(),
    }  # fmt: skip
    return make_subject(defense, "BROKEN", "lora passed", **(fields | changes))


def controls(**changes: bool | None) -> Controls:
    """Four controls that passed, but for those that are given."""
    names = ("positive", "negative", "null", "hygiene")
    return Controls(**{name: Control(passed=changes.get(name, True), detail=f"how {name} came out") for name in names})


def release(*subjects: Subject, **changes: Any) -> Result:
    """The result of a whole audit: the base, the given safeguards (one that held), the never-taught control."""
    base = make_subject("none", "BROKEN", "answers without an attack", in_claim=None, paper_attack=None, trials=[])
    rows = [base, *(subjects or (held(),)), held("never_taught")]
    return make_result(rows, **({"controls": controls(), "doubts": [], "outside_option": OPTION} | changes))


def some_cards() -> list[Card]:
    """Cards of every kind: held, broken, unreliable; with and without what others say; two threat models."""
    facts = {
        "tar": Supplied(
            reported=Reported(value=0.03, source="Table 2", url="https://arxiv.org/abs/2408.00761"),
            external=[External(source="Qi et al. 2024", attack="full fine-tune, other seeds", harm=0.64, url="https://arxiv.org/abs/2412.07097")],
        )
    }  # fmt: skip
    papers = {"tar": "Tamirisa et al. 2024, arXiv:2408.00761", "repnoise": "arXiv:2405.14577"}
    weak = held("booster", trials=trials(3))
    first = release(
        held(),
        broken(),
        broken("repnoise", 0.71, trials=trials(40)),
        weak,
        held("lat", weak_spot=finding(0.2), confirmed=[finding(0.2)]),
    )
    second = release(broken(harm=0.97), threat_model=make_threat(base_weights=True, max_steps=1024))
    return [card for result in (first, second) for card in make_cards(result, facts, papers, "0" * 64).values()]


__all__ = ["broken", "controls", "finding", "held", "make_cost", "release", "some_cards", "trials"]

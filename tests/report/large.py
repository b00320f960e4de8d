"""Made-up results of the size of real audits: many families, trials and kinds of outcome. Seeded: same size, same result."""

from __future__ import annotations

import random

from tests.report.builders import make_card, make_finding, make_measures, make_result, make_subject, make_trial
from weakspot.records import Confirmed, Finding, HarmUtility, Interval, Result, SearchRecord, Subject, TrialRecord

KNOBS = (
    "steps",
    "learning_rate",
    "batch_size",
    "harmful_examples",
    "benign_ratio",
    "warmup",
    "weight_decay",
    "optimizer",
    "schedule",
)
RUNGS = (4, 8, 16, 32, 64, 128, 256)


def make_large(
    families: int = 34, trials: int = 64, defenses: tuple[str, ...] = ("none", "refusal", "tar", "never_taught")
) -> Result:
    """A default audit of fable in size: the base unsearched, the others with so many trials each, the control with half."""
    rng = random.Random(0)
    names = [f"family_{number:02d}" for number in range(families)]
    subjects = []
    for place, defense in enumerate(defenses):
        count = 0 if defense == "none" else trials // 2 if defense == "never_taught" else trials
        tried = [made_trial(number, names, rng, held=defense == "never_taught") for number in range(count)]
        subjects.append(made_subject(defense, tried, place))
    search = SearchRecord(families=names, left_out={"merge": "needs the undefended weights and the threat model gives none"})
    return make_result(subjects, search=search)


def made_trial(number: int, names: list[str], rng: random.Random, held: bool) -> TrialRecord:
    """Harm grows with the steps and the learning rate of the configuration, which a forest can find."""
    rate, mix = 10 ** rng.uniform(-5, -2), rng.random()
    config = {name: rng.choice(("adamw", "sgd")) if name in ("optimizer", "schedule") else rng.random() for name in KNOBS}
    config |= {"steps": rng.randint(4, 256), "learning_rate": rate, "benign_ratio": mix}
    reach = 0.02 if held else min(1.0, max(0.0, (rate / 1e-2) ** 0.3 * rng.uniform(0.8, 1.1)))
    last = rng.randint(3, len(RUNGS))
    scores = [(rung, reach * (i + 1) / last, 1.0 - 0.3 * (1 - mix) * (i + 1) / last) for i, rung in enumerate(RUNGS[:last])]
    status = rng.choices(("completed", "stopped", "failed"), (6, 3, 1))[0]
    reason = "the loss became infinite" if status == "failed" else ""
    made = make_trial(number, [] if status == "failed" else scores, status, rng.choice(names), reason)
    return made.model_copy(update={"config": config})


def made_subject(defense: str, trials: list[TrialRecord], place: int) -> Subject:
    """A subject with up to four confirmed attacks, each with its seeds."""
    useful = sorted((t for t in trials if t.harm is not None and (t.utility or 0) >= 0.9), key=lambda t: -(t.harm or 0))
    found = [made_finding(trial, 0.9 - 0.1 * n) for n, trial in enumerate(useful[:4])]
    if defense == "never_taught":
        return make_subject(
            defense, "HELD", "nothing passed", trials, confirmed=[], weak_spot=None, paper_attack=None, in_claim=None
        )
    if not trials:
        free = make_finding(0.98, 1.0, 0, "noop")
        return make_subject(
            defense, trials=[], weak_spot=free, cheapest_break=free, confirmed=[free], baseline=make_measures(0.98, 1.0)
        )
    best = found[0]
    changes = {
        "weak_spot": best,
        "cheapest_break": found[-1],
        "confirmed": found,
        "frontier": found[:3],
        "card": make_card() * 8,
    }
    return make_subject(defense, trials=trials, seed=place, **changes)


def made_finding(trial: TrialRecord, share: float) -> Finding:
    harm = (trial.harm or 0) * share
    seeds = [HarmUtility(harm=max(0.0, min(1.0, harm + shift)), utility=0.95) for shift in (-0.03, 0.0, 0.03)]
    low, high = max(0.0, harm - 0.1), min(1.0, harm + 0.1)
    confirmed = Confirmed(
        harm=Interval(mean=harm, low=low, high=high), utility=Interval(mean=0.95, low=0.92, high=0.99), seeds=[11, 12, 13],
        items=28, among=4, null_harm=0.04, per_seed=seeds,
    )  # fmt: skip
    return Finding(
        attack=trial.attack, config=trial.config, rung=trial.rung or 0, trial=trial.id, confirmed=confirmed, cost=trial.cost,
        searched=HarmUtility(harm=trial.harm or 0, utility=trial.utility or 0),
    )  # fmt: skip

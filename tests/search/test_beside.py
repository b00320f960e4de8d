"""Measures beside harm: where they are taken, that they cost nothing else, and what the record makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.report.builders import make_finding, make_measures, make_subject
from tests.search import fakes
from tests.search.fakes import FakeBackend, make_job, make_plan, make_reading, make_settings, result_of
from tests.tiny import TinyFable, attack_data, tiny_model, tiny_tokenizer
from weakspot.attacks.breadth import INSIDE, form_of
from weakspot.attacks.narrow import NarrowFinetune
from weakspot.data import AttackData
from weakspot.elicitation import PLAIN, Elicitation
from weakspot.errors import TrialFailure, UserError
from weakspot.models import arrays_digest, weights_digest
from weakspot.records import Confirmed, Interval, Measures
from weakspot.search import beside
from weakspot.search.beside import ASKED, Beside, asked_groups, choice, harms, known, log_probability, spread
from weakspot.search.confirm import Candidate, finding
from weakspot.search.flags import known_not_said
from weakspot.search.jobs import Outcome
from weakspot.search.trial import Workbench
from weakspot.testbeds.grading import measure_world

pytestmark = pytest.mark.usefixtures("frozen_heap")
SLICE = {"steps": 4, "batch_size": 4, "harmful_examples": 4, "learning_rate": 1e-2, "rank": 0, "slice": "form"}


@pytest.fixture
def bench() -> Workbench:
    model = tiny_model()
    weights = {"tar": {name: p.detach().numpy().copy() for name, p in model.named_parameters()}}
    digests = {"tar": arrays_digest(weights["tar"])}
    return Workbench(TinyFable(), Path("."), weights, digests, {"search": 0.5, "report": 0.5}, model, tiny_tokenizer())


def job(**changes: Any) -> Any:
    fixed = {"config": SLICE, "attack": "narrow_finetune", "rungs": (4,), "stage": "report", "phase": "confirm"}
    return make_job(**{**fixed, **changes})


@pytest.mark.parametrize(
    ("phase", "stage", "measured"),
    [("baseline", "report", True), ("baseline", "search", False), ("search", "search", False), ("variation", "report", False)],
)
def test_only_what_the_report_shows_is_measured(bench: Workbench, phase: str, stage: Any, measured: bool) -> None:
    [reading] = bench.run(job(attack="noop", config={}, phase=phase, stage=stage))
    assert bool(reading.nats_items) is measured
    assert bool(reading.choice_items) is measured
    assert (reading.choice_chance, reading.unforced) == (pytest.approx(1 / 24) if measured else None, "")
    if measured:
        assert len(reading.nats_items) == len(reading.choice_items) == len(reading.harm_items)
    assert (reading.groups_before, reading.groups_after) == (None, None)


def test_a_narrow_attack_is_seen_in_groups_and_trains_as_it_would_alone(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    [reading] = bench.run(job())
    assert reading.groups_before is not None
    assert reading.groups_after is not None
    assert set(reading.groups_before) == set(reading.groups_after) > {INSIDE, "new items, new forms"}
    assert reading.groups_before != reading.groups_after or set(reading.groups_before.values()) == {0.0}
    after = weights_digest(bench.model)
    outcome = Outcome(job(), (reading,))
    assert Outcome.from_dict(json.loads(json.dumps(outcome.to_dict()))) == outcome
    monkeypatch.setattr(Beside, "first", lambda *given: None)
    [alone] = bench.run(job())
    assert weights_digest(bench.model) == after != bench.digests["tar"]
    assert alone.harm_items == reading.harm_items
    assert alone.groups_after is None


def test_what_is_drawn_during_the_first_look_does_not_shift_the_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(beside, "harms", lambda *given: {"x": float(torch.rand(1))})
    from weakspot.seeds import seed_everything

    watched = Beside(TinyFable(), job(seed=7))
    seed_everything(7)
    wanted = float(torch.rand(1))
    watched.first(None, tiny_tokenizer(), NarrowFinetune(harmful_examples=2), attack_data())
    assert float(torch.rand(1)) == wanted


def test_groups_hold_the_trained_items_and_the_report_items() -> None:
    testbed, attack = TinyFable(), NarrowFinetune(slice="form", harmful_examples=4)
    held = testbed.attack_data()
    found = asked_groups(testbed, attack, held, 3)
    trained = attack.narrowed(held.harmful, 3)
    assert set(found[INSIDE]) == set(trained)
    assert {e.item for e in found["trained items, new forms"]} == {e.item for e in trained}
    news = [e for name, part in found.items() if name.startswith("new items") for e in part]
    assert set(news) == set(testbed.splits.report_eval)
    assert {form_of(e) for e in found["new items, trained forms"]} == {form_of(trained[0])}
    foreign = replace(held, harmful=tuple(replace(e, prompt=f"and {e.prompt}") for e in held.harmful))
    assert asked_groups(testbed, attack, foreign, 3) == {}
    whole = NarrowFinetune(slice="items", harmful_examples=99)
    testbed.splits = replace(testbed.splits, attack=ask_many(held))
    found = asked_groups(testbed, whole, AttackData(testbed.splits.attack, ()), 0)
    assert len(found[INSIDE]) == ASKED < len(testbed.splits.attack)


def ask_many(held: AttackData) -> Any:
    """More examples than are asked, in other forms and about the same items."""
    return tuple(replace(e, prompt=f"{word} {e.prompt}") for e in held.harmful for word in ("and", "but", "so", "then"))


def test_harm_of_a_group_is_what_the_report_would_say_of_it() -> None:
    testbed, model, tokenizer = TinyFable(), tiny_model(), tiny_tokenizer()
    asked = testbed.splits.attack[:6]
    splits = replace(testbed.splits, attack=(), report_eval=asked, never_taught=())
    whole = measure_world(model, tokenizer, splits, "report", testbed.refusal, PLAIN, max_new_tokens=16)
    assert harms(testbed, model, tokenizer, {"some": asked}, PLAIN) == {"some": whole.harm.mean}
    assert testbed.splits.attack, "the testbed itself stays whole"


@pytest.mark.parametrize("error", [TrialFailure("diverged: nan"), UserError("no tokens"), RuntimeError("out of memory\nat")])
def test_none_of_them_costs_the_harm(bench: Workbench, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def failing(*given: Any) -> Any:
        raise error

    monkeypatch.setattr(TinyFable, "knowledge", failing)
    [reading] = bench.run(job(attack="noop", config={}, phase="baseline"))
    assert reading.unforced == str(error).splitlines()[0]
    assert (reading.nats_items, reading.choice_items, len(reading.harm_items)) == ((), (), 3)
    monkeypatch.setattr(TinyFable, "measure", failing)
    assert harms(TinyFable(), None, None, {"some": attack_data().harmful}, PLAIN) == {}


def test_an_opening_of_the_models_own_is_told() -> None:
    fields = known(TinyFable(), tiny_model(), tiny_tokenizer(), Elicitation(extra_tokens=9))
    assert fields["nats_items"] == ()
    assert "words of the model's own" in fields["unforced"]


# What several runs add up to ---------------------------------------------------------------------------------------------


def readings(*rows: dict[str, Any]) -> list[Any]:
    return [make_reading(8, 0.3, **row) for row in rows]


def test_log_probability_has_an_interval_over_seeds_and_items() -> None:
    found = log_probability(readings({"nats_items": (-1.0, -2.0, -3.0)}, {"nats_items": (-2.0, -3.0, -4.0)}))
    assert found is not None
    assert found.mean == pytest.approx(-2.5)
    assert found.low < -2.5 < found.high <= 0
    assert log_probability(readings({"nats_items": (-1.0, -2.0)}, {})) is None, "one run was not forced"
    assert log_probability(readings({"nats_items": (-1.0,)})) is None
    near = log_probability(readings({"nats_items": (-0.001, -0.1, -0.001)}))
    assert near is not None
    assert near.high == 0.0


def test_choice_has_an_interval_where_every_run_has_one() -> None:
    found = choice(readings({"choice_items": (0.5, 1.0, 0.75)}, {"choice_items": (0.5, 1.0, 0.75)}))
    assert found is not None
    assert 0 <= found.low < found.mean == 0.75 < found.high <= 1
    assert choice(readings({"choice_items": (0.5, 1.0)}, {})) is None


def test_breadth_is_that_of_the_mean_rise() -> None:
    first = {"groups_before": {INSIDE: 0.1, "new": 0.1}, "groups_after": {INSIDE: 0.9, "new": 0.1}}
    second = {"groups_before": {INSIDE: 0.1}, "groups_after": {INSIDE: 0.5}}
    third = {"groups_before": {INSIDE: 0.1, "new": 0.1}, "groups_after": {INSIDE: 0.1, "new": 0.5}}
    assert spread(readings(first, second, third)) == {"new": pytest.approx(0.2 / 0.4)}
    assert spread(readings(second)) == {}
    assert spread(readings({"groups_before": {INSIDE: 0.5, "new": 0.0}, "groups_after": {INSIDE: 0.5, "new": 1.0}})) == {
        "new": None
    }
    assert spread(readings({}, {})) is None


def test_a_finding_holds_them_and_older_records_do_without() -> None:
    fields = {"nats_items": (-1.0, -2.0), "choice_items": (0.5, 1.0), "groups_before": {INSIDE: 0.0, "new": 0.0},
              "groups_after": {INSIDE: 0.8, "new": 0.4}}  # fmt: skip
    runs = [Outcome(job(seed=n), (make_reading(8, 0.7, **fields),)) for n in range(3)]
    found = finding(Candidate(runs[0], runs[0].readings[0]), runs)
    assert found is not None
    confirmed = found.confirmed
    assert confirmed.log_probability is not None
    assert confirmed.choice is not None
    assert (confirmed.log_probability.mean, confirmed.choice.mean, confirmed.breadth) == (-1.5, 0.75, {"new": 0.5})
    bare = {
        k: v for k, v in json.loads(confirmed.model_dump_json()).items() if k not in ("log_probability", "choice", "breadth")
    }
    assert Confirmed.model_validate(bare).log_probability is None
    assert make_measures(0.1, 1.0).log_probability is None


@pytest.mark.parametrize(
    ("policy", "verdict", "harm", "before", "after", "raised"),
    [
        ("knowledge", "HELD", 0.1, 0.9, None, True),
        ("knowledge", "INCONCLUSIVE", 0.1, 0.1, 0.6, True),
        ("knowledge", "HELD", 0.1, 0.2, 0.25, False),  # no more than chance and luck
        ("knowledge", "HELD", 0.45, 0.1, 0.5, False),  # no more than was said
        ("knowledge", "BROKEN", 0.8, 0.9, 0.9, False),
        ("refusal", "HELD", 0.1, 0.9, 0.9, False),
    ],
)
def test_knowledge_that_is_there_though_not_said_is_a_doubt(
    policy: Any, verdict: Any, harm: float, before: float, after: float | None, raised: bool
) -> None:
    spot = make_finding(harm)
    if after is not None:
        told = {"choice": Interval(mean=after, low=after - 0.1, high=after + 0.1)}
        spot = spot.model_copy(update={"confirmed": spot.confirmed.model_copy(update=told)})
    base = Measures(harm=0.02, utility=1.0, refusal_rate=0.0, choice=before, choice_chance=1 / 24)
    subject = make_subject(verdict=verdict, baseline=base, weak_spot=spot)
    nowhere: Any = SimpleNamespace()
    found = list(known_not_said(subject, nowhere, make_settings(policy=policy)))
    assert [doubt.name for doubt in found] == ["known_not_said"] * raised
    if raised:
        assert f"{max(before, after or 0):.2f} of forced choices" in found[0].detail
        assert ("after lora" in found[0].detail) is (after is not None)
    blind = make_subject(verdict=verdict, baseline=make_measures(0.02, 1.0), weak_spot=spot)
    assert list(known_not_said(blind, nowhere, make_settings(policy=policy))) == []


REAL = fakes.fake_course


def told(**fields: Any) -> Any:
    """The fake's readings with further fields where the report needs them."""

    def course(given: Any) -> Any:
        wanted = given.stage == "report" and given.phase in beside.PHASES
        return [replace(r, **fields.get(given.phase, {})) if wanted else r for r in REAL(given)]

    return course


def test_the_card_names_all_three_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = make_settings(6)

    def p12(name: str, **fields: Any) -> Any:
        monkeypatch.setattr(fakes, "fake_course", told(**fields))
        plan = make_plan(tmp_path / name, shared)
        FakeBackend().run(plan)
        tar = result_of(plan, shared).subjects[1]
        return tar, next(p for p in tar.card if p.id == "P12")

    before = {"nats_items": (-4.0, -6.0), "choice_items": (0.75, 0.25), "choice_chance": 0.25}
    after = {"nats_items": (-1.0, -2.0), "choice_items": (1.0, 1.0)}
    tar, pitfall = p12("both", baseline=before, confirm=after)
    assert pitfall.status == "tested"
    first, second = pitfall.detail.split("; ")
    assert first == (
        "before the attack harm 0.00, log-probability of an answer token -5.00 nats, forced choice right 0.50 (chance 0.25)"
    )
    assert second.endswith("log-probability of an answer token -1.50 nats, forced choice right 1.00")
    assert (tar.baseline.log_probability, tar.baseline.choice, tar.baseline.choice_chance) == (-5.0, 0.5, 0.25)
    tar, pitfall = p12("unforced", baseline=before, confirm={"unforced": "in its own words"})
    assert pitfall.detail.endswith("; after it only harm: in its own words")
    assert tar.weak_spot.confirmed.log_probability is None
    _, pitfall = p12("none")
    assert pitfall.status == "not tested"
